"""One network: a hub namespace that routes between the veth ports of its containers, and nowhere else.

A routed hub has no bridge: each port has a /32 route, and every other address of the subnet is the hub's own,
where nothing listens (see docs/decisions/0002-routed-hubs.md).
"""

from __future__ import annotations

import errno
import os
import socket

from pytest_sealed.runtime.network.addresses import AddressError, Addresses
from pytest_sealed.runtime.network.links import Compiler, Wire
from pytest_sealed.runtime.network.netns import Namespaces

__all__ = ["Hub", "Kernel", "Port"]

_FIRST_PORT = 10      # interface index of a hub's first port
_FIRST_INTERFACE = 2  # index of eth0: lo is 1
_MOST_INTERFACES = 32   # of one container
_DNS_BACKLOG = 8


class Kernel:
    """What every hub needs: namespaces, compiled requests, and the fd number that requests name as their target."""

    __slots__ = ("_nowhere", "compiler", "namespaces", "target")

    def __init__(self) -> None:
        self.namespaces = Namespaces()
        self._nowhere = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self.target = os.dup(self._nowhere)
        self.compiler = Compiler(self.target)

    def aim(self, netns: int | None) -> None:
        """Let the target be `netns`, or nothing: it must not keep a namespace alive."""
        os.dup2(self._nowhere if netns is None else netns, self.target, inheritable=False)


class Port:
    """A place at a hub for one container.

    Attributes:
        address: the container's.
        index: of the link in the hub.
        interface: name of the link in the container.
        netns: fd of the container's namespace while it waits for its container, else None.
        names: under which the container is known.
    """

    __slots__ = ("address", "index", "interface", "names", "netns")

    def __init__(self, address: str, index: int, interface: str, netns: int | None) -> None:
        self.address, self.index, self.interface, self.netns = address, index, interface, netns
        self.names: tuple[str, ...] = ()


