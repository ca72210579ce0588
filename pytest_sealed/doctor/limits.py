"""Which limits can be enforced: each is written into a cgroup of its own, in the way a session would have it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pytest_sealed.doctor.finding import Finding, Remedy
from pytest_sealed.runtime.cgroups import Hierarchy, detect, scope
from pytest_sealed.runtime.cgroups.trial import LIMITS
from pytest_sealed.runtime.launch import ScopeUnavailable, try_limits

if TYPE_CHECKING:
    from pytest_sealed.doctor.host import Host

__all__ = ["check", "tried_limits"]

_EFFECTS = {
    "memory": "memory= is refused", "swap": "swap= is refused", "cpus": "cpus= is refused", "cpu_shares": "cpu_shares= is refused",
    "pids": "pids= is refused, and a fork bomb isn't stopped", "pause": "pause() is refused",
}


def tried_limits() -> tuple[dict[str, list[str]], Hierarchy, str]:
    """Try every limit; return option → [] or [why not, the remedy], where, and what went wrong with systemd if anything did."""
    found, manager = detect(), None
    if scope.may_help(found):
        manager = scope.user_manager()
    if manager is not None:
        try:
            answer = try_limits(manager)
            return answer["limits"], Hierarchy.from_json(answer["hierarchy"]), ""
        except ScopeUnavailable as error:
            answer = try_limits()
            return answer["limits"], Hierarchy.from_json(answer["hierarchy"]), str(error)
    answer = try_limits()
    return answer["limits"], Hierarchy.from_json(answer["hierarchy"]), ""


def check(host: Host) -> Iterator[Finding]:
    """Say which limits were written, and where."""
    found, hierarchy, failed = tried_limits()
    refused = {name: answer for name, answer in found.items() if answer}
    works = [name for name in LIMITS if name not in refused]
    scoped = scope.may_help(detect()) and bool(hierarchy.bases)
    where = {"v1": "cgroup v1", "hybrid": "cgroup v1 (hybrid)", "v2": "cgroup v2", "none": "no cgroups"}[hierarchy.kind]
    where += ", in a scope of systemd's" if scoped else f", below {next(iter(hierarchy.bases.values()))}" if hierarchy.bases else ""
    if works:
        yield Finding(check="limits", state="ok", found=f"{', '.join(works)} can be set ({where})")
    for (reason, remedy), names in _together(refused).items():
        text = f"systemd gave no scope: {failed}; {reason}" if failed else reason
        yield Finding(check="limits" if "memory" in names else f"limits: {', '.join(names)}",
                      state="degraded" if names == ["swap"] or names == ["pause"] else "missing", found=text,
                      effect="; ".join(_EFFECTS[name] for name in names), remedy=_remedy(host, hierarchy, remedy),
                      page="how-to/hosts/systemd.md" if hierarchy.version == "v2" else "how-to/hosts/cgroup-v1.md")


def _together(refused: dict[str, list[str]]) -> dict[tuple[str, str], list[str]]:
    """Return (reason, remedy) → the limits that it is the reason of; what differs by the limit's name only is one reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, (reason, remedy) in refused.items():
        found.setdefault((reason.partition(" can't be enforced: ")[2] or reason, remedy), []).append(name)
    return found


def _remedy(host: Host, hierarchy: Hierarchy, remedy: str) -> Remedy:
    if hierarchy.version == "v2" and host.uid != 0 and not hierarchy.bases:
        return _manager(host)
    if not remedy:
        return Remedy()
    if host.uid == 0:
        remedy = remedy.removeprefix("sudo ")
    is_command = remedy.startswith(("sudo ", "mkdir ", "mount ")) and "; then" not in remedy
    return Remedy(commands=(remedy,)) if is_command else Remedy(text=remedy)


def _manager(host: Host) -> Remedy:
    """Return how an ordinary account gets a user manager that gives it scopes."""
    if not host.systemd:
        return Remedy(text="nothing here delegates cgroups: start pytest as root, or in a cgroup that was given to this account "
                           "(chown of the directory, cgroup.procs and cgroup.subtree_control)")
    commands = [host.sudo(f"loginctl enable-linger {host.account}")]
    bus = host.install("user bus")
    return Remedy(commands=(*filter(None, [bus]), *commands), text="then run the tests again: sessions get a scope from the user manager "
                  "by themselves. By hand: systemd-run --user --scope -p Delegate=yes pytest")


