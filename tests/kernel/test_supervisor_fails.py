"""A supervisor that ends by an error of its own: whoever asks it something is told which."""

from __future__ import annotations

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
