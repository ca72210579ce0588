"""The network service under test, in namespaces of the test's own, and sockets in the networks that it makes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import pyroute2

from pytest_sealed.runtime.protocol import pair

SITE_PACKAGES = str(Path(pyroute2.__file__).parents[1])
ROOT = str(Path(__file__).parents[1])


Socket = socket.socket   # whose name a method below takes


class Refused(Exception):
    """The service answered with an error."""


class Place:
    """A network namespace that the service has handed out: a container's, or a hub."""

    def __init__(self, session: NetworkSession, netns: int, ok: dict[str, Any]) -> None:
        self.netns, self.ok = netns, ok
        self.address: str = ok.get("address", ok["gateway"])
        self._session = session

    def socket(self, kind: str = "tcp", timeout: float = 5) -> Socket:
        """Return a socket that lives here."""
        message, fds = self._session.agent_ask({"kind": kind}, self.netns)
        if "error" in message:
            raise OSError(message["error"])
        made = socket.socket(fileno=fds[0])
        made.settimeout(timeout)
        return made

    def read(self, path: str) -> str:
        """Return the text of a file as it reads from here: /proc/sys/net and /sys aside, few depend on the place."""
        return str(self._session.agent_ask({"read": path}, self.netns)[0].get("text"))

    def listen(self, port: int = 80) -> Socket:
        """Return a TCP socket that listens here, at this place's address."""
        made = self.socket()
        made.bind((self.address, port))
        made.listen()
        return made

    def close(self) -> None:
        if self.netns >= 0:
            os.close(self.netns)
            self.netns = -1


class NetworkSession:
    """Starts the service; a context manager."""

    def __init__(self) -> None:
        agent, agent_end = pair()
        service, service_end = pair()
        self.agent, self.service = agent, service
        for channel in (agent, service):
            channel.socket.settimeout(30)
        script = str(Path(__file__).parent / "network_agent.py")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", script, str(agent_end.fileno()), str(service_end.fileno()), SITE_PACKAGES, ROOT],
            pass_fds=[agent_end.fileno(), service_end.fileno()],
        )
        agent_end.close()
        service_end.close()
        self._number = 0
        self._places: list[Place] = []
        self._networks: list[str] = []

    def ask(self, op: str, fds: tuple[int, ...] = (), **arguments: Any) -> tuple[dict[str, Any], list[int]]:
        """Make one request of the service, and return what it answered."""
        self._number += 1
        self.service.send({"id": self._number, "op": op, **arguments}, fds)
        received = self.service.receive()
        assert received is not None, "the service is gone"
        message, given = received
        assert message["id"] == self._number
        if "error" in message:
            raise Refused(message["error"])
        return message["ok"], given

    def agent_ask(self, request: dict[str, Any], netns: int) -> tuple[dict[str, Any], list[int]]:
        self.agent.send(request, [netns])
        received = self.agent.receive()
        assert received is not None, "the agent is gone"
        return received

    def create(self, network: str, subnet: str = "10.89.0.0/24") -> Place:
        """Make a network, and return its hub."""
        ok, fds = self.ask("create", network=network, subnet=subnet)
        self._networks.append(network)
        return self._keep(Place(self, fds[0], ok))

    def attach(self, network: str, container: str, names: tuple[str, ...] = (), **more: Any) -> Place:
        """Make a container's namespace on a network."""
        ok, fds = self.ask("attach", network=network, container=container, names=names, **more)
        return self._keep(Place(self, fds[0], ok))

    def join(self, network: str, container: str, place: Place, names: tuple[str, ...] = ()) -> dict[str, Any]:
        """Attach a container that has a namespace already to one more network."""
        ok, fds = self.ask("attach", (place.netns,), network=network, container=container, names=names)
        assert fds == []
        return ok

    def _keep(self, place: Place) -> Place:
        self._places.append(place)
        return place

    def clear(self) -> None:
        """Remove all networks that were made by `create`, and close all places."""
        for network in self._networks:
            self.ask("remove", network=network)
        for place in self._places:
            place.close()
        self._networks, self._places = [], []

    def close(self) -> None:
        for place in self._places:
            place.close()
        self.service.close()
        self.agent.close()
        self._process.wait(30)

    def __enter__(self) -> NetworkSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
