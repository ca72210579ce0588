"""Where this account may make cgroups: the answer of `detect`, in a form that can be sent to the supervisor."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pytest_sealed.errors import LimitUnavailable
from pytest_sealed.runtime.cgroups.cpu import CpuV1, CpuV2
from pytest_sealed.runtime.cgroups.cpuacct import CpuacctV1, CpuacctV2
from pytest_sealed.runtime.cgroups.files import read, write
from pytest_sealed.runtime.cgroups.freezer import FreezerV1, FreezerV2
from pytest_sealed.runtime.cgroups.memory import MemoryV1, MemoryV2
from pytest_sealed.runtime.cgroups.pids import Pids

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from pytest_sealed.runtime.cgroups.controller import Controller

__all__ = ["CONTROLLERS", "LEAF", "SYSTEMD_RUN", "UNDELEGATED", "Hierarchy", "Refusal", "enable"]

CONTROLLERS: dict[str, tuple[Controller, ...]] = {
    "v1": (MemoryV1(), CpuV1(), CpuacctV1(), Pids(), FreezerV1()),
    "hybrid": (MemoryV1(), CpuV1(), CpuacctV1(), Pids(), FreezerV2()),
    "v2": (MemoryV2(), CpuV2(), CpuacctV2(), Pids(), FreezerV2()),
    "none": (MemoryV2(), CpuV2(), CpuacctV2(), Pids(), FreezerV2()),
}
"""Kind of host → its controllers. Hybrid: v1's, and a v2 tree without controllers beside them."""

LEAF = "sealed.leaf"
"""The v2 cgroup that pytest moves to. Not `sealed-…`: those are sessions."""

SYSTEMD_RUN = "systemd-run --user --scope -p Delegate=yes pytest …"
"""The remedy where pytest's own v2 cgroup isn't its to divide."""

UNDELEGATED = ("nothing here delegates cgroups: run as root, or give this account a cgroup (chown its directory, cgroup.procs and "
               "cgroup.subtree_control) and start pytest in it")
"""The remedy where systemd isn't there to delegate."""

_ROUNDS = 20   # of moving processes out of an inner node, while they fork


class Refusal:
    """Why a controller can't be used, and what mends it."""

    __slots__ = ("reason", "remedy")

    def __init__(self, reason: str, remedy: str) -> None:
        self.reason = reason
        self.remedy = remedy

    def __repr__(self) -> str:
        return f"Refusal({self.reason!r}, {self.remedy!r})"


class Hierarchy:
    """The version of the host's cgroups, and per controller the directory to work in or the refusal."""

    __slots__ = ("bases", "kind", "needs_leaf", "refusals")

    def __init__(self, kind: str, bases: Mapping[str, str], refusals: Mapping[str, Refusal], *,
                 needs_leaf: bool = False) -> None:
        self.kind = kind
        """`v1`, `hybrid`, `v2` or `none`."""
        self.bases = dict(bases)
        """Controller → the directory in which this account makes cgroups."""
        self.refusals = dict(refusals)
        self.needs_leaf = needs_leaf
        """v2: `enter_leaf` must be called before controllers can be enabled."""

    @property
    def version(self) -> str:
        """The interface of the limits: `v1`, `v2` or `none`."""
        return "v1" if self.kind == "hybrid" else self.kind

    @property
    def title(self) -> str:
        """The kind in words: `cgroup v1`, `cgroup v1 (hybrid)`, `cgroup v2` or `no cgroups`."""
        return {"none": "no cgroups", "hybrid": "cgroup v1 (hybrid)"}.get(self.kind, f"cgroup {self.kind}")

    @property
    def controllers(self) -> tuple[Controller, ...]:
        """All controllers of this kind of host, usable or not."""
        return CONTROLLERS[self.kind]

    def to_enable(self) -> list[str]:
        """Return the usable controllers that v2 has to be told to hand on."""
        return [controller.name for controller in self.controllers if controller.name in self.bases and not controller.core]

    def describe(self) -> str:
        """Return one line for a header, such as `cgroup v1 (hybrid): memory, cpu, cpuacct, pids, freezer`."""
        if self.version == "none":
            return self.title
        return f"{self.title}: {', '.join(self.bases) or 'no controller that this account may use'}"

    def require(self, controller: str, what: str) -> str:
        """Return the base directory of `controller`.

        Raises:
            LimitUnavailable: it can't be used; says that `what` needs it, why not, and the remedy.
        """
        if controller not in self.bases:
            refusal = self.refusals.get(controller) or Refusal("this host has no cgroups", "")
            raise LimitUnavailable(f"{what} can't be enforced: {refusal.reason}", remedy=refusal.remedy)
        return self.bases[controller]

    def replace_remedy(self, remedy: str, by: str) -> None:
        """Say anew what mends it that controllers can't be used, where that was `remedy`."""
        self.refusals = {name: Refusal(refusal.reason, by) if refusal.remedy == remedy else refusal
                         for name, refusal in self.refusals.items()}

    def refuse_all(self, reason: str, remedy: str) -> None:
        """Say anew why no controller can be used."""
        self.bases, self.refusals = {}, {controller.name: Refusal(reason, remedy) for controller in self.controllers}

    def enter_leaf(self, pid: int = 0) -> str | None:
        """Move `pid` (0: the caller), and whatever else sits in the v2 base, to a leaf below; then enable the controllers.

        A v2 cgroup that hands controllers to its children may hold no process ("no internal processes", cgroups(7)).
        To be called in the host's PID namespace: from inside another, processes outside it can't be named. Where a process
        can't be moved, those controllers become refusals: limits fail when they are asked for.

        Returns:
            The leaf's directory, or None where nothing has moved.
        """
        if not self.needs_leaf:
            return None
        base = next(iter(self.bases.values()))
        leaf = f"{base}/{LEAF}"
        try:
            os.makedirs(leaf, exist_ok=True)
            write(f"{leaf}/cgroup.procs", str(pid))
            _empty(base, leaf)
            enable(base, self.to_enable())
            return leaf
        except OSError as error:
            refusal = Refusal(f"pytest's cgroup {base} can't be made an inner node ({error})", SYSTEMD_RUN)
            for name in self.to_enable():
                del self.bases[name]
                self.refusals[name] = refusal
            return None
        finally:
            self.needs_leaf = False

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {
            "kind": self.kind,
            "bases": self.bases,
            "refusals": {name: [refusal.reason, refusal.remedy] for name, refusal in self.refusals.items()},
            "needs_leaf": self.needs_leaf,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Hierarchy:
        """Return what `to_json` was called on."""
        refusals = {name: Refusal(*pair) for name, pair in value["refusals"].items()}
        return cls(value["kind"], value["bases"], refusals, needs_leaf=value["needs_leaf"])


def enable(directory: str, controllers: Iterable[str]) -> None:
    """Hand `controllers` on to the children of the v2 cgroup `directory`. Raises `OSError`; EBUSY: a process sits in it."""
    enabled = (read(f"{directory}/cgroup.subtree_control") or "").split()
    missing = [name for name in controllers if name not in enabled]
    if missing:
        write(f"{directory}/cgroup.subtree_control", " ".join(f"+{name}" for name in missing))


def _empty(base: str, leaf: str) -> None:
    for _ in range(_ROUNDS):
        pids = (read(f"{base}/cgroup.procs") or "").split()
        if not pids:
            return
        for pid in pids:
            try:
                write(f"{leaf}/cgroup.procs", pid)
            except ProcessLookupError:  # it has ended
                continue
