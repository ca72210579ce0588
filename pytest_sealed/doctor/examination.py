"""All checks, in an order in which each explains what the later ones lack, and the answer to the one question."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from pytest_sealed.doctor.finding import Finding, Remedy
from pytest_sealed.doctor.host import Host, find_host
from pytest_sealed.errors import no_linux

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["SCHEMA", "Examination", "examine"]

SCHEMA = 1
"""Version of the JSON form."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What `examine` found."""

    host: Host
    findings: tuple[Finding, ...]

    @property
    def can_run(self) -> bool:
        """Whether containers can run: one was started, as far as its command."""
        return any(finding.check == "containers" and finding.ok for finding in self.findings)

    @property
    def verdict(self) -> str:
        """One sentence."""
        if not self.can_run:
            return "Containers can't run here."
        if all(finding.ok for finding in self.findings):
            return "Containers can run here, with everything."
        return "Containers can run here, without what is said above."

    def short(self) -> str:
        """Return the lines that aren't ok, for a failure report; the verdict alone where all are."""
        width = max((len(finding.check) for finding in self.findings if not finding.ok), default=0)
        lines = [line for finding in self.findings if not finding.ok for line in finding.render(width)]
        return "\n".join([*lines, self.verdict])

    def report(self) -> str:
        """Return all of it for people."""
        host = self.host
        width = max(len(finding.check) for finding in self.findings)
        head = f"{host.name}, Linux {host.kernel}, Python {platform.python_version()}, as {host.account}"
        return "\n".join([head, *(line for finding in self.findings for line in finding.render(width)), self.verdict])

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values; see docs/reference/doctor.md."""
        host = self.host
        return {
            "schema": SCHEMA, "can_run": self.can_run, "verdict": self.verdict,
            "host": {"name": host.name, "kernel": host.kernel, "python": platform.python_version(), "account": host.account,
                     "uid": host.uid, "place": host.place, "systemd": host.systemd},
            "findings": [finding.to_json() for finding in self.findings],
        }

    def script(self) -> str:
        """Return a shell script of the remedies' commands, for reading and running; what no command can do is a comment."""
        lines = ["#!/bin/sh", f"# What `sealed doctor` would have done on {self.host.name} for {self.host.account}.", "set -eu"]
        said: set[str] = set()
        for finding in self.findings:
            if finding.ok:
                continue
            lines += ["", f"# {finding.check}: {finding.found}"]
            if finding.remedy.text:
                lines.append(f"# {finding.remedy.text}")
            for command in finding.remedy.commands:
                lines.append(f"# (as above: {command})" if command in said else command)
                said.add(command)
        if not said:
            lines += ["", "# There is nothing that a command could mend."]
        return "\n".join(lines) + "\n"


def examine(store: Path | None = None, *, host: Host | None = None) -> Examination:
    """Try everything that containers need, and return what came of it. Takes about a second; leaves nothing behind.

    Args:
        store: folder of the image store; by default the account's.
    """
    host = host or find_host()
    absent = no_linux()
    if absent is not None:
        finding = Finding(check="containers", state="missing", found=absent.message, effect="no container can be started",
                          remedy=Remedy(text=absent.remedy))
        return Examination(host=host, findings=(finding,))
    return Examination(host=host, findings=tuple(_findings(host, store)))


def _findings(host: Host, store: Path | None) -> Iterator[Finding]:
    from pytest_sealed.doctor import budgets, container, folders, ids, limits, namespaces, network, overlay
    from pytest_sealed.images.folders import default_root
    root = store or default_root()
    yield from _guarded("folders", lambda: folders.check(host, root))
    tried = namespaces.try_inside(root)
    for name, check in (
        ("namespaces", lambda: namespaces.check(host, tried)), ("ids", lambda: ids.check(host, tried)),
        ("writable layers", lambda: overlay.check(host, tried, root)), ("limits", lambda: limits.check(host)),
        ("networks", lambda: network.check(host, tried)), ("network faults", lambda: network.check_faults(host, tried)),
        ("budgets", lambda: budgets.check(host, tried)), ("containers", lambda: container.check(root, explained=tried.error is not None)),
    ):
        yield from _guarded(name, check)


def _guarded(name: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Let a check that fails itself be a finding: the others may say why."""
    try:
        yield from check()
    except Exception as error:
        yield Finding(check=name, state="missing", found=f"the check itself failed: {type(error).__name__}: {error}",
                      effect="nothing is known of it",
                      remedy=Remedy(text="this is a bug of pytest-sealed: please report it with this text"))
