"""Rtnetlink: pyroute2's message classes write the requests, once each; a plain socket in the right namespace carries them.

pyroute2's own socket costs 0.3 ms to open and 0.2 to 0.7 ms a request (an asyncio loop turns for each), and
writing a message 0.2 ms. All that varies between two containers with the same address is the namespace of the
veth's other end, an fd number. So that number is always the same (`Compiler.target`), every batch is bytes that
are kept, and one send carries several requests.

Few requests matter more than their size: each takes the host's one RTNL lock, behind everybody else's.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from socket import AF_INET
from typing import Any

from pytest_sealed.runtime.network import trim_pyroute2
from pytest_sealed.runtime.network.addresses import mac_of

__all__ = ["Batch", "Compiler", "Wire"]

_HEADER = struct.Struct("=IHHII")    # nlmsghdr: length, type, flags, sequence, port
_CODE = struct.Struct("=i")
_ERROR = 2                           # NLMSG_ERROR, also the acknowledgement
_REQUEST, _ACK = 1, 4                # NLM_F_REQUEST, NLM_F_ACK
_REPLACE, _EXCL, _CREATE = 0x100, 0x200, 0x400
_NEWLINK, _GETLINK, _NEWADDR, _NEWROUTE, _DELROUTE = 16, 18, 20, 24, 25
_UP, _NOARP = 0x1, 0x80              # IFF_*
_IFINFO = 16                         # bytes, of struct ifinfomsg
_IFLA_QDISC = 6
_IFLA_OPERSTATE = 16
_OPERSTATE_UP = 6
_SKIP_STATS = 1 << 3                 # RTEXT_FILTER_SKIP_STATS
_LINK_SCOPE, _HOST_SCOPE = 253, 254
_UNICAST, _LOCAL = 1, 2              # RTN_*
_LOCAL_TABLE = 255
_BOOT = 3                            # RTPROT_BOOT, what ip(8) says for routes that an administrator makes
_LO = 1                              # interface index in every namespace
# Unless told, veth makes a queue for each processor and then gives up all but one, for which it waits for all
# processors (RCU), twice, while it holds the RTNL lock: half of the time that a pair takes.
_ONE_QUEUE = (("IFLA_NUM_TX_QUEUES", 1), ("IFLA_NUM_RX_QUEUES", 1))
_PATIENCE = 0.25                     # seconds, for a link to come up


class Batch:
    """Some requests, ready to be sent together."""

    __slots__ = ("data", "names")

    def __init__(self, data: bytes, names: tuple[str, ...]) -> None:
        self.data = data
        self.names = names


class _Request:
    """One request: pyroute2's message class `kind`, its header's `fields`, its `attributes`; `name` is for errors."""

    __slots__ = ("attributes", "fields", "flags", "kind", "name", "number")

    def __init__(self, name: str, kind: type[Any], number: int, flags: int, fields: dict[str, int],
                 attributes: list[tuple[str, Any]]) -> None:
        self.name, self.kind, self.number, self.flags, self.fields, self.attributes = name, kind, number, flags, fields, attributes


class Compiler:
    """Turns requests into bytes by pyroute2, and keeps them."""

    def __init__(self, target: int) -> None:
        trim_pyroute2()   # and 30 ms for these three: when the service is already listening
        from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
        from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
        from pyroute2.netlink.rtnl.rtmsg import rtmsg
        self._link, self._address, self._route = ifinfmsg, ifaddrmsg, rtmsg
        self._kept: dict[tuple[object, ...], Batch] = {}
        self._target = target

    def hub(self, subnet: str) -> Batch:
        """Every address of the subnet that has no port is the hub's, which refuses at once.

        (An ICMP answer from a router would be as quick, but a client that is still in connect(2) on the same CPU
        doesn't act on it: it waits for its first retransmission, a second.) The ports' routes are in the same table,
        so the longest prefix decides.
        """
        network, prefix = subnet.split("/")
        fields = {"dst_len": int(prefix), "type": _LOCAL, "scope": _HOST_SCOPE}
        return self._make(("hub", subnet), self._up(_LO), self._route_to(network, _LO, fields))

    def veth(self, interface: str, interface_index: int, address: str, port_index: int) -> Batch:
        """The container's end of a veth pair, up, whose other end is number `port_index` in the hub that the target fd names.

        Both ends have the same MAC and no ARP: then the kernel takes a link's own MAC for everybody's, so nobody ever
        asks, and no neighbour needs to be entered. The peer can't be opened before the pair is complete (ENOTCONN).
        """
        peer = {"index": port_index, "flags": _NOARP, "change": _NOARP, "attrs": [
            ("IFLA_IFNAME", f"port{port_index}"), ("IFLA_ADDRESS", mac_of(address)), ("IFLA_NET_NS_FD", self._target), *_ONE_QUEUE,
        ]}
        veth = {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", peer)]})]}
        return self._make(
            ("veth", interface, interface_index, address, port_index),
            _Request(f"veth {interface}", self._link, _NEWLINK, _CREATE | _EXCL,
                     {"index": interface_index, "flags": _UP | _NOARP, "change": _UP | _NOARP},
                     [("IFLA_IFNAME", interface), ("IFLA_ADDRESS", mac_of(address)), *_ONE_QUEUE,
                      ("IFLA_LINKINFO", veth)]),
        )

    def interface(self, index: int, address: str, prefix: int) -> Batch:
        """The rest of the container's side: loopback, and its address, whose subnet is all that it can reach."""
        return self._make(
            ("interface", index, address, prefix),
            self._up(_LO),
            _Request(f"address {address}/{prefix}", self._address, _NEWADDR, _CREATE | _EXCL,
                     {"index": index, "prefixlen": prefix, "family": AF_INET},
                     [("IFA_LOCAL", address), ("IFA_ADDRESS", address)]),
        )

    def port(self, index: int, address: str, gateway: str) -> Batch:
        """The hub's side: up, and `address` is there. Replaces the route to an older port of the same address."""
        fields = {"dst_len": 32, "type": _UNICAST, "scope": _LINK_SCOPE}
        return self._make(("port", index, address, gateway), self._up(index), self._route_to(address, index, fields, gateway))

    def no_port(self, index: int, address: str) -> Batch:
        """Forget that `address` is at this port: rp_filter then drops what still comes from there.

        As good as taking the port down, without the wait for all processors (RCU) that a link's end implies.
        """
        fields = {"family": AF_INET, "table": _LOCAL_TABLE, "dst_len": 32, "scope": _LINK_SCOPE}
        return self._make(("no port", index, address), _Request(
            f"no route to {address}", self._route, _DELROUTE, 0, fields, [("RTA_DST", address), ("RTA_OIF", index)],
        ))

    def state(self, index: int) -> Batch:
        """Ask for a link's state."""
        return self._make(("state", index), _Request(
            f"state of link {index}", self._link, _GETLINK, 0, {"index": index}, [("IFLA_EXT_MASK", _SKIP_STATS)],
        ))

    def _up(self, index: int) -> _Request:
        return _Request(f"link {index} up", self._link, _NEWLINK, 0, {"index": index, "flags": _UP, "change": _UP}, [])

    def _route_to(self, target: str, index: int, fields: dict[str, int], source: str | None = None) -> _Request:
        fields = {"family": AF_INET, "table": _LOCAL_TABLE, "proto": _BOOT, **fields}
        attributes: list[tuple[str, Any]] = [("RTA_DST", target), ("RTA_OIF", index)]
        if source is not None:
            attributes.append(("RTA_PREFSRC", source))
        return _Request(f"route to {target}", self._route, _NEWROUTE, _CREATE | _REPLACE, fields, attributes)

    def _make(self, key: tuple[object, ...], *requests: _Request) -> Batch:
        kept = self._kept.get(key)
        if kept is None:
            if len(self._kept) > 4096:   # 1,000 addresses: forget, rather than grow
                self._kept.clear()
            kept = self._kept[key] = _compile(requests)
        return kept


def _compile(requests: tuple[_Request, ...]) -> Batch:
    data = b""
    for number, request in enumerate(requests):
        message = request.kind()
        for field, value in request.fields.items():
            message[field] = value
        message["attrs"] = request.attributes
        message["header"]["type"] = request.number
        # Errors are always reported; success only by the last request. Its number tells which one failed.
        message["header"]["flags"] = _REQUEST | request.flags | (_ACK if number == len(requests) - 1 else 0)
        message["header"]["sequence_number"] = number
        message.encode()
        data += bytes(message.data).ljust((len(message.data) + 3) & ~3, b"\0")
    return Batch(data, tuple(request.name for request in requests))


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
