"""What the terminal says of containers before and after the tests."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from pytest_sealed.errors import SealedError, no_linux

if TYPE_CHECKING:
    import pytest

    from pytest_sealed.plugin.session import Figures, Run

__all__ = ["header", "summarize"]


def header(run: Run) -> str:
    """Return the header line: how ids are mapped, what limits, where containers write, the kernel, the image store. Starts nothing."""
    absent = no_linux()
    if absent is not None:
        return f"sealed: no containers here: {absent.message}"
    from pytest_sealed.images.folders import default_root
    from pytest_sealed.plugin import rungs
    store = run.store or default_root()
    try:
        facts = [rungs.ids(), rungs.limits(), rungs.upper(store), f"Linux {platform.release()}", f"images in {store}"]
    except (SealedError, OSError) as error:
        return f"sealed: no containers here: {error}"
    return f"sealed: {', '.join(facts)}"


def summarize(terminal: pytest.TerminalReporter, figures: Figures) -> None:
    """Write how many containers were started, how fast, and what is still there; nothing in a run without containers."""
    if not figures.started and not figures.left:
        return
    if terminal.verbosity >= 0 or figures.left:
        started = f"{figures.started} container{'s' * (figures.started != 1)} started"
        if figures.seconds:
            from statistics import median
            started += f", median start {median(figures.seconds) * 1000:.0f} ms"
        terminal.write_line(f"sealed: {started}; {'left behind:' if figures.left else 'nothing left behind'}", yellow=bool(figures.left))
        for line in [*figures.left, "remedy: sealed sweep"] if figures.left else ():
            terminal.write_line(f"  {line}", yellow=True)
