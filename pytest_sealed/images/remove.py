"""Runs inside U0: removes folders of the store, whose files belong to containers' ids. See `launch.run_inside`."""

from __future__ import annotations

from typing import Any

from pytest_sealed.images.apply import remove

__all__ = ["main"]


def main(payload: dict[str, Any]) -> dict[str, Any]:
    """Remove every path of `paths`."""
    for path in payload["paths"]:
        remove(path)
    return {}
