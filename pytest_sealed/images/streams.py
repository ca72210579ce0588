"""Pipes between this process and a worker in the session's user namespace: what one writes, the other reads, and nothing lies on disk."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from pytest_sealed.runtime.idmap import IdMap

if sys.platform != "win32":   # where everything imports, and nothing starts
    import fcntl

__all__ = ["Feeder", "close", "feeding", "reading", "rows_of", "write_rows"]

_PIPE = 1 << 20   # bytes; an ordinary account may have 64 pipes of this size, else they stay smaller
_CHUNK = 1 << 20


@final
class Feeder(threading.Thread):
    """Writes chunks into a pipe."""

    def __init__(self, chunks: Iterable[bytes], pipe: int) -> None:
        super().__init__(daemon=True)
        self._chunks, self._pipe = chunks, pipe
        self.count = 0
        """Bytes written."""
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            for chunk in self._chunks:
                view = memoryview(chunk)
                while view:
                    view = view[os.write(self._pipe, view):]
                self.count += len(chunk)
        except BrokenPipeError:
            pass   # the reader has had enough, and says why
        except BaseException as error:
            self.error = error
        finally:
            os.close(self._pipe)
            close(self._chunks)


def close(chunks: Iterable[bytes]) -> None:
    """End a generator now that hasn't yielded all: it may hold a lock, or half a file."""
    if isinstance(chunks, Generator):
        chunks.close()


@contextlib.contextmanager
def feeding(chunks: Iterable[bytes]) -> Iterator[tuple[int, Feeder]]:
    """Yield the reading end of a pipe that `chunks` go into. An error of theirs is raised at the end, in place of the reader's."""
    theirs, ours = _pipe()
    feeder = Feeder(chunks, ours)
    feeder.start()
    try:
        yield theirs, feeder
    finally:
        os.close(theirs)
        feeder.join()
        if feeder.error is not None:
            raise feeder.error


def reading(work: Callable[[int], object]) -> Iterator[bytes]:
    """Yield what `work` writes into the descriptor that it is called with. Its errors are raised once all has been read."""
    ours, theirs = _pipe()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work(theirs)
        except BaseException as error:
            failed.append(error)
        finally:
            os.close(theirs)
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while data := os.read(ours, _CHUNK):
            yield data
    finally:
        os.close(ours)
        thread.join()
    if failed:
        raise failed[0]


def rows_of(module: str, payload: dict[str, Any], ids: IdMap) -> list[Any]:
    """Return what a worker in the session's user namespace writes by `write_rows` into its first descriptor. Raises as `run_inside`."""
    from pytest_sealed.runtime.launch import run_inside  # not needed by workers, which import this module too
    data = b"".join(reading(lambda fd: run_inside(module, payload, fds=[fd], ids=ids)))
    return [json.loads(line) for line in data.splitlines()]


def write_rows(fd: int, rows: Iterable[object]) -> None:
    """Write a line of JSON for each row; the descriptor stays open."""
    with open(fd, "w", closefd=False) as out:
        for row in rows:
            out.write(json.dumps(row) + "\n")


def _pipe() -> tuple[int, int]:
    ends = os.pipe()
    with contextlib.suppress(OSError):
        fcntl.fcntl(ends[0], 1031, _PIPE)   # F_SETPIPE_SZ: Python has the name since 3.10, on some systems only
    return ends
