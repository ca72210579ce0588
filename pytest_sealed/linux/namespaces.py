"""Namespaces: unshare(2), setns(2), clone(2)."""

from __future__ import annotations

import ctypes
import os
import signal

from pytest_sealed.linux.libc import check, libc, number

__all__ = [
    "CLONE_NEWCGROUP",
    "CLONE_NEWIPC",
    "CLONE_NEWNET",
    "CLONE_NEWNS",
    "CLONE_NEWPID",
    "CLONE_NEWUSER",
    "CLONE_NEWUTS",
    "fork_into",
    "setns",
    "unshare",
]

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
_CLONE_INTO_CGROUP = 0x200000000


def unshare(flags: int) -> None:
    """Move the caller into new namespaces. See unshare(2)."""
    check(libc.unshare(flags), "unshare")


def setns(fd: int, flags: int) -> None:
    """Join the namespace that `fd` names, or, for a pidfd, all that `flags` name. See setns(2)."""
    check(libc.setns(fd, flags), "setns")


class _CloneArgs(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in (
        "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls", "set_tid", "set_tid_size", "cgroup"))


def fork_into(flags: int, cgroup_fd: int = -1) -> int:
    """Fork, the child in new namespaces: os.fork() with the flags of clone(2) or clone3(2).

    Args:
        cgroup_fd: directory of a cgroup v2 that the child is born in. Cheaper than a move: that waits for an
            RCU grace period, some 10 ms on a busy machine.

    Returns:
        0 in the child, the child's pid in the parent. The child has no other thread and must not be
        made from a process that has.
    """
    hooks = ctypes.pythonapi
    call, size, arguments = number("clone"), 0, None
    if cgroup_fd >= 0:
        arguments = _CloneArgs(flags=flags | _CLONE_INTO_CGROUP, exit_signal=signal.SIGCHLD, cgroup=cgroup_fd)
        call, size = number("clone3"), ctypes.sizeof(arguments)
    hooks.PyOS_BeforeFork()
    if arguments is not None:
        pid = libc.syscall(call, ctypes.byref(arguments), size)
    else:
        pid = libc.syscall(call, flags | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        hooks.PyOS_AfterFork_Child()
        return 0
    code = ctypes.get_errno()
    hooks.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(code, f"clone: {os.strerror(code)}")
    return int(pid)
