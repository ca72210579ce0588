"""Network namespaces: make one, enter one for a moment, set its sysctls."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from pytest_sealed.linux.namespaces import CLONE_NEWNET, setns, unshare

__all__ = ["Namespaces"]

# The kernel copies some of these from the host's namespace (net.core.devconf_inherit_init_net), and a host that
# runs Docker forwards: so say all that matters. `default` is for links that come later; lo keeps its ::1.
_HUB = (
    ("ipv4/conf/default/forwarding", b"1"),      # what counts is the port's own; ip_forward would take the RTNL lock
    ("ipv4/conf/all/rp_filter", b"1"),           # a port takes only packets whose source is the port's own address
    ("ipv4/conf/all/accept_source_route", b"0"),
    ("ipv4/icmp_echo_ignore_all", b"1"),         # else the hub would answer pings to every address that nobody has
    ("ipv4/icmp_ratelimit", b"0"),               # "nobody there" must come at once however often it's asked
)
_CONTAINER = (
    ("ipv4/ip_forward", b"0"),                   # a container on two networks is no router between them
    ("ipv4/ip_unprivileged_port_start", b"0"),
)
_NO_IPV6 = (("ipv6/conf/default/disable_ipv6", b"1"),)


class Namespaces:
    """Makes network namespaces that this process's user namespace owns. The process must be single-threaded."""

    __slots__ = ("_home", "_ping_groups")

    def __init__(self) -> None:
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._ping_groups = _mapped_gids()

    @contextmanager
    def inside(self, netns: int) -> Iterator[None]:
        """Be in `netns` for a moment: sockets made now belong to it."""
        setns(netns, CLONE_NEWNET)
        try:
            yield
        finally:
            setns(self._home, CLONE_NEWNET)

    @contextmanager
    def fresh(self) -> Iterator[int]:
        """Make a namespace and be in it for a moment; its fd is the caller's to close."""
        unshare(CLONE_NEWNET)
        try:
            netns = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                yield netns
            except BaseException:
                os.close(netns)
                raise
        finally:
            setns(self._home, CLONE_NEWNET)

    def set_hub(self) -> None:
        """Set the sysctls of a hub, in the namespace that the caller is in."""
        _write(_HUB)
        _write_if_there(_NO_IPV6)

    def set_container(self) -> None:
        """Set the sysctls of a container, in the namespace that the caller is in."""
        _write(_CONTAINER)
        _write((("ipv4/ping_group_range", self._ping_groups),))
        _write_if_there(_NO_IPV6)


def _write(settings: tuple[tuple[str, bytes], ...]) -> None:
    for name, value in settings:
        fd = os.open("/proc/sys/net/" + name, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value)
        finally:
            os.close(fd)


def _write_if_there(settings: tuple[tuple[str, bytes], ...]) -> None:
    try:
        _write(settings)
    except FileNotFoundError:   # a kernel without IPv6, or with ipv6.disable=1
        pass


def _mapped_gids() -> bytes:
    """Return ping_group_range's value that covers the containers' gids: the largest extent of this user namespace.

    Both ends must be mapped, and in the kernel's own order, which two extents need not have.
    """
    with open("/proc/self/gid_map", "rb") as file:
        extents = [tuple(map(int, line.split())) for line in file]
    start, _, count = max(extents, key=lambda extent: extent[2])
    return b"%d %d" % (start, min(start + count - 1, 0x7FFFFFFE))   # the kernel's own ceiling: GID_T_MAX
