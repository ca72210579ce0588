"""Containers for the tests of the runtime: of busybox, whose shell has all the tools that they need."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from pytest_sealed import Container, Sandbox

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pytest_sealed import ContainerChanges

__all__ = ["EITHER_IDS", "EITHER_SCRATCH", "FOREVER", "MAKE_CGROUPS", "NEEDS_ROOT", "OBEDIENT", "Scratch", "children",
           "descendants", "eventually", "fields", "host_pid", "idle", "logged", "needs_writable", "service", "sh", "state", "status"]

Scratch = Literal["memory", "disk"]

FOREVER = ["sleep", "1000000"]

# Ends with code 5 when it is asked to.
OBEDIENT = ["sh", "-c", "trap 'echo bye; exit 5' TERM; echo ready; sleep 1000000 & wait"]

# Of a nested container: makes cgroups in each of its own.
MAKE_CGROUPS = ("for file in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/*/cgroup.procs; do "
                "test -e $file && mkdir -p ${file%/*}/made/inside && made=yes; done 2> /dev/null")

# Marks: what counts is tried in both id modes, and with both kinds of writable layers.
EITHER_IDS = pytest.mark.parametrize("sandbox", ["range", "single"], indirect=True)
EITHER_SCRATCH = pytest.mark.parametrize("scratch", ["memory", "disk"])
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root may look into the processes of other ids")


def idle(sandbox: Sandbox, **options: Unpack[ContainerChanges]) -> Container:
    """Start a container of busybox that does nothing until it is killed."""
    return sandbox.run("busybox", FOREVER, **options)


def needs_writable(sandbox: Sandbox) -> None:
    """Skip where this account can mount nothing writable: see `open_mounts`."""
    if sandbox.describe().mode == "subids":
        pytest.skip("an account with a range of ids can't map its own id into a container")


def sh(container: Container, script: str, *, user: str | None = None) -> str:
    """Run a script in a container; return what it wrote. It must succeed."""
    return container.exec(["sh", "-c", script], user=user, check=True, timeout=60).stdout


def logged(sandbox: Sandbox, command: str | list[str], **options: Unpack[ContainerChanges]) -> str:
    """Run a script, or a command, as a container's own; return its log. It must succeed."""
    container = sandbox.run("busybox", ["sh", "-c", command] if isinstance(command, str) else command, **options)
    assert container.wait(60) == 0, container.logs()
    return container.logs()


def status(container: Container, pid: int | str = "self", *, user: str | None = None) -> dict[str, str]:
    """Return /proc/PID/status of a process in a container as its fields; `self` is a command run by `exec`, with no shell between."""
    text = container.exec(["cat", f"/proc/{pid}/status"], user=user, check=True).stdout
    rows = (line.partition(":") for line in text.splitlines())
    return {name: value.strip() for name, _, value in rows}


def host_pid(container: Container) -> int:
    """Return the pid on the host of a container's PID 1, found by its PID namespace."""
    namespace = sh(container, "readlink /proc/self/ns/pid").strip()
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            if os.readlink(f"/proc/{pid}/ns/pid") == namespace:
                return pid
        except OSError:   # it has ended meanwhile
            continue
    raise AssertionError(f"no process of {container.name} on the host")


def children(pid: int) -> set[int]:
    """Return the pids, on this host, of a process's children."""
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def fields(pid: int) -> list[str]:
    """Return what /proc/PID/stat has after the name, which may hold anything: state, parent and on. See proc_pid_stat(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def state(pid: int) -> str:
    """Return a process's state, a letter."""
    return fields(pid)[0]


def descendants(pid: int) -> set[int]:
    """Return the pids, on this host, of all processes below one, whichever of its threads has made them."""
    parents: dict[int, int] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):   # it has ended meanwhile
            parents[int(name)] = int(fields(int(name))[1])
    found = {pid}
    while more := {one for one, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def eventually(check: Callable[[], bool], what: str) -> None:
    """Wait until `check` is true; `what` says in words what has not come true within a minute."""
    deadline = time.monotonic() + 60
    while not check():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.002)


def service(sandbox: Sandbox, script: str) -> int:
    """Return the pid of a service of the session."""
    return next(pid for pid in sorted(children(sandbox.session.pid)) if script in Path(f"/proc/{pid}/cmdline").read_text())
