"""Removes folders whose files belong to containers' ids. Runs in U0, see `launch.run_inside`."""

from __future__ import annotations

from pytest_sealed.runtime.scratch import remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def main(payload: dict[str, Any]) -> dict[str, Any]:
    """Remove `payload["paths"]`."""
    for path in payload["paths"]:
        remove_tree(path)
    return {}
