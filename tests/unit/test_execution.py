"""The pump that feeds and drains a command's pipes."""

from __future__ import annotations

import os
import socket

import pytest

from pytest_sealed import execution


def test_a_drain_takes_what_was_in_the_pipe_and_not_what_comes_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    (out, to_out), (err, to_err), (channel, other) = os.pipe(), os.pipe(), socket.socketpair()
    read, reads = os.read, []

    def read_and_write_again(fd: int, size: int) -> bytes:
        data = read(fd, size)
        reads.append(len(data))
        assert len(reads) < 100, "it would go on for ever"
        os.write(to_out, data)
        return data
    with channel, other, execution._Pump(channel.fileno(), -1, b"", out, err) as pump:
        os.write(to_out, b"x" * 5000)
        monkeypatch.setattr(os, "read", read_and_write_again)
        pump.drain()
        assert bytes(pump.out) == b"x" * 5000
    for fd in (out, to_out, err, to_err):
        os.close(fd)
