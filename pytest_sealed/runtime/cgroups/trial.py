"""Tries every limit in cgroups of its own. As a program it prints what came of it, as JSON.

A program of its own (`python -I -S`), since it may have to be started in a systemd scope, and on cgroup v2 has to move to a leaf.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))))

from pytest_sealed.errors import HostUnsupported
from pytest_sealed.runtime.cgroups import Group, Hierarchy, detect, remove_session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_sealed.runtime.cgroups.controller import LimitValues

__all__ = ["LIMITS", "try_limits"]

_MEMORY = 64 << 20
LIMITS: dict[str, LimitValues] = {
    "memory": {"memory": _MEMORY}, "swap": {"memory": _MEMORY, "swap": _MEMORY}, "cpus": {"cpus": 0.5}, "cpu_shares": {"cpu_shares": 512},
    "pids": {"pids": 64},
}
"""The option of a container → limits that try it."""


def try_limits(hierarchy: Hierarchy) -> dict[str, list[str]]:
    """Write each limit into a new cgroup, and pause it; return option (or "pause") → [] or [why not, the remedy]."""
    session = f"{os.getpid()}-{os.urandom(4).hex()}"
    found = {}
    try:
        for name, limits in LIMITS.items():
            found[name] = _tried(hierarchy, session, name, limits)
        found["pause"] = _tried(hierarchy, session, "pause", {}, pause=True)
    finally:
        remove_session(hierarchy, session)
    return found


def _tried(hierarchy: Hierarchy, session: str, name: str, limits: LimitValues, *, pause: bool = False) -> list[str]:
    try:
        group = Group.create(hierarchy, session, name, limits)
        try:
            if pause:
                group.freeze()
                group.thaw()
        finally:
            group.remove()
    except HostUnsupported as error:
        return [error.message, error.remedy]
    except OSError as error:
        return [str(error), ""]
    return []


def main() -> dict[str, Any]:
    hierarchy = detect()
    hierarchy.enter_leaf()
    return {"hierarchy": hierarchy.to_json(), "limits": try_limits(hierarchy)}


if __name__ == "__main__":
    import json
    sys.stdout.write(json.dumps(main()))
