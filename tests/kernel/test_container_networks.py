"""Networks as containers and tests see them: names, isolation, ports on the host, sockets of the test's own."""

from __future__ import annotations

import errno
import socket
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from boxes import EITHER_IDS, eventually, idle, sh

from pytest_sealed import Container, NetworkError, Sandbox, SpecError, image, tcp

SERVER = ["sh", "-c", "echo $0 > /srv/name; exec httpd -f -h /srv -p 80", "name"]
LATER = ["sh", "-c", "until [ -e /go ]; do :; done; exec httpd -f -h /etc -p 80"]


def serve(sandbox: Sandbox, name: str, **options: object) -> Container:
    """Start a web server that tells its name."""
    return sandbox.run("busybox", [*SERVER[:-1], name], name=name, wait=tcp(80), **options)  # type: ignore[call-overload, no-any-return]


def ask(container: Container, host: str) -> str:
    """Return what a web server answers to a container: its name, or nothing."""
    result = container.exec(["wget", "-q", "-O", "-", f"http://{host}/name"], timeout=30)
    return result.stdout.strip()


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as response:  # noqa: S310
        return str(response.read().decode().strip())


@pytest.fixture
def host_listener() -> Iterator[int]:
    """The port of a server of the host, on all its addresses."""
    with socket.create_server(("0.0.0.0", 0)) as listener:
        yield listener.getsockname()[1]


# ---------------------------------------------------------------- names and addresses


@EITHER_IDS
def test_containers_find_each_other_by_name_alias_and_address(sandbox: Sandbox) -> None:
    web, client = serve(sandbox, "web", aliases=["www", "site.example"]), idle(sandbox, name="client")
    for host in ("web", "www", "site.example", web.address):
        assert ask(client, host) == "web", host
    assert ask(web, "web") == ask(web, "localhost") == "web"
    later = serve(sandbox, "later")
    assert ask(client, "later") == "later"
    later.remove()
    assert ask(client, "later") == ""


def test_names_are_answered_by_the_resolver_too(sandbox: Sandbox) -> None:
    web, client = serve(sandbox, "web", aliases=["www"]), idle(sandbox)
    sh(client, "echo 127.0.0.1 localhost > /etc/hosts")
    for name in ("web", "www"):
        assert web.address in sh(client, f"nslookup {name}")
        assert ask(client, name) == "web"
    result = client.exec(["nslookup", "nosuch.example"], timeout=30)
    assert result.exit_code != 0
    assert "NXDOMAIN" in result.stdout + result.stderr


def test_addresses_are_the_same_in_every_run(sandbox: Sandbox, root_sandbox: Sandbox) -> None:
    def addresses(sandbox: Sandbox) -> list[str]:
        return [idle(sandbox).address for _ in range(3)] + [idle(sandbox, network=sandbox.network("backend")).address]
    first = addresses(sandbox)
    assert first[:3] == ["10.89.0.2", "10.89.0.3", "10.89.0.4"]
    with Sandbox(parent=root_sandbox) as other:
        assert addresses(other) == first   # at the same time: networks don't meet


@EITHER_IDS
def test_a_container_on_two_networks_is_found_on_both_and_joins_them_for_nobody(sandbox: Sandbox) -> None:
    front, back = sandbox.network("front"), sandbox.network("back")
    assert front.subnet != back.subnet
    proxy = serve(sandbox, "proxy", networks=[front, back])
    client, db = serve(sandbox, "client", network=front), serve(sandbox, "db", network="back")
    assert ask(client, "proxy") == ask(db, "proxy") == "proxy"
    assert (ask(proxy, "client"), ask(proxy, "db")) == ("client", "db")
    assert (ask(client, "db"), ask(client, db.address)) == ("", "")
    assert (ask(db, "client"), ask(db, client.address)) == ("", "")
    assert sh(proxy, "ls /sys/class/net").split() == ["eth0", "eth1", "lo"]
    assert ask(client, proxy.addresses[back.id]) == ""   # its other address leads nowhere from here


def test_who_joins_a_network_namelessly_reaches_and_is_not_found(sandbox: Sandbox) -> None:
    inner, outer = sandbox.network("inner"), sandbox.network("outer")
    db = serve(sandbox, "db", network=outer)
    client = sandbox.plan(image("busybox", command=[*SERVER[:-1], "client"], name="client", wait=tcp(80), network=inner), joins=[outer])
    client.start()
    assert ask(client, "db") == "db"
    assert ask(db, "client") == ""


