"""The supervisor's helper processes: the network service and the forwarder, each behind a channel."""

from __future__ import annotations

import os
import sys

from pytest_sealed.errors import ContainerFailed, InternalError, SealedError
from pytest_sealed.runtime.protocol import Channel, ProtocolError, pair

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pytest_sealed.runtime.loop import Loop

    Answer = Callable[[dict[str, Any], list[int]], None]

__all__ = ["Helper"]


class Helper:
    """A process of the session that answers numbered requests, in any order.

    Attributes:
        pid: of the process.
        name: for error texts.
    """

    __slots__ = ("_channel", "_loop", "_next", "_waiting", "dead", "name", "pid")

    def __init__(self, loop: Loop, name: str, script: str, *arguments: str) -> None:
        self._loop, self.name, self._next, self.dead = loop, name, 0, False
        self._waiting: dict[int, Answer] = {}
        ours, theirs = pair()
        self._channel: Channel = ours
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.set_inheritable(theirs.fileno(), True)
                path = os.path.join(os.path.dirname(os.path.abspath(__file__)), script)
                os.execve(sys.executable, [sys.executable, "-I", "-S", path, str(theirs.fileno()), *arguments],  # noqa: S606
                          {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"})
            finally:
                os._exit(127)
        theirs.close()
        loop.watch(ours.fileno(), self._receive)

    def require(self) -> None:
        """Do nothing, or raise what whoever needs it is told.

        Raises:
            ContainerFailed: it has died.
        """
        if self.dead:
            raise self.failure("")

    def failure(self, text: str) -> SealedError:
        """Return what whoever asked is told: that it has died, or else the `text` of its answer."""
        if self.dead:
            return ContainerFailed(f"the {self.name} of this session has died",
                                   remedy="run the tests again; if nobody killed it, look for an OOM kill in `dmesg`")
        return InternalError(f"the {self.name} of this session failed: {text}")

    def ask(self, request: dict[str, Any], answer: Answer, fds: list[int] | None = None) -> None:
        """Send a request; `answer` gets the reply, {"ok": …} or {"error": text}, and its descriptors."""
        self._next += 1
        self._waiting[self._next] = answer
        self.tell({**request, "id": self._next}, fds)

    def tell(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        """Send a message without a reply."""
        if self.dead:
            self._abandon()
            return
        try:
            self._channel.send(message, fds or [])
        except OSError:
            self._lost()

    def _receive(self) -> None:
        try:
            received = self._channel.receive()
        except (OSError, ProtocolError):   # a message that lost its descriptors for want of room here is no answer to anyone
            received = None
        if received is None:
            self._lost()
            return
        message, fds = received
        answer = self._waiting.pop(message.get("id", 0), None)
        if answer is None:
            for fd in fds:
                os.close(fd)
        else:
            answer(message, fds)

    def _lost(self) -> None:
        if not self.dead:
            self.dead = True
            self._loop.unwatch(self._channel.fileno())
            self._channel.close()
        self._abandon()

    def _abandon(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            answer({"error": f"the {self.name} of this session has died"}, [])
