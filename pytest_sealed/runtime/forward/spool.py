"""A container's output: from its pipes to a bounded spool file, without ever holding the container up.

Each read becomes one record with the time of the read, in the order in which the pipes became ready. A
container that floods gets a budget per round, as connections do; its oldest output goes when the
segments are full. What no space was left for is counted, and a record says so once there is space.
"""

from __future__ import annotations

import array
import fcntl
import os
import select
import struct
import termios
import time

from pytest_sealed.runtime.forward.record import LOSS, MAGIC, RECORD, SEGMENT, SEGMENT_MAGIC

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_sealed.runtime.forward.loop import Loop

__all__ = ["SEGMENT_SIZE", "LogPipe", "Spool"]

SEGMENT_SIZE = 8 << 20           # bytes; a spool has two segments
_BUFFER = bytearray(64 * 1024)   # shared: it is written out before the next read
_VIEW = memoryview(_BUFFER)
_READS = 4                       # of one pipe in one round
# A container that prints without end would keep this process busy all the time, and the kernel's scheduler lets
# such a one wait when a connection has work for it. So a pipe rests after this many bytes in this many seconds.
_BURST = 256 * 1024
_WINDOW = 0.002
_STDERR = 1


class Spool:
    """The writing end of one log."""

    __slots__ = ("_base", "_fd", "_limit", "_path", "_size", "lost")

    def __init__(self, path: str, limit: int = SEGMENT_SIZE) -> None:
        """Start a log at `path`, of two segments of `limit` bytes; one that is there is continued."""
        self._path = path
        self._limit = max(limit, SEGMENT.size + RECORD.size + len(_BUFFER))
        self._fd = -1
        self._size = 0            # bytes in the current segment, its header too
        self._base = 0            # position of the current segment's first record
        self.lost = 0             # bytes not yet reported as lost
        self._continue()

    def _continue(self) -> None:
        """After an end of ours in mid-record the old segment is left alone, and the next one begins where it ended."""
        for path in (self._path, self._path + ".1"):
            try:
                with open(path, "rb", buffering=0) as file:
                    magic, base = SEGMENT.unpack(file.read(SEGMENT.size))
                    size = os.fstat(file.fileno()).st_size
            except (OSError, struct.error):
                continue
            if magic == SEGMENT_MAGIC:
                self._base = base + size - SEGMENT.size
                return

    def write(self, stream: int, data: memoryview | bytes) -> None:
        """Append a record; count its bytes as lost when there is no space for it."""
        if self.lost:
            self.report_loss()
        if self.lost or not self._append(stream, data):
            self.lost += len(data)

    def report_loss(self) -> None:
        """Say in the log what was lost, if anything was and there is space now."""
        if self.lost and self._append(_STDERR, LOSS % self.lost):
            self.lost = 0

    def _append(self, stream: int, data: memoryview | bytes) -> bool:
        length = RECORD.size + len(data)
        if (self._fd < 0 or self._size + length > self._limit) and not self._rotate():
            return False
        header = RECORD.pack(MAGIC, stream, 0, len(data), time.time_ns(), self._base + self._size - SEGMENT.size)
        try:
            written = os.writev(self._fd, (header, data))
            if written == length:
                self._size += length
                return True
        except OSError:           # ENOSPC, EDQUOT, EIO, EFBIG: all mean that the record isn't there
            pass
        try:
            os.ftruncate(self._fd, self._size)    # no half a record: the next one begins where a reader looks for it
        except OSError:
            self._leave_segment()
        return False

    def _leave_segment(self) -> None:
        os.close(self._fd)
        self._fd = -1
        self._base += self._size - SEGMENT.size
        self._size = 0

    def _rotate(self) -> bool:
        """Begin a new segment; the file is complete before it gets its name. False when there is no space for it."""
        base = self._base + max(self._size - SEGMENT.size, 0)
        fresh = self._path + ".new"
        try:
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError:
            return False
        try:
            if os.write(fd, SEGMENT.pack(SEGMENT_MAGIC, base)) != SEGMENT.size:
                raise OSError
            try:
                os.rename(self._path, self._path + ".1")
            except FileNotFoundError:
                pass
            os.rename(fresh, self._path)
        except OSError:
            os.close(fd)
            try:
                os.unlink(fresh)
            except OSError:
                pass
            return False
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._base, self._size = fd, base, SEGMENT.size
        return True

    def close(self) -> None:
        self.report_loss()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class LogPipe:
    """The reading end of a container's stdout or stderr: a pipe, or a terminal's master."""

    __slots__ = ("_burst", "_due", "_fd", "_loop", "_spool", "_stream", "_window", "open")

    def __init__(self, loop: Loop, fd: int, stream: int, spool: Spool) -> None:
        os.set_blocking(fd, False)
        self._loop = loop
        self._fd = fd
        self._stream = stream
        self._spool = spool
        self._burst = 0           # bytes read since _window
        self._window = 0.0        # on the monotonic clock
        self._due = False         # _round will be called anyway
        self.open = True
        loop.watch(fd, select.EPOLLIN | select.EPOLLET, self._event)

    def _event(self, _events: int) -> None:
        if not self._due:
            self._round()

    def _round(self) -> None:
        self._due = False
        for _ in range(_READS):
            size = self._read()
            if not size:
                return            # to EAGAIN: terminals, and pipes in packet mode, give short reads with more to come
            self._burst += size
            if self._burst >= _BURST and self._rest():
                return
        self._due = True
        self._loop.again(self._round)

    def _rest(self) -> bool:
        """Begin a new window; if the old one isn't over yet, read on when it is."""
        now = time.monotonic()
        left = max(self._window + _WINDOW - now, 0.0)
        self._burst, self._window = 0, now + left
        if left:
            self._due = True
            self._loop.later(left, self._round)
        return self._due

    def _read(self) -> int:
        """Move one buffer to the spool; return its size, 0 when there is none now or ever."""
        if not self.open:
            return 0
        try:
            size = os.readv(self._fd, (_BUFFER,))
        except BlockingIOError:
            return 0
        except OSError:           # EIO: a terminal that nobody has open any more
            size = 0
        if not size:
            self.close()
            return 0
        self._spool.write(self._stream, _VIEW[:size])
        return size

    def drain(self) -> None:
        """Spool what is in the pipe at this moment, and not what comes while we do."""
        if not self.open:
            return
        waiting = array.array("i", [0])
        try:
            fcntl.ioctl(self._fd, termios.FIONREAD, waiting)
        except OSError:
            pass
        left = max(waiting[0], 1)     # one read more than nothing: the end of the file is worth seeing
        while left > 0:
            size = self._read()
            if not size:
                return
            left -= size

    def close(self) -> None:
        if self.open:
            self.open = False
            self._loop.forget(self._fd)
            fd = self._fd
            self._loop.close_later(lambda: os.close(fd))
