"""Reads layers as they travel: plain, gzip of several members, zstd of several frames; told apart by their first bytes.

Whoever calls this has checked the digest of what is compressed; what comes out is checked by its diff id.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, Protocol, final

from pytest_sealed.errors import ImageError
from pytest_sealed.images.streams import close

__all__ = ["CHUNK", "decompressed", "packing", "zstd"]

CHUNK = 1 << 20          # bytes at a time
_TAKE = 1 << 16          # bytes of what is compressed: what follows a member is copied for each, and there may be many
_EMPTY = 10_000          # members in a row that hold nothing
_RATIO = 200             # what a layer may unpack to, in multiples of what came,
_UNWATCHED = 1 << 30     # once it is larger than this
_WINDOW = 25             # log2 of the bytes that a zstd stream may look back: 32 MiB of memory
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"


def zstd() -> Any:
    """Return the standard library's zstd module, or its backport: Pythons before 3.14 have none."""
    if sys.version_info >= (3, 14):
        from compression import zstd as library
    else:
        from backports import zstd as library
    return library


class _Machine(Protocol):
    """A decompressor of one member, in the form of the standard library's newer ones."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


@final
class _Gzip:
    """zlib in that form."""

    def __init__(self) -> None:
        self._machine = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._machine.eof

    @property
    def needs_input(self) -> bool:
        return not self._machine.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._machine.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._machine.decompress(self._machine.unconsumed_tail + data, max_length)


def packing(first: bytes) -> Literal["gzip", "zstd", ""]:
    """Return what something is compressed with, by its first four bytes; empty: with nothing that is known here."""
    if first.startswith(_GZIP):
        return "gzip"
    if first.startswith(_ZSTD) or (first[1:4] == b"\x2a\x4d\x18" and first[0] & 0xF0 == 0x50):   # skippable frames may come first
        return "zstd"
    return ""


def decompressed(chunks: Iterable[bytes], what: str) -> Iterator[bytes]:
    """Yield the content of what comes in pieces, itself in pieces of at most 1 MiB.

    Args:
        what: names the layer in errors.

    Raises:
        ImageError: cut or broken, or it unpacks to a great deal more than came.
    """
    pieces = iter(chunks)
    try:
        yield from _decompressed(pieces, what)
    finally:
        close(pieces)


def _decompressed(pieces: Iterator[bytes], what: str) -> Iterator[bytes]:
    first = b""
    while len(first) < 4 and (data := next(pieces, b"")):
        first += data
    packed = packing(first)
    if packed == "gzip":
        yield from _members(_Gzip, _slices(first, pieces), f"{what} (gzip)", zlib.error)
    elif packed == "zstd":
        library = zstd()
        options = {library.DecompressionParameter.window_log_max: _WINDOW}
        yield from _members(lambda: library.ZstdDecompressor(options=options), _slices(first, pieces), f"{what} (zstd)", library.ZstdError)
    else:
        if first:
            yield first
        yield from pieces


def _slices(first: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    while first:
        for start in range(0, len(first), _TAKE):
            yield first[start:start + _TAKE]
        first = next(pieces, b"")


def _members(make: Callable[[], _Machine], slices: Iterator[bytes], what: str, broken: type[Exception]) -> Iterator[bytes]:
    data = next(slices)
    machine, came, went, empty = make(), len(data), 0, 0
    try:
        while True:
            out = machine.decompress(data, CHUNK)
            went += len(out)
            if went > _UNWATCHED and went > came * _RATIO:
                raise ImageError(f"{what} unpacks to more than {_RATIO} times its size: {went >> 20} MiB from {came >> 20} MiB so far")
            empty = 0 if out else empty + 1
            if out:
                yield out
            elif empty > _EMPTY:
                raise ImageError(f"{what} is broken: {_EMPTY} members that hold nothing")
            if machine.eof:
                data = machine.unused_data or next(slices, b"")
                came += len(data) if not machine.unused_data else 0
                if not data.strip(b"\0"):   # nothing, or what fills a tape's block
                    return
                machine = make()
                continue
            data = b""
            if machine.needs_input:
                data = next(slices, b"")
                came += len(data)
                if not data and not out:
                    raise ImageError(f"{what} is cut short", remedy="fetch or make it again")
    except broken as error:
        hint = f"; streams that look back further than {1 << _WINDOW >> 20} MiB aren't taken" if "memory" in str(error) else ""
        raise ImageError(f"{what} is broken: {error}{hint}", remedy="fetch or make it again") from error
