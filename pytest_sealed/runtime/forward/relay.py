"""One TCP connection: a client on the host, a container's port, and a flow each way.

The client hears what a direct connection would have told it: a half-close is carried on, a reset is
carried on once the bytes before it are delivered, and a port where nothing listens is a reset.
"""

from __future__ import annotations

import select
import socket
import struct

from pytest_sealed.runtime.forward.flow import Flow, Side

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_sealed.runtime.forward.loop import Loop
    from pytest_sealed.runtime.forward.pipes import Pool

__all__ = ["Relay", "reset_on_close"]

_EVENTS = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLPRI | select.EPOLLET
_LAST_ROUNDS = 16      # of a flow's budget each, for what a container sent before its end
_LINGER_NONE = struct.pack("ii", 1, 0)


def reset_on_close(connection: socket.socket) -> None:
    """Make close() send RST instead of FIN. See SO_LINGER in socket(7)."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)


class Relay:
    """Joins an accepted client to an upstream socket whose connect(2) is under way."""

    __slots__ = ("_client", "_connected", "_loop", "_on_end", "_reply", "_request", "_upstream", "open")

    def __init__(self, loop: Loop, pool: Pool, client: socket.socket, upstream: socket.socket,
                 on_end: Callable[[Relay], None]) -> None:
        self._loop = loop
        self._on_end = on_end
        self._client = Side(client)
        self._upstream = Side(upstream)
        self._request = Flow(self._client, self._upstream, pool)
        self._reply = Flow(self._upstream, self._client, pool)
        self._connected = False
        self.open = True
        loop.watch(self._client.fd, _EVENTS, self._client_event)
        loop.watch(self._upstream.fd, _EVENTS, self._upstream_event)

    @property
    def moved(self) -> int:
        """Bytes carried so far, both ways."""
        return self._request.moved + self._reply.moved

    def _client_event(self, events: int) -> None:
        self._client.note(events)
        if self._connected:
            if events & select.EPOLLERR and self._request.ended and self._client.has_error():
                self._client.broken = True     # reset after its own end of stream: no read will tell
            self._pump()
        elif events & (select.EPOLLERR | select.EPOLLHUP):
            self.end(reset=True)               # gave up while we were connecting

    def _upstream_event(self, events: int) -> None:
        self._upstream.note(events)
        if not self._connected:
            if self._upstream.has_error():
                self.end(reset=True)           # refused, unreachable, timed out
                return
            if not events & select.EPOLLOUT:
                return
            self._connected = True
        elif events & select.EPOLLERR and self._reply.ended and self._upstream.has_error():
            self._upstream.broken = True
        self._pump()

    def _pump(self) -> None:
        if not self.open:
            return
        request, reply = self._request, self._reply
        more = request.pump()
        more |= reply.pump()
        if self._client.broken and not request.ended:    # the reply found the client reset: read what it had sent
            more |= request.pump()
        if (request.done and self._client.broken and request.ended) or (reply.done and self._upstream.broken and reply.ended):
            self.end(reset=True)
        elif request.done and reply.done:
            self.end(reset=False)
        elif more:
            self._loop.again(self._pump)

    def settle(self) -> None:
        """The container is gone: deliver what it had sent, then end; in good order if it had ended so, else by a reset."""
        for _ in range(_LAST_ROUNDS):
            # Its last packets may have come in this very round, with their events still to be handled.
            for side in (self._client, self._upstream):
                side.note(select.EPOLLIN | select.EPOLLOUT | select.EPOLLHUP)
            before = self._reply.moved
            if self._connected or self._is_connected():
                self._connected = True
                self._pump()
            if not self.open:
                return
            if self._reply.moved == before:
                break
        self.end(reset=not self._reply.done)

    def _is_connected(self) -> bool:
        try:
            self._upstream.socket.getpeername()
        except OSError:
            return False
        return True

    def end(self, *, reset: bool) -> None:
        """Close both sockets, by RST if `reset`. Harmless when ended."""
        if not self.open:
            return
        self.open = False
        for flow in (self._request, self._reply):
            flow.release()
        for side in (self._client, self._upstream):
            self._loop.forget(side.fd)
            if reset:
                try:
                    reset_on_close(side.socket)
                except OSError:
                    pass
            self._loop.close_later(side.socket.close)
        self._on_end(self)
