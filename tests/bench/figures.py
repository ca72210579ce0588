"""Distributions, and ratios of what was measured in turn in the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Distribution", "in_turn"]


@dataclass(frozen=True, slots=True)
class Distribution:
    """Durations in milliseconds, sorted."""

    name: str
    times: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.times)

    def __str__(self) -> str:
        p99 = self.times[min(len(self.times) - 1, int(len(self.times) * 0.99))]
        return (f"{self.name:44} median {self.median:8.2f}  p99 {p99:8.2f}  max {self.times[-1]:8.2f}  min {self.times[0]:8.2f} ms"
                f"  (n={len(self.times)})")


def in_turn(count: int, *, after: Callable[[], object] = lambda: None, **works: Callable[[], object]) -> list[Distribution]:
    """Run the works in turn, `count` times each after one for warming up, so that the machine's mood is the same for all.

    Args:
        after: what cleans up after each; not measured.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for round_ in range(count + 1):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            if round_:
                times[name].append((time.perf_counter() - began) * 1000)
            after()
    return [Distribution(name, tuple(sorted(values))) for name, values in times.items()]
