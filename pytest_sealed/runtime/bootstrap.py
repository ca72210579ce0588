"""Runs as a fresh `python -I -S`: makes the session's namespaces, then becomes a worker or the supervisor.

Started by `launch.py` with one argument, the number of a channel's fd. A fresh single-threaded process,
because a process with threads can't enter a user namespace. See user_namespaces(7), clone(2).
"""

from __future__ import annotations

import os
import select
import signal
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

import socket

from pytest_sealed.linux import mounts, namespaces, process
from pytest_sealed.runtime.idmap import IdMap
from pytest_sealed.runtime.protocol import Channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

STEP = "start"   # what was being done, for the error that the parent reports


def step(name: str) -> None:
    global STEP
    STEP = name


def enter_user_namespace(ids: IdMap) -> None:
    """Move this process into U0: a forked helper in the old namespace writes the maps."""
    me = os.getpid()
    ready, go = os.pipe()
    status, report = os.pipe()
    helper = os.fork()
    if helper == 0:
        os.close(go)
        error = b""
        try:
            if os.read(ready, 1):
                _write_maps(me, ids)
        except BaseException as caught:
            error = str(caught).encode()[:400] or b"?"
        os.write(report, error)
        os._exit(0)
    os.close(report)
    try:
        namespaces.unshare(namespaces.CLONE_NEWUSER)
        step("write the id maps")
        os.write(go, b"x")
        error = os.read(status, 400)
    finally:
        for fd in (ready, go, status):
            os.close(fd)
        os.waitpid(helper, 0)
    if error:
        raise OSError(f"the id maps could not be written: {error.decode(errors='replace')}")
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    if not ids.single:
        os.setgroups([])


def _write_maps(pid: int, ids: IdMap) -> None:
    if ids.mode == "subids":
        for tool, gids in (("newgidmap", True), ("newuidmap", False)):
            _run([tool, str(pid), *(str(number) for row in ids.session_map(gids) for number in row)])
        return
    if ids.single:
        _write(f"/proc/{pid}/setgroups", "deny")
    for file, gids in (("gid_map", True), ("uid_map", False)):
        _write(f"/proc/{pid}/{file}", "".join(f"{inside} {outside} {count}\n" for inside, outside, count in ids.session_map(gids)))


def _run(argv: list[str]) -> None:
    out, err = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(err, 2)
        try:
            os.execvp(argv[0], argv)  # noqa: S606
        finally:
            os._exit(127)
    os.close(err)
    text = os.read(out, 400)
    os.close(out)
    if os.waitpid(child, 0)[1]:
        raise OSError(f"{' '.join(argv)}: {text.decode(errors='replace').strip() or 'failed'}")


def _write(path: str, text: str) -> None:
    # os.write, not a buffered file: that can hide an EINVAL until it is closed
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def seal_mounts(writable: list[str]) -> None:
    """Make every mount that this namespace sees read-only, but for the folders in `writable`.

    So nothing in the session can change the interpreter, the package or the image store through a
    descriptor that leads out (CVE-2019-5736), whoever owns them, and no bug of ours can either: a host folder
    becomes writable in the one container that mounts it, and nowhere else.
    """
    mounts.mount(None, "/", None, mounts.MS_SLAVE | mounts.MS_REC)
    kept = [(path, mounts.open_tree(path, recursive=True)) for path in writable]
    mounts.mount_setattr("/", set=mounts.MOUNT_ATTR_RDONLY | mounts.MOUNT_ATTR_NOSUID, recursive=True)
    for path, tree in kept:
        target = os.open(path, os.O_PATH | os.O_CLOEXEC)
        mounts.move_mount(tree, target)
        os.close(target)
        os.close(tree)


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)   # ignored and blocked signals are inherited, from whatever started pytest
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    process.reset_reserved_signals()
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    os.set_inheritable(channel.fileno(), False)
    received = channel.receive()
    if received is None:
        return
    request, fds = received
    try:
        if request.get("scoped"):
            _enter_scope(request)
        _enter(request)
    except BaseException as error:
        code = getattr(error, "errno", None) or 0
        channel.send({"error": {"step": STEP, "errno": code, "text": str(error)}})
        return
    (_become_supervisor if request["role"] == "supervisor" else _become_worker)(channel, request, fds)


