"""Runs inside U0: writes a layer's tar again, from its files and its split. See `tarsplit` and `launch.run_inside`."""

from __future__ import annotations

import os
import stat
import struct
import zlib
from typing import Any

from pytest_sealed.errors import ImageError
from pytest_sealed.images.tarsplit import read_split
from pytest_sealed.linux.files import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2

__all__ = ["main"]

_SAFE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
_CHUNK = 1 << 20


def main(payload: dict[str, Any]) -> dict[str, Any]:
    """Write the tar of the folder `fs` and the file `split` into the first fd. Whoever reads it checks its digest.

    Raises:
        ImageError: the layer has been changed since it was unpacked.
    """
    out = payload["fds"][0]
    root = os.open(payload["fs"], os.O_RDONLY | os.O_DIRECTORY)
    try:
        with open(payload["split"], "rb") as split:
            for data, size in read_split(split):
                if size < 0:
                    _write(out, data)
                else:
                    _copy(root, os.fsdecode(data), size, out)
    except BrokenPipeError:
        pass   # nobody reads on: they know why
    except (EOFError, struct.error, zlib.error, OSError) as error:
        raise ImageError(f"the layer {os.path.dirname(payload['fs'])} is damaged: {error}") from error
    return {}


def _copy(root: int, path: str, size: int, out: int) -> None:
    fd = openat2(root, path, os.O_RDONLY | os.O_NONBLOCK, resolve=_SAFE)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size != size:
            raise ImageError(f"{path!r} of the layer isn't what was unpacked: {status.st_size} bytes, expected {size}")
        while data := os.read(fd, _CHUNK):
            _write(out, data)
    finally:
        os.close(fd)


def _write(out: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(out, view):]
