"""A private network: what is on it can reach each other by name, and nothing else."""

from __future__ import annotations

import errno
import os
import socket
import zlib
from typing import TYPE_CHECKING, final

from pytest_sealed.errors import NetworkError, SpecError, nearest
from pytest_sealed.values import check_host, check_name
from pytest_sealed.waits import tcp

if TYPE_CHECKING:
    from pytest_sealed.container import Container
    from pytest_sealed.runtime.client import Session

__all__ = ["Network", "names_of"]

DEFAULT = "default"


def names_of(container: Container) -> set[str]:
    """Return the names by which a container is found, in lower case, as resolvers compare them."""
    return {name.lower() for name in (container.name, *container.spec.aliases)}


@final
class Network:
    """A network of a sandbox, alone with its members: no route leads out, in, or to another network.

    Made by `Sandbox.network` and `network_fixture`.

    Attributes:
        name: within its sandbox.
        subnet: IPv4 network, the same for the same name in every run.
        listener_names: those of the test's own listeners, in lower case.
        closed: whether `close` was called.
    """

    def __init__(self, session: Session, name: str, taken: set[str]) -> None:
        self.name = check_name("network name", name)
        self._session = session
        self.id = f"{name}-{os.urandom(4).hex()}"
        self.subnet = _subnet(name, taken)
        self.members: list[Container] = []
        self.listener_names: set[str] = set()
        self._listeners: list[socket.socket] = []
        self.closed = False
        session.request("network", network=self.id, subnet=self.subnet)

    def listen(self, port: int = 0, *, name: str = "test", backlog: int = 128) -> socket.socket:
        """Return a listening TCP socket of the test's own, which containers here reach as `name:port`.

        Args:
            port: 0 lets the kernel choose; `getsockname()[1]` tells.
            name: the test's name on this network; each name has its own address.

        Raises:
            NetworkError: the port is taken under this name, or the network was closed.
        """
        if port:
            tcp(port)
        check_host("listener name", name)
        self._require_open()
        _, (fd,) = self._session.request("listen", network=self.id, port=port, name=name, backlog=backlog)
        self.listener_names.add(name.lower())
        listener = socket.socket(fileno=fd)
        self._listeners.append(listener)
        return listener

    def connect(self, host: str, port: int, *, timeout: float | None = 5.0) -> socket.socket:
        """Open a TCP connection inside this network, to a container's name or to an address.

        Raises:
            SpecError: nobody of that name is here, or there is no such port.
            OSError: the real answer, such as ConnectionRefusedError.
            NetworkError: the network was closed.
        """
        address, connection = self._socket(host, port)
        try:
            connection.settimeout(timeout)
            connection.connect((address, port))
        except BaseException:
            connection.close()
            raise
        return connection

    def begin_connect(self, host: str, port: int) -> socket.socket:
        """Return a non-blocking socket that is connecting; when it is ready, SO_ERROR has the answer. See connect(2)."""
        address, connection = self._socket(host, port)
        connection.setblocking(False)
        error = connection.connect_ex((address, port))
        if error not in (0, errno.EINPROGRESS):
            connection.close()
            raise OSError(error, os.strerror(error))
        return connection

    def _socket(self, host: str, port: int) -> tuple[str, socket.socket]:
        tcp(port)
        self._require_open()
        address = self.address(host)
        _, (fd,) = self._session.request("socket", network=self.id)
        return address, socket.socket(fileno=fd)

    def address(self, host: str) -> str:
        """Return the address of a container's name or alias here; an address is returned as it is."""
        try:
            socket.inet_aton(host)
        except OSError:
            pass
        else:
            return host
        names = {name: container.addresses.get(self.id, "") for container in self.members for name in names_of(container)}
        if not names.get(host.lower()):
            raise SpecError(f"nobody on network {self.name!r} is called {host!r}{nearest(host, names)}",
                            remedy=f"those here: {', '.join(sorted(name for name, address in names.items() if address)) or 'nobody'}")
        return names[host.lower()]

    def close(self) -> None:
        """Drop the network; idempotent.

        Containers that are still on it run on without it: they reach nobody there, connections are reset, and their ports lead to
        the next of their networks, or refuse. (Docker refuses to remove such a network.)
        """
        if self.closed:
            return
        self.closed = True
        self.members.clear()
        for listener in self._listeners:
            listener.close()
        if self._session.alive:
            self._session.request("drop_network", network=self.id)

    def _require_open(self) -> None:
        if self.closed:
            raise NetworkError(f"network {self.name!r} was closed", remedy="close it after the last use, or make another: network(name)")

    def __repr__(self) -> str:
        return f"<Network {self.name} {self.subnet}>"


# The networks of a test's scopes. Fixed and apart, since a container may be on several, whichever is made first.
_FIXED = {DEFAULT: 0, "class": 1, "module": 2, "package": 3, "session": 4}


def _subnet(name: str, taken: set[str]) -> str:
    """Return the network's /24: fixed for those of the scopes, else by a hash of the name, the next free one up."""
    start = _FIXED.get(name, 16 + zlib.crc32(name.encode()) % 240)
    for third in (start, *(5 + (start - 5 + step) % 251 for step in range(251))):
        subnet = f"10.89.{third}.0/24"
        if subnet not in taken:
            return subnet
    raise NetworkError("a sandbox can have at most 250 networks", remedy="use several sandboxes")
