"""Runs in a worker in the session's kind of user namespace, and tries there what a session does. See `launch.run_inside`."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable, Iterator
from typing import Any

from pytest_sealed.linux import mounts, namespaces
from pytest_sealed.linux.files import openat2
from pytest_sealed.linux.process import close_range, inotify_init, pidfd_open, set_no_new_privs, sethostname
from pytest_sealed.runtime.forward.pipes import Pipe
from pytest_sealed.runtime.scratch import memory_upper_works, upper_works
from pytest_sealed.runtime.seccomp.filters import FilterRefused, ready, set_filters

__all__ = ["INSTANCES", "PIPES", "main"]

PIPES = 16       # as many as a busy forwarder lends at once
INSTANCES = 8    # of inotify: what a few containers with programs that watch files take

_SAFE = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC


def main(payload: dict[str, Any]) -> dict[str, Any]:
    """Try everything; return check → "" or what failed, and "uppers" → kind → whether an overlay's upper works there.

    Payload: root, an empty folder; memory, another; disk, a folder on the store's file system.
    """
    root = payload["root"]
    found: dict[str, Any] = {"mounts": {}, "calls": _tried(_calls)}
    for kind, flags, data in (
        ("tmpfs", mounts.MS_NODEV, "size=64k"), ("sysfs", _SAFE | mounts.MS_RDONLY, ""), ("mqueue", _SAFE, ""),
        ("devpts", mounts.MS_NOSUID | mounts.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"), ("proc", _SAFE, ""),
    ):
        found["mounts"][kind] = _tried(lambda kind=kind, flags=flags, data=data: _mount(kind, root, flags, data))  # type: ignore[misc]
    found["uppers"] = {"memory": memory_upper_works(root, payload["memory"]),
                       "disk": upper_works(root, payload["disk"]) if payload["disk"] else False}
    found["seccomp"] = _tried(_filter)
    found["overlay"] = _tried(lambda: _overlay(root, payload["memory"]))
    found["network"] = _tried(_network)
    found["netem"] = _tried(_netem)
    found["pipes"] = _good_pipes()
    found["inotify"] = _tried(_watches)
    return found


def _tried(work: Callable[[], None]) -> str:
    """Do the work in a child with a mount namespace of its own; return what failed, or nothing."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        text = b""
        try:
            os.close(reader)
            namespaces.unshare(namespaces.CLONE_NEWNS | namespaces.CLONE_NEWIPC)   # the latter for mqueue
            work()
        except BaseException as error:
            text = (f"{type(error).__name__}: {error}" if not isinstance(error, OSError) else str(error)).encode()[:600] or b"?"
        finally:
            os.write(writer, text)
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as out:
        text = out.read()
    os.waitpid(child, 0)
    return text.decode(errors="replace")


def _mount(kind: str, root: str, flags: int, data: str) -> None:
    mounts.mount(kind, root, kind, flags, data)


def _overlay(root: str, scratch: str) -> None:
    """Mount an overlay without a writable layer, which every kernel of ours can in a user namespace, if it has overlayfs."""
    mounts.mount("tmpfs", scratch, "tmpfs", 0, "size=64k")
    for name in ("one", "two"):
        os.mkdir(f"{scratch}/{name}")
    mounts.mount("overlay", root, "overlay", 0, f"lowerdir={scratch}/one:{scratch}/two,userxattr")


def _calls() -> None:
    """Make each system call that a kernel before 5.14, or a filter, would refuse."""
    here = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.close(openat2(here, "proc", os.O_PATH))
    os.close(pidfd_open(os.getpid()))
    tree = mounts.open_tree("/proc")
    mounts.mount_setattr("", dir_fd=tree, set=mounts.MOUNT_ATTR_NODEV)
    os.close(tree)
    close_range(900, 901)
    try:
        mounts.pivot_root("/", "/no such folder")
    except FileNotFoundError:   # a filter's EPERM would come first
        pass
    namespaces.unshare(namespaces.CLONE_NEWUTS)
    sethostname("trial")
    child = namespaces.fork_into(namespaces.CLONE_NEWPID | namespaces.CLONE_NEWUTS | namespaces.CLONE_NEWIPC | namespaces.CLONE_NEWNET)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    try:
        namespaces.fork_into(0, here)   # clone3(2) into what is no cgroup
    except OSError as error:
        if error.errno != errno.EBADF:
            raise


def _filter() -> None:
    """Set a container's filter of system calls, and look whether it is on."""
    programs = ready()
    if not programs:
        raise FilterRefused("no filter of system calls ships for this machine")
    set_no_new_privs()
    set_filters([programs["default"]])
    try:
        namespaces.unshare(0)   # nothing to the kernel
    except PermissionError:
        return
    raise FilterRefused("a filter of system calls was set, and it is not on")


def _network() -> None:
    """Make a hub and join a container's namespace to it, as the network service does."""
    from pytest_sealed.runtime.network.directory import Directory
    from pytest_sealed.runtime.network.resolver import Resolver
    directory = Directory(Resolver(select.epoll()))
    directory.create({"network": "trial", "subnet": "10.89.1.0/24"}, [])
    reply = directory.attach({"network": "trial", "container": "trial", "names": ["trial"]}, [])
    if reply.ok["address"] != "10.89.1.2":
        raise AssertionError(f"the first address is {reply.ok['address']}")


def _netem() -> None:
    from pytest_sealed.runtime.network.netem import try_netem
    try_netem()


def _good_pipes() -> int:
    """Return how many of the pipes that a busy forwarder uses get a good size."""
    pipes = list(_pipes())
    for pipe in pipes:
        pipe.close()
    return sum(pipe.good for pipe in pipes)


def _pipes() -> Iterator[Pipe]:
    for _ in range(PIPES):
        try:
            yield Pipe()
        except OSError:
            return


def _watches() -> None:
    for _ in range(INSTANCES):
        inotify_init()
