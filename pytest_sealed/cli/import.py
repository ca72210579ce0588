"""`sealed import`: images from a file of `sealed export`."""  # noqa: N999  (modules are named as their commands)

from __future__ import annotations

import argparse
import sys
from typing import Any

from pytest_sealed.cli.bar import progress_for
from pytest_sealed.images.store import Store
from pytest_sealed.images.transfer import import_images

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Add `import` to the commands."""
    parser = subparsers.add_parser("import", help="take images from such a file", description=(
        "Take all images of a file that `sealed export` wrote, as they were there: what was built is not built again, and layers that the "
        "store has are not unpacked again. Other archives are `sealed load`'s."))
    parser.add_argument("file", metavar="FILE", help="- is the standard input")
    parser.add_argument("-q", "--quiet", action="store_true", help="print the images' names only")


def run(args: argparse.Namespace) -> int:
    """Take the images, and print their names."""
    with progress_for(sys.stderr, quiet=args.quiet) as progress:
        for image in import_images(Store(), args.file, progress):
            print(image.reference)
    return 0
