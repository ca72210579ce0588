"""Whether this kernel can delay and lose packets: asked by putting a netem queue on a loopback. See tc-netem(8)."""

from __future__ import annotations

from pytest_sealed.runtime.network import trim_pyroute2

__all__ = ["try_netem"]


def try_netem() -> None:
    """Put a netem queue on `lo` of the caller's network namespace. Raises `OSError`: ENOENT: the kernel has no sch_netem."""
    trim_pyroute2()
    from pyroute2.iproute.linux import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError
    with IPRoute() as route:
        index = route.link_lookup(ifname="lo")[0]
        try:
            route.tc("add", "netem", index, delay=1000)
            route.tc("del", "netem", index)
        except NetlinkError as error:
            raise OSError(error.code, error.args[1] if len(error.args) > 1 else str(error)) from None
