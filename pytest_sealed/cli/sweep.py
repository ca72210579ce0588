"""`sealed sweep`: remove what sessions that were killed left behind."""

from __future__ import annotations

import argparse
from typing import Any

from pytest_sealed.images.store import Store
from pytest_sealed.runtime.sweep import sweep

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Add `sweep` to the commands."""
    subparsers.add_parser("sweep", help="remove what killed sessions left behind (every session does so at its start)")


def run(args: argparse.Namespace) -> int:
    """Sweep, and say what was removed."""
    store = Store()
    snapshots = [f"snapshot {name}" for name in store.forget_snapshots()]
    if snapshots:
        store.try_prune()
    for line in sweep() + snapshots or ["nothing was left behind"]:
        print(line)
    return 0
