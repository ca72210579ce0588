"""Carries out the conditions of `pytest_sealed.waits`: polls from 1 ms on, and fails at once when the container ends."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from pytest_sealed import probes, waits
from pytest_sealed.errors import ContainerExited, NotReady, SpecError

if TYPE_CHECKING:
    from pytest_sealed.container import Container
    from pytest_sealed.probes import Look, Probe

__all__ = ["wait_until"]

_FIRST = 0.001    # seconds between two looks at first
_LONGEST = 0.05   # and at most
_GROWTH = 1.5
_ONE_LOOK = 2.0   # seconds that a single look may take
_ONE_COMMAND = 10.0   # the same, of a command
_SHORTEST = 0.1   # seconds that the last look gets, though the time is nearly over


def wait_until(container: Container, condition: waits.Wait, timeout: float, *, advice: str = "") -> None:
    """Wait until `condition` holds for `container`.

    Args:
        timeout: seconds.
        advice: what else than more time may help.

    Raises:
        ContainerExited: the container ended; at once, with its exit cause, command and last log lines.
        NotReady: the time is over; names the condition and the last probe's answer.
    """
    deadline = time.monotonic() + timeout
    probe = _probe(container, condition, deadline)
    trial = _Trial(probe)
    pause = _FIRST
    try:
        while not trial.holds():
            remaining = deadline - time.monotonic()
            if remaining <= 0 and not trial.looking:
                raise NotReady(
                    f"container {container.name!r} was not ready within {timeout:g} s: waited for {condition}; the last answer was: "
                    f"{trial.answer}{container.last_lines()}",
                    remedy="raise wait_timeout=, or this wait's own timeout=, or see in its logs() what it waits for" + advice)
            if container.poll_exit(0 if trial.looking else min(pause, max(0, remaining))):
                container.log_position()   # waits for its last words to be in the log
                trial.give_up()
                trial = _Trial(probe)
                while not trial.holds():   # it may have done what was waited for, and ended
                    if not trial.looking:
                        raise ContainerExited(f"{container.obituary()} while {condition} was waited for{container.last_lines()}",
                                              remedy="run it by hand: " + container.by_hand())
                return
            pause = pause if trial.looking else min(pause * _GROWTH, _LONGEST)
    finally:
        trial.give_up()


class _Trial:
    """Looks for a slice of time whenever it is asked whether the condition holds, again and again.

    Args:
        last: in terms of time.monotonic(): after it no look but the first begins.

    Attributes:
        answer: what was seen last; None: it holds.
        looking: whether a look goes on.
    """

    def __init__(self, probe: Probe, last: float = math.inf) -> None:
        self._probe, self._last = probe, last
        self._look: Look | None = probe()
        self.answer: str | None = "no answer yet"

    @property
    def looking(self) -> bool:
        return self._look is not None

    def holds(self) -> bool:
        if self._look is None:
            if time.monotonic() > self._last:
                return False
            self._look = self._probe()
        try:
            self.answer = next(self._look) or self.answer
        except StopIteration as end:
            self._look, self.answer = None, end.value
        return self.answer is None

    def give_up(self) -> None:
        """End the look that goes on, if one does."""
        if self._look is not None:
            self._look.close()
            self._look = None


def _probe(container: Container, condition: waits.Wait, deadline: float) -> Probe:
    """Return what looks for `condition`; each look ends by `deadline`, in terms of time.monotonic()."""
    def left(most: float) -> float:
        return max(_SHORTEST, min(most, deadline - time.monotonic()))
    if isinstance(condition, waits.Tcp):
        return lambda: probes.tcp(container, condition.port, left(_ONE_LOOK))
    if isinstance(condition, waits.Http):
        return lambda: probes.http(container, condition, left(_ONE_LOOK))
    if isinstance(condition, waits.Log):
        look = probes.LogLook(container, condition)
        return lambda: probes.at_once(look)
    if isinstance(condition, waits.Command):
        return lambda: probes.command(container, condition.argv, left(_ONE_COMMAND))
    if isinstance(condition, waits.Healthy):
        check = container.image_config.healthcheck
        if not check:
            raise SpecError(f"image {container.image!r} has no health check", remedy="wait for a port, a log line or a command instead")
        return lambda: probes.command(container, tuple(check), left(_ONE_COMMAND))
    if isinstance(condition, waits.AllOf):
        return _all_of([_probe(container, part, deadline) for part in condition.conditions])
    if isinstance(condition, waits.AnyOf):
        return _any_of([_probe(container, part, deadline) for part in condition.conditions], deadline)
    return lambda: probes.at_once(lambda: _function(container, condition))


def _function(container: Container, condition: waits.Probe) -> str | None:
    try:
        return condition.function(container)
    except OSError as error:
        return error.strerror or str(error)


def _all_of(parts: list[Probe]) -> Probe:
    """Look for one after the other; those that have held are done with."""
    def look() -> Look:
        while parts:
            answer = yield from parts[0]()
            if answer is not None:
                return answer
            parts.pop(0)
        return None
    return look


def _any_of(parts: list[Probe], deadline: float) -> Probe:
    """Look for all by turns: while one takes its time, the others look again and again."""
    def look() -> Look:
        trials = [_Trial(part, deadline) for part in parts]
        try:
            while not any(trial.holds() for trial in trials):
                said = "; ".join(str(trial.answer) for trial in trials)
                if not any(trial.looking for trial in trials):
                    return said
                yield said
            return None
        finally:
            for trial in trials:
                trial.give_up()
    return look