def _enter_scope(request: dict[str, Any]) -> None:
    """Make the systemd scope that this process was started in ready for containers' cgroups, and find out where they go."""
    from pytest_sealed.runtime.cgroups import detect
    step("enter the systemd scope")
    hierarchy = detect()
    hierarchy.enter_leaf()
    request["hierarchy"] = hierarchy.to_json()
    request["writable"] += list(dict.fromkeys(hierarchy.bases.values()))


def _enter(request: dict[str, Any]) -> None:
    ids = IdMap.from_json(request["ids"])
    os.umask(0o077)
    step("leave the host's keyring")   # who holds it can use the keys in it, whatever the user namespace
    process.join_session_keyring()
    step("make a user namespace")
    enter_user_namespace(ids)
    step("make the session's namespaces")
    flags = namespaces.CLONE_NEWNS | namespaces.CLONE_NEWPID
    if request["role"] == "supervisor" or not request["network"]:
        flags |= namespaces.CLONE_NEWNET
    if request["role"] == "supervisor":
        flags |= namespaces.CLONE_NEWIPC | namespaces.CLONE_NEWUTS
    namespaces.unshare(flags)
    step("prepare the session's mounts")
    if request["role"] == "supervisor":
        seal_mounts(request["writable"])
    else:
        mounts.mount(None, "/", None, mounts.MS_SLAVE | mounts.MS_REC)


def _mount_proc() -> None:
    mounts.mount("proc", "/proc", "proc", mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC)


def _become_supervisor(channel: Channel, request: dict[str, Any], fds: list[int]) -> None:
    """Fork PID 1 of the session, let it exec a fresh interpreter, hand out its pidfd, and end.

    The exec matters: the new program's image is mapped through the read-only mounts.
    """
    prepared, report = os.pipe()
    child = os.fork()
    if child:
        os.close(report)
        if os.read(prepared, 1):   # else the child has said on the channel what failed
            channel.send({"pid": child, "hierarchy": request.get("hierarchy")}, [process.pidfd_open(child)])
        os._exit(0)
    try:
        step("mount the session's /proc")
        _mount_proc()
        os.setsid()
        os.write(report, b"x")
        for fd in (channel.fileno(), *fds):
            os.set_inheritable(fd, True)
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "supervisor.py")
        numbers = [str(fd) for fd in (channel.fileno(), *fds)]
        os.execve(sys.executable, [sys.executable, "-I", "-S", script, *numbers], dict(os.environ))  # noqa: S606
    except BaseException as error:
        channel.send({"error": {"step": STEP, "errno": getattr(error, "errno", None) or 0, "text": str(error)}})
    os._exit(1)


def _become_worker(channel: Channel, request: dict[str, Any], fds: list[int]) -> None:
    """Run a module's main() in a forked PID 1, and end it when the channel's other end goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)   # Ctrl-C reaches the whole terminal: whoever asked for the work ends it
    child = os.fork()
    if child == 0:
        try:
            _work(channel, request, fds)
        finally:
            os._exit(0)
    pidfd = process.pidfd_open(child)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(channel.fileno(), 0)   # POLLHUP only
    if any(fd == channel.fileno() for fd, _ in poll.poll()):
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _work(channel: Channel, request: dict[str, Any], fds: list[int]) -> None:
    import importlib
    import traceback
    try:
        step("mount the worker's /proc")
        _mount_proc()
        step("work")
        sys.path[1:1] = request["paths"]
        result = importlib.import_module(request["module"]).main({**request["payload"], "ids": request["ids"], "fds": fds})
        channel.send({"ok": result})
    except BaseException as error:
        known = type(error).__name__ if hasattr(error, "remedy") else ""
        channel.send({"error": {
            "step": STEP, "errno": getattr(error, "errno", None) or 0, "text": getattr(error, "message", "") or str(error),
            "kind": known, "remedy": getattr(error, "remedy", ""), "trace": "" if known else traceback.format_exc(),
        }})


if __name__ == "__main__":
    main()
