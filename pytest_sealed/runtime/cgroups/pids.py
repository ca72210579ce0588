"""The pids controller: how many processes and threads. The same files in both versions."""

from __future__ import annotations

from pytest_sealed.runtime.cgroups.controller import Controller, Figures, LimitValues, Setting
from pytest_sealed.runtime.cgroups.files import read_number

__all__ = ["Pids"]


class Pids(Controller):
    """pids.max."""

    __slots__ = ()

    name = "pids"
    limits = ("pids",)

    def asked(self, limits: LimitValues) -> list[str]:
        """See `Controller.asked`. A default limit was not asked for, and is left out where it can't be enforced."""
        return super().asked(limits) if limits.get("pids_required", True) else []

    def settings(self, limits: LimitValues) -> list[Setting]:
        """See `Controller.settings`."""
        pids = limits.get("pids")
        return [] if pids is None else [Setting("pids.max", int(pids), f"pids={pids}")]

    def stats(self, directory: str) -> Figures:
        """See `Controller.stats`. pids.peak is new in Linux 6.1 (v2)."""
        return {
            "pids_current": read_number(f"{directory}/pids.current"),
            "pids_peak": read_number(f"{directory}/pids.peak"),
            "pids_limit": read_number(f"{directory}/pids.max"),
        }
