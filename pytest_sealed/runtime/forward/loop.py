"""One epoll loop: watched descriptors, work left for the next round, a few timers.

Everything is edge-triggered (except listeners), so a handler must go on until the kernel says EAGAIN or
ask for another round by `again`. That also keeps the order in which descriptors became ready: a
level-triggered one would stay at its old place in the kernel's list. See epoll(7).
"""

from __future__ import annotations

import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Loop", "report"]

_EVENTS = 256     # taken from the kernel in one round


class Loop:
    """Calls handlers until `stop`; an exception in one is reported on stderr and ends nothing else."""

    __slots__ = ("_again", "_closing", "_epoll", "_handlers", "_running", "_timers")

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._again: dict[Callable[[], None], None] = {}
        self._timers: list[tuple[float, Callable[[], None]]] = []
        self._closing: list[Callable[[], object]] = []
        self._running = True

    def watch(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        """Call `handler(events)` whenever `fd` has one of `events`.

        Raises:
            OSError: the descriptor can't be watched (a regular file: EPERM).
        """
        self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def change(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Watch `fd` no longer. Events of this round that are still to be handled are dropped too."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def again(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when this round's events are handled, and what `close_later` was told is closed."""
        self._again[callback] = None

    def later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call `callback` once after `seconds`."""
        self._timers.append((time.monotonic() + seconds, callback))

    def close_later(self, close: Callable[[], object]) -> None:
        """Call `close` when this round's events are handled: a descriptor's number must not be given out again before."""
        self._closing.append(close)

    def stop(self) -> None:
        self._running = False

    def run(self) -> None:
        """Handle events until `stop` is called."""
        handlers = self._handlers
        while self._running:
            for fd, events in self._epoll.poll(self._timeout(), _EVENTS):
                handler = handlers.get(fd)
                if handler is None:
                    continue
                try:
                    handler(events)
                except Exception:
                    report()
            self._round()

    def _round(self) -> None:
        self._close()
        if self._again:
            callbacks, self._again = self._again, {}
            for callback in callbacks:
                self._call(callback)
        if self._timers:
            now = time.monotonic()
            due = [callback for when, callback in self._timers if when <= now]
            if due:
                self._timers = [timer for timer in self._timers if timer[0] > now]
                for callback in due:
                    self._call(callback)
        self._close()

    def _close(self) -> None:
        for close in self._closing:
            try:
                close()
            except OSError:   # a reset socket reports its error once more; it is closed all the same
                pass
        self._closing.clear()

    def _call(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception:
            report()

    def _timeout(self) -> float:
        if self._again:
            return 0
        if self._timers:
            # Never 0 for a timer that isn't due yet: epoll counts in whole milliseconds, and select.epoll rounds up.
            return max(0.0, min(when for when, _ in self._timers) - time.monotonic())
        return -1


def report() -> None:
    """Print the exception in hand on stderr, which the supervisor keeps."""
    kind, error, trace = sys.exc_info()
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "?"
    sys.stderr.write(f"forwarder: {where}: {kind.__name__ if kind else '?'}: {error}\n")
    sys.stderr.flush()
