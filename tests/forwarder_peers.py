"""Servers behind the forwarder, and what its clients do."""

from __future__ import annotations

import resource
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest
from forwarder_host import TIMEOUT, ForwarderHost

__all__ = ["MIB", "Server", "assert_echoes", "echo", "many_files", "read_all", "reset"]

MIB = 1 << 20


@pytest.fixture
def many_files() -> Iterator[None]:
    """Both ends of each connection are this process's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Server:
    """Serves each connection to a hub's socket in a thread of its own; errors of the threads fail the test."""

    def __init__(self, host: ForwarderHost, serve: Callable[[socket.socket], None], *, hub: int = 0, resets: bool = False) -> None:
        self._host = host
        self.socket = host.hubs[hub].server()
        self.port: int = self.socket.getsockname()[1]
        self._serve = serve
        self._closing = False
        self._resets = resets         # are part of the test
        self._threads: list[threading.Thread] = []
        self.errors: list[BaseException] = []
        self.connections: list[socket.socket] = []

    def __enter__(self) -> Server:
        self.socket.listen(1024)
        self._start(self._accept)
        return self

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError as error:
                if not self._closing:
                    self.errors.append(error)
                return
            connection.settimeout(TIMEOUT)
            self.connections.append(connection)
            self._start(self._one, connection)

    def _one(self, connection: socket.socket) -> None:
        try:
            with connection:
                self._serve(connection)
        except ConnectionResetError as error:
            if not self._resets:
                self.errors.append(error)
        except BaseException as error:
            self.errors.append(error)

    def __exit__(self, *_: object) -> None:
        self._closing = True
        self.socket.shutdown(socket.SHUT_RDWR)     # wakes accept()
        self.socket.close()
        self._host.close_clients()
        for thread in self._threads:
            thread.join(TIMEOUT)
            assert not thread.is_alive()
        if self.errors and _[0] is None:
            raise self.errors[0]


def echo(connection: socket.socket) -> None:
    while data := connection.recv(1 << 16):
        connection.sendall(data)


def read_all(connection: socket.socket) -> bytes:
    parts = []
    while data := connection.recv(1 << 18):
        parts.append(data)
    return b"".join(parts)


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def assert_echoes(client: socket.socket, data: bytes = b"ping") -> None:
    client.sendall(data)
    answer = b""
    while len(answer) < len(data):
        piece = client.recv(1 << 16)
        assert piece, "the connection ended"
        answer += piece
    assert answer == data
