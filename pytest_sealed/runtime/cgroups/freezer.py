"""Freezing and killing a whole cgroup: v1's freezer controller; in v2 core files of every cgroup.

They matter for the end of a session: what v1 has frozen ignores even SIGKILL, and keeps its PID namespace
from ending, until somebody thaws it. v2 kills what it has frozen. So a hybrid host uses v2's files.
"""

from __future__ import annotations

import os
import signal

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

    def kill(self, directory: str) -> None:
        """Send SIGKILL to every process in the cgroup, those that are being forked too, and thaw it."""
        raise NotImplementedError


class FreezerV1(Freezer):
    """freezer.state. See the kernel's admin-guide/cgroup-v1/freezer-subsystem.rst."""

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

    def kill(self, directory: str) -> None:
        """See `Freezer.kill`. Only processes that the caller's PID namespace knows, and whose owner it may signal."""
        self.freeze(directory)   # nobody forks, and no pid is used anew, between the list and the signals
        try:
            for pid in map(int, (read(f"{directory}/cgroup.procs") or "").split()):   # v1 leaves out whom it can't name
                try:
                    os.kill(pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    continue
        finally:
            self.thaw(directory)


class FreezerV2(Freezer):
    """cgroup.freeze, cgroup.events and cgroup.kill (Linux 5.14)."""

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

    def kill(self, directory: str) -> None:
        """See `Freezer.kill`. It needs no names and no right to signal: writing the file is right enough."""
        write(f"{directory}/cgroup.kill", "1")
        self.thaw(directory)
