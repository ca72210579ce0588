"""Forked children for the cgroup tests: a function in a process of its own, and pipes to talk with it."""

from __future__ import annotations

import json
import os
import select
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any

from pytest_sealed.linux.process import pidfd_open, set_dumpable
from pytest_sealed.runtime.cgroups import Group


class Child:
    """A fork that runs `function(self)`; its lines reach the parent by `receive`, the parent's word by `wait`."""

    def __init__(self, function: Callable[[Child], object]) -> None:
        go_read, self._go = os.pipe()
        self._results, results_write = os.pipe()
        self._buffer = b""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)    # pytest may have threads; the child uses none of their locks
            self.pid = os.fork()
        if self.pid == 0:
            os.close(self._go)
            os.close(self._results)
            self._go, self._results = go_read, results_write
            status = 1
            try:
                function(self)
                status = 0
            except BaseException:
                self.send({"failed": traceback.format_exc()})
            finally:
                os._exit(status)
        os.close(go_read)
        os.close(results_write)
        self.status: int | None = None

    # In the child:

    def send(self, value: Any) -> None:
        os.write(self._results, json.dumps(value).encode() + b"\n")

    def wait(self) -> None:
        """Return at the parent's `go`; end with the parent."""
        if not os.read(self._go, 1):
            os._exit(3)

    # In the parent:

    def go(self) -> None:
        os.write(self._go, b"!")

    def receive(self) -> Any:
        """Return the child's next value."""
        while b"\n" not in self._buffer:
            chunk = os.read(self._results, 65536)
            if not chunk:
                raise EOFError(f"the child ended with {self.end()}")
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        value = json.loads(line)
        if isinstance(value, dict) and "failed" in value:
            raise AssertionError(value["failed"])
        return value

    def last(self) -> Any:
        """Return the last value that the child sends before it ends."""
        value = None
        try:
            while True:
                value = self.receive()
        except EOFError:
            return value

    def end(self) -> int:
        """Wait for its end, at most 30 seconds; return the exit status, or minus the signal."""
        if self.status is None:
            pidfd = pidfd_open(self.pid)
            ended, _, _ = select.select([pidfd], [], [], 30)
            os.close(pidfd)
            assert ended, f"process {self.pid} lives on"
            _, status = os.waitpid(self.pid, 0)
            self.status = os.waitstatus_to_exitcode(status)
            os.close(self._go)
            os.close(self._results)
        return self.status

    def kill(self) -> int:
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
        return self.end()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()


def spin(child: Child) -> None:
    """Say hello, and use CPU for ever."""
    child.wait()
    child.send("spinning")
    while True:
        pass


def started(group: Group, function: Callable[[Child], object] = spin) -> Child:
    """Return a child that runs in `group`."""
    child = Child(function)
    group.attach(child.pid)
    return child


def burn(seconds: float) -> None:
    """Let CPU time pass, this process's own."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def idle(child: Child) -> None:
    """Do nothing until told to end."""
    child.send("there")
    child.wait()


def become(uid: int) -> None:
    """Be an ordinary account, for good: in a child."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    set_dumpable(True)    # else /proc/self is root's after the change of ids
