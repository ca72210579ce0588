"""A supervisor that ends by an error of its own: whoever asks it something is told which."""

from __future__ import annotations

import os
import signal

import pytest
from boxes import FOREVER

from pytest_sealed import Sandbox
from pytest_sealed.errors import InternalError
from pytest_sealed.runtime.client import Session


def test_the_error_reaches_whoever_asks_and_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    make = Session._make_run_dir

    def sabotaged(self: Session) -> None:
        make(self)
        (self.run_dir / "root").write_text("a file, where the supervisor makes a folder")
    monkeypatch.setattr(Session, "_make_run_dir", sabotaged)
    with Sandbox() as sandbox:
        for _ in range(2):
            with pytest.raises(InternalError, match=r"the supervisor of this session failed(.|\n)*FileExistsError"):
                sandbox.run("busybox", FOREVER)
    assert sandbox.leftovers() == []


def test_one_that_gives_no_answer_may_be_kept_from_it_by_a_busy_machine(sandbox: Sandbox) -> None:
    os.kill(sandbox.session.pid, signal.SIGSTOP)
    try:
        with pytest.raises(InternalError, match=(r"^the supervisor gave no answer within 0\.1 s, at a load of \d+ on \d+ processors\n"
                                                 r"  remedy: run fewer tests at once; if the machine isn't busy, this is a bug")):
            sandbox.session.request("stats", timeout=0.1, container="none")
    finally:
        os.kill(sandbox.session.pid, signal.SIGCONT)
