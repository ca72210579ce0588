"""Other containers: neither memory, queues, sockets, processes nor files of one are another's, and none speaks in another's name."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from boxes import FOREVER, idle, sh
from weakened import weakened

from pytest_sealed import Container, Sandbox, tcp

# What two programs of one machine may share, by System V's calls, POSIX's files and names without a file.
LEAVE = """
import ctypes, os, socket, time
libc = ctypes.CDLL(None, use_errno=True)
segment = libc.shmget(4242, 4096, 0o1666)
libc.shmat.restype = ctypes.c_void_p
ctypes.memmove(libc.shmat(segment, None, 0), b"secret", 6)
libc.semget(4242, 1, 0o1666)
libc.msgget(4242, 0o1666)
open("/dev/shm/secret", "w").write("secret")
open("/tmp/secret", "w").write("secret")
listener = socket.socket(socket.AF_UNIX)
listener.bind("\\0secret")
listener.listen()
print("ready", flush=True)
time.sleep(1000000)
"""
FIND = """
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
print("shm", libc.shmget(4242, 0, 0) >= 0)
print("sem", libc.semget(4242, 0, 0) >= 0)
print("msg", libc.msgget(4242, 0) >= 0)
print("posix", os.path.exists("/dev/shm/secret"))
print("tmp", os.path.exists("/tmp/secret"))
try:
    socket.socket(socket.AF_UNIX).connect("\\0secret")
    print("abstract", True)
except OSError:
    print("abstract", False)
"""


def found(container: Container) -> dict[str, bool]:
    rows = (line.split() for line in container.exec(["python3", "-c", FIND], check=True).stdout.splitlines())
    return {name: value == "True" for name, value in rows}


def leaves(sandbox: Sandbox) -> Container:
    container = sandbox.run("python", ["python3", "-c", LEAVE], name="leaves")
    container.wait_for_log("ready")
    return container


def test_nothing_that_programs_share_is_shared_by_containers(sandbox: Sandbox) -> None:
    first = leaves(sandbox)
    assert set(found(first).values()) == {True}   # else they would find nothing anywhere
    assert set(found(sandbox.run("python", FOREVER)).values()) == {False}
    with Sandbox(parent=sandbox) as other:
        assert set(found(other.run("python", FOREVER)).values()) == {False}


def test_without_a_namespace_of_its_own_memory_would_be(tmp_path: Path) -> None:
    with weakened(tmp_path, ("containers.py", "namespaces.CLONE_NEWNS | namespaces.CLONE_NEWIPC |", "namespaces.CLONE_NEWNS |")) as sandbox:
        leaves(sandbox)
        seen = found(sandbox.run("python", FOREVER))
        assert (seen["shm"], seen["posix"]) == (True, False)


def test_to_kill_all_processes_kills_its_own(sandbox: Sandbox) -> None:
    other = idle(sandbox)
    for init in (True, False):
        attacker = idle(sandbox, init=init, seccomp="unconfined")
        attacker.exec(["sh", "-c", "kill -9 -1; for pid in $(seq 1 400); do kill -9 $pid; done"])
        attacker.kill()
        assert other.exec(["echo", "well"]).stdout == "well\n"


def test_no_file_of_another_is_below_proc_or_sys(sandbox: Sandbox) -> None:
    sh(idle(sandbox, name="other"), "echo secret > /canary-of-another")
    attacker = idle(sandbox)
    assert attacker.exec(["sh", "-c", "ls /proc/*/root/canary-of-another /proc/*/cwd/canary-of-another /proc/*/fd/*/canary-of-another"],
                         timeout=60).stdout == ""
    sh(attacker, "touch /canary-of-another")
    assert "/proc/1/root/canary-of-another" in sh(attacker, "ls /proc/*/root/canary-of-another")   # so it would be found


# Claims the address and the name of another, by the only means that there are without NET_ADMIN and NET_RAW.
SPOOF = """
import errno, socket, sys
for kind, protocol in ((socket.SOCK_RAW, socket.IPPROTO_RAW), (socket.SOCK_RAW, socket.IPPROTO_ICMP)):
    try:
        socket.socket(socket.AF_INET, kind, protocol)
        print("raw")
    except OSError as error:
        print(errno.errorcode[error.errno])
