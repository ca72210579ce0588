"""Freezing and killing a whole cgroup: in v2 by core files of every cgroup, in v1 by signals.

Not by v1's freezer controller: what it has frozen ignores even SIGKILL, and keeps its PID namespace from
ending, until somebody thaws it; and nobody may be left to do that. v2 kills what it has frozen, and SIGKILL
ends what was stopped. A hybrid host uses v2's files.
"""

from __future__ import annotations

import os
import signal

from pytest_sealed.linux.process import process_state
from pytest_sealed.runtime.cgroups.controller import Controller
from pytest_sealed.runtime.cgroups.files import read, read_flat, write

__all__ = ["Freezer", "FreezerV1", "FreezerV2"]

_ROUNDS = 50   # of stopping processes while they fork; some may not be the caller's to stop


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
    """SIGSTOP and SIGCONT to every process, as signal(7) has them. Only those that the caller's PID namespace knows.

    A parent in the container that waits with WUNTRACED sees its children stop, which no freezer would show it.
    """

    __slots__ = ()

    name = "pids"   # any of v1's hierarchies tells who is in the cgroup, and this one is cheap

    def freeze(self, directory: str) -> None:
        """See `Freezer.freeze`. Called again, it also stops children that were being forked the first time."""
        _signal(directory, signal.SIGSTOP)

    def thaw(self, directory: str) -> None:
        """See `Freezer.thaw`."""
        _signal(directory, signal.SIGCONT)

    def frozen(self, directory: str) -> bool:
        """See `Freezer.frozen`."""
        threads = read(f"{directory}/tasks") or ""
        stopped = all(process_state(thread) in "TtZX" for thread in threads.split())
        return stopped and threads == (read(f"{directory}/tasks") or "")   # nobody forked meanwhile

    def kill(self, directory: str) -> None:
        """See `Freezer.kill`."""
        for _ in range(_ROUNDS):   # nobody forks, and no pid is used anew, between the list and the signals
            self.freeze(directory)
            if self.frozen(directory):
                break
        _signal(directory, signal.SIGKILL)


def _signal(directory: str, number: signal.Signals) -> None:
    for pid in map(int, (read(f"{directory}/cgroup.procs") or "").split()):   # v1 leaves out whom it can't name
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


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
