"""Room in the run directory: it lies in memory as a rule, and other programs write there too."""

from __future__ import annotations

import errno
import os

from pytest_sealed.errors import StoreError

__all__ = ["is_full", "no_room", "require_room"]

_LEAST = 64 << 10   # bytes, for the beginning of a log


def require_room(path: str) -> None:
    """Do nothing, or raise what whoever needs room is told, before anything is half done.

    Raises:
        StoreError: the file system of the folder `path` is full.
    """
    facts = os.statvfs(path)
    if (facts.f_blocks and facts.f_bfree * facts.f_frsize < _LEAST) or (facts.f_files and facts.f_ffree == 0):   # 0: it counts none
        raise no_room(path)


def no_room(path: str) -> StoreError:
    """Return the error of a run directory in which nothing can be made."""
    folder = os.path.dirname(path)
    return StoreError(f"the run directory {path} is full: its file system has no space or no inodes left",
                      remedy=f"free some (df {folder}; df -i {folder}), or set XDG_RUNTIME_DIR to a folder with room")


def is_full(error: OSError) -> bool:
    """Tell whether a system call failed for want of room."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
