"""The filters of a container's processes, strictest verdict first: which they are, and how they are set."""

from __future__ import annotations

import errno
import os

from pytest_sealed.linux import seccomp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["FilterRefused", "chosen", "ready", "set_filters"]

_CHANGE_IDS = frozenset({0, 6, 7})   # CAP_CHOWN, CAP_SETGID, CAP_SETUID


class FilterRefused(Exception):
    """Why a command can't have the filter that it shall have."""

    kind = "seccomp"


def ready(machine: str = "") -> dict[str, bytes]:
    """Return the programs that ship for a machine, by default this one, by their profile's name; none for a machine we don't know."""
    folder = f"{os.path.dirname(os.path.abspath(__file__))}/{machine or os.uname().machine}"
    programs = {}
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        with open(f"{folder}/{name}", "rb") as file:
            programs[name.removesuffix(".bpf")] = file.read()
    return programs


def chosen(request: dict[str, Any], programs: dict[str, bytes], *, single_root: bool) -> list[bytes]:
    """Return what a command's filters are.

    Args:
        request: its `seccomp` has the names of `ready` programs, and a program of its own in hexadecimal; neither: no filter at all.
        single_root: whether the command is of root, and there is no other id: what it does by its capabilities to files' owners and
            to its own ids then seems to succeed, as it would do with more.
    """
    wanted = request["seccomp"]
    names = list(wanted["ready"])
    own = [bytes.fromhex(wanted["program"])] if wanted["program"] else []
    if (names or own) and single_root and _CHANGE_IDS.issubset(request["capabilities"]):
        names.append("one-id")
    missing = [name for name in names if name not in programs]
    if missing:
        raise FilterRefused(f"no filter of system calls ships for this machine ({os.uname().machine})")
    return own + [programs[name] for name in names]


def set_filters(programs: list[bytes]) -> None:
    """Set filters, for this process and all that come from it. Needs no_new_privs."""
    for program in programs:
        try:
            seccomp.set_filter(program)
        except OSError as error:
            why = "it is no program of classic BPF for seccomp(2), or this kernel has no filters (CONFIG_SECCOMP_FILTER)"
            raise FilterRefused("the kernel refuses its filter of system calls: "
                                f"{why if error.errno == errno.EINVAL else os.strerror(error.errno or 0)}") from error
