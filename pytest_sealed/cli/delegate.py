"""`sealed delegate`: let an ordinary account set limits on cgroup v1, once per boot, as root."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

if sys.platform != "win32":   # where everything imports, and nothing starts
    import pwd

from pytest_sealed.errors import HostUnsupported, SealedError, SpecError
from pytest_sealed.runtime.cgroups.delegation import delegate, require_v1, undelegate
from pytest_sealed.runtime.cgroups.detection import delegate_command

if TYPE_CHECKING:
    from collections.abc import Mapping

    SubParsers = argparse._SubParsersAction[argparse.ArgumentParser]

__all__ = ["account_for", "add_parser", "run"]


def add_parser(subparsers: SubParsers) -> None:
    """Add the command to `sealed`."""
    parser = subparsers.add_parser(
        "delegate",
        help="let an ordinary account set limits (cgroup v1; as root, once per boot)",
        description="Makes sealed-UID in each cgroup v1 hierarchy and gives it to the account, so that its test runs can "
                    "limit memory, CPUs and processes. The account gets no right over other cgroups.",
    )
    parser.add_argument("--user", metavar="NAME", help="the account, by name or uid; by default the one that called sudo")
    parser.add_argument("--undo", action="store_true", help="remove the account's directories")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, *, root: str = "/sys/fs/cgroup", proc: str = "/proc") -> int:
    """Delegate, print each step, and return 0; print what stands in the way to stderr, and return 1."""
    try:
        require_v1(root=root, proc=proc)
        if os.geteuid() != 0:
            options = (f" --user {args.user}" if args.user else "") + (" --undo" if args.undo else "")
            raise HostUnsupported("only root can give cgroups to an account", remedy=delegate_command() + options)
        account = account_for(args.user, os.environ)
        lines = (undelegate(account.pw_uid, root=root, proc=proc) if args.undo
                 else delegate(account.pw_uid, account.pw_gid, root=root, proc=proc))
        for line in lines:
            print(line)
    except SealedError as error:
        print(f"sealed delegate: {error}", file=sys.stderr)
        return 1
    return 0


def account_for(user: str | None, environ: Mapping[str, str]) -> pwd.struct_passwd:
    """Return the account named by `user` or, without one, by sudo. Raises `SpecError`."""
    given = user or environ.get("SUDO_UID", "")
    if not given:
        raise SpecError("which account? sudo didn't say", remedy="sealed delegate --user NAME")
    try:
        account = pwd.getpwuid(int(given)) if given.isdigit() else pwd.getpwnam(given)
    except KeyError:
        raise SpecError(f"there is no account {given!r}", remedy="give one of `getent passwd`") from None
    if account.pw_uid == 0:
        raise SpecError("root needs no delegation: its test runs may make cgroups as it is", remedy="")
    return account
