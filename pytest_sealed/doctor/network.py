"""Networks: a real hub and a veth pair, made by the network service's own code; and whether faults can be put on them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pytest_sealed.doctor.finding import Finding, Remedy

if TYPE_CHECKING:
    from pytest_sealed.doctor.host import Host
    from pytest_sealed.doctor.namespaces import Tried

__all__ = ["check", "check_faults"]


def check(host: Host, tried: Tried) -> Iterator[Finding]:
    """Say whether containers can be on a network."""
    if tried.error is not None:
        return
    failed = tried.facts["network"]
    if failed:
        yield Finding(check="networks", state="missing", found=f"a network with one container could not be made: {failed}",
                      effect='containers can be started with network="none" only',
                      remedy=Remedy(commands=(host.sudo("modprobe veth"),)), page="how-to/hosts.md")
    else:
        yield Finding(check="networks", state="ok", found="a network with one container was made")


def check_faults(host: Host, tried: Tried) -> Iterator[Finding]:
    """Say whether packets can be delayed."""
    if tried.error is not None:
        return
    failed = tried.facts["netem"]
    if failed:
        install = host.install("netem")
        yield Finding(check="network faults", state="degraded", found=f"a queue that delays packets could not be made: {failed}",
                      effect="no delay or loss can be put on a network", page="how-to/hosts.md",
                      remedy=Remedy(commands=(*filter(None, [install]), host.sudo("modprobe sch_netem")),
                                    text="or a kernel with CONFIG_NET_SCH_NETEM"))
    else:
        yield Finding(check="network faults", state="ok", found="a queue that delays packets was made (netem)")
