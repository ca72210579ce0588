"""What a suite can require of its host, a word for each, tried as the doctor tries it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_sealed.doctor import container, ids, limits, namespaces, network, overlay
from pytest_sealed.doctor.host import find_host

if TYPE_CHECKING:
    from pytest_sealed.doctor.finding import Finding

__all__ = ["WORDS", "unmet"]

_LIMITS = {"limits": ("memory", "cpus", "cpu_shares", "pids"), "memory": ("memory",), "swap": ("swap",), "cpus": ("cpus",),
           "cpu_shares": ("cpu_shares",), "pids": ("pids",), "pause": ("pause",)}

WORDS: dict[str, str] = {
    "containers": "a container can be started",
    "limits": "memory, cpus, cpu_shares and pids can all be limited",
    "memory": "memory= is enforced",
    "swap": "swap= is enforced",
    "cpus": "cpus= is enforced",
    "cpu_shares": "cpu_shares= is enforced",
    "pids": "pids= is enforced",
    "pause": "pause() works",
    "subuid": "containers have a range of ids (not single-id mode)",
    "tmpfs": "writable layers are in memory",
    "overlay": "images are not copied for each container",
    "network": "containers can be on a network",
    "netem": "delay and loss can be put on a network",
}
"""Word → what it stands for."""


def unmet(words: list[str], store: Path | None = None) -> dict[str, list[Finding]]:
    """Return word → the findings that speak against it, of those words that are not met. Tries only what is asked for."""
    from pytest_sealed.images.folders import default_root
    host, root = find_host(), store or default_root()
    found: dict[str, list[Finding]] = {}
    if not set(words).isdisjoint(_LIMITS):
        answers = limits.Answers.get()
        found.update({word: answers.findings(host, _LIMITS[word]) for word in words if word in _LIMITS})
    if "containers" in words:
        found["containers"] = list(container.check(root))
    if not set(words).isdisjoint(("subuid", "tmpfs", "overlay", "network", "netem")):
        tried = namespaces.try_inside(root)
        refused = [finding for finding in namespaces.check(host, tried) if not finding.ok] if tried.error is not None else []
        checks = {
            "subuid": ids.check(host, tried), "tmpfs": overlay.check_memory(host, tried, root),
            "overlay": overlay.check_no_copies(host, tried, root), "network": network.check(host, tried),
            "netem": network.check_faults(host, tried),
        }
        for word, findings in checks.items():
            if word in words:
                found[word] = [*refused, *findings]
    bad = {word: [finding for finding in findings if not finding.ok] for word, findings in found.items()}
    return {word: findings for word, findings in bad.items() if findings}
