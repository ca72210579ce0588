"""Writes what an overlay's upper folder holds as a layer's tar: whiteouts and opaque folders in the OCI form."""

from __future__ import annotations

import os
import stat
import tarfile
from typing import TYPE_CHECKING

from pytest_sealed.errors import ImageError
from pytest_sealed.runtime.whiteouts import is_whiteout

if TYPE_CHECKING:
    from pytest_sealed.images.layerfile import LayerFile

__all__ = ["capture"]

_SKIPPED = ("user.overlay.",)


class _Owners:
    """Turns this namespace's ids into a container's."""

    def __init__(self, single: tuple[int, int] | None) -> None:
        self.single = single

    def of(self, status: os.stat_result, path: str) -> tuple[int, int]:
        if self.single is not None:
            return self.single
        if status.st_uid < 1 or status.st_gid < 1:
            raise ImageError(f"{path!r} belongs to nobody that a container knows")
        return status.st_uid - 1, status.st_gid - 1


def capture(upper: str, layer: LayerFile, *, single: tuple[int, int] | None, skip: frozenset[str] = frozenset()) -> None:
    """Write the folder `upper` into `layer`, in the order of the names.

    Args:
        single: in single-id mode the owner of everything; else None.
        skip: paths that are left out, with all below them.
    """
    owners, links = _Owners(single), {}   # type: _Owners, dict[int, str]
    root = os.lstat(upper)
    _write(layer, upper, "", root, owners, links)
    pending = [""]
    while pending:
        folder = pending.pop()
        names = sorted(os.listdir(os.path.join(upper, folder)), key=os.fsencode)
        below = []
        for name in names:
            path = f"{folder}/{name}" if folder else name
            if path in skip:
                continue
            full = os.path.join(upper, path)
            status = os.lstat(full)
            if is_whiteout(status):
                layer.file(f"{folder}/.wh.{name}" if folder else f".wh.{name}", b"", 0o600)
            elif not stat.S_ISSOCK(status.st_mode):   # a socket is nothing without its process
                _write(layer, full, path, status, owners, links)
            if stat.S_ISDIR(status.st_mode):
                below.append(path)
        pending.extend(reversed(below))


def _write(layer: LayerFile, full: str, path: str, status: os.stat_result, owners: _Owners, links: dict[int, str]) -> None:
    entry = tarfile.TarInfo(path or ".")
    entry.mode, entry.mtime = stat.S_IMODE(status.st_mode), int(status.st_mtime)
    entry.uid, entry.gid = owners.of(status, path)
    attributes = _attributes(full)
    entry.pax_headers = {f"SCHILY.xattr.{key}": value.decode("utf-8", "surrogateescape") for key, value in attributes.items()
                         if not key.startswith(_SKIPPED)}
    if stat.S_ISDIR(status.st_mode):
        entry.type = tarfile.DIRTYPE
        layer.add(entry)
        if attributes.get("user.overlay.opaque") == b"y":
            layer.file(f"{path}/.wh..wh..opq" if path else ".wh..wh..opq", b"", 0o600)
    elif stat.S_ISLNK(status.st_mode):
        entry.type, entry.linkname = tarfile.SYMTYPE, os.readlink(full)
        layer.add(entry)
    elif stat.S_ISFIFO(status.st_mode):
        entry.type = tarfile.FIFOTYPE
        layer.add(entry)
    elif stat.S_ISREG(status.st_mode):
        first = links.setdefault(status.st_ino, path) if status.st_nlink > 1 else path
        if first != path:
            entry.type, entry.linkname = tarfile.LNKTYPE, first
            layer.add(entry)
            return
        entry.size = status.st_size
        with open(full, "rb") as content:
            layer.add(entry, content)


def _attributes(full: str) -> dict[str, bytes]:
    try:
        names = os.listxattr(full, follow_symlinks=False)
    except OSError:
        return {}
    return {name: os.getxattr(full, name, follow_symlinks=False) for name in sorted(names) if name.startswith("user.")}
