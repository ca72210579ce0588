"""When a condition is looked at: at once, soon again, and less often the longer it takes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from pytest_sealed import NotReady, probe
from pytest_sealed.readiness import wait_until


class Still:
    """In the place of a container that doesn't end; notes how long it is given between two looks."""

    name = "still"

    def __init__(self) -> None:
        self.pauses: list[float] = []

    def poll_exit(self, timeout: float) -> bool:
        self.pauses.append(timeout)
        return False

    def last_lines(self) -> str:
        return ""


def looks(needed: int) -> list[float]:
    """Return the pauses before the look, after that many others, that finds it ready."""
    container, left = Still(), iter(range(needed))

    def look(_container: Any) -> str | None:
        return "not yet" if next(left, None) is not None else None
    wait_until(container, probe(look, "a look"), 60)   # type: ignore[arg-type]
    return container.pauses


def test_what_is_ready_is_not_waited_for() -> None:
    assert looks(0) == []


def test_the_second_look_comes_within_2_ms_and_later_ones_come_further_apart() -> None:
    pauses = looks(30)
    assert 0 < pauses[0] < 0.002
    assert pauses == sorted(pauses)
    assert all(later <= 2 * earlier for earlier, later in pairwise(pauses))
    assert 0.02 <= pauses[-1] <= 0.1   # seldom enough for a slow server, often enough for whoever waits


def test_no_pause_lasts_beyond_the_time() -> None:
    container = Still()
    with pytest.raises(NotReady, match=r"not ready within 0\.01 s: waited for a look; the last answer was: not yet"):
        wait_until(container, probe(lambda _: "not yet", "a look"), 0.01)   # type: ignore[arg-type]
    assert max(container.pauses) <= 0.01