try:
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    print("packet")
except OSError as error:
    print(errno.errorcode[error.errno])
for level, option in ((socket.IPPROTO_IP, 19), (socket.IPPROTO_IP, 15)):   # IP_TRANSPARENT, IP_FREEBIND
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        udp.setsockopt(level, option, 1)
        udp.bind((sys.argv[1], 53))
        udp.sendto(b"evil", (sys.argv[2], 9))
        print("bound")
    except OSError as error:
        print(errno.errorcode[error.errno])
"""


@pytest.mark.parametrize("seccomp", ["default", "unconfined"])
def test_no_packet_can_be_sent_in_anothers_name(sandbox: Sandbox, seccomp: Literal["default", "unconfined"]) -> None:
    other, third = idle(sandbox, name="other"), idle(sandbox, name="third")
    attacker = sandbox.run("python", FOREVER, seccomp=seccomp)
    assert other.address
    assert third.address
    said = attacker.exec(["python3", "-c", SPOOF, other.address, third.address], check=True).stdout.split()
    assert said[:4] == ["EPERM"] * 4
    assert said[4] != "raw"


# A container whose root is that of the namespace that owns its network, with the capabilities that it may not have: NET_ADMIN and NET_RAW.
OWNER = (("spawn.py", "    namespaces.unshare(namespaces.CLONE_NEWUSER)\n    writable", "    writable"),
         ("containers.py", "                self._write_maps(record, int(uid), int(gid))\n", ""),
         ("spawn.py", 'keep = frozenset(request["capabilities"])', 'keep = frozenset(request["capabilities"]) | {12, 13}'))


def test_in_the_namespace_that_owns_its_network_they_could_be_sent(tmp_path: Path) -> None:
    with weakened(tmp_path, *OWNER) as sandbox:
        other, third = idle(sandbox, name="other"), idle(sandbox, name="third")
        assert other.address
        assert third.address
        attacker = sandbox.run("python", ["python3", "-c", SPOOF, other.address, third.address])
        assert attacker.wait(60) == 0, attacker.logs()
        assert attacker.logs().split()[:4] == ["raw", "raw", "packet", "bound"]


# One host has one neighbour table for all networks, of 1,024 entries by default: a network of /16 could fill it.
SCAN = """
import socket, sys
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.setblocking(False)
for third in range(80, int(sys.argv[1])):
    for last in range(1, 255):
        try:
            udp.sendto(b"x", (f"10.{third}.0.{last}", 9))
        except OSError:
            pass
"""


def test_whoever_asks_for_all_addresses_fills_no_table(sandbox: Sandbox) -> None:
    attacker = sandbox.run("python", FOREVER)
    attacker.exec(["python3", "-c", SCAN, "100"], check=True)
    rows = attacker.exec(["cat", "/proc/net/arp"], check=True).stdout.splitlines()[1:]
    assert len(rows) <= 2
    sandbox.run("busybox", ["httpd", "-f", "-p", "80"], wait=tcp(80))   # others join, and are reached


def test_were_there_arp_in_a_wide_network_it_would(tmp_path: Path) -> None:
    """So far as is safe: the table is the whole host's."""
    with weakened(tmp_path, *OWNER) as sandbox:
        widen = "ip addr add 10.80.0.1/16 dev eth0 && ip link set eth0 arp on"
        attacker = sandbox.run("python", ["sh", "-c", f'{widen} && python3 -c "$1" 81 && cat /proc/net/arp', "-", SCAN])
        assert attacker.wait(60) == 0, attacker.logs()
        assert len(attacker.logs().splitlines()) > 200
