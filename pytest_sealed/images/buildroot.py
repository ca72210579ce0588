"""Runs inside U0: a container for a build's commands, without a network, and the layer that they leave.

The commands run in a child user namespace, as a container's do, on an overlay of the layers so far. What
they leave in /dev, /proc, /run, /sys and /tmp is lost. See `launch.run_inside`.
"""

from __future__ import annotations

import errno
import os
import signal
from typing import Any, NoReturn

from pytest_sealed.errors import HostUnsupported, ImageError
from pytest_sealed.images.accounts import find_account
from pytest_sealed.images.apply import explained, remove
from pytest_sealed.images.archive import read_archive
from pytest_sealed.images.capture import capture
from pytest_sealed.images.globs import Matcher
from pytest_sealed.images.layerfile import LayerFile
from pytest_sealed.images.tree import Tree
from pytest_sealed.linux import mounts, namespaces, process
from pytest_sealed.linux.files import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2
from pytest_sealed.runtime.idmap import IdMap

__all__ = ["main"]

_NAMESPACES = (namespaces.CLONE_NEWUSER | namespaces.CLONE_NEWNS | namespaces.CLONE_NEWPID | namespaces.CLONE_NEWNET
               | namespaces.CLONE_NEWIPC | namespaces.CLONE_NEWUTS)
_NODES = ("null", "zero", "full", "random", "urandom", "tty")
_KEEP = frozenset({0, 1, 3, 4, 5, 6, 7, 8, 10, 18, 31})   # capabilities of a build's root, within its own user namespace


def main(payload: dict[str, Any]) -> dict[str, Any]:
    """Make one layer; see `_make`.

    Raises:
        StoreError: the store's file system is full.
    """
    try:
        return _make(payload)
    except OSError as error:
        raise explained(error, payload["work"]) from error


def _make(payload: dict[str, Any]) -> dict[str, Any]:
    """Make one layer.

    Payload: work (a folder of the store, ours alone), lowers (topmost first), output (path of the tar to be),
    log (path), user, env, run, remove, and as first fd perhaps a tar of files to put in first.

    Raises:
        ImageError: a command failed (with its last lines), or the user is unknown.
        HostUnsupported: no overlay can be mounted.
    """
    ids = IdMap.from_json(payload["ids"])
    os.chmod(payload["work"], 0o755)   # its children pass through it by ".."
    merged, upper = _mount_overlay(payload["work"], payload["lowers"])
    user = _user(merged, payload["user"])
    if payload["fds"]:
        _put_files(merged, payload["fds"][0], ids)
    _mount_rest(merged, ids)
    for number, argv in enumerate(payload["run"]):
        _run(number, argv, merged, user, payload, ids)
    for target in ("dev/shm", "dev", "tmp", "run"):
        mounts.umount2(f"{merged}/{target}", mounts.MNT_DETACH)
    unused = _remove(merged, tuple(payload["remove"]))
    with LayerFile(payload["output"]) as layer:
        capture(upper, layer, single=user if ids.single else None)
        written = layer.finish()
    mounts.umount2(merged, mounts.MNT_DETACH)
    return {"diff_id": written.diff_id, "size": written.size, "entries": written.entries, "unused": unused}


def _mount_overlay(work: str, lowers: list[str]) -> tuple[str, str]:
    """Mount the layers with a fresh upper; return (merged, upper). The upper is on disk, or in memory where disk can't."""
    merged = f"{work}/merged"
    os.mkdir(merged)
    fds = [os.open(path, os.O_PATH | os.O_DIRECTORY) for path in lowers]   # short and free of ':' and ','
    reasons = []
    for place in ("disk", "memory"):
        scratch = f"{work}/{place}"
        os.mkdir(scratch)
        if place == "memory":
            mounts.mount("tmpfs", scratch, "tmpfs", mounts.MS_NOSUID | mounts.MS_NODEV, "mode=0700")
        for name in ("upper", "work"):
            os.mkdir(f"{scratch}/{name}")
        like = os.fstat(fds[0])
        os.chown(f"{scratch}/upper", like.st_uid, like.st_gid)
        os.chmod(f"{scratch}/upper", like.st_mode & 0o7777)
        held = [os.open(f"{scratch}/{name}", os.O_PATH | os.O_DIRECTORY) for name in ("upper", "work")]
        options = "lowerdir={},upperdir=/proc/self/fd/{},workdir=/proc/self/fd/{},userxattr".format(
            ":".join(f"/proc/self/fd/{fd}" for fd in fds), *held)
        try:
            mounts.mount("overlay", merged, "overlay", mounts.MS_NODEV, options)
            _probe(merged)
            return merged, f"{scratch}/upper"
        except OSError as error:
            reasons.append(f"{place}: {error}")
            try:
                mounts.umount2(merged, mounts.MNT_DETACH)
            except OSError:
                pass
    raise HostUnsupported(f"no overlay can be mounted for a build's commands ({'; '.join(reasons)})",
                          remedy="Linux 5.11 or later with overlayfs for user namespaces is needed")


def _probe(merged: str) -> None:
    """Remove a folder and make it again: an upper without user attributes fails here with EIO."""
    name = f"{merged}/.sealed-probe"
    for _ in range(2):
        os.mkdir(name)
        os.rmdir(name)


