"""`sealed push`: images to a registry."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from pytest_sealed.cli.bar import progress_for
from pytest_sealed.images.registry.push import Pusher
from pytest_sealed.images.store import Store

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Add `push` to the commands."""
    parser = subparsers.add_parser("push", help="send an image to a registry", description=(
        "Send an image to a registry, and print its digest there. What was pulled keeps its digest; what was built here is compressed."))
    parser.add_argument("image", metavar="IMAGE")
    parser.add_argument("reference", nargs="?", default="", metavar="REF", help="HOST/NAME:TAG; by default the image's own name")
    parser.add_argument("-q", "--quiet", action="store_true", help="print the digest only")


def run(args: argparse.Namespace) -> int:
    """Push the image, and print NAME@DIGEST."""
    with progress_for(sys.stderr, quiet=args.quiet) as progress:
        print(Pusher(Store(), progress).push(args.image, args.reference))
    return 0
