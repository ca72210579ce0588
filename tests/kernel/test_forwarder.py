"""The forwarder, as a real process in namespaces of its own."""

from __future__ import annotations

import fcntl
import hashlib
import os
import resource
import select
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forwarder_host import TIMEOUT, ForwarderHost
from forwarder_peers import MIB, Server, assert_echoes, echo, many_files, read_all, reset  # noqa: F401

from pytest_sealed.runtime import logs


@pytest.fixture
def host(tmp_path: Path) -> Iterator[ForwarderHost]:
    with ForwarderHost(str(tmp_path)) as running:
        yield running
        assert running.process.poll() is None, "the forwarder ended during the test"


def assert_reset(client: socket.socket) -> None:
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def assert_refuses(host: ForwarderHost, address: tuple[str, int]) -> None:
    """Connecting succeeds in the kernel's queue, and the reset comes then; it may overtake the end of connect()."""
    with pytest.raises(ConnectionResetError):
        host.connect(address).recv(1)


# Streams


def test_16_mib_go_both_ways_over_a_unix_socket_and_its_end_is_carried_on(host: ForwarderHost, tmp_path: Path) -> None:
    with Server(host, echo) as server, socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as client:
        listening.bind(str(tmp_path / "socket"))
        listening.listen(1024)
        host.ask("listen", (listening.fileno(), host.hubs[0].fd), container="c", port=server.port, address="127.0.0.1")
        client.settimeout(TIMEOUT)
        client.connect(str(tmp_path / "socket"))
        data = os.urandom(16 * MIB)

        def send() -> None:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        sender = threading.Thread(target=send)
        sender.start()
        assert read_all(client) == data
        sender.join()
        host.ask("down", container="c")
        with socket.socket(socket.AF_UNIX) as late:
            late.settimeout(TIMEOUT)
            late.connect(str(tmp_path / "socket"))
            assert late.recv(1) == b""


def test_64_mib_go_both_ways_at_once_unchanged(host: ForwarderHost) -> None:
    with Server(host, echo) as server:
        client = host.connect(host.listen("c", server.port))
        block = os.urandom(MIB)
        sent, received = hashlib.sha256(), hashlib.sha256()

        def send() -> None:
            for number in range(64):
                piece = number.to_bytes(4, "big") + block[: MIB - 4]
                sent.update(piece)
                client.sendall(piece)
            client.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        total = 0
        while data := client.recv(1 << 18):
            total += len(data)
            received.update(data)
        sender.join()
    assert total == 64 * MIB
    assert received.digest() == sent.digest()
    assert host.ask("traffic", container="c") == {"connections": 1, "bytes": 128 * MIB}


def test_a_client_that_has_ended_its_stream_still_gets_the_answer(host: ForwarderHost) -> None:
    def serve(connection: socket.socket) -> None:
        data = read_all(connection)
        connection.sendall(hashlib.sha256(data).digest())

    with Server(host, serve) as server:
        client = host.connect(host.listen("c", server.port))
        client.sendall(b"x" * 100_000)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == hashlib.sha256(b"x" * 100_000).digest()


def test_a_server_that_has_ended_its_stream_still_gets_what_the_client_sends(host: ForwarderHost) -> None:
    received: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        connection.sendall(b"bye")
        connection.shutdown(socket.SHUT_WR)
        received.append(read_all(connection))

    with Server(host, serve) as server:
        client = host.connect(host.listen("c", server.port))
        assert read_all(client) == b"bye"
        client.sendall(b"y" * 100_000)
        client.close()
    assert received == [b"y" * 100_000]


def test_bytes_and_end_in_one_packet_arrive_together(host: ForwarderHost) -> None:
    with Server(host, echo) as server:
        address = host.listen("c", server.port)
        for _ in range(200):
            client = host.connect(address)
            client.sendall(b"abc")
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == b"abc"
            client.close()


def test_urgent_data_do_not_stall_the_stream(host: ForwarderHost) -> None:
    with Server(host, echo) as server:
        client = host.connect(host.listen("c", server.port))
        client.sendall(b"before")
        client.send(b"!", socket.MSG_OOB)
        client.sendall(b"after")
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) in (b"beforeafter", b"before!after")


