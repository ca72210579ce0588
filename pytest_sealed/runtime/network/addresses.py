"""Addresses of one network: which are free, which come next, and the MACs that follow from them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

__all__ = ["AddressError", "Addresses", "mac_of"]


class AddressError(Exception):
    """A subnet or an address that can't be used; the text says why."""


def mac_of(address: str) -> str:
    """Return the locally administered MAC that `address` implies, so that nobody needs to ask for it by ARP."""
    return "02:42:" + ":".join(f"{byte:02x}" for byte in IPv4Address(address).packed)


class Addresses:
    """The addresses of a subnet: .1 is the gateway, containers count upwards from .2, listeners downwards from the top.

    The same order of requests gives the same addresses, every time.
    """

    __slots__ = ("_base", "_first", "_last", "_taken", "gateway", "network", "prefix")

    def __init__(self, subnet: str) -> None:
        try:
            network = IPv4Network(subnet)
        except ValueError as error:
            raise AddressError(f"{subnet!r} is no IPv4 subnet ({error}); write one such as 10.89.0.0/24") from None
        if not 8 <= network.prefixlen <= 29:
            raise AddressError(f"the subnet {subnet} has a /{network.prefixlen}: it must be between /8 and /29")
        if network.is_loopback or network.is_multicast or network.is_link_local or network.is_unspecified or network.is_reserved:
            raise AddressError(f"the subnet {subnet} is reserved by the Internet's standards; take one of 10.0.0.0/8")
        self.network = str(network)
        self.prefix = network.prefixlen
        self._base = int(network.network_address)
        self.gateway = str(network.network_address + 1)
        self._first, self._last = 2, network.num_addresses - 2   # the last of all is the broadcast address
        self._taken: set[int] = set()

    def take(self, slot: int | None = None) -> str:
        """Take the address number `slot` of the subnet (2 is the first of all), or the lowest that is free."""
        if slot is not None:
            if not self._first <= slot <= self._last:
                raise AddressError(f"slot {slot} is outside {self.network}: it must be {self._first} to {self._last}")
            if slot in self._taken:
                raise AddressError(f"the address {self._text(slot)} is taken")
        else:
            slot = self.lowest_free()
        self._taken.add(slot)
        return self._text(slot)

    def take_highest(self) -> str:
        """Take the highest address that is free: for listeners, which must not shift the containers' addresses."""
        slot = self._last
        while slot in self._taken:
            slot -= 1
        if slot < self._first:
            raise self._full()
        self._taken.add(slot)
        return self._text(slot)

    def lowest_free(self) -> int:
        """Return the number of the address that `take()` would take."""
        slot = self._first
        while slot in self._taken:
            slot += 1
        if slot > self._last:
            raise self._full()
        return slot

    def give_back(self, address: str) -> None:
        """Make `address` free again."""
        self._taken.discard(self.number(address))

    def number(self, address: str) -> int:
        """Return which address of the subnet this is."""
        return int(IPv4Address(address)) - self._base

    def overlaps(self, other: Addresses) -> bool:
        """Tell whether an address could be in both subnets."""
        return IPv4Network(self.network).overlaps(IPv4Network(other.network))

    def _text(self, slot: int) -> str:
        return str(IPv4Address(self._base + slot))

    def _full(self) -> AddressError:
        return AddressError(f"the network {self.network} is full: all {self._last - self._first + 1} addresses are taken")
