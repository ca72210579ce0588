"""Commands in a running container: pipes fed and drained while the command runs."""

from __future__ import annotations

import array
import contextlib
import os
import select
import shlex
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

if sys.platform != "win32":   # where everything imports, and nothing starts
    import fcntl
    import termios

from pytest_sealed.errors import ContainerFailed, ContainerNotStarted, ExecTimeout, SpecError
from pytest_sealed.failure import format_size
from pytest_sealed.runtime.client import error_from, milliseconds

if TYPE_CHECKING:
    from pytest_sealed.container import Container
    from pytest_sealed.runtime.client import Session

__all__ = ["MOST_OUTPUT", "ExecResult", "exec_in_slices", "run_exec"]

MOST_OUTPUT = 16 << 20   # bytes of each stream that a caller gets unless it says otherwise
_PIECE = 1 << 16
_SAID = 4096   # bytes of output in a message


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ExecResult:
    """What a command in a container left."""

    exit_code: int
    """128 + n where signal n ended it."""
    stdout_bytes: bytes
    stderr_bytes: bytes

    @property
    def stdout(self) -> str:
        """The output as text; bytes that are no UTF-8 become U+FFFD."""
        return self.stdout_bytes.decode("utf-8", "replace")

    @property
    def stderr(self) -> str:
        """The error output as text."""
        return self.stderr_bytes.decode("utf-8", "replace")


def run_exec(container: Container, session: Session, request: dict[str, Any], *, stdin: str | bytes | None, timeout: float | None,
             check: bool, max_output: int = MOST_OUTPUT) -> ExecResult:
    """Run a command; see `Container.exec`."""
    run = exec_in_slices(container, session, request, stdin=stdin, timeout=timeout, max_output=max_output)
    while True:
        try:
            next(run)
        except StopIteration as end:
            result: ExecResult = end.value
            break
    if check and result.exit_code != 0:
        raise ContainerFailed(f"{shlex.join(request['argv'])} in container {container.name!r} exited with code {result.exit_code}"
                              f"{_said(result.stderr_bytes or result.stdout_bytes)}")
    return result


def exec_in_slices(container: Container, session: Session, request: dict[str, Any], *, stdin: str | bytes | None = None,
                   timeout: float | None, max_output: int = MOST_OUTPUT, length: float | None = None) -> Generator[None, None, ExecResult]:
    """Run a command, and yield after each `length` seconds (None: not before its end); return what it left."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    with contextlib.ExitStack() as ends:
        with contextlib.ExitStack() as theirs:
            out, err = _Pipe(ends, theirs), _Pipe(ends, theirs)
            into = _Pipe(theirs, theirs) if data is not None else None
            null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            theirs.callback(os.close, null)
            stdin_fd, feed_fd = (null, -1) if into is None else (into.read, into.write)
            channel = ends.enter_context(session.open("exec", [stdin_fd, out.write, err.write], **request))
            pump = ends.enter_context(_Pump(channel.socket.fileno(), feed_fd, data or b"", out.read, err.read))
        deadline = None if timeout is None else time.monotonic() + timeout
        until = _until(deadline, length)
        end: dict[str, Any] | None = None
        while end is None:
            in_time = pump.step(until)
            _require_bounded(pump, max_output, container, request)
            if not in_time and until != deadline:
                yield
                until = _until(deadline, length)
                continue
            if not in_time:
                command = shlex.join(request["argv"])
                raise ExecTimeout(f"the command {command} in container {container.name!r} ran longer than {timeout:g} s and was killed"
                                  f"{_said(pump.err or pump.out)}", remedy="give exec() a longer timeout=")
            if pump.answered:
                received = channel.receive()
                if received is None:
                    raise ContainerNotStarted(f"container {container.name!r} ended while {shlex.join(request['argv'])} ran in it")
                message = received[0]
                if "error" in message:
                    raise _not_started(container, request, message["error"])
                end = message.get("exited")
        pump.drain()
        _require_bounded(pump, max_output, container, request)
    code = end["code"] if end["code"] is not None else 128 + end["signal"]
    return ExecResult(exit_code=code, stdout_bytes=bytes(pump.out), stderr_bytes=bytes(pump.err))


def _until(deadline: float | None, length: float | None) -> float | None:
    """Return when a slice of `length` seconds is over, which is by the deadline."""
    if length is None:
        return deadline
    return min(time.monotonic() + length, float("inf") if deadline is None else deadline)


def _require_bounded(pump: _Pump, most: int, container: Container, request: dict[str, Any]) -> None:
    """Let nothing in a container fill the caller's memory. An error, since whoever judges output that is cut off judges wrongly."""
    for stream, data in (("stdout", pump.out), ("stderr", pump.err)):
        if len(data) > most:
            raise ContainerFailed(
                f"the command {shlex.join(request['argv'])} in container {container.name!r} wrote more to its {stream} than the "
                f"{format_size(most)} that exec() keeps",
                remedy="let it write to a file, and get() that; or give exec() a larger max_output=")


