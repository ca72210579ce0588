"""The user's side of a container's terminal or standard streams."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import sys
from typing import TYPE_CHECKING

if sys.platform != "win32":   # where everything imports, and nothing starts
    import fcntl
    import termios
    import tty

if TYPE_CHECKING:
    from pytest_sealed.container import Container

__all__ = ["Streams", "Terminal"]

_PIECE = 1 << 16
_MOST_TYPED = 1 << 20   # bytes that wait for a container that doesn't read its terminal; what is typed beyond is lost, as in any


class Terminal:
    """The terminal that this process runs in: raw while the context lasts, and put right again whatever happens.

    Args:
        escape: keys that end the container, pressed one after the other.
    """

    def __init__(self, *, escape: bytes) -> None:
        self._escape, self._held = escape, b""
        self._typed = bytearray()
        self._ends = contextlib.ExitStack()
        self._master = -1

    def __enter__(self) -> Terminal:
        mode = termios.tcgetattr(0)
        self._ends.callback(termios.tcsetattr, 0, termios.TCSAFLUSH, mode)
        tty.setraw(0)
        self._wake, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._ends.callback(os.close, self._wake)
        self._ends.callback(os.close, wake)
        previous = signal.signal(signal.SIGWINCH, lambda *_: os.write(wake, b"w"))
        self._ends.callback(signal.signal, signal.SIGWINCH, previous)
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def serve(self, master: int, container: Container) -> None:
        """Carry keys and output, and the window's size, until the container's side is closed."""
        self._ends.callback(os.close, master)
        self._master = master
        os.set_blocking(master, False)   # who doesn't read its keys must not keep us from reading the next
        self._resize()
        poll = select.poll()
        for fd in (0, master, self._wake):
            poll.register(fd, select.POLLIN)
        while True:
            poll.modify(master, select.POLLIN | (select.POLLOUT if self._typed else 0))
            for fd, events in poll.poll():
                if fd == self._wake:
                    os.read(self._wake, 4096)
                    self._resize()
                elif fd == master:
                    if events & ~select.POLLOUT and not _copy(master, 1):
                        return
                    self._pass_on()
                elif not self._keys(container):
                    poll.unregister(0)

    def _keys(self, container: Container) -> bool:
        keys = os.read(0, _PIECE)
        if not keys:
            return False
        self._held = (self._held + keys)[-len(self._escape):]
        if self._held == self._escape:
            container.kill()
        else:
            self._typed += keys[:_MOST_TYPED - len(self._typed)]
            self._pass_on()
        return True

    def _pass_on(self) -> None:
        """Give the container what it takes of what was typed."""
        with contextlib.suppress(BlockingIOError):
            if self._typed:
                del self._typed[:os.write(self._master, self._typed)]

    def _resize(self) -> None:
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8)))


class Streams:
    """Pipes between a container's standard streams and this process's: never the host's own descriptors.

    Attributes:
        theirs: the container's ends, in order.
    """

    def __init__(self, *, interactive: bool) -> None:
        self._interactive = interactive
        self._ends = contextlib.ExitStack()
        self.theirs: list[int] = []
        self._given = contextlib.ExitStack()
        self._rest = b""   # of the input: what the container has not taken yet

    def __enter__(self) -> Streams:
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self._given.callback(os.close, null)
        self._ends.enter_context(self._given)
        into, self._into = self._pipe() if self._interactive else (null, -1)
        if self._interactive:
            os.set_blocking(self._into, False)
        self._out, out = self._pipe()
        self._err, err = self._pipe()
        for fd in (into, out, err):
            if fd != null:
                self._given.callback(os.close, fd)
        self._ours = {fd for fd in (self._into, self._out, self._err) if fd >= 0}
        self.theirs = [into, out, err]
        return self

    @staticmethod
    def _pipe() -> tuple[int, int]:
        return os.pipe2(os.O_CLOEXEC)

    def __exit__(self, *_: object) -> None:
        self._ends.close()
        for fd in self._ours:
            os.close(fd)

    def serve(self, container: Container) -> None:
        """Carry the streams until the container's output is closed, or it has ended and its output is taken."""
        self._given.close()
        sys.stdout.flush()
        routes = {self._out: 1, self._err: 2}
        while routes:
            poll = select.poll()
            for fd in routes:
                poll.register(fd, select.POLLIN)
            if self._into >= 0 and self._rest:
                poll.register(self._into, select.POLLOUT)
            elif self._into >= 0:
                poll.register(0, select.POLLIN)
            events = poll.poll(None if not container.poll_exit(0) else 0) if self._into < 0 else poll.poll(100)
            if not events and container.poll_exit(0):
                return
            for fd, _ in events:
                if fd not in routes:
                    self._feed()
                elif not _copy(fd, routes[fd]):
                    del routes[fd]

    def _feed(self) -> None:
        """Pass input on as far as the container takes it now: it may be waiting for its output to be read."""
        data = self._rest or os.read(0, _PIECE)
        try:
            if data:
                self._rest = data[os.write(self._into, data):]
                return
        except BlockingIOError:
            self._rest = data
            return
        except BrokenPipeError:   # it doesn't read its input
            pass
        os.close(self._into)
        self._ours.discard(self._into)
        self._into = -1


def _copy(source: int, target: int) -> bool:
    """Move what `source` has to `target`; false at its end."""
    try:
        data = os.read(source, _PIECE)
    except OSError as error:
        if error.errno != errno.EIO:   # a terminal whose other side is closed
            raise
        return False
    return bool(data) and _write(target, data)


def _write(fd: int, data: bytes) -> bool:
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(fd, view):]
    except BrokenPipeError:
        return False
    return True
