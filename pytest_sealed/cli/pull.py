"""`sealed pull`: images from registries."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from pytest_sealed.cli.bar import progress_for
from pytest_sealed.errors import SealedError, SpecError
from pytest_sealed.images.registry.pull import Puller
from pytest_sealed.images.store import Store

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Add `pull` to the commands."""
    parser = subparsers.add_parser("pull", help="fetch images from a registry", description=(
        "Fetch images from a registry, or from a mirror of it: what the store has already isn't fetched again. Mirrors, registries "
        "without TLS and certificates are those of registries.conf and certs.d; credentials those of Podman's and Docker's files."))
    parser.add_argument("references", nargs="+", metavar="REF", help="HOST/NAME:TAG or HOST/NAME@DIGEST")
    parser.add_argument("--platform", default="", metavar="OS/ARCH", help="such as linux/arm64; by default this machine's")
    parser.add_argument("--name", default="", metavar="NAME:TAG", help="what it is to be called here, instead of REF")
    parser.add_argument("-q", "--quiet", action="store_true", help="print the images' names only")


def run(args: argparse.Namespace) -> int:
    """Pull one image after the other, and print their names; go on after a failure, and return 1 then."""
    if args.name and len(args.references) > 1:
        raise SpecError("--name is one name, and there are several images", remedy="pull them one by one")
    progress = progress_for(sys.stderr, quiet=args.quiet)
    puller, failed = Puller(Store(), progress, platform=args.platform), False
    for reference in dict.fromkeys(args.references):
        try:
            print(puller.pull(reference, args.name).reference)
        except SealedError as error:
            progress.clear()
            print(f"sealed: {error}", file=sys.stderr)
            failed = True
        finally:
            progress.clear()
    return int(failed)
