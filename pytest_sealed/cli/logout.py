"""`sealed logout`: forgets credentials for a registry."""

from __future__ import annotations

import argparse
from typing import Any

from pytest_sealed.images.registry.credentials import Credentials
from pytest_sealed.images.registry.login import check_host

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Add `logout` to the commands."""
    parser = subparsers.add_parser("logout", help="forget credentials for a registry",
                                   description="Remove a registry's credentials from where Docker and Podman keep them.")
    parser.add_argument("registry", metavar="HOST", help="with its port, if it has one")


def run(args: argparse.Namespace) -> int:
    """Forget them, and say where they were."""
    host = check_host(args.registry)
    places = Credentials().forget(host)
    print(f"{host}: removed from {', '.join(places)}" if places else f"{host}: there were none")
    return 0
