"""`sealed images`: what the store holds."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from pytest_sealed.images.finder import recipe_names
from pytest_sealed.images.installed import installed_wheels
from pytest_sealed.images.prune import shared_sizes
from pytest_sealed.images.store import Image, Store

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Add `images` to the commands."""
    parser = subparsers.add_parser("images", help="list images")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print a line for each image, and the recipes that wait to be built."""
    store = Store()
    images = store.images()
    if args.json:
        shared = shared_sizes(store, images)
        print(json.dumps([{**_facts(image), "shared_size": shared[image.reference]} for image in images], indent=2))
        return 0
    width = max([9, *(len(image.reference) for image in images)])
    print(f"{'IMAGE':{width}}  {'DIGEST':12}  {'SIZE':>8}  {'SHARED':>8}  {'LAYERS':>6}  {'AGE':14}  FROM")
    shared = shared_sizes(store, images)
    for image in images:
        digest = image.digest.removeprefix("sha256:")[:12]
        sizes = f"{image.size / 1e6:>5.0f} MB  {shared[image.reference] / 1e6:>5.0f} MB"
        age = _age(time.time() - image.created)
        print(f"{image.reference:{width}}  {digest}  {sizes}  {len(image.layers):>6}  {age:14}  {_source(image)}")
    wheels = [f"{wheel.name} ({wheel.title})" for wheel in installed_wheels().values() if wheel.reference not in store.names()]
    if wheels:
        print(f"in wheels, and unpacked at first use: {', '.join(wheels)}")
    missing = [name for name in recipe_names() if name not in store.names()]
    if missing:
        print(f"not built: {', '.join(missing)} (sealed build NAME)")
    print(f"store: {store.root}")
    return 0


def _facts(image: Image) -> dict[str, Any]:
    return {"reference": image.reference, "digest": image.digest, "size": image.size, "created": image.created,
            "source": image.source, "layers": [str(path) for path in image.layers]}


def _source(image: Image) -> str:
    return image.source.removeprefix("sealed ") or "build"


def _age(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"
