"""The life of a container is a table in the words of the OCI runtime specification."""

from __future__ import annotations

import itertools
import typing

import pytest

from pytest_sealed.lifecycle import Status
from pytest_sealed.runtime.protocol import pair
from pytest_sealed.runtime.records import TRANSITIONS, ContainerRecord

STATES = ("creating", "created", "running", "paused", "stopped")
STEPS = {
    ("creating", "created"), ("creating", "stopped"), ("created", "running"), ("created", "stopped"), ("running", "paused"),
    ("running", "stopped"), ("paused", "running"), ("paused", "stopped"), ("stopped", "creating"),
}


def record(state: str = "creating") -> ContainerRecord:
    ours, theirs = pair()
    theirs.close()
    ours.close()
    made = ContainerRecord({"id": "box-1"}, ours)
    made.state = state
    return made


def test_the_table_has_every_state_that_a_handle_can_show() -> None:
    assert set(TRANSITIONS) == set(STATES) == set(typing.get_args(Status))


def test_the_table_leads_to_its_own_states_only() -> None:
    assert set(itertools.chain(*TRANSITIONS.values())) <= set(TRANSITIONS)


@pytest.mark.parametrize(("before", "after"), sorted(STEPS))
def test_a_container_takes_each_step_of_its_life(before: str, after: str) -> None:
    made = record(before)
    made.become(after)
    assert made.state == after


@pytest.mark.parametrize(("before", "after"), sorted(set(itertools.product(STATES, STATES)) - STEPS))
def test_any_other_step_is_a_bug_and_changes_nothing(before: str, after: str) -> None:
    made = record(before)
    with pytest.raises(AssertionError, match=f"container box-1 can't become {after} from {before}"):
        made.become(after)
    assert made.state == before


def test_everything_can_stop_and_what_has_stopped_can_start_again() -> None:
    assert all("stopped" in after for before, after in TRANSITIONS.items() if before != "stopped")
    assert TRANSITIONS["stopped"] == ("creating",)


def test_a_life_begins_without_a_process() -> None:
    made = record()
    assert made.state == "creating"
    assert not made.alive
    assert {made.pidfd, made.netns, made.mount_ns, made.terminal} == {-1}
