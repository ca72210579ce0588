"""`sealed rm`: remove images, and the layers that only they had."""

from __future__ import annotations

import argparse
import shutil
from typing import Any

from pytest_sealed.errors import SpecError
from pytest_sealed.images.store import Store

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Add `rm` to the commands."""
    parser = subparsers.add_parser("rm", help="remove images", description="Remove images, and the layers that only they had.")
    parser.add_argument("images", nargs="*", metavar="IMAGE")
    parser.add_argument("--all", action="store_true", help="remove every image")
    parser.add_argument("--cache", action="store_true", help="remove fetched packages as well: the next build fetches them again")


def run(args: argparse.Namespace) -> int:
    """Remove what is asked for, and say what that has freed."""
    if not (args.images or args.all or args.cache):
        raise SpecError("which image?", remedy="sealed rm IMAGE; `sealed images` lists those there are")
    store = Store()
    for name in dict.fromkeys([*args.images, *(store.names() if args.all else ())]):
        freed = store.remove(name)
        print(f"{name}: removed, {freed / 1e6:.0f} MB freed")
    if args.cache and store.folders.cache.is_dir():
        with store.building(exclusive=True):
            shutil.rmtree(store.folders.cache)
        print("fetched packages: removed")
    return 0
