"""What a container's readiness is: a port, an HTTP answer, a log line, a command, or several of these.

These are descriptions, frozen and comparable; `pytest_sealed.readiness` carries them out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Union, final

from pytest_sealed.errors import SpecError

__all__ = ["AllOf", "AnyOf", "Command", "Healthy", "Http", "Log", "Probe", "Tcp", "Wait", "all_of", "any_of", "check_stream", "command",
           "healthy", "http", "log", "probe", "tcp"]


def _port(value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65535:
        raise SpecError(f"port {value!r} is no TCP port", remedy="give a whole number from 1 to 65535")
    return value


@final
@dataclass(frozen=True, slots=True)
class Tcp:
    """A TCP port accepts connections."""

    port: int
    """In the container, 1 to 65535."""

    def __str__(self) -> str:
        return f"port {self.port}"


@final
@dataclass(frozen=True, slots=True)
class Http:
    """An HTTP GET is answered with one of the wanted statuses."""

    port: int
    path: str = "/"
    status: tuple[int, ...] = ()
    """Wanted statuses; empty: any from 200 to 399."""

    def __str__(self) -> str:
        wanted = f" with status {' or '.join(map(str, self.status))}" if self.status else ""
        return f"GET :{self.port}{self.path}{wanted}"


@final
@dataclass(frozen=True, slots=True)
class Log:
    """A line of the log, without its line end (LF or CR LF), matches a regular expression (`re.search`)."""

    pattern: str
    stream: Literal["stdout", "stderr"] | None = None
    """Only this stream; None: both."""
    times: int = 1
    """How many lines must match."""

    def __str__(self) -> str:
        often = f" {self.times} times" if self.times > 1 else ""
        return f"log line /{self.pattern}/{often}"


@final
@dataclass(frozen=True, slots=True)
class Command:
    """A command in the container exits with 0."""

    argv: tuple[str, ...]

    def __str__(self) -> str:
        return f"command {' '.join(self.argv)!r}"


@final
@dataclass(frozen=True, slots=True)
class Healthy:
    """The image's own health check (HEALTHCHECK) succeeds."""

    def __str__(self) -> str:
        return "the image's health check"


@final
@dataclass(frozen=True, slots=True)
class Probe:
    """A function finds it ready. For protocols in which an open port does not mean that the server answers."""

    function: Callable[[Any], str | None]
    """Called with the handle, again and again: returns None when it is ready, else what it saw. An OSError is seen too."""
    what: str
    """What is waited for, for messages."""

    def __str__(self) -> str:
        return self.what


@final
@dataclass(frozen=True, slots=True)
class AllOf:
    """Every one of several conditions has held."""

    conditions: tuple[Wait, ...]

    def __str__(self) -> str:
        return " and ".join(map(str, self.conditions))


@final
@dataclass(frozen=True, slots=True)
class AnyOf:
    """One of several conditions holds."""

    conditions: tuple[Wait, ...]

    def __str__(self) -> str:
        return " or ".join(map(str, self.conditions))


Wait = Union[Tcp, Http, Log, Command, Healthy, Probe, AllOf, AnyOf]  # noqa: UP007  (evaluated on Python 3.10)
WAITS = (Tcp, Http, Log, Command, Healthy, Probe, AllOf, AnyOf)


def tcp(port: int) -> Tcp:
    """Wait until a TCP port of the container accepts connections."""
    return Tcp(_port(port))


def http(port: int, path: str = "/", *, status: int | tuple[int, ...] = ()) -> Http:
    """Wait until `GET path` is answered with `status` (default: any from 200 to 399)."""
    if not isinstance(path, str) or not path.startswith("/"):
        raise SpecError(f"http path {path!r} does not start with '/'", remedy=f"write {'/' + str(path)!r}")
    if re.search(r"[^!-~]", path):
        raise SpecError(f"http path {path!r} is not what a request can ask for", remedy="quote it: see urllib.parse.quote()")
    wanted = (status,) if isinstance(status, int) else status
    if not isinstance(wanted, (tuple, list)) or not all(isinstance(number, int) and 100 <= number <= 599 for number in wanted):
        raise SpecError(f"http status {status!r} is none", remedy="for example status=204 or status=(200, 404)")
    return Http(_port(port), path, tuple(wanted))


def check_stream(what: str, stream: object) -> None:
    """Raise SpecError unless `stream` is one of a command's two, or None for both."""
    if stream not in (None, "stdout", "stderr"):
        raise SpecError(f"{what}(stream={stream!r}) is none of 'stdout', 'stderr'", remedy="leave stream out for both")


def log(pattern: str, *, stream: Literal["stdout", "stderr"] | None = None, times: int = 1) -> Log:
    """Wait until a line of the log matches the regular expression `pattern` (`re.search`)."""
    if not isinstance(pattern, str):
        raise SpecError(f"log pattern {pattern!r} is no text", remedy='flags are written into it, for example "(?i)ready"')
    try:
        re.compile(pattern)
    except re.error as error:
        raise SpecError(f"log pattern {pattern!r} is no regular expression: {error}",
                        remedy="escape literal text with re.escape()") from error
    check_stream("log", stream)
    if times < 1:
        raise SpecError(f"log(times={times}) can never be met", remedy="give 1 or more")
    return Log(pattern, stream, times)


def command(*argv: str) -> Command:
    """Wait until a command in the container exits with 0."""
    if not argv or not all(isinstance(word, str) for word in argv):
        raise SpecError(f"command() needs the program and its arguments, not {argv!r}", remedy='for example command("pg_isready", "-q")')
    return Command(argv)


def healthy() -> Healthy:
    """Wait until the image's health check succeeds."""
    return Healthy()


def probe(function: Callable[[Any], str | None], what: str) -> Probe:
    """Wait until `function(container)` returns None; until then it returns what it saw, for messages.

    Args:
        function: called again and again; an OSError that it raises counts as what it saw. Give up on a socket after
            a second or two, so that the end of the container is noticed.
        what: what is waited for, for example "an answer to PING".
    """
    if not callable(function):
        raise SpecError(f"probe({function!r}) can't be called", remedy="give a function that takes the container's handle")
    return Probe(function, what)


def all_of(*conditions: Wait) -> AllOf:
    """Wait until every condition has held."""
    return AllOf(_some("all_of", conditions))


def any_of(*conditions: Wait) -> AnyOf:
    """Wait until one of the conditions holds. One that takes long to look for, but for a `probe`, holds up no other."""
    return AnyOf(_some("any_of", conditions))


def _some(name: str, conditions: tuple[Wait, ...]) -> tuple[Wait, ...]:
    if not conditions:
        raise SpecError(f"{name}() was given no conditions", remedy=f"for example {name}(tcp(80), log('ready'))")
    for condition in conditions:
        if not isinstance(condition, WAITS):
            raise SpecError(f"{name}(): {condition!r} is nothing to wait for", remedy=f"for example {name}(tcp(80), log('ready'))")
    return conditions
