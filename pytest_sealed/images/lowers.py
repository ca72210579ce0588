"""What layers show together, looked up by hand as overlayfs would: the topmost first, whiteouts and opaque folders obeyed."""

from __future__ import annotations

import os
import stat

from pytest_sealed.errors import ImageError
from pytest_sealed.runtime.whiteouts import HIDDEN, OPAQUE, hides, is_opaque

__all__ = ["hide", "make_opaque", "visible"]


def visible(lowers: list[int], path: str, *, keep: bool = False) -> tuple[int, os.stat_result | None]:
    """Return (fd or -1, status) of what an overlay of `lowers`, topmost first, shows at `path`. Follows no link."""
    folders, found = [os.dup(fd) for fd in lowers], -1
    status: os.stat_result | None = None
    try:
        for index, name in enumerate(parts := path.split("/")):
            nexts, status = _step_down(folders, name)
            for fd in folders:
                os.close(fd)
            folders = nexts
            if status is None or (index < len(parts) - 1 and not stat.S_ISDIR(status.st_mode)):
                return -1, (status if status is not None and stat.S_ISLNK(status.st_mode) and index == len(parts) - 1 else None)
        if keep:
            found = os.dup(folders[0])
        return found, status
    finally:
        for fd in folders:
            os.close(fd)


def _step_down(folders: list[int], name: str) -> tuple[list[int], os.stat_result | None]:
    """Look `name` up in merged folders: return the fds of what is there, topmost first, and its status."""
    found: list[int] = []
    first: os.stat_result | None = None
    for folder in folders:
        try:
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=folder)
        except FileNotFoundError:
            continue
        status = os.fstat(fd)
        if hides(fd, status) or (found and not stat.S_ISDIR(status.st_mode)):
            os.close(fd)
            break
        found.append(fd)
        first = first or status
        if not stat.S_ISDIR(status.st_mode) or is_opaque(fd):
            break
    return found, first


def hide(parent: int, name: str) -> None:
    """Hide what the layers below have under `name`.

    Raises:
        ImageError: this file system can do it in neither way.
    """
    try:
        os.mknod(name, stat.S_IFCHR | 0o600, 0, dir_fd=parent)
        return
    except PermissionError:
        pass   # a store on overlayfs, which keeps such devices to itself
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=parent)
    try:
        os.setxattr(fd, HIDDEN, b"y")
        if not is_opaque(parent):
            os.setxattr(f"/proc/self/fd/{parent}", OPAQUE, b"x")
    except OSError as error:
        raise ImageError(f"the store's file system can't hold a removal ({error.strerror})",
                         remedy="set SEALED_STORE to a folder on ext4, xfs, btrfs or tmpfs") from error
    finally:
        os.close(fd)


def make_opaque(parent: int, name: str) -> None:
    """Let nothing of the layers below show through the folder `name`."""
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        os.setxattr(fd, OPAQUE, b"y")
    finally:
        os.close(fd)
