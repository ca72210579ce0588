"""The interface of a cgroup controller: a plan of settings to write, and figures to read.

A module per controller, in each a class per version of the kernel's interface. Plans are pure: they
need no cgroup, so a limit can be explained and tested without a kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["Controller", "Figures", "LimitValues", "Setting"]

LimitValues = Mapping[str, "int | float | None"]
"""memory, swap (bytes), cpus (cores), cpu_shares, pids; pids_required: False if that limit is only a default."""

Figures = dict[str, "int | float | None"]
"""None: no limit, or not counted by this kernel."""


class Setting:
    """One value to write into one file of a new cgroup, before any process is in it."""

    __slots__ = ("file", "limit", "value")

    def __init__(self, file: str, value: int | str, limit: str) -> None:
        self.file = file
        """Name within the cgroup's directory."""
        self.value = str(value)
        self.limit = limit
        """The limit as asked for, such as `memory=67108864`; empty if a kernel without this file is good enough."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Setting) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        return f"{self.file} ← {self.value}" + (f" ({self.limit})" if self.limit else "")


class Controller:
    """One controller, in one version of the interface."""

    __slots__ = ()

    name = ""
    """As in /proc/self/cgroup; v2's core files count as the v1 controller that they replace."""
    core = False
    """Whether every v2 cgroup has it without being enabled in cgroup.subtree_control."""
    limits: Sequence[str] = ()
    """The limits that it enforces."""

    def asked(self, limits: LimitValues) -> list[str]:
        """Return those of its limits that were asked for, as `name=value`."""
        return [f"{key}={limits[key]}" for key in self.limits if limits.get(key) is not None]

    def settings(self, limits: LimitValues) -> list[Setting]:
        """Return what to write, in order."""
        return []

    def instead(self, setting: Setting, directory: str) -> Setting | None:
        """Return what enforces the same where the kernel said EINVAL to `setting`; None if nothing does."""
        return None

    def stats(self, directory: str) -> Figures:
        """Return its figures of the cgroup at `directory`; what this kernel doesn't count is left out."""
        return {}