# Refusal and reset


def test_a_client_is_reset_while_nothing_listens_and_served_once_something_does(host: ForwarderHost) -> None:
    server = Server(host, echo)
    address = host.listen("c", server.port)
    for _ in range(20):
        assert_refuses(host, address)
    with server:
        assert_echoes(host.connect(address))


def test_a_client_is_reset_while_the_container_has_no_address(host: ForwarderHost) -> None:
    with Server(host, echo) as server:
        address = host.listen("c", server.port, address=None)
        assert_refuses(host, address)
        host.ask("up", (host.hubs[0].fd,), container="c", address="127.0.0.1")
        assert_echoes(host.connect(address))


def test_down_resets_connections_and_newcomers_until_up(host: ForwarderHost) -> None:
    with Server(host, echo, resets=True) as server:
        address = host.listen("c", server.port)
        clients = [host.connect(address) for _ in range(10)]
        for client in clients:
            assert_echoes(client)
        host.ask("down", container="c")
        for client in clients:
            assert_reset(client)
        assert_refuses(host, address)
        host.ask("up", (host.hubs[0].fd,), container="c", address="127.0.0.1")
        assert_echoes(host.connect(address))
    assert host.ask("traffic", container="c")["connections"] == 12


def test_down_delivers_what_the_server_sent_before_it_ended(host: ForwarderHost) -> None:
    said = threading.Semaphore(0)
    words = os.urandom(200_000)       # more than fits into the client's own buffer at first

    def serve(connection: socket.socket) -> None:
        connection.sendall(words)
        connection.close()
        said.release()

    with Server(host, serve) as server:
        address = host.listen("c", server.port)
        for _ in range(50):
            client = host.connect(address)
            assert said.acquire(timeout=TIMEOUT)
            host.tell("down", container="c")
            host.ask("up", (host.hubs[0].fd,), container="c", address="127.0.0.1")
            assert read_all(client) == words


def test_a_restart_on_another_hub_moves_new_connections_and_resets_old_ones(host: ForwarderHost) -> None:
    with Server(host, echo, resets=True) as first, Server(host, echo, hub=1) as second:
        address = host.listen("c", first.port)
        old = host.connect(address)
        assert_echoes(old)
        other = host.listen("c", second.port, hub=1)
        assert_reset(old)
        if first.port != second.port:     # chance: each hub gives out its own
            assert_refuses(host, address)
        assert_echoes(host.connect(other))


def test_containers_on_different_hubs_are_served_side_by_side(host: ForwarderHost) -> None:
    def name(text: bytes) -> Callable[[socket.socket], None]:
        return lambda connection: connection.sendall(text)

    with Server(host, name(b"first")) as first, Server(host, name(b"second"), hub=1) as second:
        addresses = [host.listen("a", first.port), host.listen("b", second.port, hub=1)]
        for _ in range(20):
            assert [read_all(host.connect(address)) for address in addresses] == [b"first", b"second"]


def test_a_reset_by_the_server_reaches_the_client_after_the_bytes_before_it(host: ForwarderHost) -> None:
    def serve(connection: socket.socket) -> None:
        connection.sendall(b"too large")
        connection.recv(1)            # and leaves the rest unread: close() then sends a reset

    with Server(host, serve) as server:
        client = host.connect(host.listen("c", server.port))
        client.sendall(b"z" * 1000)
        assert client.recv(9, socket.MSG_WAITALL) == b"too large"
        assert_reset(client)


@pytest.mark.parametrize("half_closed", [False, True])
def test_a_reset_by_the_client_reaches_the_server(host: ForwarderHost, half_closed: bool) -> None:
    answers: list[bytes | BaseException] = []
    ready = threading.Event()

    def serve(connection: socket.socket) -> None:
        assert connection.recv(4) == b"ping"
        if half_closed:
            assert connection.recv(1) == b""
        ready.set()
        try:
            if half_closed:           # nothing more can be read
                poll = select.poll()
                poll.register(connection, 0)
                assert poll.poll(TIMEOUT * 1000), "no word of the reset"
                connection.send(b"?")
            answers.append(connection.recv(1))
        except OSError as error:
            answers.append(error)

    with Server(host, serve) as server:
        client = host.connect(host.listen("c", server.port))
        client.sendall(b"ping")
        if half_closed:
            client.shutdown(socket.SHUT_WR)
        assert ready.wait(TIMEOUT)
        reset(client)
    assert isinstance(answers[0], ConnectionResetError | BrokenPipeError), answers


