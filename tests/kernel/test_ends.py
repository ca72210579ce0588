"""However a session ends, nothing of it is left after two seconds, or after the next session's start."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from boxes import state

from pytest_sealed.runtime.cgroups import detect, leftovers
from pytest_sealed.runtime.sweep import sweep

VICTIM = Path(__file__).with_name("ends_victim.py")
SOON = 2.0   # seconds, the promise


class Victim:
    """A session in a process of its own."""

    def __init__(self, mode: str) -> None:
        self.process = subprocess.Popen([sys.executable, str(VICTIM), mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True,
                                        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))   # a script's "&" is inherited
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        self.facts: dict[str, Any] = json.loads(line)

    def left(self) -> list[str]:
        """Return what of the session is still there, but for folders."""
        alive = [f"process {pid}" for pid in self.facts["processes"] if running(pid)]
        cgroups = [f"cgroups of {name}" for name in leftovers(detect()) if name == self.facts["session"]]
        mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if self.facts["session"] in line]
        ports = [f"port {port}" for port in self.facts["ports"] if accepts(port)]
        return alive + cgroups + mounts + ports

    def alive(self) -> list[str]:
        """Return what the kernel alone should have freed: all but the cgroups' directories."""
        return [item for item in self.left() if not item.startswith("cgroups")]

    def folders(self) -> list[str]:
        return [path for path in (self.facts["run_dir"], self.facts["disk"]) if Path(path).exists()]


def running(pid: int) -> bool:
    """Tell whether a process is there; one that only waits to be reaped by the host's init is gone."""
    try:
        return state(pid) not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.2):
        return True
    return False


def soon(condition: Callable[[], list[str]]) -> list[str]:
    """Return what `condition` still lists after the promised time, or nothing as soon as it lists nothing."""
    deadline = time.monotonic() + SOON
    while (rest := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return rest


@pytest.fixture
def victim(request: pytest.FixtureRequest) -> Iterator[Victim]:
    made = Victim(getattr(request, "param", "wait"))
    yield made
    for pid in (made.process.pid, made.facts["helper"]):
        if pid and running(pid):
            os.kill(pid, signal.SIGKILL)
    made.process.communicate()
    sweep()


@pytest.mark.parametrize("victim", ["wait", "raise", "exit"], indirect=True)
def test_a_session_that_ends_by_itself_leaves_nothing(victim: Victim) -> None:
    victim.process.communicate(timeout=10)
    assert victim.left() == []
    assert victim.folders() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_ends_the_process_leaves_nothing(victim: Victim, number: signal.Signals) -> None:
    victim.process.send_signal(number)
    victim.process.wait(timeout=10)
    assert soon(victim.left) == []
    assert soon(victim.folders) == []


@pytest.mark.parametrize("victim", ["crash"], indirect=True)
def test_a_crash_leaves_nothing(victim: Victim) -> None:
    victim.process.communicate(timeout=10)
    assert soon(victim.left) == []
    assert soon(victim.folders) == []


def test_killing_the_client_leaves_nothing(victim: Victim) -> None:
    victim.process.kill()
    victim.process.wait()
    assert soon(victim.left) == []
    assert soon(victim.folders) == []


@pytest.mark.parametrize("victim", ["forked"], indirect=True)
def test_killing_the_client_leaves_nothing_though_a_child_of_it_lives_on(victim: Victim) -> None:
    victim.process.kill()
    victim.process.wait()
    assert running(victim.facts["helper"])
    assert soon(victim.left) == []


def test_killing_the_supervisor_leaves_nothing_but_folders_which_the_client_removes(victim: Victim) -> None:
    os.kill(victim.facts["supervisor"], signal.SIGKILL)
    assert soon(victim.alive) == []
    victim.process.communicate(timeout=10)
    assert victim.left() == []
    assert victim.folders() == []


def test_killing_both_leaves_folders_and_cgroups_that_the_next_session_sweeps(victim: Victim) -> None:
    os.kill(victim.facts["supervisor"], signal.SIGKILL)
    victim.process.kill()
    victim.process.wait()
    assert soon(victim.alive) == []
    assert any(victim.facts["session"] in line for line in sweep())
    assert victim.left() == []
    assert victim.folders() == []


def test_a_sweep_leaves_living_sessions_alone(victim: Victim) -> None:
    assert not any(victim.facts["session"] in line for line in sweep())
    assert victim.left() != []
    assert victim.folders() != []
