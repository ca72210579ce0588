"""The forwarder: whatever peers do with connections, its memory, descriptors and pipes stay bounded, and others are served."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

import pytest
from boxes import eventually
from forwarder_host import ForwarderHost
from forwarder_peers import MIB, Server, assert_echoes, echo, many_files, reset  # noqa: F401

IDLE = 1000
OF_A_CONNECTION = 2     # descriptors: the client's, and the container's


def resident(host: ForwarderHost) -> int:
    """Return the bytes of memory that the forwarder has."""
    return int(Path(f"/proc/{host.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def pipes(host: ForwarderHost) -> int:
    return len({name for name in host.open_files() if name.startswith("pipe:")})


@pytest.mark.usefixtures("many_files")
def test_1000_idle_connections_cost_two_descriptors_each_and_no_pipe(tmp_path: Path) -> None:
    with ForwarderHost(str(tmp_path)) as host, Server(host, echo) as server:
        address = host.listen("c", server.port)
        assert_echoes(host.connect(address))
        files, held, memory = len(host.open_files()), pipes(host), resident(host)
        clients = [host.connect(address) for _ in range(IDLE)]
        eventually(lambda: len(server.connections) == IDLE + 1, "all have been accepted")
        assert len(host.open_files()) <= files + OF_A_CONNECTION * IDLE
        assert pipes(host) <= held
        assert resident(host) < memory + IDLE * 8192
        assert_echoes(host.connect(address))
        for client in clients:
            client.close()
        eventually(lambda: len(host.open_files()) <= files + OF_A_CONNECTION, "they are let go of")


@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize("most", [4, 64])
def test_slow_readers_hold_as_many_pipes_as_there_may_be(tmp_path: Path, most: int) -> None:
    """With more of them to give it gives more: that is what bounds it, and not the readers."""
    readers = 80

    def flood(connection: socket.socket) -> None:
        try:
            while True:
                connection.sendall(bytes(MIB))
        except OSError:
            pass

    with ForwarderHost(str(tmp_path), pipes=most) as host, Server(host, flood) as flooding, Server(host, echo) as server:
        other = host.connect(host.listen("other", server.port))
        memory = resident(host)
        slow = [host.connect(host.listen("c", flooding.port)) for _ in range(readers)]
        eventually(lambda: len(flooding.connections) == readers, "all are served")
        for _ in range(100):
            assert_echoes(other)
        assert pipes(host) <= most
        if most == 64:
            assert pipes(host) > 4
        assert resident(host) < memory + 16 * MIB
        for one in slow:
            reset(one)


def test_connections_to_a_container_that_never_answers_hold_up_no_other(tmp_path: Path) -> None:
    """Half open: the container's address is one that nobody answers for, as of a container that drops all packets."""
    with ForwarderHost(str(tmp_path)) as host, Server(host, echo) as server:
        silent = host.hubs[0].server()   # its queue takes one more connection than its backlog, and says nothing to the rest
        silent.listen(0)
        address = host.listen("silent", silent.getsockname()[1])
        files = len(host.open_files())
        waiting = [host.connect(address) for _ in range(50)]
        other = host.connect(host.listen("other", server.port))
        for _ in range(100):
            assert_echoes(other)
        assert len(host.open_files()) <= files + OF_A_CONNECTION * (len(waiting) + 2)
        for one in waiting:
            reset(one)
        eventually(lambda: len(host.open_files()) <= files + OF_A_CONNECTION * 2, "they are let go of")
        silent.close()


def test_a_storm_of_resets_leaves_nothing(tmp_path: Path) -> None:
    with ForwarderHost(str(tmp_path)) as host, Server(host, echo, resets=True) as server:
        address = host.listen("c", server.port)
        other = host.connect(address)
        assert_echoes(other)
        files, memory = len(host.open_files()), resident(host)
        for number in range(1000):
            client = socket.create_connection(address, timeout=20)
            if number % 2:
                client.sendall(b"x")
            reset(client)
        assert_echoes(other)
        eventually(lambda: len(host.open_files()) <= files, "nothing of them is left")
        assert resident(host) < memory + 4 * MIB


def test_a_scan_of_all_ports_ends_nothing(tmp_path: Path) -> None:
    """By a process of the host: each port is connected to and left, or sent something that no protocol has."""
    with ForwarderHost(str(tmp_path)) as host, Server(host, echo, resets=True) as server:
        addresses = [host.listen(f"c{number}", server.port if number % 2 else 1) for number in range(100)]
        files = len(host.open_files())
        for probe in (b"", b"\0" * 100, b"GET / HTTP/1.0\r\n\r\n"):
            for address in addresses:
                with contextlib.suppress(ConnectionError), socket.create_connection(address, timeout=20) as client:
                    client.sendall(probe)   # half of them are reset: nothing listens there
        assert_echoes(host.connect(addresses[1]))
        eventually(lambda: len(host.open_files()) <= files + OF_A_CONNECTION, "nothing of it is left")
