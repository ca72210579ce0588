"""Single looks at a container, a slice of time each: a look that takes long lets others go on meanwhile."""

from __future__ import annotations

import os
import re
import select
import socket
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Optional

from pytest_sealed.errors import ContainerNotStarted, ExecTimeout

if TYPE_CHECKING:
    from pytest_sealed import waits
    from pytest_sealed.container import Container

__all__ = ["LogLook", "Look", "Probe", "at_once", "command", "http", "tcp"]

_SLICE = 0.02   # seconds

Look = Generator[Optional[str], None, Optional[str]]  # noqa: UP045  (evaluated on Python 3.10)
"""Yields, after a slice of time at most, what it has seen so far, if anything; returns None when the condition holds, else what it saw.
Closing it gives it up."""
Probe = Callable[[], Look]


def at_once(look: Callable[[], str | None]) -> Look:
    """Look by a function, which can't be interrupted."""
    return look()
    yield   # which makes this a generator


def tcp(container: Container, port: int, timeout: float) -> Look:
    """Look whether a port accepts connections, within `timeout` seconds."""
    try:
        with container.begin_connect(port) as connection:
            yield from _connected(connection, time.monotonic() + timeout)
    except OSError as error:
        return f"port {port}: {error.strerror or error}"
    return None


def http(container: Container, condition: waits.Http, timeout: float) -> Look:
    """Look what a GET is answered with."""
    deadline = time.monotonic() + timeout
    request = f"GET {condition.path} HTTP/1.1\r\nHost: {container.name}\r\nConnection: close\r\nUser-Agent: pytest-sealed\r\n\r\n"
    data = b""
    try:
        with container.begin_connect(condition.port) as connection:
            yield from _connected(connection, deadline)
            connection.sendall(request.encode("ascii", "replace"))
            while b"\n" not in data and len(data) < 4096:
                yield from _ready(connection, select.POLLIN, deadline)   # for all of it: a server may send a byte a second
                chunk = connection.recv(4096)
                if not chunk:
                    break
                data += chunk
    except OSError as error:
        return f"port {condition.port}: {error.strerror or error}"
    line = data.split(b"\n")[0].decode("latin-1").strip()
    match = re.match(r"HTTP/1\.[01] (\d{3})\b", line)
    if match is None:
        return f"no HTTP answer, but {line[:80]!r}"
    status = int(match[1])
    good = status in condition.status if condition.status else 200 <= status < 400
    return None if good else f"HTTP status {status}"


def _connected(connection: socket.socket, deadline: float) -> Generator[None, None, None]:
    yield from _ready(connection, select.POLLOUT, deadline)
    error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))


def _ready(connection: socket.socket, event: int, deadline: float) -> Generator[None, None, None]:
    """Wait for `event`, see poll(2).

    Raises:
        TimeoutError: the deadline has passed.
    """
    poll = select.poll()
    poll.register(connection, event)
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        if poll.poll(1000 * min(left, _SLICE)):
            return
        yield


def command(container: Container, argv: tuple[str, ...], timeout: float) -> Look:
    """Look whether a command exits with 0."""
    try:
        result = yield from container.exec_in_slices(list(argv), timeout=timeout, length=_SLICE)
    except ExecTimeout:
        return f"it had not ended after {timeout:.3g} s, and was killed"
    except ContainerNotStarted:   # it has ended, which the next look at it tells with the cause
        return "the container has ended"
    if result.exit_code == 0:
        return None
    said = (result.stderr.strip() or result.stdout.strip()).splitlines()
    return f"exit code {result.exit_code}" + (f": {said[-1][:200]}" if said else "")


class LogLook:
    """Looks at what the log has gained since the last look."""

    def __init__(self, container: Container, condition: waits.Log) -> None:
        self._container, self._condition = container, condition
        self._pattern = re.compile(condition.pattern)
        self._position = container.started_position
        self._rest = {"stdout": b"", "stderr": b""}
        self._seen = 0
        self._last = ""

    def __call__(self) -> str | None:
        for record in self._container.log_records(since=self._position, flush=False):
            self._position = record.end
            if self._condition.stream not in (None, record.stream):
                continue
            *lines, self._rest[record.stream] = (self._rest[record.stream] + record.data).split(b"\n")
            for line in lines:
                self._last = _text(line) or self._last
                self._seen += self._matches(line)
        partial = sum(self._matches(rest) for rest in self._rest.values() if rest)
        if self._seen + partial >= self._condition.times:
            return None
        if not self._last:
            return "no output yet"
        return f"{self._seen} of {self._condition.times} such lines; the last line was {self._last[:200]!r}"

    def _matches(self, line: bytes) -> bool:
        return bool(self._pattern.search(_text(line)))


def _text(line: bytes) -> str:
    """Return a line without its end, which is CR LF for a terminal and for programs from elsewhere, and CR CR LF for both."""
    return line.rstrip(b"\r").decode("utf-8", "replace")
