"""Where a container's writable layer can be: in memory, on disk, or nowhere, so that images have to be copied."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_sealed.doctor.finding import Finding, Remedy
from pytest_sealed.images.folders import file_system

if TYPE_CHECKING:
    from pytest_sealed.doctor.host import Host
    from pytest_sealed.doctor.namespaces import Tried

__all__ = ["check", "check_memory", "check_no_copies"]


def check(host: Host, tried: Tried, store: Path) -> Iterator[Finding]:
    """Say where a directory of a lower layer could be removed and made again."""
    if tried.error is not None:
        return
    memory, disk, kind = tried.facts["uppers"]["memory"], tried.facts["uppers"]["disk"], file_system(store) or "an unknown file system"
    elsewhere = Remedy(text="set SEALED_STORE to a folder on ext4, xfs or btrfs" + (", such as a volume" * (host.place == "container")))
    if memory and disk:
        yield Finding(check="writable layers", state="ok", found=f"they work in memory, and on the store's disk ({kind})")
    elif memory:
        yield Finding(check="writable layers", state="degraded", found=f"they work in memory, but not on the store's disk ({kind})",
                      effect='scratch="disk" copies the whole image for each container', remedy=elsewhere,
                      page="how-to/hosts/containers.md")
    elif disk:
        yield Finding(
            check="writable layers", state="degraded", found=f"they work on the store's disk ({kind}), but not in memory: "
            f"the tmpfs of Linux {host.kernel} has no user attributes", effect="containers start and write somewhat slower",
            remedy=Remedy(text="Linux 6.6 or later"), page="how-to/hosts.md")
    else:
        yield Finding(
            check="writable layers", state="degraded", found=f"they work neither in memory nor on the store's disk ({kind})",
            effect="each container gets a copy of its image: that costs the image's size on disk, and about a second per 500 MB",
            remedy=elsewhere, page="how-to/hosts/containers.md")


def check_memory(host: Host, tried: Tried, store: Path) -> Iterator[Finding]:
    """Say whether writable layers are in memory."""
    for finding in check(host, tried, store):
        if not tried.facts["uppers"]["memory"]:
            yield finding


def check_no_copies(host: Host, tried: Tried, store: Path) -> Iterator[Finding]:
    """Say whether containers do without copies of their images."""
    for finding in check(host, tried, store):
        if not any(tried.facts["uppers"].values()):
            yield finding
