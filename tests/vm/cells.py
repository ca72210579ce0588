"""The matrix of guests: a TOML file for each below `cells`, and what it says. Lists of tests that several share are in selections.toml."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["SHOP", "Cell", "Run", "load"]

SHOP = "docs/examples/shop"
SELECTIONS = Path(__file__).parent / "selections.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One call of pytest in a guest."""

    folder: str
    """Where it starts, below the checkout; a prefix of the ids of its tests."""
    arguments: tuple[str, ...]

    def full(self, nodeid: str) -> str:
        """Return the id by which the host knows a test."""
        return f"{self.folder}/{nodeid}" if self.folder else nodeid


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One guest: what it boots, as whom the tests run there, and which."""

    name: str
    kernel: str
    """A Debian suite, one of `disks.KERNELS`."""
    root: str
    """A Debian release, one of `disks.ROOTS`."""
    account: str = "root"
    """Whom the checkout belongs to: root or tester."""
    systemd: bool = False
    """Whether systemd is PID 1."""
    login: bool = False
    """Whether the tests run in a login session of tester's, which needs systemd; else they are a service's."""
    append: str = ""
    """More for the kernel's command line."""
    prepare: str = ""
    """Shell commands, run by root before the tests; guest/init has functions for them."""
    command: str = ""
    """What the tests' command line is an argument of, such as `setpriv …`; empty: nothing."""
    selections: list[str] = field(default_factory=list)
    """Names in selections.toml: their tests run there."""
    tests: list[str] = field(default_factory=list)
    """More tests, as pytest takes them: folders, files, ids."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Beginning of the ids of tests that don't run there → why."""
    skips: list[str] = field(default_factory=list)
    """Reasons for which a test may skip itself; any other skip is a failure."""
    processors: int = 2
    memory: int = 2048
    """MiB."""
    minutes: int = 60
    """Then the machine is taken for hung."""

    @property
    def runs(self) -> list[Run]:
        """The calls of pytest there: the example's suite is a project of its own."""
        own = tuple(test for test in self.tests if not test.startswith(SHOP))
        shop = tuple(test.removeprefix(SHOP).removeprefix("/") or "." for test in self.tests if test.startswith(SHOP))
        return [Run(folder=folder, arguments=tests) for folder, tests in (("", own), (SHOP, shop)) if tests]


def load(path: Path) -> Cell:
    """Read a cell's file; `tests` of what it returns has those of its selections, too.

    Raises:
        ValueError: it has a key or a selection that is unknown, or lacks a key.
    """
    data: dict[str, Any] = tomllib.loads(path.read_text())
    _known(path, "key", data, [one.name for one in fields(Cell)])
    selections: dict[str, list[str]] = tomllib.loads(SELECTIONS.read_text())
    chosen = data.get("selections", [])
    _known(path, "selection", chosen, selections)
    try:
        cell = Cell(name=path.stem, **data)
    except TypeError as error:
        raise ValueError(f"{path.name}: {error}") from error
    return replace(cell, tests=[test for name in chosen for test in selections[name]] + cell.tests)


def _known(path: Path, what: str, names: Iterable[str], known: Iterable[str]) -> None:
    unknown = set(names) - set(known)
    if unknown:
        raise ValueError(f"{path.name}: unknown {what}: {', '.join(sorted(unknown))}\n  there are: {', '.join(known)}")
