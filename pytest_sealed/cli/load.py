"""`sealed load`: images from archives."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from pytest_sealed.cli.bar import progress_for
from pytest_sealed.images.load import Loader
from pytest_sealed.images.store import Store

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Add `load` to the commands."""
    parser = subparsers.add_parser("load", help="take images from an archive", description=(
        "Take images from what `docker save`, `podman save` or skopeo wrote (docker-archive), from an OCI layout, or from a tar of one "
        "(oci-archive); plain, gzip or zstd."))
    parser.add_argument("file", metavar="FILE", help="a file or a folder; - is the standard input")
    parser.add_argument("--name", default="", metavar="NAME:TAG", help="what it is to be called, instead of what the archive says")
    parser.add_argument("--platform", default="", metavar="OS/ARCH", help="such as linux/arm64; by default this machine's")
    parser.add_argument("-q", "--quiet", action="store_true", help="print the images' names only")


def run(args: argparse.Namespace) -> int:
    """Load all images of the archive, and print their names."""
    with progress_for(sys.stderr, quiet=args.quiet) as progress:
        for image in Loader(Store(), progress, platform=args.platform, name=args.name).load(args.file):
            print(image.reference)
    return 0
