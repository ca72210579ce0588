"""libseccomp, which turns rules on system calls into a filter. See seccomp_init(3), seccomp_rule_add(3).

Only who compiles a profile needs it: the filters that ship are ready.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Sequence
from ctypes import POINTER, c_char_p, c_int, c_uint, c_uint32, c_uint64, c_void_p
from typing import NamedTuple

__all__ = ["ARCHES", "Comparison", "Rules", "number", "version"]

ARCHES = {
    "SCMP_ARCH_X86": 0x40000003, "SCMP_ARCH_X86_64": 0xC000003E, "SCMP_ARCH_X32": 0x4000003E,
    "SCMP_ARCH_ARM": 0x40000028, "SCMP_ARCH_AARCH64": 0xC00000B7,
}
"""Tokens of the ABIs that we know, by libseccomp's names; but for x32, whose numbers have a bit of their own, the kernel's AUDIT_ARCH."""

_ATTRIBUTE_BAD_ARCH = 2
_ATTRIBUTE_OPTIMIZE = 8
_BINARY_TREE = 2


class Comparison(NamedTuple):
    """A condition on one argument of a call: struct scmp_arg_cmp."""

    argument: int
    operator: int
    """1 to 7: !=, <, <=, ==, >=, >, (argument & a) == b."""
    a: int
    b: int = 0


class _Comparison(ctypes.Structure):
    _fields_ = (("arg", c_uint), ("op", c_int), ("datum_a", c_uint64), ("datum_b", c_uint64))


class _Version(ctypes.Structure):
    _fields_ = (("major", c_uint), ("minor", c_uint), ("micro", c_uint))


def _library() -> ctypes.CDLL:
    """Load the library.

    Raises:
        OSError: there is none.
    """
    library = ctypes.CDLL("libseccomp.so.2")
    for name, result, arguments in (
        ("seccomp_version", POINTER(_Version), ()),
        ("seccomp_init", c_void_p, (c_uint32,)),
        ("seccomp_release", None, (c_void_p,)),
        ("seccomp_attr_set", c_int, (c_void_p, c_int, c_uint32)),
        ("seccomp_arch_native", c_uint32, ()),
        ("seccomp_arch_add", c_int, (c_void_p, c_uint32)),
        ("seccomp_arch_remove", c_int, (c_void_p, c_uint32)),
        ("seccomp_syscall_resolve_name", c_int, (c_char_p,)),
        ("seccomp_syscall_resolve_name_arch", c_int, (c_uint32, c_char_p)),
        ("seccomp_rule_add_array", c_int, (c_void_p, c_uint32, c_int, c_uint, POINTER(_Comparison))),
        ("seccomp_export_bpf", c_int, (c_void_p, c_int)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def version() -> str:
    """Return the library's version, such as "2.5.4". Raises `OSError`: there is none."""
    found = _library().seccomp_version().contents
    return f"{found.major}.{found.minor}.{found.micro}"


def number(name: str, arch: str) -> int | None:
    """Return the number of a call in an ABI of `ARCHES`; None: it has none, or none that the library knows."""
    found = int(_library().seccomp_syscall_resolve_name_arch(ARCHES[arch], name.encode()))
    return found if found >= 0 else None


class Rules:
    """A filter in the making, for one or several ABIs. A context manager.

    Args:
        default: what happens to calls without a rule: a SECCOMP_RET value of seccomp(2), as all actions here.
        bad_arch: what happens to calls of any other ABI.
    """

    def __init__(self, arches: Sequence[str], default: int, bad_arch: int) -> None:
        self._library = _library()
        self._context = self._library.seccomp_init(default)
        if not self._context:
            raise OSError(errno.EINVAL, f"seccomp_init: {os.strerror(errno.EINVAL)}")
        native = self._library.seccomp_arch_native()
        tokens = [ARCHES[arch] for arch in arches]
        for token in tokens:
            if token != native:
                self._check("seccomp_arch_add", self._library.seccomp_arch_add(self._context, token))
        if native not in tokens:
            self._check("seccomp_arch_remove", self._library.seccomp_arch_remove(self._context, native))
        self._set(_ATTRIBUTE_BAD_ARCH, bad_arch)
        self._set(_ATTRIBUTE_OPTIMIZE, _BINARY_TREE)   # the kernel runs the filter once for each call there is when it is set

    def __enter__(self) -> Rules:
        return self

    def __exit__(self, *_: object) -> None:
        self._library.seccomp_release(self._context)

    def add(self, name: str, action: int, comparisons: Sequence[Comparison] = ()) -> bool:
        """Decide on a call, in the ABIs that have it; where several conditions are given, all must hold.

        Returns:
            whether the library knows the name.
        """
        call = self._library.seccomp_syscall_resolve_name(name.encode())
        if call == -1:   # __NR_SCMP_ERROR; other negative numbers stand for calls of other ABIs
            return False
        array = (_Comparison * len(comparisons))(*(_Comparison(*item) for item in comparisons))
        self._check(f"seccomp_rule_add {name}", self._library.seccomp_rule_add_array(self._context, action, call, len(comparisons), array))
        return True

    def program(self) -> bytes:
        """Return the filter as a program of classic BPF."""
        fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
        try:
            self._check("seccomp_export_bpf", self._library.seccomp_export_bpf(self._context, fd))
            return os.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            os.close(fd)

    def _set(self, attribute: int, value: int) -> None:
        self._check("seccomp_attr_set", self._library.seccomp_attr_set(self._context, attribute, value))

    @staticmethod
    def _check(call: str, result: int) -> None:
        if result < 0:
            raise OSError(-result, f"{call}: {os.strerror(-result)}")
