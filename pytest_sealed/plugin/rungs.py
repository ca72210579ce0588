"""Which rung of each ladder a run is on, for the header line: ids, limits, writable layers. Starts nothing, so some of it is foresight."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pytest_sealed.images.folders import file_system
from pytest_sealed.runtime.cgroups import detect, scope
from pytest_sealed.runtime.idmap import find_id_map

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_sealed.runtime.cgroups import Hierarchy

__all__ = ["ids", "limits", "limits_of", "upper"]

_MODES = {"root": "as root", "subids": "rootless", "single": "rootless with a single id (no range in /etc/subuid)"}
_NO_UPPER = ("overlay", "nfs", "nfs4", "cifs", "smb3", "9p", "fuse", "ceph")


def ids() -> str:
    """Return how ids are mapped."""
    return _MODES[find_id_map().mode]


def limits() -> str:
    """Return what limits memory, CPUs and processes."""
    hierarchy = detect()
    return limits_of(hierarchy, scoped=scope.manager_for(hierarchy) is not None)


def limits_of(hierarchy: Hierarchy, *, scoped: bool) -> str:
    """Return the same for what `detect` has found."""
    if hierarchy.version == "none":
        return f"{hierarchy.title}, so no limits"
    kind = hierarchy.title
    if scoped:
        return f"limits by {kind} in a scope of systemd's"
    missing = [name for name in ("memory", "cpu", "pids") if name not in hierarchy.bases]
    if len(missing) == 3:
        return f"no limits on {kind} (`sealed doctor` says why)"
    delegated = hierarchy.version == "v1" and any(path.endswith(f"/sealed-{os.geteuid()}") for path in hierarchy.bases.values())
    return f"limits by {kind}{' (delegated)' * delegated}{', none of ' * bool(missing)}{' and '.join(missing)}"


def upper(store: Path) -> str:
    """Return where writable layers will be: what an overlay's upper needs of tmpfs, and of the store's file system, is looked up."""
    if _tmpfs_has_user_attributes():
        return "writable layers in memory"
    if file_system(store).partition(".")[0] not in _NO_UPPER:
        return "writable layers on disk"
    return "images copied for each container"


def _tmpfs_has_user_attributes() -> bool:
    """Ask the kernel's own tmpfs, by a file in memory. Linux has them since 6.6. See memfd_create(2), xattr(7)."""
    fd = os.memfd_create("sealed")
    try:
        os.setxattr(fd, b"user.sealed", b"y")
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
