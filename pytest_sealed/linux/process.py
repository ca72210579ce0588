"""Processes: prctl(2), capabilities(7), pidfds, close_range(2), sethostname(2)."""

from __future__ import annotations

import ctypes
import errno
import os
import signal

from pytest_sealed.linux.libc import check, libc, syscall

__all__ = [
    "capset",
    "clear_ambient",
    "close_range",
    "drop_bounding",
    "inotify_init",
    "join_session_keyring",
    "pidfd_open",
    "pidfd_send_signal",
    "process_state",
    "reset_reserved_signals",
    "set_child_subreaper",
    "set_command_line",
    "set_dumpable",
    "set_keep_capabilities",
    "set_name",
    "set_no_new_privs",
    "set_parent_death_signal",
    "sethostname",
]

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_KEEPCAPS = 8
_PR_SET_NAME = 15
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522
_CLOSE_RANGE_CLOEXEC = 4
_KEYCTL_JOIN_SESSION_KEYRING = 1


def _prctl(name: str, option: int, *arguments: int) -> int:
    padded = (*arguments, 0, 0, 0, 0)[:4]
    return check(libc.prctl(option, *padded), f"prctl {name}")


def set_parent_death_signal(signal: int) -> None:
    """Ask for `signal` when the parent thread ends. See PR_SET_PDEATHSIG(2const)."""
    _prctl("PR_SET_PDEATHSIG", _PR_SET_PDEATHSIG, signal)


def set_dumpable(dumpable: bool) -> None:
    """Let other processes trace this one and read its /proc files, or not. See PR_SET_DUMPABLE(2const)."""
    _prctl("PR_SET_DUMPABLE", _PR_SET_DUMPABLE, int(dumpable))


def set_keep_capabilities(keep: bool) -> None:
    """Keep the permitted capabilities when the uid changes from 0. See PR_SET_KEEPCAPS(2const)."""
    _prctl("PR_SET_KEEPCAPS", _PR_SET_KEEPCAPS, int(keep))


def set_name(name: str) -> None:
    """Name the calling thread, at most 15 bytes. See PR_SET_NAME(2const)."""
    buffer = ctypes.create_string_buffer(os.fsencode(name)[:15])
    _prctl("PR_SET_NAME", _PR_SET_NAME, ctypes.addressof(buffer))


def process_state(pid: int | str) -> str:
    """Return a process's or a thread's state, a letter such as Z: it has ended, and nobody has waited for it. See proc_pid_stat(5).

    Returns:
        X where there is none.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:   # its name may be anything
            return file.read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def set_command_line(text: str) -> None:
    """Overwrite what /proc/PID/cmdline and ps show of this process; cut to the length of what stood there."""
    fd = os.open("/proc/self/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fields = os.read(fd, 4096).rpartition(b")")[2].split()
    finally:
        os.close(fd)
    start, end = int(fields[45]), int(fields[46])   # arg_start and arg_end, fields 48 and 49 of proc_pid_stat(5)
    if start and end > start:
        ctypes.memmove(start, os.fsencode(text)[: end - start - 1].ljust(end - start, b"\0"), end - start)


def set_child_subreaper() -> None:
    """Adopt the orphans among this process's descendants. See PR_SET_CHILD_SUBREAPER(2const)."""
    _prctl("PR_SET_CHILD_SUBREAPER", _PR_SET_CHILD_SUBREAPER, 1)


def set_no_new_privs() -> None:
    """Give up gaining privileges by execve, for ever. See PR_SET_NO_NEW_PRIVS(2const)."""
    _prctl("PR_SET_NO_NEW_PRIVS", _PR_SET_NO_NEW_PRIVS, 1)


def drop_bounding(keep: frozenset[int]) -> None:
    """Drop every capability from the bounding set that isn't in `keep`. Needs CAP_SETPCAP: before setuid."""
    for capability in range(64):
        if libc.prctl(_PR_CAPBSET_READ, capability, 0, 0, 0) < 0:
            return  # EINVAL: past the last capability that this kernel knows
        if capability not in keep:
            _prctl(f"PR_CAPBSET_DROP {capability}", _PR_CAPBSET_DROP, capability)


def clear_ambient() -> None:
    """Clear the ambient capability set. See PR_CAP_AMBIENT(2const)."""
    _prctl("PR_CAP_AMBIENT_CLEAR_ALL", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    _fields_ = tuple(
        (f"{name}{half}", ctypes.c_uint32) for half in (0, 1) for name in ("effective", "permitted", "inheritable")
    )


def capset(effective: frozenset[int], permitted: frozenset[int]) -> None:
    """Set this thread's effective and permitted capabilities; the inheritable set becomes empty. See capset(2)."""
    def halves(capabilities: frozenset[int]) -> tuple[int, int]:
        mask = sum(1 << capability for capability in capabilities)
        return mask & 0xFFFFFFFF, mask >> 32
    (e0, e1), (p0, p1) = halves(effective), halves(permitted)
    data = _CapData(e0, p0, 0, e1, p1, 0)
    syscall("capset", _CapHeader(_CAPABILITY_VERSION_3, 0), data)


def join_session_keyring() -> None:
    """Leave the session keyring, which fork and execve hand on, for a new and empty one. See keyctl(2), session-keyring(7).

    A kernel without keyrings, or a seccomp filter that denies them to us and to what we start, is as good.

    Raises:
        OSError: EDQUOT: the account has as many keys as it may.
    """
    try:
        syscall("keyctl", _KEYCTL_JOIN_SESSION_KEYRING, None)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP):
            raise


def close_range(first: int, last: int = 0x7FFFFFFF, *, cloexec: bool = False) -> None:
    """Close every fd from `first` to `last`, or only mark them close-on-exec. See close_range(2)."""
    syscall("close_range", first, last, _CLOSE_RANGE_CLOEXEC if cloexec else 0)


def pidfd_open(pid: int) -> int:
    """Return a file descriptor that names the process `pid`. See pidfd_open(2)."""
    return syscall("pidfd_open", pid, 0)


def pidfd_send_signal(pidfd: int, signal: int) -> None:
    """Send `signal` to the process that `pidfd` names. See pidfd_send_signal(2)."""
    syscall("pidfd_send_signal", pidfd, signal, None, 0)


def inotify_init() -> int:
    """Return a new inotify instance, close-on-exec. See inotify_init1(2). Raises `OSError`: EMFILE: as many as the account may have."""
    return check(libc.inotify_init1(os.O_CLOEXEC), "inotify_init1")


def sethostname(name: str) -> None:
    """See sethostname(2)."""
    encoded = os.fsencode(name)
    check(libc.sethostname(encoded, len(encoded)), "sethostname")


def reset_reserved_signals() -> None:
    """Give the signals that the C library keeps for itself (32 and 33; musl's 34, too) their default action again. See sigaction(2).

    glibc's posix_spawn(3) leaves them ignored in the child, so they are under `make`, and programs inherit that; musl ignores 34 after
    it has changed ids in a process with threads. Neither sigaction(3) nor Python can change it.
    """
    action = ctypes.create_string_buffer(32)   # struct kernel_sigaction: handler SIG_DFL, no flags, no restorer, empty mask
    for number in set(range(1, 65)) - signal.valid_signals():
        syscall("rt_sigaction", number, action, None, 8)
