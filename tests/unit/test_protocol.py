"""Messages between the processes: whole, with their file descriptors, or refused without a leak."""

from __future__ import annotations

import array
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_sealed.runtime.protocol import Channel, ProtocolError, pair

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 53), 1 << 53) | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12)


@pytest.fixture
def channels() -> Iterator[tuple[Channel, Channel]]:
    first, second = pair()
    with first, second:
        yield first, second


@pytest.fixture
def open_fds() -> Iterator[None]:
    """The test ends with as many open files as it began with."""
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


def passed(fds: list[int]) -> list[tuple[int, int, array.array[int]]]:
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]


@given(st.dictionaries(st.text(), json_values, max_size=5))
def test_a_message_arrives_as_it_was_sent(message: dict[str, Any]) -> None:
    first, second = pair()
    with first, second:
        first.send(message)
        assert second.receive() == (message, [])


def test_messages_keep_their_order_and_their_borders(channels: tuple[Channel, Channel]) -> None:
    first, second = channels
    for number in range(50):
        first.send({"number": number, "padding": "x" * number})
    for number in range(50):
        received = second.receive()
        assert received is not None
        assert received[0]["number"] == number


def test_descriptors_arrive_as_duplicates_that_no_program_inherits(channels: tuple[Channel, Channel], open_fds: None) -> None:
    first, second = channels
    read, write = os.pipe()
    first.send({"op": "x"}, [write])
    os.close(write)
    received = second.receive()
    assert received is not None
    (fd,) = received[1]
    assert not os.get_inheritable(fd)
    os.write(fd, b"through")
    os.close(fd)
    assert os.read(read, 100) == b"through"
    os.close(read)


def test_as_many_descriptors_as_are_promised_arrive_together(channels: tuple[Channel, Channel], open_fds: None) -> None:
    first, second = channels
    null = os.open("/dev/null", os.O_RDONLY)
    first.send({}, [null] * 250)
    os.close(null)
    received = second.receive()
    assert received is not None
    assert len(received[1]) == 250
    for fd in received[1]:
        os.close(fd)


@pytest.mark.parametrize("size", [(128 << 10) - 64, 128 << 10, (128 << 10) + 1, 1 << 20, 12 << 20])
def test_a_message_of_any_size_arrives_with_its_descriptors(channels: tuple[Channel, Channel], open_fds: None, size: int) -> None:
    first, second = channels
    null = os.open("/dev/null", os.O_RDONLY)
    message = {"text": "é" * (size // 6)}   # six bytes each, as JSON writes it
    sender = threading.Thread(target=first.send, args=(message, [null]))
    sender.start()
    received = second.receive()
    sender.join()
    os.close(null)
    assert received is not None
    assert received[0] == message
    (fd,) = received[1]
    os.close(fd)


def test_a_message_that_is_too_large_is_refused_by_its_receiver(channels: tuple[Channel, Channel], open_fds: None) -> None:
    first, second = channels
    first.send({"text": "x" * (17 << 20)})
    with pytest.raises(ProtocolError, match="at most 16777216 are taken"):
        second.receive()


def test_the_end_of_the_connection_is_none(channels: tuple[Channel, Channel]) -> None:
    first, second = channels
    first.send({"last": True})
    first.close()
    assert second.receive() == ({"last": True}, [])
    assert second.receive() is None
    assert second.receive() is None


def test_sending_to_a_peer_that_is_gone_is_an_error_and_no_signal(channels: tuple[Channel, Channel]) -> None:
    first, second = channels
    second.close()
    with pytest.raises(BrokenPipeError):
        first.send({})


@pytest.mark.parametrize(("packet", "reason"), [
    (b"X{}", "no known kind"), (b"M", "no known kind"), (b"J", "no JSON"), (b"J{", "no JSON"), (b"J[1]", "no object"),
    (b'J"x"', "no object"), (b"J\xff\xfe{}", "no JSON"), (b"J" + b"[" * 100_000, "no JSON"), (b"MJ{}", "no known kind"),
])
def test_a_foreign_packet_is_refused_and_the_next_one_is_read(channels: tuple[Channel, Channel], open_fds: None,
                                                              packet: bytes, reason: str) -> None:
    first, second = channels
    first.socket.send(packet)
    first.send({"fine": 1})
    with pytest.raises(ProtocolError, match=reason):
        second.receive()
    assert second.receive() == ({"fine": 1}, [])


@pytest.mark.parametrize("packet", [b"X{}", b"J{", b"J[1]"])
def test_the_descriptors_of_a_refused_packet_are_closed(channels: tuple[Channel, Channel], open_fds: None, packet: bytes) -> None:
    first, second = channels
    first.socket.sendmsg([packet], passed([0, 1, 2]))
    with pytest.raises(ProtocolError):
        second.receive()


@given(st.binary(min_size=1, max_size=300))
@settings(max_examples=200)
def test_no_packet_is_more_than_refused(packet: bytes) -> None:
    first, second = pair()
    with first, second:
        first.socket.send(packet)
        try:
            received = second.receive()
        except ProtocolError:
            return
        assert received is not None
        assert isinstance(received[0], dict)


def test_a_packet_that_is_cut_short_is_refused(channels: tuple[Channel, Channel], open_fds: None) -> None:
    first, second = channels
    first.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    first.socket.send(b'J{"a":"' + b"x" * (150 << 10) + b'"}')
    with pytest.raises(ProtocolError, match="cut short"):
        second.receive()


def test_more_descriptors_than_promised_are_refused_and_closed(channels: tuple[Channel, Channel], open_fds: None) -> None:
    first, second = channels
    first.socket.sendmsg([b"J{}"], passed([0] * 252))
    with pytest.raises(ProtocolError, match="cut short"):
        second.receive()


@pytest.mark.parametrize("content", [b"", b"[]", b"nonsense"])
def test_a_message_in_memory_that_is_no_message_is_refused(channels: tuple[Channel, Channel], open_fds: None,
                                                           content: bytes) -> None:
    first, second = channels
    memory = os.memfd_create("test")
    os.write(memory, content)
    first.socket.sendmsg([b"M"], passed([memory, 0]))
    os.close(memory)
    with pytest.raises(ProtocolError):
        second.receive()


def test_a_message_in_something_that_is_no_memory_is_refused_without_reading_it(channels: tuple[Channel, Channel],
                                                                               open_fds: None) -> None:
    first, second = channels
    read, write = os.pipe()   # reading it would block for ever
    first.socket.sendmsg([b"M"], passed([read]))
    with pytest.raises(ProtocolError):
        second.receive()
    os.close(read)
    os.close(write)
