"""`sealed verify`: every file of images, against what they were made of."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from pytest_sealed.cli.bar import progress_for
from pytest_sealed.cli.text import printable
from pytest_sealed.images.store import Store
from pytest_sealed.images.verify import verify

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Add `verify` to the commands."""
    parser = subparsers.add_parser("verify", help="examine every file of images", description=(
        "Examine images: their documents by digest, and every file of every layer, with its owner, mode, time and attributes, by the tar "
        "that it came from. Says what is damaged, and the command that mends it; returns 1 then."))
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="by default all")
    parser.add_argument("-q", "--quiet", action="store_true", help="print what is damaged only")


def run(args: argparse.Namespace) -> int:
    """Print a verdict on each image."""
    store = Store()
    names = list(dict.fromkeys(args.images)) or store.names()
    with progress_for(sys.stderr, quiet=args.quiet) as progress:
        verdicts = verify(store, names, progress) if names else []
    for verdict in verdicts:
        if verdict.damages:
            print(f"{verdict.reference}: damaged")
            for line in verdict.damages:
                print(f"  {printable(line)}")
            if verdict.remedy:
                print(f"  remedy: {verdict.remedy}")
        elif not args.quiet:
            print(f"{verdict.reference}: whole")
    return int(any(verdict.damages for verdict in verdicts))
