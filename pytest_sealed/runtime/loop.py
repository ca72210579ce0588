"""The supervisor's event loop: descriptors, timers, and nothing that blocks."""

from __future__ import annotations

import heapq
import itertools
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Loop"]


class Loop:
    """Calls back when a descriptor can be read or has hung up, and when a time has come."""

    __slots__ = ("_callbacks", "_count", "_epoll", "_timers", "running")

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self.running = True

    def watch(self, fd: int, callback: Callable[[], None], *, hangup_only: bool = False) -> None:
        """Call `callback` while `fd` is readable or hung up; with `hangup_only` for the latter alone."""
        self._callbacks[fd] = callback
        self._epoll.register(fd, 0 if hangup_only else select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        """Forget `fd`; must come before it is closed."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def after(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call `callback` once, `seconds` from now."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._count), callback))

    def run(self) -> None:
        """Serve until `running` is false."""
        while self.running:
            wait = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else -1
            # What was watched when the events came: an earlier callback may have closed a descriptor, and a new one got its number.
            for fd, callback in [(fd, self._callbacks.get(fd)) for fd, _ in self._epoll.poll(wait)]:
                if callback is not None and self._callbacks.get(fd) is callback:
                    callback()
            while self._timers and self._timers[0][0] <= time.monotonic():
                heapq.heappop(self._timers)[2]()

    def close(self) -> None:
        self._epoll.close()
