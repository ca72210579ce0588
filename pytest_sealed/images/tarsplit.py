"""What of a layer's tar is in none of its files: headers, padding, entries that were left out.

With it and the unpacked files, the tar can be written again bit by bit: so the store keeps no archives,
and yet an image can be saved and pushed under its own digests. The idea is that of Docker's tar-split.

A split is a gzip file of records: a byte of kind, a length (u32) and the bytes themselves; or the
length of a path (u32), the path, and the size (u64) of the file whose content comes here.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from typing import IO, final

__all__ = ["SplitWriter", "read_split"]

_RAW, _CONTENT = b"\0", b"\1"
_BUFFER = 1 << 16   # bytes of a record


@final
class SplitWriter:
    """Writes a split; a context manager."""

    def __init__(self, path: str) -> None:
        self._file = gzip.GzipFile(path, "wb", compresslevel=1, mtime=0)
        self._buffer = bytearray()

    def __enter__(self) -> SplitWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._file.close()

    def raw(self, data: bytes) -> None:
        """Bytes of the tar that no file holds."""
        self._buffer += data
        if len(self._buffer) > _BUFFER:
            self._flush()

    def content(self, path: bytes, size: int) -> None:
        """The content of the file `path` comes here."""
        self._flush()
        self._file.write(_CONTENT + struct.pack("<I", len(path)) + path + struct.pack("<Q", size))

    def _flush(self) -> None:
        if self._buffer:
            self._file.write(_RAW + struct.pack("<I", len(self._buffer)))
            self._file.write(bytes(self._buffer))
            self._buffer.clear()


def read_split(source: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """Yield (bytes, -1) for what is to be written as it is, and (path, size) for the content of a file.

    Raises:
        OSError, EOFError, struct.error: the split is damaged.
    """
    with gzip.GzipFile(fileobj=source) as file:
        while kind := file.read(1):
            [length] = struct.unpack("<I", file.read(4))
            data = file.read(length)
            yield data, -1 if kind == _RAW else struct.unpack("<Q", file.read(8))[0]
