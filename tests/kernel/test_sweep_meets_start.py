"""A sweep of another process, as each worker of pytest-xdist makes one, at the worst moment of a session's start and end."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from boxes import state
from filelock import FileLock

from pytest_sealed import Sandbox
from pytest_sealed.runtime import client
from pytest_sealed.runtime import sweep as sweeping
from pytest_sealed.runtime.sweep import live_sessions, sweep


class Meddled(FileLock):
    """Before the session has its lock, a sweep passes, and another one holds the lock for a moment."""

    def acquire(self, *arguments: Any, **options: Any) -> Any:
        assert [line for line in sweep() if self.lock_file.split("/")[-2] in line] == []
        other = FileLock(self.lock_file, is_singleton=False, thread_local=False)
        other.acquire(timeout=0)
        threading.Timer(0.2, other.release).start()
        return super().acquire(*arguments, **options)


def test_a_session_that_is_just_starting_is_neither_swept_nor_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FileLock", Meddled)
    with Sandbox() as sandbox:
        assert sandbox.run("busybox", ["true"]).wait(30) == 0
        assert stat.S_IMODE(sandbox.session.run_dir.stat().st_mode) == 0o700
        assert sandbox.session.run_dir in live_sessions()
    assert sandbox.leftovers() == []


@pytest.mark.parametrize("made", [[], ["lock"]], ids=["before its lock", "before its facts"])
def test_a_session_that_was_killed_as_it_started_is_swept_though_nobody_has_waited_for_it(
        monkeypatch: pytest.MonkeyPatch, tmp_path: Path, made: list[str]) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))   # no other sweep comes by
    killed = subprocess.Popen(["sleep", "60"])
    path = client.run_root() / f"{killed.pid}-{'0' * 8}"
    path.mkdir()
    for name in made:
        (path / name).touch()
    killed.kill()
    os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)
    assert state(killed.pid) == "Z"
    try:
        assert [line for line in sweep() if path.name in line]
        assert not path.exists()
    finally:
        killed.wait()


@pytest.mark.parametrize("look", [sweep, live_sessions])
@pytest.mark.parametrize("locked", [True, False])
def test_a_look_at_a_session_that_has_just_gone_makes_nothing(
        monkeypatch: pytest.MonkeyPatch, look: Callable[[], list[object]], locked: bool) -> None:
    """It goes after the folders have been listed, or after its lock has been opened."""
    path = client.run_root() / f"{os.getpid()}-{'0' * 8}"   # of a live process: no later sweep would take it soon
    path.mkdir()
    (path / "lock").touch()
    listed, lock = sweeping._folders, fcntl.flock
    goes = iter([path])   # once: what is made anew has to stay

    def folders() -> list[Path]:
        paths = listed()
        for gone in goes:
            shutil.rmtree(gone)
        return paths

    def flock(fd: int, how: int) -> None:
        for gone in goes:
            shutil.rmtree(gone)
        lock(fd, how)
    monkeypatch.setattr(*(fcntl, "flock", flock) if locked else (sweeping, "_folders", folders))
    try:
        assert [row for row in look() if path.name in str(row)] == []
        assert not path.exists()
    finally:
        monkeypatch.undo()
        shutil.rmtree(path, ignore_errors=True)
