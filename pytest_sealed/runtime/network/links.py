"""Rtnetlink: pyroute2 compiles the requests, once each; a plain socket in the right namespace carries them.

pyroute2's own socket costs 0.3 ms to open and 0.2 to 0.7 ms a request (an asyncio loop turns for each); a
container needs eight requests. All that varies between two containers with the same address is the
namespace of the veth's other end, an fd number. So that number is always the same (`Wires.target`), every
batch is bytes that are kept, and one send carries many requests.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from typing import Any

from pytest_sealed.runtime.network.addresses import HUB_MAC, mac_of

__all__ = ["Batch", "Compiler", "Wire"]

_HEADER = struct.Struct("=IHHII")    # nlmsghdr: length, type, flags, sequence, port
_CODE = struct.Struct("=i")
_ERROR = 2                           # NLMSG_ERROR, also the acknowledgement
_ACK = 4                             # NLM_F_ACK
_IFINFO = 16                         # bytes, of struct ifinfomsg
_IFLA_QDISC = 6
_IFLA_OPERSTATE = 16
_OPERSTATE_UP = 6
_NUD_PERMANENT = 0x80
_NOPREFIXROUTE = 0x200               # IFA_F_NOPREFIXROUTE: the route to the subnet goes by the hub, see below
_SKIP_STATS = 1 << 3                 # RTEXT_FILTER_SKIP_STATS
_LINK, _HOST, _LOCAL = 253, 254, 255   # scopes; 255 is also the table `local`
_LO = 1                              # interface index in every namespace
_PATIENCE = 0.25                     # seconds, for a link to come up


class Batch:
    """Some requests, ready to be sent together."""

    __slots__ = ("data", "names")

    def __init__(self, data: bytes, names: tuple[str, ...]) -> None:
        self.data = data
        self.names = names


class Compiler:
    """Turns requests into bytes by pyroute2, and keeps them: a fresh one costs 0.26 ms each."""

    __slots__ = ("_batch", "_kept", "_target")

    def __init__(self, target: int) -> None:
        from pyroute2 import IPBatch  # 130 ms: when the service is already listening
        self._batch: Any = IPBatch()
        self._kept: dict[tuple[object, ...], Batch] = {}
        self._target = target

    def hub(self, gateway: str, subnet: str) -> Batch:
        """The hub's own address; and every address of the subnet that has no port is the hub's, which refuses at once.

        (An ICMP answer from a router would be as quick, but a client that is still in connect(2) on the same CPU
        doesn't act on it: it waits for its first retransmission, a second.) The ports' /32 routes are in the same
        table, so the longest prefix decides.
        """
        return self._make(
            ("hub", gateway, subnet),
            ("link", "set", {"index": _LO, "state": "up"}),
            ("addr", "add", {"index": _LO, "address": gateway, "prefixlen": 32}),
            ("route", "add", {"dst": subnet, "oif": _LO, "type": "local", "table": _LOCAL, "scope": _HOST, "prefsrc": gateway}),
        )

    def veth(self, index: int, address: str, interface: str, interface_index: int) -> Batch:
        """A pair: number `index` in the hub, up; `interface` in the namespace that the target fd names."""
        return self._make(
            ("veth", index, address, interface, interface_index),
            ("link", "add", {
                "index": index, "ifname": f"port{index}", "kind": "veth", "address": HUB_MAC, "state": "up",
                "peer": {"index": interface_index, "ifname": interface, "address": mac_of(address), "net_ns_fd": self._target},
            }),
        )

    def port(self, index: int, address: str, gateway: str) -> Batch:
        """The hub's side of a port: where `address` is. Replaces the route to an older port of the same address."""
        return self._make(
            ("port", index, address, gateway),
            ("neigh", "replace", {"dst": address, "lladdr": mac_of(address), "ifindex": index, "state": _NUD_PERMANENT}),
            ("route", "replace", {"dst": address + "/32", "oif": index, "prefsrc": gateway, "scope": _LINK, "table": _LOCAL}),
        )

    def interface(self, index: int, address: str, gateway: str, prefix: int, subnet: str) -> Batch:
        """The container's side. All of the subnet is behind the hub, so one neighbour is all there is, and no ARP."""
        return self._make(
            ("interface", index, address, gateway, prefix),
            ("link", "set", {"index": _LO, "state": "up"}),
            ("link", "set", {"index": index, "state": "up"}),
            ("addr", "add", {"index": index, "address": address, "prefixlen": prefix, "flags": _NOPREFIXROUTE}),
            ("neigh", "replace", {"dst": gateway, "lladdr": HUB_MAC, "ifindex": index, "state": _NUD_PERMANENT}),
            ("route", "add", {"dst": gateway + "/32", "oif": index, "prefsrc": address, "scope": _LINK}),
            ("route", "add", {"dst": subnet, "gateway": gateway, "oif": index, "prefsrc": address}),
        )

    def down(self, index: int) -> Batch:
        """Take a port down: its route and neighbour go with it, at once."""
        return self._make(("down", index), ("link", "set", {"index": index, "state": "down"}))

    def state(self, index: int) -> Batch:
        """Ask for a link's state."""
        return self._make(("state", index), ("link", "get", {"index": index, "ext_mask": _SKIP_STATS}))

    def _make(self, key: tuple[object, ...], *requests: tuple[str, str, dict[str, Any]]) -> Batch:
        kept = self._kept.get(key)
        if kept is None:
            if len(self._kept) > 4096:   # more than 1,000 addresses: forget, rather than grow
                self._kept.clear()
            kept = self._kept[key] = self._compile(requests)
        return kept

    def _compile(self, requests: tuple[tuple[str, str, dict[str, Any]], ...]) -> Batch:
        self._batch.reset()
        for kind, command, arguments in requests:
            getattr(self._batch, kind)(command, **arguments)
        data = bytearray(self._batch.batch)
        offset = 0
        for number in range(len(requests)):
            length, kind_number, flags, _, _ = _HEADER.unpack_from(data, offset)
            # Errors are always reported; success only by the last request. Its number tells which one failed.
            flags = flags | _ACK if number == len(requests) - 1 else flags & ~_ACK
            _HEADER.pack_into(data, offset, length, kind_number, flags, number, 0)
            offset += (length + 3) & ~3
        return Batch(bytes(data), tuple(f"{kind} {command} {_brief(arguments)}" for kind, command, arguments in requests))


class Wire:
    """An rtnetlink socket in the namespace in which it was made."""

    __slots__ = ("_socket",)

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)

    def send(self, batch: Batch) -> None:
        """Make the requests of `batch`.

        Raises:
            OSError: the first one that failed, named in the text; later ones may have been done. See rtnetlink(7).
        """
        self._socket.send(batch.data)
        failure: OSError | None = None
        while True:
            answer = self._socket.recv(65536)
            _, kind, _, number, _ = _HEADER.unpack_from(answer)
            if kind != _ERROR:
                continue
            code = -_CODE.unpack_from(answer, _HEADER.size)[0]
            if code and failure is None:
                failure = OSError(code, f"rtnetlink: {batch.names[number]}: {os.strerror(code)}")
            if number == len(batch.names) - 1:
                break
        if failure is not None:
            raise failure

    def wait_until_up(self, state: Batch) -> None:
        """Wait until a link carries packets. Right after "up" its queue may still be the one that drops them all.

        Raises:
            TimeoutError: it did not come up.
        """
        deadline = time.monotonic() + _PATIENCE
        pause = 0.0
        while not self._is_up(state):
            if time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, f"rtnetlink: a link did not come up within {_PATIENCE} s")
            time.sleep(pause)   # the kernel's link watcher needs the processor and the RTNL lock, not us
            pause = min(pause + 0.00005, 0.002)

    def _is_up(self, state: Batch) -> bool:
        self._socket.send(state.data)
        up = queue = False
        while True:
            answer = self._socket.recv(65536)
            _, kind, _, _, _ = _HEADER.unpack_from(answer)
            if kind == _ERROR:
                code = -_CODE.unpack_from(answer, _HEADER.size)[0]
                if code:
                    raise OSError(code, f"rtnetlink: {state.names[0]}: {os.strerror(code)}")
                return up and queue
            for name, value in _attributes(answer, _HEADER.size + _IFINFO):
                if name == _IFLA_OPERSTATE:
                    up = value[0] == _OPERSTATE_UP
                elif name == _IFLA_QDISC:
                    queue = value.rstrip(b"\0") != b"noop"

    def close(self) -> None:
        self._socket.close()


def _attributes(message: bytes, offset: int) -> list[tuple[int, bytes]]:
    """Return the attributes of a message from the kernel: (type, value)."""
    found = []
    while offset + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, offset)
        if length < 4:
            break
        found.append((kind & 0x3FFF, message[offset + 4:offset + length]))
        offset += (length + 3) & ~3
    return found


def _brief(arguments: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in arguments.items() if not isinstance(value, dict))
