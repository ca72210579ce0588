"""One connection of the forwarder, on the loopback of the test's own host."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from pytest_sealed.runtime.forward.loop import Loop
from pytest_sealed.runtime.forward.pipes import Pool
from pytest_sealed.runtime.forward.relay import Relay


class Ends:
    """A client and a server with a relay between them whose loop has not run yet."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.ended: list[Relay] = []
        with socket.create_server(("127.0.0.1", 0)) as host, socket.create_server(("127.0.0.1", 0)) as container:
            self.client = socket.create_connection(host.getsockname(), timeout=20)
            accepted, _ = host.accept()
            accepted.setblocking(False)
            upstream = socket.socket()
            upstream.setblocking(False)
            with pytest.raises(BlockingIOError):
                upstream.connect(container.getsockname())
            self.server, _ = container.accept()
        self.relay = Relay(self.loop, Pool(4), accepted, upstream, self.ended.append)

    def run(self) -> None:
        """Handle one round of events, and what is left after it."""
        self.loop.later(0, self.loop.stop)
        self.loop.run()


@pytest.fixture
def ends() -> Iterator[Ends]:
    both = Ends()
    yield both
    both.relay.end(reset=True)
    both.run()
    both.client.close()
    both.server.close()


def test_a_connection_that_was_served_before_the_loop_saw_it_is_delivered_when_the_container_ends(ends: Ends) -> None:
    ends.server.sendall(b"last words")
    ends.server.close()
    ends.relay.settle()
    ends.run()
    assert ends.client.recv(100) == b"last words"
    assert ends.client.recv(100) == b""
    assert ends.ended == [ends.relay]


def test_a_connection_that_the_container_had_not_ended_is_reset_after_what_it_sent(ends: Ends) -> None:
    ends.server.sendall(b"last words")
    ends.relay.settle()
    ends.run()
    assert ends.client.recv(100) == b"last words"
    with pytest.raises(ConnectionResetError):
        ends.client.recv(100)
    with pytest.raises(ConnectionResetError):
        ends.server.recv(100)


def test_ending_twice_ends_once(ends: Ends) -> None:
    ends.relay.end(reset=True)
    ends.relay.end(reset=False)
    ends.relay.settle()
    assert ends.ended == [ends.relay]
