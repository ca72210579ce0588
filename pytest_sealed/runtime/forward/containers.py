"""What the forwarder knows of a container: its listeners, where it is, its connections, its log."""

from __future__ import annotations

import errno
import resource
import select
import socket

from pytest_sealed.runtime.forward.relay import Relay, reset_on_close

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_sealed.runtime.forward.hubs import Hub, Hubs
    from pytest_sealed.runtime.forward.loop import Loop
    from pytest_sealed.runtime.forward.pipes import Pool
    from pytest_sealed.runtime.forward.spool import LogPipe, Spool

__all__ = ["Acceptor", "Container", "Listener"]

_ACCEPTS = 32          # of one listener in one round
_RESERVE = 64          # descriptors kept free for messages: without room a message's descriptors are lost
_PAUSE = 0.02          # seconds without accepting when descriptors or memory are short
_SHORTAGE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Container:
    """A container that may or may not be running."""

    __slots__ = ("_moved", "address", "connections", "hub", "listeners", "log_pipes", "relays", "spool", "spool_path")

    def __init__(self) -> None:
        self.address: str | None = None
        self.hub: Hub | None = None
        self.listeners: list[Listener] = []
        self.relays: dict[Relay, None] = {}
        self.log_pipes: list[LogPipe] = []
        self.spool: Spool | None = None
        self.spool_path = ""
        self.connections = 0           # accepted so far
        self._moved = 0                # bytes, of connections that have ended

    @property
    def moved(self) -> int:
        """Bytes carried so far, both ways."""
        return self._moved + sum(relay.moved for relay in self.relays)

    def relay_ended(self, relay: Relay) -> None:
        self._moved += relay.moved
        self.relays.pop(relay, None)

    def settle(self) -> None:
        """End all connections."""
        for relay in list(self.relays):
            relay.settle()

    def drain(self) -> None:
        """Spool what is in the log pipes now."""
        for pipe in self.log_pipes:
            pipe.drain()
        if self.spool is not None:
            self.spool.report_loss()


class Listener:
    """A listening socket of the host's, for one port of a container."""

    __slots__ = ("container", "port", "socket")

    def __init__(self, container: Container, port: int, listening: socket.socket) -> None:
        self.container = container
        self.port = port
        self.socket = listening


class Acceptor:
    """Accepts from every listener; pauses them all while descriptors are short, so that the loop never spins."""

    __slots__ = ("_highest", "_hubs", "_listeners", "_loop", "_paused", "_pool", "_waiting")

    def __init__(self, loop: Loop, hubs: Hubs, pool: Pool) -> None:
        self._loop = loop
        self._hubs = hubs
        self._pool = pool
        self._listeners: dict[int, Listener] = {}
        self._waiting: list[tuple[Listener, socket.socket]] = []    # accepted, but no descriptor was left to go on
        self._paused = False
        # The kernel gives the lowest free number, so a high one tells that nearly all are taken.
        self._highest = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _RESERVE

    def add(self, listener: Listener) -> None:
        """Begin to accept.

        Raises:
            ValueError: the socket doesn't listen.
        """
        if not listener.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ValueError("a socket that does not listen")
        listener.socket.setblocking(False)
        self._listeners[listener.socket.fileno()] = listener
        if not self._paused:
            self._watch(listener)

    def remove(self, listener: Listener) -> None:
        """Close the listening socket; clients in its queue are reset by the kernel when no one else holds it."""
        del self._listeners[listener.socket.fileno()]
        self._loop.forget(listener.socket.fileno())
        for entry in [entry for entry in self._waiting if entry[0] is listener]:
            self._waiting.remove(entry)
            self._refuse(entry[1])
        self._loop.close_later(listener.socket.close)

    def _watch(self, listener: Listener) -> None:
        self._loop.watch(listener.socket.fileno(), select.EPOLLIN, lambda _events: self._accept(listener))

    def _accept(self, listener: Listener) -> None:
        for _ in range(_ACCEPTS):
            if self._paused:
                return
            try:
                client, _ = listener.socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _SHORTAGE:
                    self._pause()
                    return
                if error.errno == errno.EINVAL:     # shut down by someone who shares it: it would be "ready" for ever
                    self._loop.forget(listener.socket.fileno())
                    return
                continue               # the client is gone already (ECONNABORTED and others, see accept(2))
            client.setblocking(False)
            listener.container.connections += 1
            self._join(listener, client)

    def _join(self, listener: Listener, client: socket.socket) -> None:
        """Connect upstream for an accepted client; reset it when that fails at once."""
        container = listener.container
        if container.address is None or container.hub is None:
            self._refuse(client)
            return
        try:
            if client.family != socket.AF_UNIX:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            upstream = self._hubs.connect(container.hub, container.address, listener.port)
        except OSError as error:
            if error.errno in _SHORTAGE:
                self._waiting.append((listener, client))
                self._pause()
            else:
                self._refuse(client)
            return
        container.relays[Relay(self._loop, self._pool, client, upstream, container.relay_ended)] = None
        if upstream.fileno() >= self._highest:
            self._pause()

    def _refuse(self, client: socket.socket) -> None:
        reset_on_close(client)
        client.close()

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            for fd in self._listeners:
                self._loop.forget(fd)
            self._loop.later(_PAUSE, self._resume)

    def _resume(self) -> None:
        self._paused = False
        waiting, self._waiting = self._waiting, []
        for listener, client in waiting:
            self._join(listener, client)
        if self._paused:               # still short: the timer is set anew
            return
        for listener in self._listeners.values():
            self._watch(listener)
