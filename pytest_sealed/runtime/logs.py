"""Reading a container's log from its spool file, while the forwarder writes and rotates it.

The forwarder's answer to `flush` comes before anything that was written earlier can be missed here.
"""

from __future__ import annotations

import codecs
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from pytest_sealed.runtime.forward.record import LOSS, MAGIC, RECORD, SEGMENT, SEGMENT_MAGIC, STREAMS

__all__ = ["Record", "lines", "loss", "position", "read", "text"]

_TRIES = 50      # a rotation between two opens is seen and the pair opened again; a segment lasts longer than this


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What one read of a container's output gave, or a line of it."""

    stream: Literal["stdout", "stderr"]
    time: float
    """When the forwarder read it: seconds since the epoch."""
    data: bytes
    end: int
    """The position just after it: `read(path, since=record.end)` gives what follows."""

    @property
    def text(self) -> str:
        """The data as text; bytes that are no UTF-8 become U+FFFD."""
        return self.data.decode("utf-8", "replace")


class _Segment:
    """An open segment file."""

    __slots__ = ("base", "end", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        header = os.pread(fd, SEGMENT.size, 0)
        if len(header) < SEGMENT.size or not header.startswith(SEGMENT_MAGIC):
            raise ValueError("no segment of a log")
        self.base: int = SEGMENT.unpack(header)[1]
        self.end = self.base + os.fstat(fd).st_size - SEGMENT.size

    def bytes_from(self, start: int) -> bytes:
        """Return what the segment holds from position `start` to its end as it was when opened."""
        parts = []
        offset, left = start - self.base + SEGMENT.size, self.end - start
        while left > 0:
            part = os.pread(self.fd, left, offset)
            if not part:
                break
            parts.append(part)
            offset += len(part)
            left -= len(part)
        return b"".join(parts)


def read(path: str | os.PathLike[str], *, since: int = 0) -> list[Record]:
    """Return the records of the log at `path` that end after the position `since`, oldest first.

    What the log's bound has dropped is left out; a log that isn't there yet is empty. A record that is
    being written at this moment is left for the next call.
    """
    segments = _open(os.fspath(path), since)
    try:
        return [record for segment in segments for record in _records(segment, since)]
    finally:
        for segment in segments:
            os.close(segment.fd)


def loss(size: int, end: int) -> Record:
    """Return the record that says that `size` bytes were lost, while there is no space for it in the log, which has its end at `end`."""
    return Record(stream="stderr", time=time.time(), data=LOSS % size, end=end)


def position(path: str | os.PathLike[str]) -> int:
    """Return the position after everything that the log at `path` holds now, for `read(path, since=...)`."""
    segments = _open(os.fspath(path), None)
    try:
        return max((segment.end for segment in segments), default=0)
    finally:
        for segment in segments:
            os.close(segment.fd)


def lines(records: Iterable[Record], *, partial: bool = True) -> Iterator[Record]:
    """Yield the lines of `records`, without their line ends, each stream put together by itself.

    Args:
        partial: also yield, last, what stands after the last line end of each stream.
    """
    open_lines: dict[str, list[Record]] = {}
    for record in records:
        first, *others = record.data.split(b"\n")
        begun = open_lines.setdefault(record.stream, [])
        begun.append(replace(record, data=first))
        for piece in others:
            yield _joined(begun)
            begun[:] = [replace(record, data=piece)]
    if partial:
        for begun in open_lines.values():
            line = _joined(begun)
            if line.data:
                yield line


def text(records: Iterable[Record]) -> str:
    """Return what records say, in order; a character that two of a stream's share is one. No UTF-8 becomes U+FFFD."""
    decoders = {stream: codecs.getincrementaldecoder("utf-8")("replace") for stream in STREAMS}
    said = [decoders[record.stream].decode(record.data) for record in records]
    return "".join([*said, *(decoder.decode(b"", final=True) for decoder in decoders.values())])


def _joined(pieces: list[Record]) -> Record:
    """One line of its pieces, with the time of the first that has data and the end of the last."""
    if len(pieces) == 1:
        return pieces[0]
    time = next((piece.time for piece in pieces if piece.data), pieces[-1].time)
    return replace(pieces[-1], time=time, data=b"".join(piece.data for piece in pieces))


def _open(path: str, since: int | None) -> list[_Segment]:
    """Open the segments that hold what follows `since` (None: the newest segment will do), oldest first.

    The newer file is opened first. If it is moved to the older name before that is opened, both are
    one; if it is moved twice, there is a gap: then try again. See `Spool._rotate`.
    """
    newer = older = None
    for _ in range(_TRIES):
        newer = _segment(path)
        if newer is not None and (since is None or since >= newer.base):
            return [newer]
        older = _segment(path + ".1")
        if newer is None:
            if older is None:
                return []
            again = _segment(path)           # between the two renames of a rotation
            if again is None:
                return [older]
            os.close(again.fd)
        elif older is None or older.end == newer.base:
            return [newer] if older is None else [older, newer]
        elif older.base == newer.base:       # the same file, rotated just now; what was older is gone
            os.close(older.fd)
            return [newer]
        for segment in (newer, older):
            if segment is not None:
                os.close(segment.fd)
    newer = _segment(path)
    return [newer] if newer is not None else []


def _segment(path: str) -> _Segment | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return _Segment(fd)
    except BaseException:
        os.close(fd)
        raise


def _records(segment: _Segment, since: int) -> Iterator[Record]:
    start = max(since, segment.base)
    data = segment.bytes_from(start)
    if start > segment.base and not _begins_record(data, start):
        # A position taken in mid-record (see `position`): find the records' beginnings from the segment's.
        start = segment.base
        data = segment.bytes_from(start)
    offset = 0
    while _begins_record(data[offset:offset + RECORD.size], start + offset):
        _, stream, _, size, nanoseconds, _ = RECORD.unpack_from(data, offset)
        offset += RECORD.size + size
        if offset > len(data):
            return
        if start + offset > since:
            yield Record(stream="stderr" if stream else "stdout", time=nanoseconds / 1e9,
                         data=data[offset - size:offset], end=start + offset)


def _begins_record(data: bytes, where: int) -> bool:
    if len(data) < RECORD.size:
        return False
    magic, stream, _, _, _, own = RECORD.unpack_from(data)
    return bool(magic == MAGIC and stream < len(STREAMS) and own == where)
