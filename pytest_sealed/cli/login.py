"""`sealed login`: credentials for a registry, kept where Docker and Podman find them."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from typing import Any

from pytest_sealed.errors import SpecError
from pytest_sealed.images.registry.credentials import Credential
from pytest_sealed.images.registry.login import check_host, log_in

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Add `login` to the commands."""
    parser = subparsers.add_parser("login", help="keep credentials for a registry", description=(
        "Try credentials, and keep them where Docker and Podman look: in ~/.docker/config.json or the credential helper that it names, and "
        "in Podman's auth.json if there is one; or in REGISTRY_AUTH_FILE alone."))
    parser.add_argument("registry", metavar="HOST", help="with its port, if it has one")
    parser.add_argument("-u", "--username", metavar="NAME")
    parser.add_argument("--password-stdin", action="store_true", help="read the password, or a token, from the standard input")


def run(args: argparse.Namespace) -> int:
    """Ask for what wasn't given, try it, and keep it."""
    host = check_host(args.registry)
    if args.password_stdin:
        if not args.username:
            raise SpecError("--password-stdin needs --username", remedy=f"sealed login --username NAME --password-stdin {host}")
        user, password = args.username, sys.stdin.readline().rstrip("\r\n")
    else:
        if not os.isatty(0):
            raise SpecError("there is no terminal to ask for a password on",
                            remedy=f"printf %s \"$PASSWORD\" | sealed login --username NAME --password-stdin {host}")
        user = args.username or input("Username: ").strip()
        password = getpass.getpass("Password: ")
    if not user or not password or ":" in user:
        raise SpecError("a name without ':' and a password are needed")
    places = log_in(host, Credential(user, password))
    print(f"{host}: logged in as {user}; kept in {', '.join(places)}")
    return 0
