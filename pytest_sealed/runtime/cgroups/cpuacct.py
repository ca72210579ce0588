"""CPU time used: v1's cpuacct controller; in v2 a core file of every cgroup."""

from __future__ import annotations

from pytest_sealed.runtime.cgroups.controller import Controller, Figures
from pytest_sealed.runtime.cgroups.files import read_flat, read_number

__all__ = ["CpuacctV1", "CpuacctV2"]


class CpuacctV1(Controller):
    """cpuacct.usage, nanoseconds."""

    __slots__ = ()

    name = "cpuacct"

    def stats(self, directory: str) -> Figures:
        """See `Controller.stats`."""
        return {"cpu_seconds": (read_number(f"{directory}/cpuacct.usage") or 0) / 1e9}


class CpuacctV2(Controller):
    """usage_usec of cpu.stat, which is there whether the cpu controller is enabled or not."""

    __slots__ = ()

    name = "cpuacct"
    core = True

    def stats(self, directory: str) -> Figures:
        """See `Controller.stats`."""
        return {"cpu_seconds": read_flat(f"{directory}/cpu.stat").get("usage_usec", 0) / 1e6}
