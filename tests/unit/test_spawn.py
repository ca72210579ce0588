"""The last steps of a container's process before its command."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest

from pytest_sealed.runtime import spawn
from pytest_sealed.runtime.protocol import Channel
from pytest_sealed.runtime.user import Account

REQUEST = {"hostname": "box", "tty": False, "env": {}, "argv": ["/true"], "rlimits": []}


@pytest.mark.parametrize("number", [3, 9, 40])
def test_nothing_but_its_channel_is_open_when_a_command_is_executed(number: int) -> None:
    reader, writer = os.pipe()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        try:
            os.dup2(writer, 1)
            sync = os.dup2(os.dup(theirs.fileno()), 60)   # out of the way of what follows
            for spare in range(3, 50):
                os.dup2(1, spare, inheritable=True)

            def execve(*_: Any) -> None:
                os.write(1, " ".join(f"{fd}{'+' if os.get_inheritable(int(fd)) else ''}" for fd in _open()).encode())
                os._exit(0)
            os.execve = execve  # type: ignore[assignment]
            channel = Channel(socket.socket(fileno=os.dup2(sync, number)))
            spawn._execute(REQUEST, Account(0, 0, [], "/", "root"), [], channel)
        finally:
            os._exit(1)
    os.close(writer)
    theirs.close()
    try:
        assert os.waitpid(child, 0)[1] == 0
        shown = os.read(reader, 1000).decode().split()
        assert [fd for fd in shown if int(fd.rstrip("+")) > 2] == [str(number)]
        assert ours.recv(100) == b'J{"exec":true}'
    finally:
        os.close(reader)
        ours.close()


def _open() -> list[str]:
    """Return the numbers of the descriptors that are open, without the one that the look takes."""
    found = []
    for fd in range(256):
        try:
            os.fstat(fd)
        except OSError:
            continue
        found.append(str(fd))
    return found
