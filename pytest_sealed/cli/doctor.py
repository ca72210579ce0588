"""`sealed doctor`: what this host lets this account do, and what mends the rest."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pytest_sealed.doctor import examine

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Add `doctor` to the commands."""
    parser = subparsers.add_parser(
        "doctor", help="try what containers need here, and say what mends the rest",
        description="Tries what containers need, by doing it, and says what is missing, what that means, and what mends it on this "
                    "distribution. Changes nothing. Exit code 0: containers can run; 1: they can't.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--fix", action="store_true", help="print the remedies as a shell script; runs nothing")
    parser.add_argument("--store", metavar="DIR", type=Path, help="another image store; else SEALED_STORE, else the account's")


def run(args: argparse.Namespace) -> int:
    """Examine the host and print what was found."""
    found = examine(args.store.absolute() if args.store is not None else None)
    if args.json:
        print(json.dumps(found.to_json(), indent=2))
    elif args.fix:
        print(found.script(), end="")
    else:
        print(found.report())
    return 0 if found.can_run else 1
