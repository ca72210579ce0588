"""The sockets of the DNS answer, UDP and TCP, at every hub. Nothing a container sends can block or end it."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable

from pytest_sealed.runtime.network.dns import answer

__all__ = ["Ask", "Resolver"]

Ask = Callable[[str, bytes], "bytes | None"]   # the asker's address and the query → the answer

_BURST = 16             # datagrams taken in one wake-up, so that a flood can't keep a request waiting
_CLIENTS = 8            # TCP connections of one hub at a time; the oldest gives way
_LIFE = 3.0             # seconds, of a TCP connection
_MOST = 4096            # bytes, of a query


class _Client:
    __slots__ = ("asker", "connection", "data", "deadline", "home")

    def __init__(self, connection: socket.socket, asker: str, home: socket.socket) -> None:
        self.connection, self.asker, self.home = connection, asker, home
        self.data = b""
        self.deadline = time.monotonic() + _LIFE


class Resolver:
    """Serves the sockets of all hubs from one epoll instance, which is the caller's."""

    def __init__(self, epoll: select.epoll) -> None:
        self._epoll = epoll
        self._servers: dict[int, tuple[socket.socket, Ask]] = {}
        self._clients: dict[int, _Client] = {}   # in the order of their coming

    def serve(self, udp: socket.socket, tcp: socket.socket, ask: Ask) -> None:
        """Answer at these non-blocking sockets."""
        for server in (udp, tcp):
            self._servers[server.fileno()] = (server, ask)
            self._epoll.register(server.fileno(), select.EPOLLIN)

    def forget(self, udp: socket.socket, tcp: socket.socket) -> None:
        """Stop answering at these sockets; they are the caller's to close."""
        for server in (udp, tcp):
            del self._servers[server.fileno()]
            self._epoll.unregister(server.fileno())
        for client in [client for client in self._clients.values() if client.home is tcp]:
            self._drop(client)

    def next_deadline(self) -> float | None:
        """Return when `expire` has something to do, in terms of time.monotonic()."""
        return min((client.deadline for client in self._clients.values()), default=None)

    def expire(self) -> None:
        """Drop the connections whose time is over."""
        now = time.monotonic()
        for client in [client for client in self._clients.values() if client.deadline <= now]:
            self._drop(client)

    def handle(self, fd: int) -> None:
        """Do what there is to do at `fd`; unknown ones are ignored (an event may be older than a close)."""
        client = self._clients.get(fd)
        if client is not None:
            self._read(client)
            return
        server, ask = self._servers.get(fd, (None, None))
        if server is None or ask is None:
            return
        if server.type == socket.SOCK_DGRAM:
            _datagrams(server, ask)
        else:
            self._accept(server)

    def _accept(self, server: socket.socket) -> None:
        try:
            connection, (asker, _) = server.accept()
        except OSError:   # gone again; or out of descriptors, which closing the oldest mends
            self._drop_oldest(server, 1)
            return
        connection.setblocking(False)
        self._drop_oldest(server, _CLIENTS)
        self._clients[connection.fileno()] = _Client(connection, asker, server)
        self._epoll.register(connection.fileno(), select.EPOLLIN)

    def _drop_oldest(self, server: socket.socket, most: int) -> None:
        same = [client for client in self._clients.values() if client.home is server]
        if len(same) >= most:
            self._drop(same[0])

    def _read(self, client: _Client) -> None:
        try:
            data = client.connection.recv(_MOST)
            if not data:
                raise ConnectionError
            client.data += data
            self._answer(client)
        except BlockingIOError:
            return
        except OSError:   # it left, sent too much, or doesn't take its answers
            self._drop(client)

    def _answer(self, client: _Client) -> None:
        _, ask = self._servers[client.home.fileno()]
        for _ in range(_BURST):
            if len(client.data) < 2:
                return
            length = struct.unpack_from(">H", client.data)[0]
            if length > _MOST:
                raise ConnectionError
            if len(client.data) < 2 + length:
                return
            query, client.data = client.data[2:2 + length], client.data[2 + length:]
            reply = ask(client.asker, query)
            if reply is None:
                raise ConnectionError
            packet = struct.pack(">H", len(reply)) + reply
            if client.connection.send(packet) != len(packet):
                raise ConnectionError
        if len(client.data) >= 2:
            raise ConnectionError   # more queries at once than any resolver sends

    def _drop(self, client: _Client) -> None:
        del self._clients[client.connection.fileno()]
        client.connection.close()   # epoll forgets it: nobody else holds this socket


def _datagrams(server: socket.socket, ask: Ask) -> None:
    for _ in range(_BURST):
        try:
            query, sender = server.recvfrom(_MOST)
        except OSError:   # nothing left; or an ICMP error of an earlier answer
            return
        reply = ask(sender[0], query)
        if reply is not None:
            try:
                server.sendto(reply, sender)
            except OSError:   # whoever asked is gone, or its queue is full
                pass


def make_ask(find: Callable[[str, str], list[str] | None], reverse: Callable[[str, str], str | None]) -> Ask:
    """Return the function that answers a query, from two that know the asker's networks."""
    def ask(asker: str, query: bytes) -> bytes | None:
        return answer(query, lambda name: find(asker, name), lambda address: reverse(asker, address))
    return ask
