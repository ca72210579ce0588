"""`sealed export`: the store's images in one file, which is added to."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from pytest_sealed.cli.bar import progress_for
from pytest_sealed.errors import SpecError
from pytest_sealed.images.store import Store
from pytest_sealed.images.transfer import export_images

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Add `export` to the commands."""
    parser = subparsers.add_parser("export", help="put images into a file that is added to, for a CI cache", description=(
        "Make a file hold images, with all that `sealed build` and `sealed pull` know of them, for `sealed import` on another machine. "
        "What the file has already isn't written again; what it has no use for goes once it is more than half of it."))
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="by default all")
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")


def run(args: argparse.Namespace) -> int:
    """Write the file, and say what was written."""
    store = Store()
    names = list(dict.fromkeys(args.images)) or store.names()
    if not names:
        raise SpecError(f"the store {store.root} has no images", remedy="sealed build --all, or sealed pull REF")
    with progress_for(sys.stderr, quiet=args.quiet) as progress:
        done = export_images(store, names, args.file, progress)
    if not args.quiet:
        print(f"{args.file}: {done.images} image{'s' * (done.images > 1)}, {done.size / 1e6:.0f} MB, {done.written / 1e6:.0f} MB written")
    return 0
