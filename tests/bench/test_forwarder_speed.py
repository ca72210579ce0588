"""What the forwarder costs: throughput and latency next to a direct connection, in the same run."""

from __future__ import annotations

import os
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from forwarder_host import ForwarderHost

ROUNDS = 3000                   # of a message of 100 bytes each way
STREAM = 1 << 30                # bytes

# A process of its own, so that the server's work isn't taken from the client's interpreter.
SERVER = """
import socket, sys, threading
listening = socket.socket(fileno=int(sys.argv[1]))
def serve(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    kind = connection.recv(1)
    block = bytes(1 << 20)
    if kind == b"s":
        left = int(connection.recv(20))
        while left > 0:
            connection.sendall(block)
            left -= len(block)
    while kind == b"e" and (data := connection.recv(65536)):
        connection.sendall(data)
    connection.close()
while True:
    threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()
"""


class Bench:
    """A forwarded server, and the means to reach it directly."""

    def __init__(self, host: ForwarderHost, server: socket.socket) -> None:
        self.host = host
        self.inside: tuple[str, int] = server.getsockname()
        self.outside = host.listen("bench", self.inside[1])

    def direct(self) -> socket.socket:
        client = self.host.hubs[0].client()
        client.connect(self.inside)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client

    def forwarded(self) -> socket.socket:
        client = self.host.connect(self.outside)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client

    def cpu_seconds(self) -> float:
        with open(f"/proc/{self.host.process.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with ForwarderHost(str(tmp_path)) as host, host.hubs[0].server() as server:
        server.settimeout(None)
        server.listen(1024)
        process = subprocess.Popen([sys.executable, "-c", SERVER, str(server.fileno())], pass_fds=[server.fileno()])
        try:
            yield Bench(host, server)
        finally:
            process.kill()
            process.wait()


def gigabits_per_second(client: socket.socket) -> float:
    buffer = bytearray(1 << 20)
    with client:
        client.sendall(b"s%019d" % STREAM)
        started, total = time.perf_counter(), 0
        while size := client.recv_into(buffer):
            total += size
        seconds = time.perf_counter() - started
    assert total == STREAM
    return total * 8 / seconds / 1e9


def round_trips(client: socket.socket) -> list[float]:
    """Seconds of each round trip, sorted."""
    message, seconds = b"x" * 100, []
    with client:
        client.sendall(b"e")
        for _ in range(ROUNDS):
            started = time.perf_counter()
            client.sendall(message)
            left = len(message)
            while left:
                left -= len(client.recv(left))
            seconds.append(time.perf_counter() - started)
    return sorted(seconds)


def test_throughput_is_a_good_part_of_a_direct_connections(bench: Bench) -> None:
    pairs = [(gigabits_per_second(bench.direct()), gigabits_per_second(bench.forwarded())) for _ in range(5)]
    direct, forwarded = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"\nforwarder, 1 GiB: direct {direct:.1f} Gbit/s, forwarded {forwarded:.1f}: ratio {forwarded / direct:.2f}")
    assert forwarded / direct > 0.2


def test_added_latency_is_small(bench: Bench) -> None:
    pairs = [(round_trips(bench.direct()), round_trips(bench.forwarded())) for _ in range(5)]
    direct, forwarded = (sorted(second for run in column for second in run) for column in zip(*pairs, strict=True))
    for name, where in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
        index = min(int(len(direct) * where), len(direct) - 1)
        a, b = direct[index] * 1e6, forwarded[index] * 1e6
        print(f"\nforwarder, 100 bytes and back, {name}: direct {a:.0f} µs, forwarded {b:.0f}, added {b - a:.0f}: "
              f"ratio {b / a:.2f}", end="")
    assert forwarded[len(forwarded) // 2] < 10 * direct[len(direct) // 2]


def test_connecting_takes_little_longer(bench: Bench) -> None:
    def once(forwarded: bool) -> float:
        started = time.perf_counter()
        with bench.forwarded() if forwarded else bench.direct() as client:
            client.sendall(b"ex")
            assert client.recv(1) == b"x"
            return time.perf_counter() - started

    direct = sorted(once(False) for _ in range(19))
    forwarded = sorted(once(True) for _ in range(500))
    a, b = direct[len(direct) // 2] * 1e6, forwarded[len(forwarded) // 2] * 1e6
    print(f"\nforwarder, connect and first byte: direct {a:.0f} µs, forwarded {b:.0f}, "
          f"p99 {forwarded[495] * 1e6:.0f}: ratio {b / a:.2f}")
    assert b < 20 * a


def resident(process: subprocess.Popen[bytes]) -> int:
    """Bytes of memory that a process holds."""
    with open(f"/proc/{process.pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_thousand_clients_that_do_not_read_cost_bounded_memory(bench: Bench) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    bench.host.ask("traffic", container="bench")
    before = resident(bench.host.process)
    clients = [bench.forwarded() for _ in range(1000)]
    for client in clients:
        client.sendall(b"s%019d" % STREAM)
    moved = -1
    while moved != (moved := bench.host.ask("traffic", container="bench")["bytes"]):
        time.sleep(1)                 # until all are stuck
    used = resident(bench.host.process) - before
    print(f"\nforwarder, 1,000 clients that don't read: {used / 1000:,.0f} bytes each")
    assert used < 40 << 20


def test_a_thousand_idle_connections_cost_little_memory_and_no_time(bench: Bench) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))

    bench.host.ask("traffic", container="bench")
    before = resident(bench.host.process)
    clients = [bench.forwarded() for _ in range(1000)]
    for client in clients:
        client.sendall(b"ex")
    for client in clients:
        assert client.recv(1) == b"x"
    used, cpu = resident(bench.host.process) - before, bench.cpu_seconds()
    trips = round_trips(bench.forwarded())
    time.sleep(1)
    print(f"\nforwarder, 1,000 idle connections: {used / 1000:,.0f} bytes each, {bench.cpu_seconds() - cpu:.2f} s of CPU in a second "
          f"with {ROUNDS} round trips beside them, p50 {trips[len(trips) // 2] * 1e6:.0f} µs")
    assert used < 20 << 20


def test_a_shortage_of_descriptors_does_not_spin(tmp_path: Path) -> None:
    with ForwarderHost(str(tmp_path), files=160) as host, host.hubs[0].server() as server:
        server.listen(1024)
        address = host.listen("c", server.getsockname()[1])
        for _ in range(100):
            host.connect(address)
        bench = Bench(host, server)
        before = bench.cpu_seconds()
        time.sleep(1)
        used = bench.cpu_seconds() - before
    print(f"\nforwarder, out of descriptors with clients waiting: {used:.2f} s of CPU in a second")
    assert used < 0.1


def test_a_flood_of_output_leaves_connections_quick(bench: Bench) -> None:
    alone = round_trips(bench.forwarded())
    read_end, write_end = os.pipe()
    bench.host.ask("spool", (read_end,), container="flood", path="flood.log")
    os.close(read_end)
    flood = subprocess.Popen(["yes", "a line of output that a container can't stop writing"], stdout=write_end)
    os.close(write_end)
    beside = round_trips(bench.forwarded())
    flood.kill()
    flood.wait()
    a, b = alone[len(alone) // 2] * 1e6, beside[len(beside) // 2] * 1e6
    p99 = beside[ROUNDS * 99 // 100]
    print(f"\nforwarder, 100 bytes and back: alone {a:.0f} µs, beside a flood of output {b:.0f} "
          f"(p99 {p99 * 1e6:.0f}, max {beside[-1] * 1e6:.0f}): ratio {b / a:.2f}")
    assert p99 < 0.1
