"""`sealed diff`: what is different in another image."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

from pytest_sealed.cli.text import printable
from pytest_sealed.images.store import Image, Store
from pytest_sealed.images.streams import rows_of

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Add `diff` to the commands."""
    parser = subparsers.add_parser("diff", help="show what is different in another image", description=(
        "List what containers of the second image see otherwise than those of the first: A added, C changed (and what of it), D deleted. "
        "Times don't count. Returns 0 whether or not there is a difference."))
    parser.add_argument("first", metavar="IMAGE")
    parser.add_argument("second", metavar="IMAGE")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print a line for each difference of the configurations, then of the files."""
    store = Store()
    first, second = store.get(args.first), store.get(args.second)
    settings, rows = _settings(first, second), _files(store, first, second)
    if args.json:
        print(json.dumps({"config": settings, "files": [{"kind": letter, "path": path, "changed": changed}
                                                        for letter, path, changed in rows]}, indent=2))
        return 0
    for name, (old, new) in settings.items():
        print(printable(f"C config {name}: {old} → {new}"))
    for letter, path, changed in rows:
        print(printable(f"{letter} {path}" + (f"  ({'; '.join(changed)})" if changed else "")))
    return 0


def _settings(first: Image, second: Image) -> dict[str, tuple[str, str]]:
    fields = [field.name for field in dataclasses.fields(first.config)]
    pairs = {name: (getattr(first.config, name), getattr(second.config, name)) for name in fields}
    return {name: (str(old), str(new)) for name, (old, new) in pairs.items() if old != new}


def _files(store: Store, first: Image, second: Image) -> list[tuple[str, str, list[str]]]:
    if first.layers == second.layers:
        return []
    stacks = [[str(path) for path in reversed(image.layers)] for image in (first, second)]
    with store.lease(first), store.lease(second), store.folders.workspace() as work:
        payload = {"images": stacks, "work": str(work)}
        return [tuple(row) for row in rows_of("pytest_sealed.images.merged", payload, store.folders.ids)]
