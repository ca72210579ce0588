"""Mounts: mount(2), umount2(2), pivot_root(2) and the file-descriptor calls of the new mount API."""

from __future__ import annotations

import ctypes
import os

from pytest_sealed.linux.libc import check, libc, syscall

__all__ = [
    "MNT_DETACH",
    "MOUNT_ATTR_IDMAP",
    "MOUNT_ATTR_NODEV",
    "MOUNT_ATTR_NOEXEC",
    "MOUNT_ATTR_NOSUID",
    "MOUNT_ATTR_RDONLY",
    "MS_BIND",
    "MS_NODEV",
    "MS_NOEXEC",
    "MS_NOSUID",
    "MS_PRIVATE",
    "MS_RDONLY",
    "MS_REC",
    "MS_REMOUNT",
    "MS_SLAVE",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "pivot_root",
    "umount2",
]

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MNT_DETACH = 2

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR_IDMAP = 0x100000

_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = 0x80000   # O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH = 0x04
_MOVE_MOUNT_T_EMPTY_PATH = 0x40
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_AT_FDCWD = -100


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def mount(source: str | None, target: str, fstype: str | None, flags: int, data: str | None = None) -> None:
    """See mount(2)."""
    encoded = [os.fsencode(text) if text is not None else None for text in (source, target, fstype, data)]
    check(libc.mount(encoded[0], encoded[1], encoded[2], flags, encoded[3]), f"mount {fstype or source or ''}".rstrip(), target)


def umount2(target: str, flags: int = 0) -> None:
    """See umount2(2)."""
    check(libc.umount2(os.fsencode(target), flags), "umount2", target)


def pivot_root(new_root: str, put_old: str) -> None:
    """See pivot_root(2)."""
    syscall("pivot_root", os.fsencode(new_root), os.fsencode(put_old), path=new_root)


def open_tree(path: str, *, dir_fd: int = _AT_FDCWD, recursive: bool = False) -> int:
    """Clone the mount at `path` as a detached mount, and return its fd. See open_tree(2)."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    if path == "":
        flags |= _AT_EMPTY_PATH
    return syscall("open_tree", dir_fd, os.fsencode(path), flags, path=path)


def move_mount(mount_fd: int, target_fd: int) -> None:
    """Attach a detached mount at the file or directory that `target_fd` (O_PATH) names. See move_mount(2)."""
    syscall("move_mount", mount_fd, b"", target_fd, b"", _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH)


def mount_setattr(path: str, *, set: int = 0, clear: int = 0, recursive: bool = False,  # noqa: A002  (the kernel's name)
                  dir_fd: int = _AT_FDCWD, userns_fd: int = 0) -> None:
    """Change a mount's flags; with an empty `path`, those of the mount that `dir_fd` is. See mount_setattr(2)."""
    attr = _MountAttr(attr_set=set, attr_clr=clear, propagation=0, userns_fd=userns_fd)
    flags = (_AT_RECURSIVE if recursive else 0) | (_AT_EMPTY_PATH if path == "" else 0)
    syscall("mount_setattr", dir_fd, os.fsencode(path), flags, attr, ctypes.sizeof(attr), path=path)
