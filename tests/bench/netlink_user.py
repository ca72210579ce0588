"""Another user of the kernel's network configuration: `python netlink_user.py ROOT`, until its input ends.

Every 2 ms: list the links and take the RTNL lock for a change; every 20th time, make a network namespace and drop
the one before. Prints, in milliseconds, how long each of the three took at worst, and how often it went round.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
import time
from contextlib import suppress

sys.path.insert(0, sys.argv[1])

from pytest_sealed.linux import namespaces

_NEWLINK, _GETLINK, _REQUEST, _ACK, _DUMP = 16, 18, 1, 4, 0x300


def _link_request(kind: int, flags: int, index: int) -> bytes:
    return struct.pack("=IHHII", 32, kind, _REQUEST | flags, 0, 0) + struct.pack("=BxHiII", 0, 0, index, 1, 1 if index else 0)


def main() -> None:
    uid = os.getuid()
    if uid:
        namespaces.unshare(namespaces.CLONE_NEWUSER)
        with open("/proc/self/uid_map", "w", encoding="ascii") as file:
            file.write(f"0 {uid} 1")
    namespaces.unshare(namespaces.CLONE_NEWNET)
    with suppress(PermissionError):   # then it waits for the kernel's locks alone, and not for a processor that others use
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    wire = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    worst = {"dump": 0.0, "change": 0.0, "netns": 0.0}
    rounds = 0

    def timed(what: str, start: float) -> None:
        worst[what] = max(worst[what], (time.monotonic() - start) * 1000)

    while not select.select([0], [], [], 0.002)[0]:
        start = time.monotonic()
        wire.send(_link_request(_GETLINK, _DUMP, 0))
        while struct.unpack_from("=H", wire.recv(65536), 4)[0] != 3:   # NLMSG_DONE
            pass
        timed("dump", start)
        start = time.monotonic()
        wire.send(_link_request(_NEWLINK, _ACK, 1))
        wire.recv(65536)
        timed("change", start)
        rounds += 1
        if rounds % 20 == 0:
            start = time.monotonic()
            namespaces.unshare(namespaces.CLONE_NEWNET)   # the one before is dropped, once the socket has let go of it
            timed("netns", start)
            wire.close()
            wire = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    print(" ".join(f"{name}={value:.2f}" for name, value in worst.items()), f"rounds={rounds}")


main()
