"""Reads a tar's entries one by one with tarfile, whose memory and patience for headers would have no end otherwise."""

from __future__ import annotations

import tarfile
from typing import Protocol, final

from pytest_sealed.errors import ImageError

__all__ = ["BROKEN", "Headers", "next_entry", "open_tar"]

_MOST = 1 << 20   # bytes of one entry's headers: extended ones, long names, maps of sparse files. Go's reader has the same bound
_BLOCK = 512      # bytes; see tar(5)
_TYPE = 156       # where a header has the type of its entry

BROKEN = (tarfile.TarError, ValueError, OverflowError, EOFError, RecursionError, IndexError, KeyError)
"""What tarfile raises."""


class _File(Protocol):
    def tell(self) -> int: ...
    def seek(self, position: int, /) -> int: ...
    def read(self, size: int, /) -> bytes: ...


@final
class Headers:
    """A file as tarfile reads it: bounded while it reads headers, and the last block is remembered.

    Args:
        title: of the archive, for messages.
    """

    def __init__(self, file: _File, title: str) -> None:
        self._file, self.title = file, title
        self.left = _MOST
        """Bytes that the headers may still have; below 0: content is read."""
        self.last = b""

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, position: int, whence: int = 0) -> int:
        if whence or position < 0:
            raise ImageError(f"{self.title} has an entry near byte {self.tell()} that points backwards (to {position})")
        return self._file.seek(position)

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            raise ImageError(f"{self.title} has an entry of negative size near byte {self.tell()}")
        if self.left < 0:
            return self._file.read(size)
        if size > self.left:
            raise ImageError(f"{self.title} has an entry with headers of more than {_MOST >> 10} KiB near byte {self.tell()}")
        self.left -= size
        extended = self.last[_TYPE:_TYPE + 1] in (b"x", b"X", b"g") if len(self.last) == _BLOCK else False
        self.last = self._file.read(size)
        if extended:
            self._check_records()
        return self.last

    def _check_records(self) -> None:
        """Refuse records that overlap: tarfile before 3.10.15, 3.11.10 and 3.12.6 takes endless memory for them."""
        start = 0
        while start < len(self.last) and self.last[start]:
            digits = self.last[start:start + 8].partition(b" ")[0]
            end = start + int(digits) if digits.isdigit() else 0
            if not start + 5 <= end <= len(self.last) or self.last[end - 1:end] != b"\n" or self.last.find(b"=", start, end) < 0:
                raise ImageError(f"{self.title} has a broken extended header near byte {self.tell()}")
            start = end


class _NoGlobals(dict[str, str]):
    """Keeps nothing: what an extended header says of all entries that follow is ignored, as by Docker."""

    def __setitem__(self, key: str, value: str) -> None:
        pass


def open_tar(headers: Headers) -> tarfile.TarFile:
    """Return a tar to be read by `next_entry`. Raises one of `BROKEN`, or ImageError, for a broken one."""
    # pyright and mypy want all of a file's methods; tarfile uses three
    return tarfile.TarFile(fileobj=headers, mode="r", errorlevel=2, pax_headers=_NoGlobals())  # type: ignore[arg-type]


def next_entry(tar: tarfile.TarFile, headers: Headers) -> tarfile.TarInfo | None:
    """Return the next entry, for the caller to check; None: there are no more.

    Raises:
        ImageError: its headers are too large, or broken; so does one of `BROKEN` say.
    """
    headers.left = _MOST
    info = tar.next()
    headers.left = -1
    if info is None and any(headers.last):   # tarfile takes a broken or cut header for the end
        raise ImageError(f"{headers.title} has a broken header near byte {headers.tell()}")
    if info is not None and info.size < 0:
        raise ImageError(f"{headers.title} has an entry of negative size near byte {headers.tell()}")
    return info
