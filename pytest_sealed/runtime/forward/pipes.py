"""Pipes that splice(2) needs between two sockets: few, lent while data is in flight.

An ordinary account has 16,384 pages for the pipes of all its processes together (1,024 pipes of the usual
size, `fs.pipe-user-pages-soft`); past that, new pipes have two slots, and every other program of the
account feels it. So a connection owns no pipe, and there are never more than `most`. Few large ones serve
better than many small ones: CPU seconds for a GiB are 0.43 with 64 KiB, 0.34 with 256 KiB, 0.28 with 1 MiB,
and 0.8 by copies of 16 KiB without any. See pipe(7).
"""

from __future__ import annotations

import fcntl
import os

__all__ = ["Pipe", "Pool"]

_SIZE = 256 * 1024    # bytes: 64 pages of the account's budget
_LEAST = 64 * 1024    # bytes: a pipe that is smaller was made when the budget was spent
_KEPT = 2             # idle pipes held for reuse


class Pipe:
    """A read end, a write end, and whether the account's budget allowed it a good size."""

    __slots__ = ("good", "read_end", "write_end")

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            size = fcntl.fcntl(self.read_end, fcntl.F_SETPIPE_SZ, _SIZE)
        except OSError:       # EPERM: the budget; any size will do
            size = fcntl.fcntl(self.read_end, fcntl.F_GETPIPE_SZ)
        self.good = size >= _LEAST

    def close(self) -> None:
        os.close(self.read_end)
        os.close(self.write_end)


class Pool:
    """Lends empty pipes, at most `most` at a time."""

    __slots__ = ("_idle", "lent", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self.lent = 0
        self._idle: list[Pipe] = []

    def lend(self) -> Pipe | None:
        """Return an empty pipe, or None when `most` are out or the system gives no more."""
        if self.lent >= self.most:
            return None
        if self._idle:
            pipe = self._idle.pop()
        else:
            try:
                pipe = Pipe()
            except OSError:    # EMFILE or ENFILE: the caller copies through memory instead
                return None
        self.lent += 1
        return pipe

    def take_back(self, pipe: Pipe, *, empty: bool) -> None:
        """End a loan. A pipe with data in it, or one that is small (a later one may be better), is closed."""
        self.lent -= 1
        if empty and pipe.good and len(self._idle) < _KEPT:
            self._idle.append(pipe)
        else:
            pipe.close()
