"""`sealed sync`: what a lock says, on this machine."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from pytest_sealed.cli.bar import progress_for
from pytest_sealed.cli.prune import pinned, prune_and_tell
from pytest_sealed.images.lock_sync import sync
from pytest_sealed.images.lockfile import LOCK, find_lock, load_lock
from pytest_sealed.images.store import Store

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Add `sync` to the commands."""
    parser = subparsers.add_parser("sync", help=f"get the images that {LOCK} says", description=(
        f"Give the store the images of {LOCK}, in this folder or the nearest above it: those of registries by digest, those of recipes "
        "built of the packages that it names. What is there already isn't fetched again, and other images stay unless --prune is given."))
    parser.add_argument("--prune", action="store_true", help="then remove all other images, as `sealed prune --lock` does")
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")


def run(args: argparse.Namespace) -> int:
    """Get one image after the other; go on after a failure, and return 1 then."""
    lock, store, failed = load_lock(find_lock()), Store(), False
    with progress_for(sys.stderr, quiet=args.quiet) as progress:
        for name, error in sync(lock, store, progress):
            progress.clear()
            if error is not None:
                print(f"sealed: {name}: {error}", file=sys.stderr)
                failed = True
            elif not args.quiet:
                print(f"{name}: as {LOCK} says")
    if args.prune and not failed:
        prune_and_tell(store, keep=pinned(lock), quiet=args.quiet)
    return int(failed)