# ---------------------------------------------------------------- isolation


@EITHER_IDS
def test_networks_do_not_meet(sandbox: Sandbox, root_sandbox: Sandbox) -> None:
    one = serve(sandbox, "one")
    with Sandbox(parent=root_sandbox) as other:
        two, three = serve(other, "two"), serve(other, "three")
        assert ask(one, "two") == ask(two, "one") == ask(one, three.address) == ""
        assert one.address == two.address   # each sees its own
        assert ask(three, two.address) == "two"


@EITHER_IDS
def test_the_host_is_out_of_reach(sandbox: Sandbox, host_listener: int) -> None:
    client = idle(sandbox)
    gateway = client.address.rpartition(".")[0] + ".1"
    own = {str(row[4][0]) for row in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for address in {"127.0.0.1", "127.0.1.1", gateway, "0.0.0.0", "192.0.2.1", *own}:
        result = client.exec(["nc", "-w", "2", address, str(host_listener), "-e", "true"], timeout=30)
        assert result.exit_code != 0, f"{address} can be reached"
    assert "default" not in sh(client, "ip route")


def test_a_container_without_a_network_reaches_nobody_and_has_no_ports(sandbox: Sandbox) -> None:
    web, alone = serve(sandbox, "web"), idle(sandbox, name="alone", network=None)
    assert ask(alone, web.address) == ""
    assert ask(web, "alone") == ""
    for action in (lambda: alone.port(80), lambda: alone.url(80), lambda: alone.connect(80)):
        with pytest.raises(SpecError, match="container 'alone' has no network"):
            action()


# ---------------------------------------------------------------- ports on the host


@EITHER_IDS
def test_a_port_is_known_before_the_start_and_leads_to_the_container_after_it(sandbox: Sandbox) -> None:
    container = sandbox.run("busybox", SERVER, start=False)
    port, url = container.port(80), container.url(80, "/name")
    container.start()
    container.wait_for_port(80)
    assert (container.port(80), container.url(80, "name")) == (port, url)
    assert get(url) == "name"


def test_a_port_can_be_asked_for_at_any_time(sandbox: Sandbox) -> None:
    container = serve(sandbox, "web")
    assert container.ports == {}
    assert get(container.url(80, "name")) == "web"
    assert container.ports == {80: container.port(80)}


@EITHER_IDS
def test_a_client_is_reset_at_once_while_nothing_listens(sandbox: Sandbox) -> None:
    container = sandbox.run("busybox", LATER, start=False, ports=[80])
    with pytest.raises(ConnectionRefusedError):   # planned
        socket.create_connection(("127.0.0.1", container.port(80)), timeout=30)
    container.start()
    resets(container.port(80))   # started, and not up yet
    with pytest.raises(ConnectionRefusedError):
        container.connect(80)
    container.write_text("/go", "")
    container.wait_for_port(80)
    assert get(container.url(80, "hostname")) == "busybox"
    container.kill()
    resets(container.port(80))   # dead
    container.restart()
    container.wait_for_port(80)
    assert get(container.url(80, "hostname")) == "busybox"
    port = container.port(80)
    container.remove()
    eventually(lambda: refused(port), "its port on the host is closed")


def refused(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


def resets(port: int) -> None:
    """Assert that a client gets no byte and no end, but a reset."""
    with pytest.raises(ConnectionResetError), socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.recv(1)


def test_a_port_carries_both_directions_and_their_ends(sandbox: Sandbox) -> None:
    container = sandbox.run("busybox", ["nc", "-ll", "-p", "7", "-e", "cat"], wait=tcp(7))
    with socket.create_connection(("127.0.0.1", container.port(7)), timeout=30) as client:
        client.sendall(b"a question")
        client.shutdown(socket.SHUT_WR)
        assert b"".join(iter(lambda: client.recv(100), b"")) == b"a question"


def test_a_port_that_there_cannot_be_is_refused(sandbox: Sandbox) -> None:
    container = idle(sandbox)
    for port in (0, 65536, -1):
        with pytest.raises(SpecError, match=f"port {port} is no TCP port"):
            container.port(port)


# ---------------------------------------------------------------- from the test into the network


@EITHER_IDS
def test_the_test_connects_inside_the_network_and_gets_the_real_answer(sandbox: Sandbox) -> None:
    network, web = sandbox.network(), serve(sandbox, "web", aliases=["www"])
    for connection in (web.connect(80), network.connect("web", 80), network.connect("www", 80), network.connect(web.address, 80)):
        with connection:
            connection.sendall(b"GET /name HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda c=connection: c.recv(1000), b""))  # type: ignore[misc]
            assert answer.endswith(b"\r\n\r\nweb\n")
            assert connection.getpeername() == (web.address, 80)
    with pytest.raises(ConnectionRefusedError):
        web.connect(81)
    with pytest.raises(SpecError) as caught:
        network.connect("wep", 80)
    assert caught.value.message == "nobody on network 'default' is called 'wep', did you mean 'web'?"
    assert caught.value.remedy == "those here: web, www"
    address = web.address
    web.remove()
    with pytest.raises(OSError, match=r"No route to host|Connection refused"):
        network.connect(address, 80)


# ---------------------------------------------------------------- from the container to the test


@EITHER_IDS
def test_a_container_calls_the_test_back(sandbox: Sandbox) -> None:
    before = idle(sandbox)
    with sandbox.network().listen(8080) as listener, sandbox.network().listen(name="webhook") as other:
        after = idle(sandbox)
        assert {"test", "webhook"} <= set(before.read_text("/etc/hosts").split()) & set(after.read_text("/etc/hosts").split())
        for container in (before, after):
            for server, host in ((listener, "test:8080"), (other, f"webhook:{other.getsockname()[1]}")):
                server.settimeout(30)
                sh(container, f"nc -w 5 {host.replace(':', ' ')} -e hostname")
                connection, peer = server.accept()
                with connection:
                    assert connection.recv(100) == f"{container.name}\n".encode()
                    assert peer[0] == container.address
    assert before.exec(["nc", "-w", "5", "test", "8080"], timeout=30).exit_code != 0   # closed: refused
    with sandbox.network().listen(8080):   # and free again
        sh(before, "nc -w 5 test 8080 -e hostname")


def test_a_port_that_is_taken_is_refused_and_the_same_port_under_another_name_is_free(sandbox: Sandbox) -> None:
    network = sandbox.network()
    with network.listen(80, name="one"), network.listen(80, name="two"), pytest.raises(NetworkError) as caught:
        network.listen(80, name="one")
    assert caught.value.message == "can't listen on network 'default': port 80 of 'one' is in use"
    assert caught.value.remedy == "give listen() another port= or name=; without a port the kernel chooses one"
    for name in ("not a name", "localhost"):
        with pytest.raises(SpecError, match=f"listener name '{name}' "):
            network.listen(80, name=name)


def test_a_name_belongs_to_one(sandbox: Sandbox) -> None:
    idle(sandbox, name="web")
    network = sandbox.network()
    with pytest.raises(NetworkError, match="can't listen on network 'default': the name 'web' belongs to a container"):
        network.listen(80, name="Web")
    with network.listen(80, name="Hook"):
        for options in ({"name": "hook"}, {"aliases": ["HOOK"]}):
            with pytest.raises(SpecError) as caught:
                idle(sandbox, **options)
            assert "belongs to a listener of network 'default'" in caught.value.message
            assert caught.value.remedy == "give name= another, or listen() under another"
        assert idle(sandbox, network=sandbox.network("other"), name="hook").name == "hook"


def test_names_mean_the_same_in_any_case_to_the_test_as_well(sandbox: Sandbox) -> None:
    web = serve(sandbox, "Web", aliases=["WWW"])
    for name in ("web", "WEB", "www", web.address):
        sandbox.network().connect(name, 80).close()


@pytest.mark.parametrize("port", [0, -1, 65536, "80", None])
def test_a_port_that_is_none_is_refused(sandbox: Sandbox, port: Any) -> None:
    web = serve(sandbox, "web")
    for connect in (web.connect, lambda port: sandbox.network().connect("web", port)):
        with pytest.raises(SpecError, match="is no TCP port"):
            connect(port)


def test_an_unknown_network_names_the_nearest(sandbox: Sandbox) -> None:
    sandbox.network("backend")
    with pytest.raises(SpecError) as caught:
        idle(sandbox, network="backand")
    assert str(caught.value) == ("there is no network 'backand' in this sandbox, did you mean 'backend'?\n"
                                 "  remedy: make it first: sealed.network('backand')")
