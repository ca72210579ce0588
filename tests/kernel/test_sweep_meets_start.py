"""A sweep of another process, as each worker of pytest-xdist makes one, at the worst moment of a session's start."""

from __future__ import annotations

import stat
import threading
from typing import Any

import pytest
from filelock import FileLock

from pytest_sealed import Sandbox
from pytest_sealed.runtime import client
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
