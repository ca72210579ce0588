"""What sessions that were killed left behind: found by their lock, which nobody holds any more, and removed."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if sys.platform != "win32":   # where everything imports, and nothing starts
    import fcntl

from pytest_sealed.linux.process import process_state
from pytest_sealed.runtime.cgroups import Hierarchy, detect, leftovers, remove_dead_probes
from pytest_sealed.runtime.client import remove_cgroups, run_root
from pytest_sealed.runtime.launch import run_inside
from pytest_sealed.runtime.scratch import remove_tree

__all__ = ["live_sessions", "sweep"]

_YOUNG = 30.0   # seconds between a session's folder and the facts in it, at most


def live_sessions() -> list[Path]:
    """Return the run directories whose session is alive."""
    return [path for path in _folders() if not _dead(path)]


def sweep() -> list[str]:
    """Remove what dead sessions left: cgroups, run directories, writable layers on disk. Returns a line for each."""
    swept: list[str] = []
    for path in _folders():
        with _lock(path) as free:
            if not free:
                continue
            facts = _facts(path)
            if not facts and _alive(path.name) and _young(path):
                continue   # it is just starting
            if "hierarchy" in facts and not remove_cgroups(Hierarchy.from_json(facts["hierarchy"]), path.name):
                continue   # its processes are still ending: the next sweep takes it
            disk = facts.get("disk", "")
            if disk and Path(disk).is_dir():
                run_inside("pytest_sealed.runtime.sweep_worker", {"paths": [disk]})
            remove_tree(str(path))
            swept.append(f"session {path.name}: run directory {path}")
    known = {path.name for path in _folders()}
    hierarchy = detect()
    for session in leftovers(hierarchy):
        # Not killed: it may be alive in another PID namespace, with its run directory elsewhere.
        if session not in known and not _alive(session) and remove_cgroups(hierarchy, session, kill=False):
            swept.append(f"session {session}: cgroups")
    return swept + [f"cgroup {directory}, of a process that was killed" for directory in remove_dead_probes(hierarchy)]


def _folders() -> list[Path]:
    return sorted(path for path in run_root().iterdir() if path.is_dir() and "-" in path.name)


def _dead(path: Path) -> bool:
    with _lock(path) as free:
        return free or not path.exists()


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Hold the lock of the session that has this folder; yield False where the session has it, or has just gone, folder and all.

    As filelock does it, see flock(2), but for this: a look makes nothing, neither the lock nor the folder that was there a moment ago.
    A folder without a lock is that of a session that is just starting, or that was killed then.
    """
    try:
        fd = os.open(path / "lock", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        yield path.is_dir() and not os.path.lexists(path / "lock")
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield os.fstat(fd).st_nlink > 0
    finally:
        os.close(fd)


def _young(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime < _YOUNG
    except FileNotFoundError:
        return True   # it was made and has gone meanwhile


def _alive(session: str) -> bool:
    """Tell whether the process that a session is named after still lives: its run directory may be elsewhere.

    One that has ended and that nobody has waited for, as the init of many a CI container never does, doesn't.
    """
    return process_state(session.partition("-")[0]) not in "ZX"


def _facts(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads((path / "session.json").read_text())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}
