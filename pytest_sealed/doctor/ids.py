"""How many ids containers get, and why not more."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pytest_sealed.doctor.finding import Finding, Remedy
from pytest_sealed.errors import HostUnsupported
from pytest_sealed.runtime.idmap import WANTED, find_id_map, free_subids, has_subids, no_new_privs

if TYPE_CHECKING:
    from pytest_sealed.doctor.host import Host
    from pytest_sealed.doctor.namespaces import Tried

__all__ = ["check"]

_EFFECT = ("containers run in single-id mode: the one user in each is this account on the host, and changes to another user "
           "only seem to succeed")


def check(host: Host, tried: Tried, *, etc: str = "/etc") -> Iterator[Finding]:
    """Say which mode ids are mapped in; that the map can be written is `namespaces`' part."""
    try:
        ids = find_id_map(etc=etc)
    except HostUnsupported as error:
        yield Finding(check="ids", state="missing", found=error.message, effect="no container can be started",
                      remedy=Remedy(text=error.remedy))
        return
    if ids.single:
        yield _single(host, etc)
    elif ids.count < WANTED - 1:   # images use up to 65534, and inside a container of ours one id is the account's
        yield Finding(check="ids", state="degraded", found=f"a range of {ids.count} ids, from {ids.uid_start}",
                      effect=f"containers have the ids 0 to {ids.count - 1}; images use up to {WANTED - 2} (nobody)",
                      remedy=_range(host, etc), page="how-to/hosts/debian.md")
    else:
        written = "" if tried.error is not None else ", mapped" + (" by newuidmap" if ids.mode == "subids" else "")
        yield Finding(check="ids", state="ok", found=f"a range of {ids.count} ids, from {ids.uid_start}{written}")


def _single(host: Host, etc: str) -> Finding:
    if os.environ.get("SEALED_IDS") == "single":
        return Finding(check="ids", state="degraded", found="SEALED_IDS=single asks for single-id mode", effect=_EFFECT,
                       remedy=Remedy(commands=("unset SEALED_IDS",)))
    if host.uid == 0:
        return Finding(check="ids", state="degraded", found="root has one id here: this user namespace maps no others", effect=_EFFECT,
                       remedy=Remedy(text="start whatever this runs in with a range of ids, such as a rootless engine with subuids"))
    if no_new_privs() and has_subids(etc=etc):
        return Finding(check="ids", state="degraded", found="newuidmap can't gain the privileges that it needs (no_new_privs is set)",
                       effect=_EFFECT, page="how-to/hosts/containers.md",
                       remedy=Remedy(text="start whatever this runs in without no_new_privs, or run as root in a container"))
    commands, reasons = [], []
    if not shutil.which("newuidmap") or not shutil.which("newgidmap"):
        reasons.append("there is no newuidmap")
        commands.append(host.install("newuidmap"))
    remedy = Remedy()
    if not has_subids(etc=etc):
        reasons.append(f"{host.account} has no range in {etc}/subuid and {etc}/subgid")
        remedy = _range(host, etc)
    text = remedy.text if all(commands) else "install the program newuidmap, from shadow-utils"
    return Finding(check="ids", state="degraded", found="; ".join(reasons), effect=_EFFECT, page="how-to/hosts/debian.md",
                   remedy=Remedy(commands=(*filter(None, commands), *remedy.commands), text=text))


def _range(host: Host, etc: str) -> Remedy:
    """Return how the account gets a range that nobody has."""
    first = free_subids(etc=etc)
    needed = host.install("usermod") if not shutil.which("usermod") else ""
    added = f"--add-subuids {first}-{first + WANTED - 1} --add-subgids {first}-{first + WANTED - 1}"
    return Remedy(commands=(*filter(None, [needed]), host.sudo(f"usermod {added} {host.account}")))