def _user(merged: str, user: str) -> tuple[int, int]:
    root = os.open(merged, os.O_RDONLY | os.O_DIRECTORY)
    texts = []
    for path in ("etc/passwd", "etc/group"):
        try:
            fd = openat2(root, path, os.O_RDONLY | os.O_NONBLOCK, resolve=RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
        except OSError:
            texts.append("")
            continue
        with open(fd, "rb") as file:
            texts.append(file.read(1 << 20).decode("utf-8", "replace"))
    os.close(root)
    found = find_account(user, *texts) if user != "root" else (0, 0)
    if found is None:
        raise ImageError(f"the image has no user {user!r}", remedy=f"add it to the recipe: [users] {user} = {{ uid = 1000 }}")
    return found


def _put_files(merged: str, fd: int, ids: IdMap) -> None:
    root = os.open(merged, os.O_RDONLY | os.O_DIRECTORY)
    with Tree(root, [], None if ids.single else 1) as tree:
        for entry in read_archive(fd, highest_id=65535 if ids.single else ids.count - 1):
            if entry.path:
                tree.add(entry)
    os.close(root)


def _mount_rest(merged: str, ids: IdMap) -> None:
    """Mount /dev, /run and /tmp; /proc and /sys are the child's own."""
    root = 0 if ids.single else 1
    for name, mode in (("proc", "0755"), ("dev", "0755"), ("run", "0755"), ("tmp", "1777")):
        target = f"{merged}/{name}"
        if not os.path.lexists(target):   # it becomes part of the image
            os.mkdir(target)
            os.chown(target, root, root)
            os.chmod(target, int(mode, 8))
        if os.path.islink(target) or not os.path.isdir(target):
            raise ImageError(f"/{name} is no folder in the image")
        if name != "proc":
            mounts.mount("tmpfs", target, "tmpfs", mounts.MS_NOSUID, f"mode={mode},uid={root},gid={root}")
    for node in _NODES:
        os.close(os.open(f"{merged}/dev/{node}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        mounts.mount(f"/dev/{node}", f"{merged}/dev/{node}", None, mounts.MS_BIND)
    os.mkdir(f"{merged}/dev/shm")
    mounts.mount("tmpfs", f"{merged}/dev/shm", "tmpfs", mounts.MS_NOSUID | mounts.MS_NODEV, f"mode=1777,uid={root},gid={root}")
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(f"/proc/self/{target}", f"{merged}/dev/{name}")


def _run(number: int, argv: list[str], merged: str, user: tuple[int, int], payload: dict[str, Any], ids: IdMap) -> None:
    """Run one command to its end."""
    log = os.open(payload["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(log, f"$ {' '.join(argv)}\n".encode())
    start = os.fstat(log).st_size
    ready, go = os.pipe()
    os.chdir(merged)   # the child can't go there by its path, which leads through folders that are the account's alone
    child = namespaces.fork_into(_NAMESPACES)
    if child == 0:
        os.close(go)
        _become(argv, merged, user, payload["env"], log, ready, single=ids.single)
    os.close(ready)
    try:
        if ids.single:
            _write(f"/proc/{child}/setgroups", "deny")
        _write(f"/proc/{child}/gid_map", ids.container_map(user[1]))
        _write(f"/proc/{child}/uid_map", ids.container_map(user[0]))
        os.write(go, b"x")
    finally:
        os.close(go)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.close(log)
    if status:
        with open(payload["log"], "rb") as file:
            file.seek(start)
            lines = file.read().decode("utf-8", "replace").splitlines()[-12:]
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"exited with {status}"
        shown = "".join(f"\n    {line}" for line in lines)
        raise ImageError(f"run[{number}] `{' '.join(argv)}` {how}{shown}")


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _become(argv: list[str], merged: str, user: tuple[int, int], env: dict[str, str], log: int, ready: int, *,
            single: bool) -> NoReturn:
    """In the child: enter the root, give up what a build doesn't need, and run the command. Never returns."""
    try:
        if os.read(ready, 1) != b"x":
            os._exit(125)
        os.dup2(log, 1)
        os.dup2(log, 2)
        first = user if single else (0, 0)   # root, until all is mounted; where there is but one id, that
        os.setresgid(first[1], first[1], first[1])
        os.setresuid(first[0], first[0], first[0])
        process.set_parent_death_signal(signal.SIGKILL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)   # the worker ignores it
        process.sethostname("build")
        mounts.mount(None, "/", None, mounts.MS_PRIVATE | mounts.MS_REC)
        # the inherited mount is locked, so no pivot_root to it: bind it, and go to the new one on top by its path's last part
        mounts.mount(".", ".", None, mounts.MS_BIND | mounts.MS_REC)
        os.chdir(f"../{os.path.basename(merged)}")
        mounts.mount("proc", "proc", "proc", mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC)
        mounts.pivot_root(".", ".")
        mounts.umount2(".", mounts.MNT_DETACH)
        os.chdir("/")
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 0)
        process.close_range(3)
        process.drop_bounding(_KEEP)
        if not single:
            os.setgroups([])
            os.setresgid(user[1], user[1], user[1])
            os.setresuid(user[0], user[0], user[0])
        if user[0] == 0:
            process.capset(_KEEP, _KEEP)
        process.set_no_new_privs()
        os.setsid()
        os.umask(0o022)
        os.execvpe(argv[0], argv, env)  # noqa: S606
    except OSError as error:
        unknown = error.errno in (errno.ENOENT, errno.EACCES)
        os.write(2, f"{argv[0]}: {error.strerror}\n".encode() if unknown else f"build container: {error}\n".encode())
    except BaseException as error:
        os.write(2, f"build container: {error!r}\n".encode())
    os._exit(127)


def _remove(merged: str, patterns: tuple[str, ...]) -> list[str]:
    """Remove what matches; return the patterns that match nothing."""
    matches = Matcher(patterns)
    for folder, folders, files in os.walk(merged) if patterns else ():
        for name in [*folders, *files]:
            full = os.path.join(folder, name)
            if matches(full[len(merged):]):
                remove(full)
                if name in folders:
                    folders.remove(name)
    return list(matches.unused)
