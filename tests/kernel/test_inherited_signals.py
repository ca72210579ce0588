"""Signals that whoever started pytest had ignored are not ignored in containers."""

from __future__ import annotations

import os
import sys
from pathlib import Path

COMMAND = ["grep", "SigIgn", "/proc/self/status"]


def spawned(out: Path, command: list[str]) -> str:
    """Run a command by posix_spawn(3), which leaves signals 32 and 33 ignored in it, as `make` does."""
    actions = [(os.POSIX_SPAWN_OPEN, 1, str(out), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)]
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=actions)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return out.read_text().split()[1]


def test_the_signals_that_posix_spawn_leaves_ignored_are_not(tmp_path: Path) -> None:
    assert int(spawned(tmp_path / "outside", COMMAND), 16) & 0x1_8000_0000, "this C library leaves none ignored: nothing is shown"
    inside = spawned(tmp_path / "inside", [sys.executable, "-m", "pytest_sealed.cli", "run", "busybox", *COMMAND])
    assert int(inside, 16) == 0
