"""Runs inside U0: writes a layer's tar again, from its files and its split. See `tarsplit` and `launch.run_inside`."""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Callable
from typing import Any

from pytest_sealed.errors import ImageError
from pytest_sealed.images.tarsplit import read_split
from pytest_sealed.linux.files import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2

__all__ = ["main", "write_tar"]

_SAFE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
_CHUNK = 1 << 20


def main(payload: dict[str, Any]) -> dict[str, Any]:
    """Write the tar of the folder `fs` and the file `split` into the first fd. Whoever reads it checks its digest.

    Raises:
        ImageError: the layer has been changed since it was unpacked.
    """
    def refuse(path: str, why: str) -> None:
        raise ImageError(f"the layer {os.path.dirname(payload['fs'])} is damaged: {path!r} {why}")
    try:
        write_tar(payload["fs"], payload["split"], payload["fds"][0], refuse)
    except BrokenPipeError:
        pass   # nobody reads on: they know why
    except (EOFError, struct.error, zlib.error, OSError) as error:
        raise ImageError(f"the layer {os.path.dirname(payload['fs'])} is damaged: {error}") from error
    return {}


def write_tar(folder: str, split_path: str, out: int, damaged: Callable[[str, str], None]) -> None:
    """Write a layer's tar into `out`.

    Args:
        damaged: is told of a file that isn't what was unpacked, and what is wrong with it; if it returns, zeros are written instead.

    Raises:
        OSError, EOFError, struct.error, zlib.error: the split is damaged, or nobody reads.
    """
    root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with open(split_path, "rb") as split:
            for data, size in read_split(split):
                if size < 0:
                    _write(out, data)
                else:
                    _copy(root, os.fsdecode(data), size, out, damaged)
    finally:
        os.close(root)


def _copy(root: int, path: str, size: int, out: int, damaged: Callable[[str, str], None]) -> None:
    try:
        fd = openat2(root, path, os.O_RDONLY | os.O_NONBLOCK, resolve=_SAFE)
    except OSError as error:
        damaged(path, f"can't be opened: {os.strerror(error.errno or 0)}")
        _zeros(out, size)
        return
    left = size
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size != size:
            damaged(path, f"has {status.st_size} bytes, expected {size}")
        else:
            while left and (data := os.read(fd, min(_CHUNK, left))):
                _write(out, data)
                left -= len(data)
    finally:
        os.close(fd)
    _zeros(out, left)


def _zeros(out: int, size: int) -> None:
    while size > 0:
        _write(out, bytes(min(size, _CHUNK)))
        size -= _CHUNK


def _write(out: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(out, view):]
