"""`sealed tag`: another name for an image."""

from __future__ import annotations

import argparse
from typing import Any

from pytest_sealed.errors import SpecError
from pytest_sealed.images.reference import parse_reference
from pytest_sealed.images.store import Store

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Add `tag` to the commands."""
    parser = subparsers.add_parser("tag", help="give an image another name", description=(
        "Give an image another name as well. It stays until all its names are removed."))
    parser.add_argument("image", metavar="IMAGE")
    parser.add_argument("name", metavar="NAME:TAG", help="without a tag, it's `latest`")


def run(args: argparse.Namespace) -> int:
    """Give the name, and print it."""
    name = parse_reference(args.name)
    if name.digest:
        raise SpecError(f"{args.name!r} holds a digest, and a name with one can't be given by hand", remedy=f"sealed tag IMAGE {name.name}")
    print(Store().tag(args.image, str(name)).reference)
    return 0
