"""A container's life as its handle sees it: the channel on which the supervisor tells its start and its end."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from typing import TYPE_CHECKING, Any, Literal

from pytest_sealed.errors import ContainerNotStarted, SealedError, SpecError
from pytest_sealed.runtime.client import readable

if TYPE_CHECKING:
    from pytest_sealed.runtime.client import Session
    from pytest_sealed.runtime.protocol import Channel

__all__ = ["Lifecycle", "StartFailed", "Status"]

Status = Literal["creating", "created", "running", "paused", "stopped"]

_START = 60.0   # seconds until a container that doesn't start counts as a bug


class StartFailed(Exception):
    """The supervisor's reason why a container did not start: {"kind", "text", "remedy"}."""

    def __init__(self, reason: dict[str, Any]) -> None:
        super().__init__(reason)
        self.reason = reason


class Lifecycle:
    """State, start and end of one container; safe to use from several threads.

    Attributes:
        lock: held while the state changes, never while something is waited for.
        exit: {"code", "signal", "oom", "stats"} once it has ended.
        failure: why it did not start, if it didn't.
        addresses: network id → address, once it has started.
        copied: {"bytes", "seconds"} that a copy of its image has cost, where there was one.
    """

    def __init__(self, session: Session, name: str) -> None:
        self.lock = threading.RLock()
        self.exit: dict[str, Any] | None = None
        self.failure: SealedError | None = None
        self.addresses: dict[str, str] = {}
        self.removed = False
        self.copied: dict[str, Any] | None = None
        self._session, self._name = session, name
        self._status: Status = "creating"
        self._channel: Channel | None = None
        self._pollers = 0

    @property
    def status(self) -> Status:
        self.poll_exit(0)
        return self._status

    @property
    def asked(self) -> bool:
        """Whether its start has been asked for."""
        return self._channel is not None

    def require_started(self) -> None:
        """Do nothing, or raise what a handle raises for actions.

        Raises:
            ContainerNotStarted: it is only planned, or removed.
        """
        if self._channel is None or self.removed:
            what = "removed" if self.removed else "planned, not started: a spec function may read its facts only"
            raise ContainerNotStarted(f"container {self._name!r} is {what}",
                                      remedy="facts are name, port(), url() and a service's internal_url")

    def begin(self, request: dict[str, Any], fds: list[int]) -> None:
        """Ask for its start.

        Raises:
            SpecError: that was done already.
        """
        if self._channel is not None or self.removed:
            raise SpecError(f"container {self._name!r} was started already", remedy="restart() runs it again")
        self._channel = self._session.open("run", fds, **request)

    def take_start(self) -> int | None:
        """Wait until its command runs; return the terminal's descriptor, if it has one.

        Raises:
            StartFailed: it doesn't.
        """
        self.require_started()
        assert self._channel is not None  # noqa: S101  (as required)
        message, fds = self._session.receive(self._channel, _START)
        with self.lock:
            if "started" not in message:
                self._status = "stopped"
                raise StartFailed(message.get("error") or {})
            self._status = "running"
            self.addresses = message["started"]["addresses"]
            self.copied = message["started"]["copied"]
        return fds[0] if fds else None

    def again(self) -> None:
        """Forget the end: a restart is asked for next."""
        with self.lock:
            if self.exit is not None and self._channel is not None:
                self._channel.receive()
            self.exit, self.failure, self._status = None, None, "creating"

    def froze(self, frozen: bool) -> None:
        """Note a pause or its end."""
        with self.lock:
            if self.exit is None:
                self._status = "paused" if frozen else "running"

    def poll_exit(self, timeout: float | None) -> bool:
        """Tell whether it has ended, waiting at most `timeout` seconds for that; None waits for ever."""
        with self.lock:
            if self._over:
                return True
            if self._channel is None:
                return False
            self._pollers += 1
            channel = self._channel
        try:
            ready = readable(channel.socket, timeout)
        finally:
            with self.lock:
                self._pollers -= 1
        with self.lock:
            if ready and not self._over and readable(channel.socket, 0):
                self._take_exit(channel)
            if self.removed and not self._pollers:
                channel.close()
            return self._over

    @property
    def _over(self) -> bool:
        return self.exit is not None or self.failure is not None or self.removed

    def _take_exit(self, channel: Channel) -> None:
        received = channel.receive(peek=True)   # others may be waiting for it
        if received is None:   # the supervisor is gone, and every container with it
            self.exit = {"code": None, "signal": int(signal.SIGKILL), "oom": False, "stats": {}}
        elif "exited" in received[0]:
            self.exit = received[0]["exited"]
        if self.exit is not None:
            self._status = "stopped"

    def remove(self) -> None:
        """Note that it is gone; who still waits for its end is woken."""
        with self.lock:
            self.removed = True
            self._status = "stopped"
            if self._channel is not None:
                if self._pollers:
                    with contextlib.suppress(OSError):
                        self._channel.socket.shutdown(socket.SHUT_RDWR)
                else:
                    self._channel.close()
