"""`sealed inspect`: all that the store knows of an image, as JSON."""

from __future__ import annotations

import argparse
import json
from typing import Any

from pytest_sealed.images.layers import Chain
from pytest_sealed.images.prune import shared_sizes
from pytest_sealed.images.store import Store

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Add `inspect` to the commands."""
    parser = subparsers.add_parser("inspect", help="show all that is known of images", description=(
        "Print what the store knows of images as a JSON list: digests, layers, where they came from, and the configuration as in the "
        "OCI image specification."))
    parser.add_argument("images", nargs="+", metavar="IMAGE")


def run(args: argparse.Namespace) -> int:
    """Print an object for each image."""
    store = Store()
    print(json.dumps([_facts(store, reference) for reference in args.images], indent=2))
    return 0


def _facts(store: Store, reference: str) -> dict[str, Any]:
    image = store.get(reference)
    record = store.records.get(image.reference)
    _, manifest, config = store.documents(image.reference)
    body, rows = json.loads(config), json.loads(manifest)
    chain = Chain.of(body)
    layers = [{"diff_id": diff_id, "chain_id": one, "size": store.layers.size(one), "path": str(store.layers.path(one)),
               "digest": row["digest"]} for diff_id, one, row in zip(chain.diff_ids, chain.ids, rows["layers"], strict=True)]
    return {
        "reference": image.reference, "names": [name for name in store.names() if store.digest(name) == image.digest],
        "digest": image.digest, "index": record.get("index", ""), "config_digest": rows["config"]["digest"],
        "platform": "/".join(str(body[key]) for key in ("os", "architecture", "variant") if body.get(key)),
        "created": image.created, "used": store.used(image), "in_use": store.in_use(image.digest), "source": image.source,
        "size": image.size, "shared_size": shared_sizes(store, [*store.images(), image])[image.reference],
        "layers": layers, "config": body.get("config") or {}, "history": body.get("history") or [],
    }
