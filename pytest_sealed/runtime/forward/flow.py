"""One direction of a connection: bytes from a source socket to a sink socket.

Short messages go through one shared buffer, by recv and send: no pipe, and no third system call to learn
that nothing is left. A source that fills the buffer is a stream, and is spliced through a lent pipe, so
that its bytes are never copied. Without a pipe to be had, the buffer serves for everything.
"""

from __future__ import annotations

import os
import select
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_sealed.runtime.forward.pipes import Pipe, Pool

__all__ = ["Flow", "Side"]

_BUFFER = bytearray(16 * 1024)    # shared: what a sink refuses is copied out of it at once
_VIEW = memoryview(_BUFFER)
_SHORT = len(_BUFFER)
_SPLICE = 1 << 20                 # bytes asked of one splice; the pipe's 16 slots give fewer
_BUDGET = 512 * 1024              # bytes of one flow in one round, so that a stream can't starve the rest

_READABLE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_WRITABLE = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR
# After one of these no other event may come, or (urgent data) a read may stop early: read until EAGAIN.
_THOROUGH = select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class Side:
    """A socket, and what the last edges said about it."""

    __slots__ = ("broken", "fd", "readable", "socket", "thorough", "writable")

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.fd = connection.fileno()
        self.readable = False
        self.writable = False
        self.thorough = False
        self.broken = False           # the peer has reset the connection

    def note(self, events: int) -> None:
        """Take over an event's news."""
        if events & _READABLE:
            self.readable = True
        if events & _WRITABLE:
            self.writable = True
        if events & _THOROUGH:
            self.thorough = True

    def has_error(self) -> bool:
        return self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


class Flow:
    """Moves bytes while `source` has some and `sink` takes them; passes the end of the stream on."""

    __slots__ = ("_pipe", "_pool", "_rest", "_stream", "done", "ended", "moved", "pending", "sink", "source")

    def __init__(self, source: Side, sink: Side, pool: Pool) -> None:
        self.source = source
        self.sink = sink
        self.ended = False            # nothing more will come from the source
        self.done = False             # and the sink has been told
        self.pending = 0              # bytes taken from the source that the sink has not taken
        self.moved = 0                # bytes taken so far
        self._rest = b""              # where they are: here, or else in the pipe
        self._pipe: Pipe | None = None
        self._pool = pool
        self._stream = False

    def pump(self) -> bool:
        """Move what can be moved; return whether only the budget ended it, so that there may be more."""
        source, sink = self.source, self.sink
        stop = self.moved + _BUDGET
        more = False
        while True:
            if self.pending:
                if not sink.writable:
                    break
                self._deliver()
            elif self.ended:
                if not self.done:
                    self._finish()
                break
            elif not source.readable:
                break
            elif self.moved >= stop:
                more = True
                break
            elif not (self._stream and self._splice()):
                self._copy()
        if self._pipe is not None and (self._rest or not self.pending):
            self._pool.take_back(self._pipe, empty=True)
            self._pipe = None
        return more

    def _copy(self) -> None:
        """Take a buffer of bytes, and give the sink as many as it takes."""
        source, sink = self.source, self.sink
        try:
            size = source.socket.recv_into(_BUFFER)
        except BlockingIOError:
            source.readable = False
            return
        except OSError:
            self._source_failed()
            return
        if not size:
            self.ended = True
            return
        self.moved += size
        if size == _SHORT:
            self._stream = True
        elif not source.thorough:
            source.readable = False   # a short read has emptied it: epoll(7), question 9
        try:
            sent = sink.socket.send(_VIEW[:size])
        except BlockingIOError:
            sent = 0
        except OSError:
            self._sink_failed()
            return
        if sent < size:
            sink.writable = False
            self._rest = bytes(_VIEW[sent:size])
            self.pending = size - sent

    def _splice(self) -> bool:
        """Fill a pipe from the source; return False if there is no pipe."""
        if self._pipe is None:
            self._pipe = self._pool.lend()
            if self._pipe is None:
                return False
        try:
            size = os.splice(self.source.fd, self._pipe.write_end, _SPLICE, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:       # the pipe is empty, so it is the source that has nothing
            self.source.readable = False
            return True
        except OSError:
            self._source_failed()
            return True
        if not size:
            self.ended = True
            return True
        self.moved += size
        self.pending = size
        self._stream = size >= _SHORT
        return True

    def _deliver(self) -> None:
        """Give the sink what is pending, or note that it is full."""
        sink = self.sink
        try:
            if self._rest:
                sent = sink.socket.send(self._rest)
                self._rest = self._rest[sent:]
            elif self._pipe is not None:
                sent = os.splice(self._pipe.read_end, sink.fd, self.pending, flags=os.SPLICE_F_NONBLOCK)
            else:
                raise AssertionError("pending bytes are nowhere")
            if not sent:
                raise BrokenPipeError
        except BlockingIOError:
            sink.writable = False
            return
        except OSError:
            self._sink_failed()
            return
        self.pending -= sent

    def _finish(self) -> None:
        self.done = True
        if self.source.broken:        # the relay resets the sink instead: see Relay
            return
        try:
            self.sink.socket.shutdown(socket.SHUT_WR)
        except OSError:               # ENOTCONN: it is gone, and its own flow will see that
            self.sink.broken = True

    def _source_failed(self) -> None:
        self.source.broken = True
        self.ended = True

    def _sink_failed(self) -> None:
        """The sink was reset. What it sent before may still be waiting, so the other flow reads to the end."""
        self.sink.broken = True
        self.ended = self.done = True
        self.release()

    def release(self) -> None:
        """Drop what is pending."""
        if self._pipe is not None:
            self._pool.take_back(self._pipe, empty=not self.pending or bool(self._rest))
            self._pipe = None
        self._rest = b""
        self.pending = 0