def _not_started(container: Container, request: dict[str, Any], error: dict[str, Any]) -> Exception:
    kind, text = error.get("kind", ""), error.get("text", "")
    if kind == "user":
        return SpecError(f"exec in container {container.name!r}: {text}",
                         remedy="give user= a name of the image's /etc/passwd, or a number")
    if kind == "ids":
        return SpecError(f"exec in container {container.name!r}: {text}", remedy=(
            "start the container with that user=, or give this account a range of ids: "
            "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER"))
    if kind in ("command", "missing", "workdir", "ulimit", "terminal"):
        return ContainerFailed(f"exec in container {container.name!r}: {text}",
                               remedy=f"look into it: sealed run -ti {container.image} sh")
    if kind and kind[0].isupper():
        return error_from(error)
    if container.poll_exit(0.5):
        return ContainerNotStarted(f"{container.obituary()} before {shlex.join(request['argv'])} could run in it")
    return ContainerFailed(f"exec in container {container.name!r}: {text}")


def _said(output: bytes | bytearray) -> str:
    text = output[-_SAID:].decode("utf-8", "replace").strip()
    return "\n  it said:\n" + "\n".join(f"    {line}" for line in text.splitlines()[-20:]) if text else ""


class _Pipe:
    """A pipe whose ends are closed with two exit stacks: the reader's first."""

    def __init__(self, reader: contextlib.ExitStack, writer: contextlib.ExitStack) -> None:
        self.read, self.write = os.pipe2(os.O_CLOEXEC)
        reader.callback(os.close, self.read)
        writer.callback(os.close, self.write)


class _Pump:
    """Feeds stdin and collects stdout and stderr until the channel has something to say."""

    def __init__(self, channel: int, into: int, data: bytes, out: int, err: int) -> None:
        self.out, self.err = bytearray(), bytearray()
        self.answered = False
        # a descriptor of its own, since closing it is how the command learns of the end
        self._into, self._data = os.dup(into) if into >= 0 else -1, memoryview(data)
        self._sinks = {out: self.out, err: self.err}
        self._channel = channel
        self._poll = select.poll()
        self._poll.register(channel, select.POLLIN)
        for fd in self._sinks:
            os.set_blocking(fd, False)
            self._poll.register(fd, select.POLLIN)
        if self._into >= 0:
            os.set_blocking(self._into, False)
            self._poll.register(self._into, select.POLLOUT)

    def __enter__(self) -> _Pump:
        return self

    def __exit__(self, *_: object) -> None:
        if self._into >= 0:
            os.close(self._into)

    def step(self, deadline: float | None) -> bool:
        """Move what can be moved; false if the deadline has passed first."""
        self.answered = False
        wait = milliseconds(None if deadline is None else deadline - time.monotonic())
        events = self._poll.poll(wait)
        for fd, _ in events:
            if fd == self._channel:
                self.answered = True
            elif fd == self._into:
                self._feed()
            else:
                self._take(fd)
        return self.answered or (bool(events) and wait != 0)   # a command that never stops writing must not outlive its time

    def _feed(self) -> None:
        try:
            self._data = self._data[os.write(self._into, self._data[:_PIECE]):] if self._data else self._data
        except BlockingIOError:
            return
        except BrokenPipeError:   # the command doesn't read it
            self._data = self._data[:0]
        if not self._data:
            self._poll.unregister(self._into)
            os.close(self._into)
            self._into = -1

    def _take(self, fd: int) -> int:
        try:
            piece = os.read(fd, _PIECE)
        except BlockingIOError:
            return 0
        self._sinks[fd] += piece
        if not piece:
            self._poll.unregister(fd)
            self._sinks.pop(fd)
        return len(piece)

    def drain(self) -> None:
        """Take what is in the pipes at this moment; something that the command left running may write to them for ever."""
        for fd in list(self._sinks):
            waiting = array.array("i", [0])
            fcntl.ioctl(fd, termios.FIONREAD, waiting)
            while waiting[0] > 0 and (taken := self._take(fd)):
                waiting[0] -= taken

