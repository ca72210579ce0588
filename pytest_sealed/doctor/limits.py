"""Which limits can be enforced: each is written into a cgroup of its own, in the way a session would have it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from pytest_sealed.doctor.finding import Finding, Remedy
from pytest_sealed.runtime.cgroups import Hierarchy, detect, scope
from pytest_sealed.runtime.cgroups.hierarchy import UNDELEGATED
from pytest_sealed.runtime.cgroups.trial import LIMITS
from pytest_sealed.runtime.launch import ScopeUnavailable, try_limits

if TYPE_CHECKING:
    from pytest_sealed.doctor.host import Host

__all__ = ["Answers", "check"]

_USER_BUS = ("/usr/lib/systemd/user/dbus.socket", "/lib/systemd/user/dbus.socket")

_EFFECTS = {
    "memory": "memory= is refused", "swap": "swap= is refused", "cpus": "cpus= is refused", "cpu_shares": "cpu_shares= is refused",
    "pids": "pids= is refused, and nothing stops a fork bomb", "pause": "pause() is refused",
}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What came of trying every limit."""

    refused: dict[str, tuple[str, str]]
    """The option of a container (or "pause") → why not, and the runtime's remedy; those that work are missing."""
    hierarchy: Hierarchy
    scoped: bool = False
    """Whether it was tried in a scope of systemd's."""
    scope_failed: str = ""
    """What systemd said instead of giving a scope."""

    @classmethod
    def get(cls) -> Answers:
        """Try them, where a session would have its cgroups."""
        manager = scope.manager_for(detect())
        failed = ""
        if manager is not None:
            try:
                return cls._of(try_limits(manager), scoped=True)
            except ScopeUnavailable as error:
                failed = str(error)
        return cls._of(try_limits(), scope_failed=failed)

    @classmethod
    def _of(cls, answer: dict[str, dict[str, list[str]]], *, scoped: bool = False, scope_failed: str = "") -> Answers:
        refused = {name: (pair[0], pair[1]) for name, pair in answer["limits"].items() if pair}
        return cls(refused=refused, hierarchy=Hierarchy.from_json(answer["hierarchy"]), scoped=scoped, scope_failed=scope_failed)

    @property
    def where(self) -> str:
        """Which cgroups a session has."""
        kind = self.hierarchy.title
        if self.scoped:
            return f"{kind}, in a scope that systemd gives"
        return f"{kind}, below {next(iter(self.hierarchy.bases.values()))}" if self.hierarchy.bases else kind

    def findings(self, host: Host, names: Iterable[str]) -> list[Finding]:
        """Return one for each remedy that some of `names` want."""
        page = "how-to/hosts/containers.md" if host.place == "container" else (
            "how-to/hosts/systemd.md" if self.hierarchy.version == "v2" else "how-to/hosts/cgroup-v1.md")
        made = []
        for alike in self._by_remedy(names).values():
            reasons = list(dict.fromkeys(self._reason(name) for name in alike))
            more = f", and {len(reasons) - 1} more like it" if len(reasons) > 1 else ""
            made.append(Finding(
                check="limits" if {"memory", "cpus", "pids"} <= set(alike) else f"limit {', '.join(alike)}",
                state="degraded" if set(alike) <= {"swap", "pause"} else "missing",
                found=f"systemd gave no scope: {self.scope_failed}; " * bool(self.scope_failed) + reasons[0] + more,
                effect="; ".join(_EFFECTS[name] for name in alike), page=page,
                remedy=_remedy(host, self.hierarchy, self.refused[alike[0]][1])))
        return made

    def _reason(self, name: str) -> str:
        reason = self.refused[name][0]
        return reason.partition(" can't be enforced: ")[2] or reason   # what is refused is said by the effect

    def _by_remedy(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Return remedy → the limits that want it; where there is none, each reason stands for itself."""
        found: dict[str, list[str]] = {}
        for name in names:
            if name in self.refused:
                reason, remedy = self.refused[name]
                found.setdefault(remedy or reason, []).append(name)
        return found


def check(host: Host) -> Iterator[Finding]:
    """Say which limits were written, and where."""
    answers = Answers.get()
    works = [name for name in LIMITS if name not in answers.refused]
    if works:
        yield Finding(check="limits", state="ok", found=f"{', '.join(works)} can be set ({answers.where})")
    yield from answers.findings(host, _EFFECTS)


def _remedy(host: Host, hierarchy: Hierarchy, remedy: str) -> Remedy:
    if hierarchy.version == "v2" and host.uid != 0 and not hierarchy.bases:
        return _manager(host)
    if not remedy or remedy == "sealed doctor":
        return Remedy()
    if host.uid == 0:
        remedy = remedy.removeprefix("sudo ")
        if remedy.endswith(" delegate"):   # which is for other accounts
            return Remedy(text="the cgroup file systems that are mounted here don't show this process's own cgroup: mount them anew, or "
                               "start whatever this runs in with the host's (--cgroupns=host)")
    is_command = remedy.startswith(("sudo ", "mkdir ", "mount ")) and "; then" not in remedy
    return Remedy(commands=(remedy,)) if is_command else Remedy(text=remedy)


def _manager(host: Host) -> Remedy:
    """Return how an ordinary account gets a user manager that gives it scopes."""
    if not host.systemd:
        return Remedy(text=UNDELEGATED)
    bus = host.install("user bus") if not any(map(os.path.exists, _USER_BUS)) else ""
    return Remedy(commands=(*filter(None, [bus]), host.sudo(f"loginctl enable-linger {host.account}")),
                  text="then run the tests again: sessions get a scope from the user manager by themselves")
