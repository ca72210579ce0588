"""The user's side of a container's terminal or standard streams."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import sys
import termios
import tty
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_sealed.container import Container

__all__ = ["Streams", "Terminal"]

_PIECE = 1 << 16


class Terminal:
    """The terminal that this process runs in: raw while the context lasts, and put right again whatever happens.

    Args:
        escape: keys that end the container, pressed one after the other.
    """

    def __init__(self, *, escape: bytes) -> None:
        self._escape, self._held = escape, b""
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
        self._resize()
        poll = select.poll()
        for fd in (0, master, self._wake):
            poll.register(fd, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self._wake:
                    os.read(self._wake, 4096)
                    self._resize()
                elif fd == master:
                    if not _copy(master, 1):
                        return
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
            _write(self._master, keys)
        return True

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

    def __enter__(self) -> Streams:
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self._given.callback(os.close, null)
        self._ends.enter_context(self._given)
        into, self._into = self._pipe() if self._interactive else (null, -1)
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
        poll = select.poll()
        routes = {self._out: 1, self._err: 2}
        for fd in routes:
            poll.register(fd, select.POLLIN)
        if self._into >= 0:
            poll.register(0, select.POLLIN)
        while routes:
            events = poll.poll(None if not container.poll_exit(0) else 0) if self._into < 0 else poll.poll(100)
            if not events and container.poll_exit(0):
                return
            for fd, _ in events:
                if fd in routes:
                    if not _copy(fd, routes[fd]):
                        poll.unregister(fd)
                        del routes[fd]
                elif not self._feed():
                    poll.unregister(0)

    def _feed(self) -> bool:
        data = os.read(0, _PIECE)
        if data and _write(self._into, data):
            return True
        os.close(self._into)
        self._ours.discard(self._into)
        return False


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
