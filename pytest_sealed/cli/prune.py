"""`sealed prune`: free space in the store."""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any

from pytest_sealed.cli.bar import progress_for
from pytest_sealed.errors import SpecError
from pytest_sealed.images.installed import installed_wheels
from pytest_sealed.images.lockfile import LOCK, Lockfile, find_lock, load_lock
from pytest_sealed.images.prune import prune
from pytest_sealed.images.store import Store
from pytest_sealed.values import parse_size

__all__ = ["add_parser", "pinned", "prune_and_tell", "run"]

_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def add_parser(subparsers: Any) -> None:
    """Add `prune` to the commands."""
    parser = subparsers.add_parser("prune", help="free space in the store", description=(
        "Remove layers that no image has, and what killed commands left; with an option, images too. What a live session uses is never "
        "removed. What `sealed build` has fetched is `sealed rm --cache`'s."))
    parser.add_argument("--older-than", metavar="AGE", default="", help="images neither made nor used since, such as 12h, 30d, 4w")
    parser.add_argument("--size", metavar="SIZE", default="", help="the images used longest ago, until the layers take at most this: 10G")
    parser.add_argument("--lock", action="store_true", help=(
        f"images that {LOCK}, in this folder or the nearest above it, doesn't name; those of installed wheels stay"))
    parser.add_argument("-n", "--dry-run", action="store_true", help="say what would be removed, and remove nothing")
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing")


def run(args: argparse.Namespace) -> int:
    """Remove what is asked for, and say what that has freed."""
    older_than = parse_age(args.older_than) if args.older_than else None
    size = parse_size(args.size, "--size") if args.size else None
    keep = pinned(load_lock(find_lock())) if args.lock else None
    prune_and_tell(Store(), quiet=args.quiet, older_than=older_than, size=size, keep=keep, dry_run=args.dry_run)
    return 0


def prune_and_tell(store: Store, *, keep: set[str] | None, older_than: float | None = None, size: int | None = None, dry_run: bool = False,
                   quiet: bool = False) -> None:
    """Remove images as `prune` does, and print which, unless `quiet`."""
    with progress_for(sys.stderr, quiet=quiet or not sys.stderr.isatty()) as progress:
        pruned = prune(store, older_than=older_than, size=size, keep=keep, dry_run=dry_run, progress=progress)
    if quiet:
        return
    would = "would be " * dry_run
    for name in pruned.names:
        print(f"{name}: {would}removed")
    for name in pruned.in_use:
        print(f"{name}: kept, a live session uses it (`sealed ps`)")
    print(f"{pruned.freed / 1e6:.0f} MB {would}freed")


def pinned(lock: Lockfile) -> set[str]:
    """Return what the images are called that a project pins by its lock, for whatever platform, and by wheels."""
    return {image.name for image in lock.images} | {wheel.reference for wheel in installed_wheels().values()}


def parse_age(text: str) -> float:
    """Return the seconds that `12h`, `30d` or `4w` are.

    Raises:
        SpecError: it is no age.
    """
    match = re.fullmatch(r"(\d{1,6})([mhdw])", text, re.ASCII)
    if match is None:
        raise SpecError(f"{text!r} is no age", remedy="write a number of minutes, hours, days or weeks, for example 90m, 12h, 30d, 4w")
    return int(match[1]) * float(_UNITS[match[2]])
