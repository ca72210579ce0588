"""Shows a build's progress: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
import time
from typing import TextIO, final

from pytest_sealed.images.progress import Progress

__all__ = ["Bar", "Lines", "progress_for"]

_WIDTH = 24   # columns of the bar itself


class Lines(Progress):
    """A line for each image, stage and note: for logs. A context manager: what it shows for now is gone at the end."""

    def __init__(self, out: TextIO, *, quiet: bool = False) -> None:
        self._out, self._quiet, self._name = out, quiet, ""

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def begin(self, name: str) -> None:
        self._name = name

    def stage(self, text: str) -> None:
        self._say(f"{self._name}: {text}")

    def note(self, text: str) -> None:
        self._say(text)

    def end(self, name: str, *, built: bool, size: int, seconds: float, verb: str = "built") -> None:
        self._say(f"{name}: {verb}, {size / 1e6:.0f} MB in {seconds:.1f} s" if built else f"{name}: up to date")

    def clear(self) -> None:
        """Make room for a line of somebody else's."""

    def _say(self, text: str) -> None:
        if not self._quiet:
            print(text, file=self._out, flush=True)


@final
class Bar(Lines):
    """One line that is written over and over, and a line for each image that is there."""

    def __init__(self, out: TextIO) -> None:
        super().__init__(out)
        self._stage, self._shown, self._last = "", 0, 0.0

    def stage(self, text: str) -> None:
        self._stage = text
        self._draw(f"{self._name}: {text}")

    def step(self, done: int, total: int, text: str) -> None:
        now = time.monotonic()
        if done < total and now - self._last < 0.05:   # a terminal needs no more than 20 a second
            return
        self._last = now
        filled = _WIDTH * done // max(1, total)
        self._draw(f"{self._name}: {self._stage} [{'█' * filled}{'·' * (_WIDTH - filled)}] {done}/{total} {text}")

    def clear(self) -> None:
        if self._shown:
            print("\r" + " " * self._shown + "\r", end="", file=self._out, flush=True)
            self._shown = 0

    def _say(self, text: str) -> None:
        self.clear()
        super()._say(text)

    def _draw(self, text: str) -> None:
        text = text[: max(20, shutil.get_terminal_size().columns - 1)]
        print("\r" + text.ljust(self._shown), end="", file=self._out, flush=True)
        self._shown = len(text)


def progress_for(out: TextIO, *, quiet: bool = False) -> Lines:
    """Return what suits `out`."""
    return Bar(out) if out.isatty() and not quiet else Lines(out, quiet=quiet)
