"""A network that is closed while containers are on it: nothing leads there any more, at once, and they run on."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time

import pytest
from boxes import EITHER_IDS, eventually, idle, service, sh

from pytest_sealed import Container, ContainerFailed, NetworkError, Sandbox, tcp

ECHO = ["sh", "-c", "echo $0 > /srv/name; httpd -h /srv -p 80; exec nc -ll -p 7 -e cat", "name"]
SOON = 5.0   # seconds; what is cut at once takes no part of that


def echo(sandbox: Sandbox, name: str, **options: object) -> Container:
    """Start a server that echoes on port 7, and tells its name on port 80."""
    return sandbox.run("busybox", [*ECHO[:-1], name], name=name, wait=tcp(7), **options)  # type: ignore[call-overload, no-any-return]


def spoken(connection: socket.socket) -> socket.socket:
    """Return the connection once it has carried something."""
    connection.settimeout(SOON)
    connection.sendall(b"hello")
    assert connection.recv(5) == b"hello"
    return connection


def echoes(connection: socket.socket) -> bool:
    """Tell whether a connection still carries something; one that is cut ends, or is reset."""
    try:
        connection.sendall(b"x")
        return connection.recv(1) == b"x"
    except (ConnectionResetError, BrokenPipeError):
        return False


def answer(port: int) -> str:
    """Return what the server says its name is; nothing if the connection is refused or reset."""
    try:
        with socket.create_connection(("127.0.0.1", port), SOON) as connection:
            connection.sendall(b"GET /name HTTP/1.0\r\n\r\n")
            with connection.makefile() as file:
                return file.read().split()[-1]
    except ConnectionError:
        return ""


@EITHER_IDS
def test_ports_connections_and_names_end_with_the_network(sandbox: Sandbox) -> None:
    network = sandbox.network("back")
    web, client = echo(sandbox, "web", network=network), idle(sandbox, name="client", network=network)
    address, port, echo_port = web.address, web.port(80), web.port(7)
    assert answer(port) == "web"
    assert sh(client, "wget -q -O - http://web/name") == "web\n"
    with spoken(socket.create_connection(("127.0.0.1", echo_port))) as through_port, spoken(web.connect(7)) as inside:
        began = time.monotonic()
        network.close()
        network.close()
        assert not echoes(through_port)
        assert not echoes(inside)
        assert answer(port) == answer(web.port(81)) == ""
        assert web.port(80) == port
        for action in (lambda: web.connect(80), lambda: network.connect("web", 80), lambda: network.connect(address, 80),
                       lambda: network.listen(), lambda: web.address):
            with pytest.raises(NetworkError, match="closed"):
                action()
        assert time.monotonic() - began < SOON
        for host in ("web", address):   # a socket of the test's still keeps the hub
            assert client.exec(["wget", "-q", "-O", "-", "-T", "5", f"http://{host}/name"], timeout=30).stdout == ""
    assert [container.status for container in (web, client)] == ["running"] * 2
    assert "client" not in web.read_text("/etc/hosts")
    assert sh(web, "wget -q -O - http://localhost/name; hostname") == "web\nweb\n"
    assert network.members == []
    web.stop(0)


@EITHER_IDS
def test_a_container_with_another_network_is_reached_through_that_one(sandbox: Sandbox) -> None:
    back, front = sandbox.network("back"), sandbox.network("front")
    both = echo(sandbox, "both", networks=[back, front])
    client = idle(sandbox, name="client", network=front)
    port, echo_port, before = both.port(80), both.port(7), both.address
    with spoken(socket.create_connection(("127.0.0.1", echo_port))) as old:
        back.close()
        assert not echoes(old)
    assert answer(port) == answer(both.port(80)) == "both"
    assert both.address != before
    with spoken(both.connect(7)), spoken(socket.create_connection(("127.0.0.1", both.port(7)))) as new:
        assert sh(client, "wget -q -O - http://both/name") == "both\n"
        assert [line.split()[0] for line in both.read_text("/etc/hosts").splitlines() if "both" in line] == [both.address]
        other = idle(sandbox, name="other", network=sandbox.network("third"))
        sandbox.network("third").close()   # of which it is no member
        assert echoes(new)
        assert other.status == "running"
        front.close()
        assert not echoes(new)
    assert answer(port) == ""


def test_a_restarted_container_stays_off_a_closed_network(sandbox: Sandbox) -> None:
    back, front = sandbox.network("back"), sandbox.network("front")
    web, both = (sandbox.run("busybox", [*ECHO[:-1], name], name=name, networks=networks)
                 for name, networks in (("web", [back]), ("both", [back, front])))
    back.close()
    for container in (web, both):
        container.restart(0)
    assert web.addresses == {}
    assert list(both.addresses) == [front.id]
    both.wait_for_port(80)
    assert answer(both.port(80)) == "both"
    assert answer(web.port(80)) == ""


def test_a_closed_networks_name_is_free_for_another(sandbox: Sandbox) -> None:
    old = sandbox.network("back")
    echo(sandbox, "web", network=old)
    old.close()
    new = sandbox.network("back")
    assert new is not old
    assert new.subnet == old.subnet
    newcomer = echo(sandbox, "newcomer", network="back")
    with spoken(new.connect("newcomer", 7)):
        assert newcomer.address.startswith(new.subnet.removesuffix("0/24"))


def test_a_container_that_joins_a_network_while_it_is_closed_fails_in_words() -> None:
    with Sandbox() as sandbox:
        network = sandbox.network("back")
        failures: list[str] = []

        def start() -> None:
            with pytest.raises(ContainerFailed) as caught:
                idle(sandbox, name="web", network="back")
            failures.append(caught.value.message)
        starter = threading.Thread(target=start)
        busy = service(sandbox, "network/service.py")
        os.kill(busy, signal.SIGSTOP)   # so that it has both requests before it
        starter.start()
        eventually(lambda: bool(sandbox.session.request("list")[0]["containers"]), "it is being started")
        with sandbox.session.open("drop_network", network=network.id) as dropped:
            sandbox.session.request("hello")   # it was told that, too
            os.kill(busy, signal.SIGCONT)
            assert "ok" in sandbox.session.receive(dropped, 30)[0]
        starter.join(30)
        assert failures == [f"container 'web' (busybox) did not start: network {network.id} is gone"]
        assert sandbox.session.request("list")[0]["containers"] == []
