"""How a layer says that something below it is gone: overlayfs's whiteouts and opaque folders. See the kernel's overlayfs.rst."""

from __future__ import annotations

import os
import stat

__all__ = ["HIDDEN", "OPAQUE", "hides", "is_opaque", "is_whiteout", "read_attribute"]

OPAQUE = "user.overlay.opaque"     # "y": nothing below shows through this folder; "x": it holds files with HIDDEN
HIDDEN = "user.overlay.whiteout"   # an empty file that hides the one below, where no device can be made (Linux 6.7)


def is_whiteout(status: os.stat_result) -> bool:
    """Say whether a file is an overlay whiteout: a character device 0:0."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def hides(fd: int, status: os.stat_result) -> bool:
    """Say whether the file that `fd` (O_PATH will do) names is a whiteout of either kind."""
    return is_whiteout(status) or (stat.S_ISREG(status.st_mode) and status.st_size == 0 and bool(read_attribute(fd, HIDDEN)))


def is_opaque(fd: int) -> bool:
    """Say whether nothing below shows through the folder that `fd` names."""
    return read_attribute(fd, OPAQUE) == b"y"


def read_attribute(fd: int, name: str) -> bytes:
    """Return an extended attribute of what `fd` (O_PATH will do) names; empty where it has none."""
    try:
        return os.getxattr(f"/proc/self/fd/{fd}", name)   # an O_PATH fd has no attributes of its own
    except OSError:
        return b""
