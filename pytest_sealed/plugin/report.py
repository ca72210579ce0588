"""A failed test's report: a section for each of its containers, and no frames of this package's own."""

from __future__ import annotations

import os
import traceback
from typing import TYPE_CHECKING, Any, final

import pytest

import pytest_sealed
from pytest_sealed.errors import InternalError, SealedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_sealed.container import Container

__all__ = ["extend", "tidy", "trim"]

_PACKAGE = os.path.dirname(str(pytest_sealed.__file__)) + os.sep
_PYTEST = tuple(os.path.dirname(str(module.__file__)) for module in (pytest, __import__("_pytest"), __import__("pluggy")))


_HIDDEN = "All traceback entries are hidden"


def extend(report: pytest.TestReport, containers: Iterable[tuple[Container, int]], diagnosis: str = "") -> None:
    """Add a section for each container to a failed report, and one with the findings of `sealed doctor` where there are some.

    The sections belong to `longrepr`: what is in `report.sections` is lost under `--show-capture=no` and in JUnit XML.

    Args:
        containers: each with the log position that this test's part begins at.
    """
    sections = [(f"container {container.name}", _describe(container, since)) for container, since in containers]
    if diagnosis:
        sections.append(("sealed doctor", diagnosis))
    if not sections:
        return
    longrepr: Any = report.longrepr
    if hasattr(longrepr, "addsection"):
        for title, content in sections:
            longrepr.addsection(title, content)
    elif hasattr(longrepr, "toterminal"):   # such as a fixture that wasn't found
        report.longrepr = _Extended(longrepr, sections)  # type: ignore[assignment]
    else:
        report.longrepr = "\n".join([str(longrepr), *(f"{f' {title} ':-^80}\n{content}" for title, content in sections)])


def tidy(report: pytest.TestReport) -> None:
    """Drop pytest's hint that all frames are hidden, where `trim` left none: no frame of them is the user's."""
    shown = getattr(report.longrepr, "reprtraceback", None)
    if shown is not None and _HIDDEN in (getattr(shown, "extraline", None) or ""):
        shown.extraline = None


def trim(excinfo: pytest.ExceptionInfo[BaseException], config: pytest.Config) -> None:
    """Cut this package's frames out of the traceback of an error that is meant for users: its text says it all.

    No frame is left where none is the user's.
    """
    if not _for_users(excinfo) or config.getoption("fulltrace", False):
        return
    if not any(_is_ours(entry.path) for entry in excinfo.traceback):
        return
    if all(_is_ours(entry.path) or str(entry.path).startswith(_PYTEST) for entry in excinfo.traceback):
        excinfo.traceback = excinfo.traceback.filter(lambda entry: False)
    error: BaseException | None = excinfo.value
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if _is_ours(frame.f_code.co_filename):
                frame.f_globals.setdefault("__tracebackhide__", _for_users)   # pytest looks there too
        error = error.__cause__


def _for_users(excinfo: pytest.ExceptionInfo[BaseException] | None) -> bool:
    return excinfo is not None and isinstance(excinfo.value, (SealedError, OSError)) and not isinstance(excinfo.value, InternalError)


def _is_ours(path: object) -> bool:
    return str(path).startswith(_PACKAGE)


def _describe(container: Container, since: int) -> str:
    try:
        return container.report(since_logs=since)
    except (SealedError, OSError) as error:   # such as a supervisor that was killed: the report of the test matters more
        return f"image    {container.image}\nstate    {container.status}\nno more can be told: {error}"


@final
class _Extended:
    """A representation of an error that can't take sections, and the sections."""

    def __init__(self, longrepr: Any, sections: list[tuple[str, str]]) -> None:
        self._longrepr, self._sections = longrepr, sections

    def toterminal(self, terminal: Any) -> None:
        self._longrepr.toterminal(terminal)
        for title, content in self._sections:
            terminal.sep("-", title)
            terminal.line(content)

    def __str__(self) -> str:
        return "\n".join([str(self._longrepr), *(f"{f' {title} ':-^80}\n{content}" for title, content in self._sections)])