class Hub:
    """A network. Closing it leaves the rest to the kernel: its links go with the containers' namespaces."""

    def __init__(self, kernel: Kernel, subnet: str) -> None:
        self.addresses = Addresses(subnet)
        self.members: dict[str, Port] = {}                      # container → its port
        self.listeners: dict[str, str] = {}                     # name of listeners → their address
        self._ready: dict[str, Port] = {}                       # address → a port that waits for its container
        self._kernel = kernel
        self._next_index = _FIRST_PORT
        self.used_ports = 0   # how many containers were on it, at some time
        with kernel.namespaces.fresh() as netns:
            self.netns = netns
            kernel.namespaces.set_hub()
            self._wire = Wire()
            self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            try:
                self._wire.send(kernel.compiler.hub(self.addresses.network))
                for server in (self.udp, self.tcp):
                    server.setblocking(False)
                    server.bind((self.addresses.gateway, 53))
                self.tcp.listen(_DNS_BACKLOG)
            except BaseException:
                self._close_sockets()
                raise

    @property
    def ready_ports(self) -> int:
        """How many ports wait for their containers."""
        return len(self._ready)

    def prepare_port(self) -> None:
        """Make a port ahead, at the lowest address without one."""
        address = self.addresses.take()
        try:
            self._ready[address] = self._make_port(address)
        except BaseException:
            self.addresses.give_back(address)
            raise

    def attach(self, container: str, names: tuple[str, ...], *, slot: int | None = None, netns: int | None = None) -> Port:
        """Give `container` a port: in the namespace `netns`, or in a fresh one that the port then holds.

        Raises:
            AddressError: the container has one already, or there is no such address.
            OSError: the kernel refused.
        """
        if container in self.members:
            raise AddressError(f"container {container} is on this network already")
        ready = self._take_ready(slot)
        if ready is not None and netns is None:
            port = ready
        else:
            if ready is not None:   # its namespace is not the one that is wanted: give up the port, keep the address
                self._discard(ready)
            address = ready.address if ready is not None else self.addresses.take(slot)
            try:
                port = self._make_port(address, netns)
            except BaseException:
                self.addresses.give_back(address)
                raise
        port.names = names
        self.members[container] = port
        self.used_ports += 1
        return port

    def detach(self, container: str) -> None:
        """Take a container off: from now on its address refuses, whatever still lives in its namespace."""
        port = self.members.pop(container, None)
        if port is not None:
            self._cut_off(port)
            self.addresses.give_back(port.address)

    def listen(self, name: str, number: int, backlog: int) -> tuple[str, socket.socket]:
        """Return an address of the hub, the same for each listener of this name, and a socket that listens there.

        No copy of the socket is kept: its port is closed once its owner closes it.
        """
        if any(name in port.names for port in self.members.values()):
            raise AddressError(f"the name {name!r} belongs to a container of this network")
        known = self.listeners.get(name)
        address = known or self.addresses.take_highest()
        with self._kernel.namespaces.inside(self.netns):
            made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((address, number))
            made.listen(backlog)
        except BaseException as error:
            made.close()
            if not known:
                self.addresses.give_back(address)
            if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
                raise AddressError(f"port {number} of {name!r} is in use") from None
            raise
        self.listeners[name] = address
        return address, made

    def unlisten(self, name: str) -> None:
        """Forget a name and its address; its sockets are their owner's."""
        address = self.listeners.pop(name, "")
        if address:
            self.addresses.give_back(address)

    def find(self, name: str) -> list[str] | None:
        """Return the addresses of `name`, which must be in lower case, or None."""
        if name in self.listeners:
            return [self.listeners[name]]
        return [port.address for port in self.members.values() if name in port.names] or None

    def name_of(self, address: str) -> str | None:
        """Return the first name of `address`."""
        for port in self.members.values():
            if port.address == address and port.names:
                return port.names[0]
        return next((name for name, known in self.listeners.items() if known == address), None)

    def container_at(self, address: str) -> str | None:
        """Return the container whose address this is."""
        return next((container for container, port in self.members.items() if port.address == address), None)

    def names(self) -> dict[str, str]:
        """Return all names and their addresses; of a name that several have, the first."""
        found = dict(self.listeners)
        for port in self.members.values():
            for name in port.names:
                found.setdefault(name, port.address)
        return found

    def close(self) -> None:
        """Let go of everything."""
        for port in (*self.members.values(), *self._ready.values()):
            _release(port)
        self._close_sockets()
        os.close(self.netns)

    def _close_sockets(self) -> None:
        for held in (self.udp, self.tcp, self._wire):
            held.close()

    def _take_ready(self, slot: int | None) -> Port | None:
        """Return the port that waits at the address that a container gets now, if one does."""
        if slot is not None:
            wanted = next((address for address in self._ready if self.addresses.number(address) == slot), "")
            return self._ready.pop(wanted, None)
        lowest = min(self._ready, key=self.addresses.number, default=None)
        if lowest is None or self.addresses.number(lowest) > self.addresses.lowest_free():
            return None
        return self._ready.pop(lowest)

    def _make_port(self, address: str, netns: int | None = None) -> Port:
        index = self._next_index
        self._next_index += 1
        spaces = self._kernel.namespaces
        if netns is not None:
            with spaces.inside(netns):
                spaces.set_container()
                wire = Wire()
            made = None
        else:
            with spaces.fresh() as made:
                spaces.set_container()
                wire = Wire()
        try:
            interface = self._connect(wire, index, address, known=netns is not None)
        except BaseException:
            if made is not None:
                os.close(made)
            raise
        finally:
            wire.close()
        return Port(address, index, interface, made)

    def _connect(self, wire: Wire, index: int, address: str, *, known: bool) -> str:
        """Join the namespace of `wire` to the hub, and return its interface's name."""
        compiler, addresses = self._kernel.compiler, self.addresses
        self._kernel.aim(self.netns)
        try:
            for number in range(_MOST_INTERFACES):
                interface, interface_index = f"eth{number}", _FIRST_INTERFACE + number
                try:
                    wire.send(compiler.veth(interface, interface_index, address, index))
                    break
                except OSError as error:   # a container that was there before has interfaces of its own
                    if not known or error.errno not in (errno.EEXIST, errno.EBUSY) or number + 1 == _MOST_INTERFACES:
                        raise
        finally:
            self._kernel.aim(None)
        wire.send(compiler.interface(interface_index, address, addresses.prefix))
        self._wire.send(compiler.port(index, address, addresses.gateway))
        # The port is opened after its peer, and works from then on; the peer waits for the kernel's link watcher.
        wire.wait_until_up(compiler.state(interface_index))
        return interface

    def _discard(self, port: Port) -> None:
        self._cut_off(port)
        _release(port)

    def _cut_off(self, port: Port) -> None:
        try:
            self._wire.send(self._kernel.compiler.no_port(port.index, port.address))
        except OSError as error:
            if error.errno not in (errno.ESRCH, errno.ENODEV):   # gone already, with its container's namespace
                raise


def _release(port: Port) -> None:
    if port.netns is not None:
        os.close(port.netns)
        port.netns = None
