"""Which subnet a network has: the same for the same name, and never one that its sandbox has already."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_sealed.errors import NetworkError
from pytest_sealed.network import _subnet

ALL = {f"10.89.{third}.0/24" for third in range(256)}


@pytest.mark.parametrize(("name", "subnet"), [("default", "10.89.0.0/24"), ("class", "10.89.1.0/24"), ("module", "10.89.2.0/24"),
                                              ("package", "10.89.3.0/24"), ("session", "10.89.4.0/24"), ("backend", "10.89.177.0/24")])
def test_a_name_has_its_subnet(name: str, subnet: str) -> None:
    assert _subnet(name, set()) == subnet


@given(st.text(min_size=1), st.sets(st.sampled_from(sorted(ALL)), max_size=200))
def test_a_subnet_that_is_taken_is_passed_over(name: str, taken: set[str]) -> None:
    subnet = _subnet(name, taken)
    assert subnet in ALL - taken
    assert subnet == _subnet(name, taken)


def test_the_next_one_up_is_taken_instead() -> None:
    first = _subnet("backend", set())
    assert _subnet("backend", {first}) == "10.89.178.0/24"


def test_when_all_are_taken_it_is_said() -> None:
    with pytest.raises(NetworkError) as caught:
        _subnet("backend", ALL)
    assert str(caught.value) == "a sandbox can have at most 250 networks\n  remedy: use several sandboxes"
