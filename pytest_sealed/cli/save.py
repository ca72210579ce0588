"""`sealed save`: images into an archive."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from pytest_sealed.cli.bar import progress_for
from pytest_sealed.errors import SpecError
from pytest_sealed.images.save import FORMATS, save
from pytest_sealed.images.store import Store

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Add `save` to the commands."""
    parser = subparsers.add_parser("save", help="write images into an archive", description=(
        "Write images into one file, for `docker load`, `podman load`, skopeo and `sealed load`; or into a folder (an OCI layout)."))
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("file", metavar="FILE", help="what to write; - is the standard output")
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0],
                        help=f"{FORMATS[0]} (the default), oci-archive, or oci: a folder")
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")


def run(args: argparse.Namespace) -> int:
    """Write the archive."""
    store = Store()
    if len(args.images) > 1 and args.file in store.names() and not os.path.exists(args.file):
        raise SpecError(f"{args.file} is an image: which file?", remedy=f"sealed save {' '.join([*args.images, args.file])} FILE")
    with progress_for(sys.stderr, quiet=args.quiet) as progress:
        save(store, dict.fromkeys(args.images), args.file, args.format, progress)
    return 0
