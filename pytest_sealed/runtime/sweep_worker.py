"""Removes folders and cgroups that belong to containers' ids. Runs in U0, see `launch.run_inside`."""

from __future__ import annotations

from pytest_sealed.runtime.cgroups import Hierarchy, remove_session
from pytest_sealed.runtime.scratch import remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def main(payload: dict[str, Any]) -> dict[str, Any]:
    """Remove `payload["paths"]`, and of `payload["cgroups"]`, a hierarchy, a session and a flag, what `remove_session` removes."""
    for path in payload["paths"]:
        remove_tree(path)
    removed = True
    if payload.get("cgroups"):
        hierarchy, session, kill = payload["cgroups"]
        removed = remove_session(Hierarchy.from_json(hierarchy), session, kill=kill)
    return {"removed": removed}
