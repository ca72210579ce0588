"""Sandboxes without one of the runtime's defences: a check that an attack fails is worth something where it has been seen to work."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_sealed
from pytest_sealed import Sandbox
from pytest_sealed.runtime import launch

__all__ = ["weakened"]


@contextlib.contextmanager
def weakened(folder: Path, *edits: tuple[str, str, str], ids: str = "range", interpreter: Path | None = None) -> Iterator[Sandbox]:
    """Give a sandbox whose supervisor runs a copy of the package with other code.

    Args:
        folder: an empty place for the copy.
        edits: a file below the package's `runtime`, a text that it has once, and what stands there instead.
        ids: "range", or "single": a container's user is the account itself.
        interpreter: what the session's processes run.
    """
    copy = folder / "weakened/pytest_sealed"
    shutil.copytree(Path(pytest_sealed.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for name, old, new in edits:
        path = copy / "runtime" / name
        text = path.read_text()
        assert text.count(old) == 1, f"{name} has changed: {old!r}"
        path.write_text(text.replace(old, new))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "_BOOTSTRAP", str(copy / "runtime/bootstrap.py"))
        if interpreter is not None:
            patch.setattr(launch, "interpreter", lambda: str(interpreter))
        if ids == "single":
            patch.setenv("SEALED_IDS", "single")
        with Sandbox(name="weakened") as sandbox:
            yield sandbox
