"""The supervisor's event loop."""

from __future__ import annotations

import os

from pytest_sealed.runtime.loop import Loop


def test_an_event_of_a_closed_descriptor_is_not_taken_for_one_of_the_next_with_its_number() -> None:
    loop = Loop()
    first, second = os.pipe(), os.pipe()
    told: list[str] = []

    def swap(mine: tuple[int, int], other: tuple[int, int]) -> None:
        """Take the event of one pipe, and put a silent pipe in the place of the other, whose event is due as well."""
        told.append("event")
        os.read(mine[0], 1)
        loop.unwatch(other[0])
        silent = os.pipe()
        os.dup2(silent[0], other[0])
        os.close(silent[0])
        loop.watch(other[0], lambda: told.append("stale"))
        loop.after(0, lambda: setattr(loop, "running", False))
        opened.append(silent[1])
    opened: list[int] = [*first, *second]
    loop.watch(first[0], lambda: swap(first, second))
    loop.watch(second[0], lambda: swap(second, first))
    os.write(first[1], b"x")
    os.write(second[1], b"x")
    loop.run()
    loop.close()
    for fd in opened:
        os.close(fd)
    assert told == ["event"]
