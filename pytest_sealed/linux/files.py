"""Files: openat2(2), syncfs(2)."""

from __future__ import annotations

import ctypes
import os

from pytest_sealed.linux.libc import check, libc, syscall

__all__ = [
    "RESOLVE_BENEATH",
    "RESOLVE_IN_ROOT",
    "RESOLVE_NO_MAGICLINKS",
    "RESOLVE_NO_SYMLINKS",
    "RESOLVE_NO_XDEV",
    "openat2",
    "syncfs",
]

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def openat2(dir_fd: int, path: str, flags: int, *, mode: int = 0, resolve: int = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS) -> int:
    """Open `path` below `dir_fd` under the rules of `resolve`; close-on-exec always. See openat2(2)."""
    how = _OpenHow(flags=flags | os.O_CLOEXEC, mode=mode, resolve=resolve)
    while True:
        try:
            return syscall("openat2", dir_fd, os.fsencode(path), how, ctypes.sizeof(how), path=path)
        except BlockingIOError:  # EAGAIN: a rename raced with "..": the man page says to try again
            continue


def syncfs(fd: int) -> None:
    """Write out the file system that holds `fd`. See syncfs(2)."""
    check(libc.syncfs(fd), "syncfs")
