"""The memory controller: a limit, swap beyond it, usage, and the count of OOM kills.

See the kernel's admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst.
"""

from __future__ import annotations

from pytest_sealed.runtime.cgroups.controller import Controller, Figures, LimitValues, Setting
from pytest_sealed.runtime.cgroups.files import read_flat, read_number

__all__ = ["Memory", "MemoryV1", "MemoryV2"]


class Memory(Controller):
    """What both versions share."""

    __slots__ = ()

    name = "memory"
    limits = ("memory", "swap")
    events = ""

    def oom_kills(self, directory: str) -> int:
        """Return how many of its processes the kernel has ended because the limit was reached."""
        return read_flat(f"{directory}/{self.events}").get("oom_kill", 0)


class MemoryV1(Memory):
    """memory.limit_in_bytes, and memory.memsw.* where the kernel accounts swap."""

    __slots__ = ()

    events = "memory.oom_control"

    def settings(self, limits: LimitValues) -> list[Setting]:
        """See `Controller.settings`. memsw must never be below the limit, so the limit comes first."""
        memory, swap = limits.get("memory"), limits.get("swap")
        if memory is None:
            return []
        settings = [Setting("memory.limit_in_bytes", int(memory), f"memory={memory}")]
        if not swap:
            # With swappiness 0, reclaim at the limit never swaps, so a kernel without memsw is good enough.
            settings.append(Setting("memory.swappiness", 0, ""))
        settings.append(Setting("memory.memsw.limit_in_bytes", int(memory) + int(swap or 0), f"swap={swap}" if swap else ""))
        return settings

    def stats(self, directory: str) -> Figures:
        """See `Controller.stats`."""
        return {
            "memory_current": read_number(f"{directory}/memory.usage_in_bytes"),
            "memory_peak": read_number(f"{directory}/memory.max_usage_in_bytes"),
            "memory_limit": read_number(f"{directory}/memory.limit_in_bytes"),
            "oom_kills": self.oom_kills(directory),
        }


class MemoryV2(Memory):
    """memory.max and memory.swap.max."""

    __slots__ = ()

    events = "memory.events"

    def settings(self, limits: LimitValues) -> list[Setting]:
        """See `Controller.settings`."""
        memory, swap = limits.get("memory"), limits.get("swap")
        if memory is None:
            return []
        # Not memory.oom.group: as on v1, and in Docker, the kernel ends one process, and the others may cope.
        return [
            Setting("memory.max", int(memory), f"memory={memory}"),
            Setting("memory.swap.max", int(swap or 0), f"swap={swap}" if swap else ""),
        ]

    def stats(self, directory: str) -> Figures:
        """See `Controller.stats`. memory.peak is new in Linux 5.19; before it, `Group` keeps the highest seen."""
        return {
            "memory_current": read_number(f"{directory}/memory.current"),
            "memory_peak": read_number(f"{directory}/memory.peak"),
            "memory_limit": read_number(f"{directory}/memory.max"),
            "oom_kills": self.oom_kills(directory),
        }
