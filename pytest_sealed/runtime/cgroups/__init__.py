"""Limits and figures: cgroups v1 (hybrid too) and v2 behind one interface, a file per controller.

`detect()` says where this account may make cgroups (in the host's namespaces), `Group.create()` makes a
container's with its limits. A limit that can't be enforced is refused with the remedy, never skipped.
See cgroups(7).
"""

from __future__ import annotations

from pytest_sealed.runtime.cgroups.detection import detect, remove_dead_probes
from pytest_sealed.runtime.cgroups.group import Group, leftovers, remove_session
from pytest_sealed.runtime.cgroups.hierarchy import Hierarchy, Refusal

__all__ = ["Group", "Hierarchy", "Refusal", "detect", "leftovers", "remove_dead_probes", "remove_session"]
