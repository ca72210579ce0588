"""The pool of pipes for splice."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Any

import pytest

from pytest_sealed.runtime.forward.pipes import Pipe, Pool


def is_open(pipe: Pipe) -> bool:
    try:
        os.fstat(pipe.read_end)
    except OSError:
        return False
    return True


def test_no_more_pipes_are_lent_than_allowed() -> None:
    pool = Pool(2)
    first, second = pool.lend(), pool.lend()
    assert first is not None
    assert second is not None
    assert pool.lend() is None
    pool.take_back(first, empty=True)
    assert pool.lend() is first
    for pipe in (first, second):
        pool.take_back(pipe, empty=False)


def test_a_pipe_with_data_in_it_is_never_lent_again() -> None:
    pool = Pool(1)
    pipe = pool.lend()
    assert pipe is not None
    os.write(pipe.write_end, b"someone else's")
    pool.take_back(pipe, empty=False)
    assert not is_open(pipe)


def test_few_idle_pipes_are_kept() -> None:
    pool = Pool(10)
    lent = [pool.lend() for _ in range(10)]
    for pipe in lent:
        assert pipe is not None
        pool.take_back(pipe, empty=True)
    kept = [pipe for pipe in lent if pipe is not None and is_open(pipe)]
    assert len(kept) == 2
    for pipe in kept:
        pipe.close()


def test_an_account_that_has_spent_its_budget_gets_pipes_that_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.fcntl

    def poor(fd: int, command: int, value: int = 0) -> Any:
        if command == fcntl.F_SETPIPE_SZ:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return 8192 if command == fcntl.F_GETPIPE_SZ else real(fd, command, value)

    monkeypatch.setattr(fcntl, "fcntl", poor)
    pool = Pool(1)
    pipe = pool.lend()
    assert pipe is not None
    pool.take_back(pipe, empty=True)
    assert not is_open(pipe)


def test_no_descriptor_left_means_no_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(_flags: int) -> tuple[int, int]:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "pipe2", none_left)
    assert Pool(1).lend() is None
