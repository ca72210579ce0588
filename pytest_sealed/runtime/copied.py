"""Copies an image's layers into one folder: a container's root where an overlay can have no writable layer.

The layers are hostile: nothing is followed, everything is opened by name beneath a descriptor. Runs in a child of the
supervisor, outside the container's cgroup: what it costs is not the container's.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import time

from pytest_sealed.linux import process
from pytest_sealed.runtime.room import is_full
from pytest_sealed.runtime.whiteouts import hides, is_opaque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

__all__ = ["copy_for", "copy_layers"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PIECE = 1 << 24


def copy_for(layers: list[str], folder: str, report: int) -> NoReturn:
    """Make `folder`, with the copy in its `root`; report {"copied": {"bytes", "seconds"}} or {"error": …} as JSON, and end.

    Args:
        report: descriptor of a pipe; all others are closed.
    """
    answer: dict[str, Any]
    try:
        process.close_range(3, report - 1)
        process.close_range(report + 1)
        began = time.monotonic()
        os.makedirs(folder, 0o700)
        size = copy_layers(layers, f"{folder}/root")
        answer = {"copied": {"bytes": size, "seconds": time.monotonic() - began}}
    except OSError as error:
        full = is_full(error)
        answer = {"error": {"kind": "StoreError" if full else "", "text": f"its image can't be copied to {folder}: {error}", "remedy": (
            "set SEALED_STORE to a folder on ext4, xfs or btrfs with room for a copy of the image for each container" if full else "")}}
    except BaseException as error:
        answer = {"error": {"kind": "", "text": f"its image can't be copied: {error!r}"}}
    try:
        os.write(report, json.dumps(answer).encode())
    finally:
        os._exit(0)


def copy_layers(layers: list[str], target: str) -> int:
    """Make the folder `target` and put into it what an overlay of `layers`, the lowest first, would show; return the bytes copied.

    Raises:
        OSError: ENOSPC among others.
    """
    os.mkdir(target, 0o755)
    root = os.open(target, _FOLDER)
    size = 0
    try:
        for layer in layers:
            source = os.open(layer, _FOLDER)
            try:
                size += _Copy(root).folder(source, root, "")
            finally:
                os.close(source)
    finally:
        os.close(root)
    return size


class _Copy:
    """The copy of one layer over what was copied of those below."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._links: dict[int, str] = {}   # inode of a file with several names → the first one's path, within the layer

    def folder(self, source: int, target: int, path: str) -> int:
        """Copy what is in `source`, then the folder's own attributes."""
        size = 0
        for name in os.listdir(source):
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
            try:
                status = os.fstat(fd)
                if hides(fd, status):
                    _remove(name, target)
                elif stat.S_ISDIR(status.st_mode):
                    size += self._subfolder(fd, source, target, name, f"{path}{name}")
                else:
                    size += self._other(fd, status, target, name, f"{path}{name}")
            finally:
                os.close(fd)
        _settle(source, target)
        return size

    def _subfolder(self, fd: int, source: int, target: int, name: str, path: str) -> int:
        there = _kind(name, target)
        if there is not None and (not stat.S_ISDIR(there) or is_opaque(fd)):
            _remove(name, target)
            there = None
        if there is None:
            os.mkdir(name, 0o700, dir_fd=target)
        inner, copy = os.open(name, _FOLDER, dir_fd=source), os.open(name, _FOLDER, dir_fd=target)
        try:
            return self.folder(inner, copy, f"{path}/")
        finally:
            os.close(inner)
            os.close(copy)

    def _other(self, fd: int, status: os.stat_result, target: int, name: str, path: str) -> int:
        if _kind(name, target) is not None:
            _remove(name, target)
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink("", dir_fd=fd), name, dir_fd=target)
            os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
            os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)
            return 0
        first = self._links.get(status.st_ino, "")
        if first:
            os.link(first, name, src_dir_fd=self._root, dst_dir_fd=target, follow_symlinks=False)
            return 0
        if status.st_nlink > 1:
            self._links[status.st_ino] = path
        if stat.S_ISFIFO(status.st_mode):
            os.mkfifo(name, 0o600, dir_fd=target)
            made = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target)
        elif stat.S_ISREG(status.st_mode):
            made = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=target)
        else:
            return 0   # images have no devices, and sockets are nobody's
        try:
            size = _contents(fd, made, status) if stat.S_ISREG(status.st_mode) else 0
            _settle(fd, made)
        finally:
            os.close(made)
        return size


def _contents(fd: int, made: int, status: os.stat_result) -> int:
    """Copy a file's data; on file systems that can, the copy shares its blocks. Holes stay holes. See copy_file_range(2)."""
    source = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    copied = offset = 0
    try:
        os.ftruncate(made, status.st_size)
        while offset < status.st_size:
            try:
                offset = os.lseek(source, offset, os.SEEK_DATA)
            except OSError:   # ENXIO: a hole up to the end
                break
            end = min(os.lseek(source, offset, os.SEEK_HOLE), status.st_size)
            while offset < end:
                count = _piece(source, made, offset, min(_PIECE, end - offset))
                if not count:
                    return copied
                offset += count
                copied += count
    finally:
        os.close(source)
    return copied


def _piece(source: int, made: int, offset: int, count: int) -> int:
    try:
        return os.copy_file_range(source, made, count, offset, offset)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):   # between file systems that don't work together
            raise
        return os.pwrite(made, os.pread(source, min(count, 1 << 20), offset), offset)


def _settle(source: int, made: int) -> None:
    """Give `made` the owner, mode, attributes and times of `source`; O_PATH will do for both. The owner first: it costs setuid bits."""
    status, path = os.fstat(source), f"/proc/self/fd/{made}"
    os.chown(path, status.st_uid, status.st_gid)
    os.chmod(path, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(f"/proc/self/fd/{source}"):
        if not name.startswith("user.overlay.") and name.startswith(("user.", "security.capability")):
            os.setxattr(path, name, os.getxattr(f"/proc/self/fd/{source}", name))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _kind(name: str, folder: int) -> int | None:
    try:
        return os.lstat(name, dir_fd=folder).st_mode
    except FileNotFoundError:
        return None


def _remove(name: str, folder: int) -> None:
    """Remove what an earlier layer has put here."""
    mode = _kind(name, folder)
    if mode is None:
        return
    if not stat.S_ISDIR(mode):
        os.unlink(name, dir_fd=folder)
        return
    fd = os.open(name, _FOLDER, dir_fd=folder)
    try:
        for entry in os.listdir(fd):
            _remove(entry, fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=folder)
