"""Runs inside U0: writes what a container has changed as a layer's tar. See `snapshot` and `launch.run_inside`."""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

from pytest_sealed.errors import ImageError
from pytest_sealed.images.apply import explained
from pytest_sealed.images.archive import CAPS
from pytest_sealed.images.capture import capture
from pytest_sealed.images.layerfile import LayerFile
from pytest_sealed.images.lowers import visible
from pytest_sealed.runtime.whiteouts import is_whiteout

__all__ = ["main"]

_MOUNTED = ("dev", "proc", "sys")   # of the container's kernel, whoever made the folder


def main(payload: dict[str, Any]) -> dict[str, Any]:
    """Write the layer; return {"diff_id", "size", "entries"}.

    Payload: output (path of the tar to be), lowers (of the image, topmost first), copied (whether the folder holds a copy of them),
    points and files (paths where something is mounted, and of files that the runtime writes), free (bytes that it may take), single
    (uid and gid of everything, or None), and the folder as the first fd.

    Raises:
        ImageError: it is larger than a layer may be, or than there is room for.
        StoreError: the store's file system is full.
    """
    upper = f"/proc/self/fd/{payload['fds'][0]}/"
    lowers = [os.open(path, os.O_PATH | os.O_DIRECTORY) for path in payload["lowers"]]
    try:
        skip = _skipped(upper, lowers, payload)
        _measure(upper, skip, min(payload["free"], CAPS.size))
        with LayerFile(payload["output"], times=True) as layer:
            capture(upper, layer, single=tuple(payload["single"]) if payload["single"] else None, skip=skip)
            written = layer.finish()
    except OSError as error:
        if error.errno in (None, errno.ENOENT):   # None: tarfile's, of a file that has become shorter
            raise ImageError(f"the container's files changed while they were read: {error}",
                             remedy="stop() it before the snapshot") from error
        raise explained(error, os.path.dirname(payload["output"])) from error
    return {"diff_id": written.diff_id, "size": written.size, "entries": written.entries}


def _skipped(upper: str, lowers: list[int], payload: dict[str, Any]) -> frozenset[str]:
    """Return what is left out: the runtime's own, and the folders that it made for it, if nothing else is in them."""
    points = ({path.strip("/") for path in payload["points"]} | set(_MOUNTED)) - {""}
    if payload["copied"]:   # what the image has at such a place is in the copy, and must stay
        points = {path for path in points if visible(lowers, path)[1] is None}
    skip = points | {path.strip("/") for path in payload["files"]}
    above = {"/".join(path.split("/")[:depth]) for path in skip for depth in range(1, path.count("/") + 1)}
    for folder in sorted(above, key=lambda path: -path.count("/")):   # the deepest first
        try:
            empty = all(f"{folder}/{name}" in skip for name in os.listdir(os.path.join(upper, folder)))
        except (FileNotFoundError, NotADirectoryError):
            continue
        if empty and visible(lowers, folder)[1] is None:
            skip.add(folder)
    return frozenset(skip)


def _measure(upper: str, skip: frozenset[str], most: int) -> None:
    """Refuse what would be too large before anything is written: a hole of a sparse file takes room in a tar."""
    total, largest, name = 0, 0, ""
    for folder, folders, files in os.walk(upper):
        below = os.path.relpath(folder, upper)
        prefix = "" if below == "." else f"{below}/"
        folders[:] = [one for one in folders if prefix + one not in skip]
        for file in files:
            status = os.lstat(os.path.join(folder, file))
            if stat.S_ISREG(status.st_mode) and not is_whiteout(status) and prefix + file not in skip:
                total += status.st_size
                if status.st_size > largest:
                    largest, name = status.st_size, prefix + file
    if total > most:
        raise ImageError(f"the container's files have {total >> 20} MiB, and a snapshot may have {most >> 20} MiB here; the largest is "
                         f"/{name} ({largest >> 20} MiB)", remedy=(
                             "remove such files before the snapshot, or make room in the store: `sealed prune`"))
