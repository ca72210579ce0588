"""Pipes that splice(2) needs between two sockets: few, lent while data is in flight.

An ordinary account has 16,384 pages for the pipes of all its processes together (1,024 pipes of the usual
size, `fs.pipe-user-pages-soft`); past that, new pipes have two slots, and every other program of the
account feels it. So a connection owns no pipe, and there are never more than `most`. See pipe(7).
"""

from __future__ import annotations

import fcntl
import os

__all__ = ["Pipe", "Pool"]

_KEPT = 4             # idle pipes held for reuse; each holds 16 pages of the account's budget
_FULL_SIZE = 65536    # bytes, of a pipe made within the budget


class Pipe:
    """A read end, a write end, and whether it was made within the account's budget."""

    __slots__ = ("full_size", "read_end", "write_end")

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.full_size = fcntl.fcntl(self.read_end, fcntl.F_GETPIPE_SZ) >= _FULL_SIZE

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
        """End a loan. A pipe with data in it, or a small one that was made past the budget, is closed."""
        self.lent -= 1
        if empty and pipe.full_size and len(self._idle) < _KEPT:
            self._idle.append(pipe)
        else:
            pipe.close()

    def close(self) -> None:
        """Close the idle pipes."""
        while self._idle:
            self._idle.pop().close()
