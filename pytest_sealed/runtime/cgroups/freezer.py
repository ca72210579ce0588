"""Freezing: v1's freezer controller; in v2 a core file of every cgroup. And killing, which needs it on v1."""

from __future__ import annotations

from pytest_sealed.runtime.cgroups.controller import Controller
from pytest_sealed.runtime.cgroups.files import read, read_flat, write

__all__ = ["Freezer", "FreezerV1", "FreezerV2"]


class Freezer(Controller):
    """What both versions do."""

    __slots__ = ()

    name = "freezer"

    def freeze(self, directory: str) -> None:
        """Ask for every process in the cgroup to stop."""
        raise NotImplementedError

    def thaw(self, directory: str) -> None:
        """Let them go on."""
        raise NotImplementedError

    def frozen(self, directory: str) -> bool:
        """Return whether all have stopped."""
        raise NotImplementedError


class FreezerV1(Freezer):
    """freezer.state. A frozen process ignores even SIGKILL until it is thawed."""

    __slots__ = ()

    def freeze(self, directory: str) -> None:
        """See `Freezer.freeze`. Written again, it also catches children forked while it was FREEZING."""
        write(f"{directory}/freezer.state", "FROZEN")

    def thaw(self, directory: str) -> None:
        """See `Freezer.thaw`."""
        write(f"{directory}/freezer.state", "THAWED")

    def frozen(self, directory: str) -> bool:
        """See `Freezer.frozen`."""
        return (read(f"{directory}/freezer.state") or "").strip() == "FROZEN"


class FreezerV2(Freezer):
    """cgroup.freeze and cgroup.events."""

    __slots__ = ()

    core = True

    def freeze(self, directory: str) -> None:
        """See `Freezer.freeze`."""
        write(f"{directory}/cgroup.freeze", "1")

    def thaw(self, directory: str) -> None:
        """See `Freezer.thaw`."""
        write(f"{directory}/cgroup.freeze", "0")

    def frozen(self, directory: str) -> bool:
        """See `Freezer.frozen`."""
        return read_flat(f"{directory}/cgroup.events").get("frozen") == 1
