"""`sealed pack`: an image as a Python wheel."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from pytest_sealed.cli.bar import progress_for
from pytest_sealed.images.pack import LIMIT, pack_wheel
from pytest_sealed.images.store import Store
from pytest_sealed.values import parse_size

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Add `pack` to the commands."""
    parser = subparsers.add_parser("pack", help="pack an image as a Python wheel", description=(
        "Write a wheel that holds an image: where it is installed, the image is known by its name, pinned and checked by the same lock "
        "file as the Python packages. Licences, source versions and a bill of materials are inside."))
    parser.add_argument("--wheel", action="store_true", required=True, help="the form; there is no other one so far")
    parser.add_argument("image", metavar="IMAGE")
    parser.add_argument("-o", "--output", default=".", metavar="FOLDER", help="where to; by default this folder")
    parser.add_argument("--version", default="", help="of the wheel; by default the image's tag, else the day on which it was made")
    parser.add_argument("--limit", default="", metavar="SIZE", help=f"what the index takes; by default {LIMIT // 10**6} MB")
    parser.add_argument("--level", type=int, choices=range(1, 23), default=19, metavar="1-22", help="how hard to compress; by default 19")
    parser.add_argument("-q", "--quiet", action="store_true", help="print the path only")


def run(args: argparse.Namespace) -> int:
    """Write the wheel, and print its path."""
    limit = parse_size(args.limit, "--limit") if args.limit else LIMIT
    with progress_for(sys.stderr, quiet=args.quiet) as progress:
        progress.begin(args.image)
        path = pack_wheel(Store(), args.image, Path(args.output), version=args.version, limit=limit, level=args.level, progress=progress)
    print(path)
    return 0