def test_drop_closes_the_listeners(host: ForwarderHost) -> None:
    with Server(host, echo, resets=True) as server:
        address = host.listen("c", server.port)
        client = host.connect(address)
        assert_echoes(client)
        host.ask("drop", container="c")
        assert_reset(client)
        with pytest.raises(ConnectionRefusedError):
            host.connect(address)


def test_a_dropped_container_leaves_no_descriptor(host: ForwarderHost, tmp_path: Path) -> None:
    before = sorted(host.open_files())
    with Server(host, echo, resets=True) as server:
        for number in range(20):
            name = f"c{number}"
            client = host.connect(host.listen(name, server.port))
            assert_echoes(client, b"x" * 300_000)
            read_end, write_end = os.pipe()
            host.ask("spool", (read_end,), container=name, path=name)
            os.close(read_end)
            os.write(write_end, b"hello\n")
            host.ask("drop", container=name)
            os.close(write_end)
            assert_reset(client)
    after = sorted(name for name in host.open_files() if not name.startswith("pipe:"))
    assert after == before


# Many at once


@pytest.mark.usefixtures("many_files")
def test_500_connections_at_once_are_served(host: ForwarderHost) -> None:
    with Server(host, echo) as server:
        address = host.listen("c", server.port)
        clients = [host.connect(address) for _ in range(500)]
        for number, client in enumerate(clients):
            client.sendall(b"%08d" % number)
        for number, client in enumerate(clients):
            assert client.recv(8, socket.MSG_WAITALL) == b"%08d" % number
        for client in clients:
            client.close()


def test_a_client_that_does_not_read_holds_up_no_other(host: ForwarderHost) -> None:
    stop = threading.Event()

    def flood(connection: socket.socket) -> None:
        try:
            while not stop.is_set():
                connection.sendall(b"\0" * MIB)
        except OSError:
            pass

    with Server(host, flood) as flooding, Server(host, echo) as server:
        address = host.listen("flood", flooding.port)
        slow = [host.connect(address) for _ in range(20)]
        client = host.connect(host.listen("c", server.port))
        for _ in range(1000):
            assert_echoes(client)
        assert_echoes(client, b"x" * MIB)
        stop.set()
        for one in slow:
            reset(one)


@pytest.mark.parametrize("pipes", [0, 2])
def test_streams_are_right_when_pipes_are_few(tmp_path: Path, pipes: int) -> None:
    data = os.urandom(4 * MIB)
    with (ForwarderHost(str(tmp_path), pipes=pipes) as host,
          Server(host, lambda connection: connection.sendall(data)) as server):
        address = host.listen("c", server.port)
        clients = [host.connect(address) for _ in range(20)]
        # All are stuck once the answers to one more connection have gone through: nobody reads the others.
        assert read_all(host.connect(address)) == data
        held = [name for name in host.open_files() if name.startswith("pipe:")]
        assert len(set(held)) <= pipes
        for client in clients:
            assert hashlib.sha256(read_all(client)).digest() == hashlib.sha256(data).digest()


def test_when_descriptors_run_out_clients_wait_and_messages_are_still_heard(tmp_path: Path) -> None:
    with ForwarderHost(str(tmp_path), files=160) as host, Server(host, echo) as server:
        address = host.listen("c", server.port)
        clients = [host.connect(address) for _ in range(100)]     # two descriptors each: 200 would be needed
        for client in clients:
            client.sendall(b"ping")
        read_end, write_end = os.pipe()
        os.write(write_end, b"hello\n")
        host.ask("spool", (read_end,), container="c", path="log")
        os.close(read_end)
        host.ask("flush", container="c")
        os.close(write_end)
        assert [record.data for record in logs.read(tmp_path / "log")] == [b"hello\n"]
        for client in clients:
            assert client.recv(4, socket.MSG_WAITALL) == b"ping"
            client.close()


