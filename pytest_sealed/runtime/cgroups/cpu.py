"""The cpu controller: a quota of CPU time, a weight against others, and how often the quota was used up.

See the kernel's scheduler/sched-bwc.rst and admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import os

from pytest_sealed.runtime.cgroups.controller import Controller, Figures, LimitValues, Setting
from pytest_sealed.runtime.cgroups.files import read_flat, read_number

__all__ = ["PERIOD", "CpuV1", "CpuV2", "weight_from_shares"]

PERIOD = 100_000
"""Microseconds; the kernel's default, and Docker's."""


def weight_from_shares(shares: int) -> int:
    """Return cgroup v2's cpu.weight (1 to 10000) for v1's cpu.shares (2 to 262144); 1024 becomes the default, 100.

    In proportion, so that four times the shares are four times the time on either version. The curves of other runtimes map the
    whole of one range to the whole of the other instead: 1024 against 256 would be 2.9 : 1. Here it is the ends that are cut:
    below 10 and above 102400 shares the proportion is lost.
    """
    return min(10000, max(1, round(shares * 100 / 1024)))


def _quota(cpus: int | float) -> int:
    return round(float(cpus) * PERIOD)


class _Cpu(Controller):
    __slots__ = ()

    name = "cpu"
    limits = ("cpus", "cpu_shares")


class CpuV1(_Cpu):
    """cpu.cfs_quota_us and cpu.shares."""

    __slots__ = ()

    def settings(self, limits: LimitValues) -> list[Setting]:
        """See `Controller.settings`."""
        cpus, shares = limits.get("cpus"), limits.get("cpu_shares")
        settings = []
        if cpus is not None:
            settings.append(Setting("cpu.cfs_period_us", PERIOD, f"cpus={cpus}"))
            settings.append(Setting("cpu.cfs_quota_us", _quota(cpus), f"cpus={cpus}"))
        if shares is not None:
            settings.append(Setting("cpu.shares", int(shares), f"cpu_shares={shares}"))
        return settings

    def instead(self, setting: Setting, directory: str) -> Setting | None:
        """See `Controller.instead`. v1 refuses a quota above an ancestor's (EINVAL), where v2 lets the lower one rule."""
        if setting.file != "cpu.cfs_quota_us":
            return None
        quota = lowest = int(setting.value)
        while (directory := os.path.dirname(directory)) and (period := read_number(f"{directory}/cpu.cfs_period_us")):
            ancestor = read_number(f"{directory}/cpu.cfs_quota_us") or -1
            if ancestor > 0:
                lowest = min(lowest, ancestor * PERIOD // period)
        return Setting(setting.file, lowest, setting.limit) if lowest < quota else None

    def stats(self, directory: str) -> Figures:
        """See `Controller.stats`."""
        stat = read_flat(f"{directory}/cpu.stat")
        return {
            "periods": stat.get("nr_periods", 0),
            "throttled_periods": stat.get("nr_throttled", 0),
            "throttled_seconds": stat.get("throttled_time", 0) / 1e9,
        }


class CpuV2(_Cpu):
    """cpu.max and cpu.weight."""

    __slots__ = ()

    def settings(self, limits: LimitValues) -> list[Setting]:
        """See `Controller.settings`."""
        cpus, shares = limits.get("cpus"), limits.get("cpu_shares")
        settings = []
        if cpus is not None:
            settings.append(Setting("cpu.max", f"{_quota(cpus)} {PERIOD}", f"cpus={cpus}"))
        if shares is not None:
            settings.append(Setting("cpu.weight", weight_from_shares(int(shares)), f"cpu_shares={shares}"))
        return settings

    def stats(self, directory: str) -> Figures:
        """See `Controller.stats`."""
        stat = read_flat(f"{directory}/cpu.stat")
        return {
            "periods": stat.get("nr_periods", 0),
            "throttled_periods": stat.get("nr_throttled", 0),
            "throttled_seconds": stat.get("throttled_usec", 0) / 1e6,
        }
