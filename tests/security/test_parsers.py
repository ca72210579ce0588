"""Parsers of what strangers write: whatever the bytes, there is a result or an error that says so, and canaries live.

The same functions as `make fuzz` runs, led by what they cover, for as long as one likes.
"""

from __future__ import annotations

import os

import pytest
from fuzzing import SEEDS, TARGETS
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_are_right(name: str) -> None:
    assert SEEDS[name]
    for seed in SEEDS[name]:
        TARGETS[name](seed)


@settings(max_examples=40)
@pytest.mark.parametrize("name", TARGETS)
@given(data=st.binary(max_size=600))
def test_any_bytes_are_taken_or_refused(name: str, data: bytes) -> None:
    TARGETS[name](data)


@settings(max_examples=80)
@pytest.mark.parametrize("name", TARGETS)
@given(choice=st.integers(0, 1 << 16), at=st.integers(0, 1 << 16), length=st.integers(0, 40),
       new=st.binary(max_size=12) | st.sampled_from(
           [b"\"", b"{", b"[]", b"null", b"-1", b"1e999", b"..", b"/", b"\0", b"9" * 5000, b"\xed\xa0\x80"]))
def test_a_right_one_with_any_change_is_taken_or_refused(name: str, choice: int, at: int, length: int, new: bytes) -> None:
    seed = SEEDS[name][choice % len(SEEDS[name])]
    at %= len(seed) + 1
    TARGETS[name](seed[:at] + new + seed[at + length:])


class Careless:
    """Unpacks a layer, and follows what leads out."""

    def __init__(self, fd: int, *_: object) -> None:
        self.fd = fd

    def __enter__(self) -> Careless:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def add(self, _entry: object) -> None:
        os.close(os.open("../canary", os.O_WRONLY | os.O_TRUNC, dir_fd=self.fd))


def test_where_a_layer_leads_out_its_target_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzzing.Tree", Careless)
    with pytest.raises(AssertionError):
        TARGETS["layer"](SEEDS["layer"][0])