@pytest.mark.parametrize("files", [40, 41])      # the last one is wanted for the client, or for the way to the container
def test_descriptors_that_run_out_before_the_reserve_was_known_make_clients_wait(tmp_path: Path, files: int) -> None:
    with ForwarderHost(str(tmp_path), files=1024) as host, Server(host, echo) as server:
        address = host.listen("c", server.port)
        resource.prlimit(host.process.pid, resource.RLIMIT_NOFILE, (files, 1024))
        clients = [host.connect(address) for _ in range(50)]
        for client in clients:
            client.sendall(b"ping")
        for client in clients:
            assert client.recv(4, socket.MSG_WAITALL) == b"ping"
            client.close()


# The service


def test_the_service_ends_when_its_channel_ends(tmp_path: Path) -> None:
    host = ForwarderHost(str(tmp_path))
    host.listen("c", 1)
    assert host.close() == 0


def test_a_bad_request_gets_an_error_and_ends_nothing(host: ForwarderHost) -> None:
    read_end, write_end = os.pipe()
    for message in ({"op": "nonsense", "container": "c"}, {"op": "listen", "container": "c", "port": 1}, {"op": "up", "container": "c"},
                    {"op": "listen", "container": "c", "port": "x"}, {}):
        host.channel.send({"id": 7, **message}, [read_end])
        received = host.channel.receive()
        assert received is not None
        assert "error" in received[0]
    assert host.complaints() == ""
    host.channel.socket.send(b"garbage")
    host.tell("nonsense", container="c")
    assert host.ask("traffic", container="unknown") == {"connections": 0, "bytes": 0}
    assert [line.split(": ")[2] for line in host.complaints().splitlines()] == ["ProtocolError", "ValueError"]
    os.close(read_end)
    with pytest.raises(BrokenPipeError):      # the descriptors that came with bad requests are closed
        os.write(write_end, b"x")
    os.close(write_end)


def test_a_listener_that_does_not_listen_is_refused_and_one_that_stops_costs_nothing(host: ForwarderHost) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        host.channel.send({"id": 7, "op": "listen", "container": "c", "port": 1}, [listening.fileno()])
        received = host.channel.receive()
        assert received is not None
        assert "does not listen" in received[0]["error"]
        listening.listen()
        host.ask("listen", (listening.fileno(),), container="c", port=1)
        with pytest.raises(ConnectionResetError):
            host.connect(listening.getsockname()).recv(1)
        listening.shutdown(socket.SHUT_RDWR)       # the service's copy is the same socket
        host.ask("traffic", container="c")
        assert host.comes_to_rest()


# Logs


class Output:
    """The writing ends of a container's stdout and stderr, spooled at `path`."""

    def __init__(self, host: ForwarderHost, container: str, **options: object) -> None:
        self._host = host
        self.container = container
        self.path = os.path.join(host.rundir, container + ".log")
        ends, self.stdout, self.stderr = [], -1, -1
        for name in ("stdout", "stderr"):
            read_end, write_end = os.pipe()
            ends.append(read_end)
            setattr(self, name, write_end)
        host.ask("spool", tuple(ends), container=container, path=container + ".log", **options)
        for end in ends:
            os.close(end)

    def flush(self) -> None:
        self._host.ask("flush", container=self.container)

    def close(self) -> None:
        os.close(self.stdout)
        os.close(self.stderr)

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def test_after_a_flush_the_log_has_all_that_was_written_in_order(host: ForwarderHost) -> None:
    with Output(host, "c") as output:
        written = []
        for number in range(200):
            stream = "stderr" if number % 3 == 1 else "stdout"
            text = b"line %d\n" % number
            os.write(getattr(output, stream), text)
            written.append((stream, text))
            if number % 7 == 0:
                output.flush()
                records = logs.read(output.path)
                for name in ("stdout", "stderr"):
                    assert b"".join(r.data for r in records if r.stream == name) == b"".join(t for s, t in written if s == name)
        output.flush()
        assert sorted(logs.read(output.path), key=lambda record: record.time) == logs.read(output.path)


