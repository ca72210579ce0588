"""All networks of the session, and the operations that the supervisor asks for."""

from __future__ import annotations

import gc
import os
from collections import deque
from typing import Any

from pytest_sealed.runtime.network.addresses import Addresses
from pytest_sealed.runtime.network.hub import Hub, Kernel
from pytest_sealed.runtime.network.resolver import Resolver, make_ask

__all__ = ["BadRequest", "Directory", "Reply"]

_SUBNET = "10.89.0.0/24"   # of the hubs that are made ahead
_HUBS_AHEAD = 3
_PORTS_AHEAD = 3           # of each of those hubs, at most: as many as the last networks used, since the rest is thrown away
_LAST = 8                  # networks
_BACKLOG = 128
_LONGEST_NAME = 253        # bytes, of a name in DNS


class BadRequest(Exception):
    """A request that can't be done; the text says why."""


class Reply:
    """What a request gives: a message, descriptors for it, and whether these are to be closed once sent."""

    __slots__ = ("fds", "ok", "release")

    def __init__(self, ok: dict[str, Any], fds: tuple[int, ...] = (), *, release: bool = False) -> None:
        self.ok, self.fds, self.release = ok, fds, release


class Directory:
    """Networks by id, and the hubs that were made ahead."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._hubs: dict[str, Hub] = {}
        self._joined: dict[str, list[Hub]] = {}   # container → its networks, in the order of joining
        self._ahead: list[Hub] = []
        self._used = deque([_PORTS_AHEAD], maxlen=_LAST)
        self._kernel: Kernel | None = None

    @property
    def kernel(self) -> Kernel:
        """The kernel's side; the first use imports pyroute2."""
        if self._kernel is None:
            self._kernel = Kernel()
            gc.freeze()   # a collection that walks all of pyroute2 takes 10 ms
            gc.enable()
        return self._kernel

    # Operations: one method for each, named as in the message.

    def create(self, request: dict[str, Any], _fds: list[int]) -> Reply:
        """{network, subnet} → {gateway, prefix}, fd of the hub's namespace."""
        network, subnet = _text(request, "network"), _text(request, "subnet")
        if network in self._hubs:
            raise BadRequest(f"network {network} exists already")
        if subnet == _SUBNET and self._ahead:
            hub = self._ahead.pop(0)
        else:
            hub = self._make_hub(subnet)
        self._hubs[network] = hub
        self._resolver.serve(hub.udp, hub.tcp, make_ask(
            lambda asker, name: self._find(hub, asker, name), lambda asker, address: self._reverse(hub, asker, address),
        ))
        return Reply({"gateway": hub.addresses.gateway, "prefix": hub.addresses.prefix}, (hub.netns,))

    def attach(self, request: dict[str, Any], fds: list[int]) -> Reply:
        """{network, container, names, slot?}, fd of a namespace or none → {address, interface, prefix, gateway}, fd of a new one."""
        hub, container = self._hub(request), _text(request, "container")
        given = request.get("names", [])
        if not isinstance(given, list):
            raise BadRequest("names must be a list")
        names = tuple(_name(name) for name in given)
        for name in names:
            if name in hub.listeners:
                raise BadRequest(f"the name {name!r} belongs to a listener of this network")
        self._check_overlap(hub, container)
        slot = request.get("slot")
        if slot is not None and not isinstance(slot, int):
            raise BadRequest("slot must be a number: 2 is the first address that a container can have")
        port = hub.attach(container, names, slot=slot, netns=fds[0] if fds else None)
        self._joined.setdefault(container, []).append(hub)
        ok = {"address": port.address, "interface": port.interface, "prefix": hub.addresses.prefix, "gateway": hub.addresses.gateway}
        netns, port.netns = port.netns, None
        return Reply(ok, (netns,) if netns is not None else (), release=True)

    def detach(self, request: dict[str, Any], _fds: list[int]) -> Reply:
        """{network, container} → {}; nothing to do is no error: a container may end while its network is removed."""
        hub, container = self._hubs.get(_text(request, "network")), _text(request, "container")
        if hub is not None and container in hub.members:
            self._leave(hub, container)
            hub.detach(container)
        return Reply({})

    def listen(self, request: dict[str, Any], _fds: list[int]) -> Reply:
        """{network, name, port, backlog?} → {address, port}, a listening TCP socket."""
        hub, name, number = self._hub(request), _name(request.get("name")), request.get("port", 0)
        backlog = request.get("backlog") or _BACKLOG
        if not isinstance(number, int) or not 0 <= number <= 65535:
            raise BadRequest(f"port {number!r} is none: it must be 0 (any) to 65535")
        if not isinstance(backlog, int):
            raise BadRequest("backlog must be a number")
        address, made = hub.listen(name, number, backlog)
        number = made.getsockname()[1]
        return Reply({"address": address, "port": number}, (made.detach(),), release=True)

    def unlisten(self, request: dict[str, Any], _fds: list[int]) -> Reply:
        """{network, name} → {}"""
        hub = self._hubs.get(_text(request, "network"))
        if hub is not None:
            hub.unlisten(_name(request.get("name")))
        return Reply({})

    def names(self, request: dict[str, Any], _fds: list[int]) -> Reply:
        """{network} → {name: address}"""
        return Reply(self._hub(request).names())

    def remove(self, request: dict[str, Any], _fds: list[int]) -> Reply:
        """{network} → {}"""
        hub = self._hubs.pop(_text(request, "network"), None)
        if hub is not None:
            self._resolver.forget(hub.udp, hub.tcp)
            for container in list(hub.members):   # still there: a socket of the test's may keep the hub for as long as it likes
                self._leave(hub, container)
                hub.detach(container)
            self._used.append(hub.used_ports)
            hub.close()
        return Reply({})

    def _check_overlap(self, hub: Hub, container: str) -> None:
        for other in self._joined.get(container, ()):
            if other is not hub and other.addresses.overlaps(hub.addresses):
                network = next(name for name, known in self._hubs.items() if known is other)
                raise BadRequest(f"container {container} is on network {network}, whose addresses ({other.addresses.network}) "
                                 f"overlap {hub.addresses.network}: give one of the two networks a subnet of its own")

    def _leave(self, hub: Hub, container: str) -> None:
        joined = self._joined[container]
        joined.remove(hub)
        if not joined:
            del self._joined[container]

    # Work ahead, in small steps.

    def has_work(self) -> bool:
        """Tell whether `work` would make something."""
        return len(self._ahead) < _HUBS_AHEAD or any(hub.ready_ports < self._ports_ahead for hub in self._ahead)

    def work(self) -> None:
        """Make one thing ahead: a hub, or a port of one. At most some 2 ms."""
        for hub in self._ahead:
            if hub.ready_ports < self._ports_ahead:
                hub.prepare_port()
                return
        if len(self._ahead) < _HUBS_AHEAD:
            self._ahead.append(self._make_hub(_SUBNET))

    @property
    def _ports_ahead(self) -> int:
        return min(max(self._used), _PORTS_AHEAD)

    def _make_hub(self, subnet: str) -> Hub:
        Addresses(subnet)   # before anything is made for a subnet that is none
        return Hub(self.kernel, subnet)

    def _hub(self, request: dict[str, Any]) -> Hub:
        network = _text(request, "network")
        hub = self._hubs.get(network)
        if hub is None:
            raise BadRequest(f"there is no network {network}: it was never made, or has been removed")
        return hub

    # Names. Whoever asks is known by its address, which a hub's port doesn't let it forge.

    def _reachable(self, hub: Hub, asker: str) -> list[Hub]:
        """Return the networks of whoever asks: a resolver asks its first server only, so that one answers for all."""
        container = hub.container_at(asker)
        return [hub, *(other for other in self._joined.get(container or "", ()) if other is not hub)]

    def _find(self, hub: Hub, asker: str, name: str) -> list[str] | None:
        for network in self._reachable(hub, asker):
            found = network.find(name)
            if found:
                return found
        return None

    def _reverse(self, hub: Hub, asker: str, address: str) -> str | None:
        for network in self._reachable(hub, asker):
            name = network.name_of(address)
            if name is not None:
                return name
        return None


def _text(request: dict[str, Any], key: str) -> str:
    value = request.get(key)
    if not isinstance(value, str) or not value:
        raise BadRequest(f"the request has no {key!r}")
    return value


def _name(value: object) -> str:
    if not isinstance(value, str) or not value or len(os.fsencode(value)) > _LONGEST_NAME:
        raise BadRequest(f"{value!r} is no host name")
    return value.rstrip(".").lower()


