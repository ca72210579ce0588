"""The words for how a container ended and what it used."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_sealed.failure import describe_end, format_size, signal_name

MIB = 1 << 20


def ending(code: int | None = None, signal: int | None = None, oom: bool = False) -> dict[str, Any]:
    return {"code": code, "signal": signal, "oom": oom, "stats": {}}


@pytest.mark.parametrize(("end", "text"), [
    (ending(code=0), "container 'db' exited with code 0 (postgres -D '/data dir')"),
    (ending(code=127), "container 'db' exited with code 127 (postgres -D '/data dir')"),
    (ending(signal=signal.SIGTERM), "container 'db' was ended by SIGTERM (postgres -D '/data dir')"),
    (ending(signal=40), "container 'db' was ended by signal 40 (postgres -D '/data dir')"),
    (ending(signal=signal.SIGKILL, oom=True), "container 'db' was ended by SIGKILL, after the kernel had killed a process of it for "
     "reaching its memory limit of 64 MiB (postgres -D '/data dir')"),
    (ending(code=137, oom=True), "container 'db' exited with code 137, after the kernel had killed a process of it for reaching its "
     "memory limit of 64 MiB (postgres -D '/data dir')"),
    (None, "container 'db' has not ended (postgres -D '/data dir')"),
])
def test_an_end_names_the_cause_and_the_command(end: dict[str, Any] | None, text: str) -> None:
    assert describe_end("db", ["postgres", "-D", "/data dir"], end, 64 * MIB) == text


@pytest.mark.parametrize(("size", "text"), [
    (None, "unlimited"), (0, "0 B"), (1, "1 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (64 * MIB, "64 MiB"),
    (64 * MIB + 1, "64.0 MiB"), (100.4 * MIB, "100 MiB"), (1 << 30, "1 GiB"), (3 << 29, "1.5 GiB"), (1 << 40, "1024 GiB"),
    (5 << 50, "5242880 GiB"),
])
def test_a_size_is_given_in_the_largest_unit_below_it(size: float | None, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(0, 1 << 60))
def test_a_size_for_people_is_right_to_a_twentieth(size: int) -> None:
    number, unit = format_size(size).split()
    shown = float(number) * {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[unit]
    assert abs(shown - size) <= 0.05 * size


@pytest.mark.parametrize(("number", "name"), [(9, "SIGKILL"), (15, "SIGTERM"), (64, "SIGRTMAX"), (50, "signal 50"), (0, "signal 0")])
def test_a_signal_has_its_name_or_its_number(number: int, name: str) -> None:
    assert signal_name(number) == name