def test_a_flush_waits_for_more_than_one_round_of_a_large_pipe(host: ForwarderHost) -> None:
    with Output(host, "c") as output:
        size = fcntl.fcntl(output.stdout, fcntl.F_SETPIPE_SZ, MIB)
        data = os.urandom(size)
        for _ in range(5):
            seen = logs.position(output.path)
            os.write(output.stdout, data)
            output.flush()
            assert b"".join(record.data for record in logs.read(output.path, since=seen)) == data


def test_a_flood_is_bounded_in_order_and_holds_nobody_up(host: ForwarderHost) -> None:
    limit = 256 * 1024
    with Output(host, "flood", limit=limit) as flood, Output(host, "quiet") as quiet:
        last = 400_000

        def write() -> None:
            with os.fdopen(os.dup(flood.stdout), "wb") as file:
                for number in range(last + 1):
                    file.write(b"%d\n" % number)

        writer = threading.Thread(target=write)
        writer.start()
        for number in range(50):
            os.write(quiet.stdout, b"%d\n" % number)
            quiet.flush()
            flood.flush()
            logs.read(flood.path)
        writer.join()
        flood.flush()
        assert b"".join(record.data for record in logs.read(quiet.path)) == b"".join(b"%d\n" % number for number in range(50))
        assert os.path.getsize(flood.path) <= limit
        assert os.path.getsize(flood.path + ".1") <= limit
        numbers = [int(line.data) for line in logs.lines(logs.read(flood.path))][1:]     # the first may be cut
        assert numbers == list(range(numbers[0], last + 1))
        assert len(numbers) * 7 > limit * 0.7


def test_a_log_is_kept_when_its_container_is_dropped_and_continued_when_it_comes_back(host: ForwarderHost) -> None:
    with Output(host, "c") as output:
        os.write(output.stdout, b"one")
        host.ask("drop", container="c")
        seen = logs.position(output.path)
        with pytest.raises(BrokenPipeError):
            os.write(output.stdout, b"lost")
    with Output(host, "c") as output:
        os.write(output.stdout, b"two")
        output.flush()
        assert [record.data for record in logs.read(output.path)] == [b"one", b"two"]
        assert [record.data for record in logs.read(output.path, since=seen)] == [b"two"]


def test_the_log_says_what_a_full_disk_has_cost(tmp_path: Path) -> None:
    with ForwarderHost(str(tmp_path), tmpfs="256k") as host, Output(host, "c") as output:
        root = f"/proc/{host.process.pid}/root"
        filler = root + str(tmp_path / "filler")
        fd = os.open(filler, os.O_WRONLY | os.O_CREAT)
        space = os.fstatvfs(fd)
        os.write(fd, b"\0" * space.f_bsize * space.f_bavail)
        with pytest.raises(OSError, match="No space left"):
            os.write(fd, b"\0")
        os.close(fd)
        for _ in range(10):
            os.write(output.stdout, b"x" * 50_000)
            output.flush()
        os.write(output.stderr, b"y" * 1000)
        output.flush()
        os.unlink(filler)
        os.write(output.stdout, b"after\n")
        output.flush()
        records = logs.read(root + output.path)
        kept = sum(len(record.data) for record in records if record.data.startswith((b"x", b"y")))
        assert kept < 300_000
        assert records[-2].stream == "stderr"
        assert records[-2].data == b"\n[sealed: %d bytes of log lost: no space left for the spool]\n" % (501_000 - kept)
        assert records[-1].data == b"after\n"


def test_a_terminal_is_spooled_until_it_hangs_up(host: ForwarderHost) -> None:
    master, slave = os.openpty()
    host.ask("spool", (master,), container="c", path="tty")
    os.write(slave, b"x" * 3000 + b"\n")
    os.close(slave)
    os.close(master)
    host.ask("flush", container="c")
    host.ask("flush", container="c")           # finds the terminal hung up, if the event has not yet told
    assert not [name for name in host.open_files() if "ptmx" in name]
    records = logs.read(os.path.join(host.rundir, "tty"))
    assert b"".join(record.data for record in records) == b"x" * 3000 + b"\r\n"
