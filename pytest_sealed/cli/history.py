"""`sealed history`: what each layer of an image is."""

from __future__ import annotations

import argparse
import json
from typing import Any

from pytest_sealed.cli.text import printable
from pytest_sealed.images.layers import Chain
from pytest_sealed.images.store import Store

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Add `history` to the commands."""
    parser = subparsers.add_parser("history", help="show what each layer of an image is", description=(
        "List an image's layers, the lowest first, with their sizes and what they were made by, as far as whoever made them says so."))
    parser.add_argument("image", metavar="IMAGE")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print a line for each layer and for each step that left none."""
    store = Store()
    rows = _rows(store, args.image)
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    print(f"{'LAYER':12}  {'SIZE':>10}  MADE BY")
    for row in rows:
        size = f"{row['size'] / 1e6:.1f} MB" if row["layer"] else "-"
        made_by = printable(" ".join(str(row["made_by"] or "(not said)").split()))
        print(f"{row['layer'].removeprefix('sha256:')[:12] or '-':12}  {size:>10}  {made_by}")
    return 0


def _rows(store: Store, reference: str) -> list[dict[str, Any]]:
    config = json.loads(store.documents(reference)[2])
    chain = Chain.of(config)
    told = config.get("history")
    history = [row if isinstance(row, dict) else {} for row in told] if isinstance(told, list) else []
    if sum(not row.get("empty_layer") for row in history) != len(chain.ids):   # optional, and not checked by anyone
        history = [{} for _ in chain.ids]
    layers = iter(zip(chain.diff_ids, chain.ids, strict=True))
    found = []
    for row in history:
        diff_id, one = ("", "") if row.get("empty_layer") else next(layers)
        found.append({"layer": diff_id, "size": store.layers.size(one) if one else 0, "made_by": str(row.get("created_by") or ""),
                      "created": str(row.get("created") or ""), "comment": str(row.get("comment") or "")})
    return found
