"""Locks on files: one holder, or many readers and one who removes."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

if sys.platform != "win32":   # where everything imports, and nothing starts
    import fcntl

from filelock import FileLock, Timeout

__all__ = ["flock", "hold"]


@contextlib.contextmanager
def hold(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock of a file alone; call `waiting` once if another process has it."""
    lock = FileLock(str(path), is_singleton=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waiting()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def flock(path: Path, how: int) -> Iterator[bool]:
    """Hold flock(2) on a file, made if it is missing: shared locks, which filelock lacks. Yields False if it is taken (LOCK_NB).

    Raises:
        OSError: it can't be opened.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, how)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)
