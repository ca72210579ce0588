"""What the terminal says of containers before and after the tests."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from pytest_sealed.errors import SealedError

if TYPE_CHECKING:
    import pytest

    from pytest_sealed.plugin.session import Figures, Run

__all__ = ["header", "summarize"]


def header(run: Run) -> str:
    """Return the header line: how ids are mapped, the cgroup version, the kernel and the image store. Starts nothing."""
    system = platform.system()
    if system != "Linux":
        return f"sealed: no containers here: they need a Linux kernel, and this is {'macOS' if system == 'Darwin' else system}"
    from pytest_sealed.images.folders import default_root
    from pytest_sealed.runtime.cgroups import detect
    from pytest_sealed.runtime.idmap import find_id_map
    try:
        ids, cgroup = find_id_map(), detect().version
    except (SealedError, OSError) as error:
        return f"sealed: no containers here: {error}"
    mode = _MODES.get(ids.mode, ids.mode)
    cgroups = "no cgroups, so no limits" if cgroup == "none" else f"cgroup {cgroup}"
    return f"sealed: {mode}, {cgroups}, Linux {platform.release()}, images in {run.store or default_root()}"


_MODES = {"root": "as root", "subids": "rootless", "single": "rootless with a single id (no range in /etc/subuid)"}


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
