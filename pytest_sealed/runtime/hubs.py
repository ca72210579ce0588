"""The supervisor's networks: hubs made by the network service, and the hosts files of who is on them."""

from __future__ import annotations

import os
import socket

from pytest_sealed.errors import NetworkError
from pytest_sealed.linux import namespaces
from pytest_sealed.runtime.answers import answer, refuse
from pytest_sealed.runtime.records import Hub

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pytest_sealed.runtime.helpers import Helper
    from pytest_sealed.runtime.protocol import Channel
    from pytest_sealed.runtime.records import ContainerRecord

__all__ = ["Hubs"]


class Hubs:
    """All networks of the session."""

    def __init__(self, service: Helper, etc: str) -> None:
        self._service, self._etc = service, etc
        self._hubs: dict[str, Hub] = {}
        self._own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def get(self, network: str) -> Hub:
        hub = self._hubs.get(network)
        if hub is None:
            raise NetworkError(f"network {network} is gone", remedy="ask for it within the life of the sandbox that made it")
        return hub

    def create(self, request: dict[str, Any], reply: Channel) -> None:
        """Make a network; answers {gateway, prefix}."""
        network, subnet = request["network"], request["subnet"]

        def made(message: dict[str, Any], fds: list[int]) -> None:
            if "error" in message:
                refuse(reply, NetworkError(f"network {network} could not be made: {message['error']}"))
                return
            ok = message["ok"]
            self._hubs[network] = Hub(network, subnet, ok["gateway"], ok["prefix"], fds[0])
            answer(reply, {"gateway": ok["gateway"], "prefix": ok["prefix"]})
        self._service.ask({"op": "create", "network": network, "subnet": subnet}, made)

    def remove(self, network: str, done: Callable[[], None]) -> Hub | None:
        """Drop a network, and return what it was; `done` is called when nothing reaches anybody through it any more."""
        hub = self._hubs.pop(network, None)
        members = hub is not None and bool(hub.members)
        if hub is not None:
            os.close(hub.fd)
            self._service.ask({"op": "remove", "network": network}, lambda _message, _fds: done() if members else None)
        if not members:   # as at the end of most tests, which need not wait for it
            done()
        return hub

    def attach(self, record: ContainerRecord, done: Callable[[str | None], None]) -> None:
        """Join a container to its networks, one after the other; `done` gets an error text or None."""
        wanted = list(record.request["networks"])

        def next_one() -> None:
            if not wanted:
                done(None)
                return
            row = wanted.pop(0)
            hub = self._hubs.get(row["network"])
            if hub is None:
                done(f"network {row['network']} is gone")
                return

            def attached(message: dict[str, Any], fds: list[int]) -> None:
                if "error" in message:
                    done(str(message["error"]))
                    return
                if record.netns < 0:
                    record.netns = fds.pop(0)
                for fd in fds:
                    os.close(fd)
                if row["network"] not in self._hubs:   # dropped meanwhile
                    done(f"network {row['network']} is gone")
                    return
                record.addresses[hub.id] = message["ok"]["address"]
                hub.members[record.id] = (message["ok"]["address"], row["names"])
                next_one()
            self._service.ask({"op": "attach", "network": hub.id, "container": record.id, "names": row["names"]}, attached,
                              [record.netns] if record.netns >= 0 else [])
        next_one()

    def detach(self, record: ContainerRecord) -> None:
        """Take a container off its networks, at once."""
        for network in record.addresses:
            hub = self._hubs.get(network)
            if hub is not None:
                hub.members.pop(record.id, None)
                self._service.ask({"op": "detach", "network": network, "container": record.id}, lambda _message, _fds: None)

    def of(self, record: ContainerRecord) -> list[Hub]:
        return [self._hubs[network] for network in record.addresses if network in self._hubs]

    def write_hosts(self, record: ContainerRecord) -> None:
        """Write a container's hosts file: itself first, then everyone on its networks."""
        rows = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
        for hub in self.of(record):
            own = record.addresses[hub.id]
            for address, names in sorted(hub.rows(), key=lambda row: row[0] != own):
                known = dict.fromkeys([*names, record.request["hostname"]] if address == own else names)
                rows += [f"{address}\t{' '.join(known)}"] if known else []
        data = "".join(f"{row}\n" for row in rows).encode()
        fd = os.open(f"{record.etc}/hosts", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.ftruncate(fd, len(data))
            os.pwrite(fd, data, 0)
        finally:
            os.close(fd)

    def resolv_conf(self, record: ContainerRecord) -> str:
        servers = "".join(f"nameserver {hub.gateway}\n" for hub in self.of(record)[:3])
        return f"{servers}options ndots:0 timeout:1 attempts:2\n" if servers else ""

    def socket(self, network: str, reply: Channel) -> None:
        """Answer with a fresh TCP socket that lives in the network's hub."""
        hub = self.get(network)
        namespaces.setns(hub.fd, namespaces.CLONE_NEWNET)
        try:
            made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        finally:
            namespaces.setns(self._own, namespaces.CLONE_NEWNET)
        with made:
            answer(reply, {}, (made.fileno(),))

    def listen(self, request: dict[str, Any], reply: Channel, changed: Callable[[Hub], None]) -> None:
        """Answer with a listening socket of the test's own on the network; `changed` is told of the new name."""
        hub = self.get(request["network"])

        def listening(message: dict[str, Any], fds: list[int]) -> None:
            if "error" in message:
                refuse(reply, NetworkError(f"can't listen on network {hub.id.rpartition('-')[0]!r}: {message['error']}",
                                           remedy="give listen() another port= or name=; without a port the kernel chooses one"))
                return
            ok = message["ok"]
            hub.listeners[request["name"]] = ok["address"]
            changed(hub)
            answer(reply, ok, (fds[0],))
            os.close(fds[0])
        self._service.ask({"op": "listen", "network": hub.id, "name": request["name"], "port": request["port"],
                           "backlog": request["backlog"]}, listening)
