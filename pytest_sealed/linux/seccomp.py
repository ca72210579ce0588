"""The system call filter of a process: seccomp(2)."""

from __future__ import annotations

import ctypes

from pytest_sealed.linux.libc import syscall

__all__ = ["INSTRUCTION", "LARGEST_PROGRAM", "set_filter"]

INSTRUCTION = 8   # bytes of a struct sock_filter
LARGEST_PROGRAM = 4096 * INSTRUCTION   # BPF_MAXINSNS

_SECCOMP_SET_MODE_FILTER = 1


class _Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))   # struct sock_fprog


def set_filter(program: bytes) -> None:
    """Judge every later system call of this process, and of what it starts, by a program of classic BPF too, for ever.

    Needs no_new_privs. The call's verdict is the strictest of all filters; of equal ones, the latest filter's. See seccomp(2).

    Raises:
        OSError: EINVAL: it is no such program, or this kernel has no filters (CONFIG_SECCOMP_FILTER).
    """
    syscall("seccomp", _SECCOMP_SET_MODE_FILTER, 0, _Program(len(program) // INSTRUCTION, program))
