"""Carries out the conditions of `pytest_sealed.waits`: polls from 1 ms on, and fails at once when the container ends."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_sealed import waits
from pytest_sealed.errors import ContainerExited, ContainerNotStarted, ExecTimeout, NotReady, SpecError

if TYPE_CHECKING:
    from pytest_sealed.container import Container

__all__ = ["wait_until"]

_FIRST = 0.001    # seconds between two probes at first
_LONGEST = 0.05   # and at most
_GROWTH = 1.5
_ONE_PROBE = 2.0  # seconds that a single probe may take
_ONE_COMMAND = 10.0   # the same, of a command
_SHORTEST = 0.1   # seconds that the last probe gets, though the time is nearly over

Probe = Callable[[], "str | None"]
"""Returns None when the condition holds, else what it saw."""


def wait_until(container: Container, condition: waits.Wait, timeout: float) -> None:
    """Wait until `condition` holds for `container`.

    Args:
        timeout: seconds.

    Raises:
        ContainerExited: the container ended; at once, with its exit cause, command and last log lines.
        NotReady: the time is over; names the condition and the last probe's answer.
    """
    started = time.monotonic()
    probe = _probe(container, condition, started + timeout)
    pause = _FIRST
    while True:
        answer = probe()
        if answer is None:
            return
        remaining = started + timeout - time.monotonic()
        if remaining <= 0:
            raise NotReady(
                f"container {container.name!r} was not ready within {timeout:g} s: waited for {condition}; the last answer was: {answer}"
                f"{container.last_lines()}",
                remedy="raise wait_timeout=, or look at the log above for what it waits for")
        if container.poll_exit(min(pause, remaining)):
            container.log_position()   # waits for its last words to be in the log
            if probe() is None:   # it may have done what was waited for, and ended
                return
            raise ContainerExited(f"{container.obituary()} while {condition} was waited for{container.last_lines()}",
                                  remedy="run it by hand: " + container.by_hand())
        pause = min(pause * _GROWTH, _LONGEST)


def _probe(container: Container, condition: waits.Wait, deadline: float) -> Probe:
    """Return the probe for `condition`, each of whose runs ends by `deadline`, in terms of time.monotonic()."""
    def left(most: float) -> float:
        return max(_SHORTEST, min(most, deadline - time.monotonic()))
    if isinstance(condition, waits.Tcp):
        return lambda: _tcp(container, condition.port, left(_ONE_PROBE))
    if isinstance(condition, waits.Http):
        return lambda: _http(container, condition, left(_ONE_PROBE))
    if isinstance(condition, waits.Log):
        return _LogProbe(container, condition)
    if isinstance(condition, waits.Command):
        return lambda: _command(container, condition.argv, left(_ONE_COMMAND))
    if isinstance(condition, waits.Healthy):
        check = container.image_config.healthcheck
        if not check:
            raise SpecError(f"image {container.image!r} has no health check", remedy="wait for a port, a log line or a command instead")
        return lambda: _command(container, tuple(check), left(_ONE_COMMAND))
    if isinstance(condition, waits.AllOf):
        return _AllOf([_probe(container, part, deadline) for part in condition.conditions])
    if isinstance(condition, waits.AnyOf):
        return _any_of([_probe(container, part, deadline) for part in condition.conditions])
    return lambda: _function(container, condition)


def _function(container: Container, condition: waits.Probe) -> str | None:
    try:
        return condition.function(container)
    except OSError as error:
        return error.strerror or str(error)


def _tcp(container: Container, port: int, timeout: float) -> str | None:
    try:
        container.connect(port, timeout=timeout).close()
    except OSError as error:
        return f"port {port}: {error.strerror or error}"
    return None


def _http(container: Container, condition: waits.Http, timeout: float) -> str | None:
    deadline = time.monotonic() + timeout
    try:
        with container.connect(condition.port, timeout=timeout) as connection:
            request = f"GET {condition.path} HTTP/1.1\r\nHost: {container.name}\r\nConnection: close\r\nUser-Agent: pytest-sealed\r\n\r\n"
            connection.sendall(request.encode("ascii", "replace"))
            line = _first_line(connection, deadline)
    except OSError as error:
        return f"port {condition.port}: {error.strerror or error}"
    match = re.match(r"HTTP/1\.[01] (\d{3})\b", line)
    if match is None:
        return f"no HTTP answer, but {line[:80]!r}"
    status = int(match[1])
    good = status in condition.status if condition.status else 200 <= status < 400
    return None if good else f"HTTP status {status}"


def _first_line(connection: socket.socket, deadline: float) -> str:
    data = b""
    while b"\n" not in data and len(data) < 4096:
        connection.settimeout(max(0.001, deadline - time.monotonic()))   # for all of it: a server may send a byte a second
        chunk = connection.recv(4096)
        if not chunk:
            break
        data += chunk
    return data.split(b"\n")[0].decode("latin-1").strip()


def _command(container: Container, argv: tuple[str, ...], timeout: float) -> str | None:
    try:
        result = container.exec(list(argv), timeout=timeout)
    except ExecTimeout:
        return f"it had not ended after {timeout:.3g} s, and was killed"
    except ContainerNotStarted:   # it has ended, which the next look at it tells with the cause
        return "the container has ended"
    if result.exit_code == 0:
        return None
    said = (result.stderr.strip() or result.stdout.strip()).splitlines()
    return f"exit code {result.exit_code}" + (f": {said[-1][:200]}" if said else "")


class _LogProbe:
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
                self._last = line.decode("utf-8", "replace") or self._last
                self._seen += self._matches(line)
        partial = sum(self._matches(rest) for rest in self._rest.values() if rest)
        if self._seen + partial >= self._condition.times:
            return None
        if not self._last:
            return "no output yet"
        return f"{self._seen} of {self._condition.times} such lines; the last line was {self._last[:200]!r}"

    def _matches(self, line: bytes) -> bool:
        return bool(self._pattern.search(line.decode("utf-8", "replace")))


class _AllOf:
    """Remembers which conditions have held."""

    def __init__(self, probes: list[Probe]) -> None:
        self._open = probes

    def __call__(self) -> str | None:
        while self._open:
            answer = self._open[0]()
            if answer is not None:
                return answer
            self._open.pop(0)
        return None


def _any_of(probes: list[Probe]) -> Probe:
    def probe() -> str | None:
        answers = []
        for part in probes:
            answer = part()
            if answer is None:
                return None
            answers.append(answer)
        return "; ".join(answers)
    return probe
