"""A systemd scope of a session's own, where an ordinary account's cgroup v2 isn't its to divide.

The account's user manager hands out delegated cgroups for the asking, also to a process outside its tree, such as a CI
job in system.slice: a process has to be started in it, since none can be moved there from elsewhere. See
systemd-run(1), and systemd's CGROUP_DELEGATION.md.
"""

from __future__ import annotations

import os
import shutil

from pytest_sealed.runtime.cgroups.hierarchy import SYSTEMD_RUN, UNDELEGATED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_sealed.runtime.cgroups.hierarchy import Hierarchy

__all__ = ["COMMAND", "manager_for", "may_help", "say_how_to_get_one", "user_manager"]

COMMAND = ("systemd-run", "--user", "--scope", "--quiet", "--collect", "--property=Delegate=yes", "--description=pytest-sealed", "--")
"""What starts a program in a scope of its own; the program takes the place of systemd-run, descriptors and all."""

_LINGER = ("sudo loginctl enable-linger $USER, and run the tests again: systemd gives this session a cgroup then. "
           "`sealed doctor` says more")


def may_help(hierarchy: Hierarchy) -> bool:
    """Return whether a scope is worth a try: cgroup v2, where this account may divide nothing."""
    return hierarchy.version == "v2" and not hierarchy.bases and os.geteuid() != 0


def user_manager(environ: Mapping[str, str] | None = None, run: str = "/run/user") -> dict[str, str] | None:
    """Return the variables by which systemd-run reaches the account's user manager; None: there is none, or no systemd-run.

    Not only where the environment names it: `sudo -u`, cron and CI runners start programs without it.
    """
    given = (os.environ if environ is None else environ).get("XDG_RUNTIME_DIR", "")
    if not shutil.which(COMMAND[0]):
        return None
    for folder in dict.fromkeys([given, f"{run}/{os.geteuid()}"]):
        if folder and os.path.exists(f"{folder}/systemd/private"):
            return {"XDG_RUNTIME_DIR": folder, "DBUS_SESSION_BUS_ADDRESS": f"unix:path={folder}/bus"}
    return None


def manager_for(hierarchy: Hierarchy) -> dict[str, str] | None:
    """Return the variables of `user_manager` where a scope is worth a try and there is one."""
    return user_manager() if may_help(hierarchy) else None


def say_how_to_get_one(hierarchy: Hierarchy, *, booted: bool) -> None:
    """Change the remedy of limits where there is no user manager, which the usual one needs; `booted`: systemd is PID 1."""
    hierarchy.replace_remedy(SYSTEMD_RUN, _LINGER if booted else UNDELEGATED)
