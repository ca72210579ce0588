"""The C library: prototypes declared once, results checked in one place."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from ctypes import c_char_p, c_int, c_long, c_size_t, c_uint, c_uint64, c_ulong, c_void_p

__all__ = ["check", "libc", "number", "syscall"]

# PyDLL keeps the interpreter's lock during a call. Nothing here blocks, and a clone() that released the
# lock would leave the child without it.
# On Windows, where nothing of this can be called but everything must import, the C library has to be named.
libc = ctypes.PyDLL("msvcrt" if sys.platform == "win32" else None, use_errno=True)

for _name, _result, _arguments in (
    ("mount", c_int, (c_char_p, c_char_p, c_char_p, c_ulong, c_char_p)),
    ("umount2", c_int, (c_char_p, c_int)),
    ("unshare", c_int, (c_int,)),
    ("setns", c_int, (c_int, c_int)),
    ("prctl", c_int, (c_int, c_ulong, c_ulong, c_ulong, c_ulong)),
    ("sethostname", c_int, (c_char_p, c_size_t)),
    ("syncfs", c_int, (c_int,)),
    ("inotify_init1", c_int, (c_int,)),
):
    _function = getattr(libc, _name, None)
    if _function is not None:  # absent off Linux: the package must still import there
        _function.restype, _function.argtypes = _result, _arguments

# System calls without a wrapper in every C library that we run on: (x86_64, every architecture that
# uses the kernel's generic table, such as aarch64 and riscv64). See the kernel's syscall tables.
_NUMBERS: dict[str, tuple[int, int]] = {
    "capget": (125, 90),
    "capset": (126, 91),
    "clone": (56, 220),
    "clone3": (435, 435),
    "close_range": (436, 436),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "keyctl": (250, 219),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "openat2": (437, 437),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pivot_root": (155, 41),
    "rt_sigaction": (13, 134),
    "seccomp": (317, 277),
    "setns": (308, 268),
}
_COLUMN = 0 if platform.machine() in ("x86_64", "AMD64") else 1


def number(name: str) -> int:
    """Return the number of a system call on this machine."""
    return _NUMBERS[name][_COLUMN]


def check(result: int, call: str, path: str | bytes | None = None) -> int:
    """Return `result`, or raise the `OSError` that errno names, with the call and the path in its text."""
    if result >= 0:
        return result
    code = ctypes.get_errno()
    shown = os.fsdecode(path) if path is not None else None
    raise OSError(code, f"{call}: {os.strerror(code)}", shown)


def syscall(name: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | ctypes.Structure | None,
            path: str | bytes | None = None) -> int:
    """Make the system call `name`; bytes become pointers, None is NULL, structures go by reference."""
    converted: list[object] = []
    for argument in arguments:
        if isinstance(argument, int):
            converted.append(c_long(argument))
        elif isinstance(argument, bytes):
            converted.append(c_char_p(argument))
        elif argument is None:
            converted.append(c_void_p(None))
        else:
            converted.append(ctypes.byref(argument))
    return check(_syscall(c_long(number(name)), *converted), name, path)


_syscall = getattr(libc, "syscall", None) or (lambda *_: -1)
if hasattr(_syscall, "restype"):
    _syscall.restype = c_long

# Re-exported for the structures of the sibling modules.
_ = (c_uint, c_uint64)
