"""The network service, in namespaces of the test's own: what is promised about networks."""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from network_session import NetworkSession, Place, Refused

GATEWAY = "10.89.0.1"


@pytest.fixture(scope="module")
def service() -> Iterator[NetworkSession]:
    with NetworkSession() as session:
        yield session


@pytest.fixture
def session(service: NetworkSession) -> Iterator[NetworkSession]:
    """One service for all tests, as in a session of pytest's: each test leaves it without networks."""
    yield service
    service.clear()


def source_of(listener: socket.socket) -> str:
    """Accept a connection, and return where it comes from."""
    connection, (address, _) = listener.accept()
    connection.close()
    return str(address)


def talk(client: Place, server: Place, port: int = 80) -> None:
    """Connect, and carry a word each way."""
    with server.listen(port) as listener, client.socket() as near:
        near.connect((server.address, port))
        far, (source, _) = listener.accept()
        with far:
            assert source == client.address
            near.sendall(b"ping")
            assert far.recv(4) == b"ping"
            far.sendall(b"pong")
            assert near.recv(4) == b"pong"


def query(name: str, kind: int = 1) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", kind, 1)


def resolve(place: Place, name: str, server: str = GATEWAY) -> str | None:
    """Ask the DNS server of the hub as a container does; None for NXDOMAIN."""
    with place.socket("udp") as asking:
        asking.connect((server, 53))
        asking.send(query(name))
        reply = asking.recv(512)
    assert reply[3] & 15 in (0, 3)
    return socket.inet_ntoa(reply[-4:]) if reply[3] & 15 == 0 else None


def test_of_pyroute2_only_what_is_needed_is_imported_so_that_a_python_without_sqlite3_will_do() -> None:
    script = ("import sys; sys.modules['_sqlite3'] = None; from pytest_sealed.runtime.network.links import Compiler; "
              "print(len(Compiler(9).hub('10.0.0.0/24').data) > 16, {'sqlite3', 'asyncio', 'pyroute2.ndb'} & {*sys.modules})")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "True set()\n", done.stderr


def test_the_first_containers_have_the_first_addresses(session: NetworkSession) -> None:
    hub = session.create("shop")
    assert hub.ok == {"gateway": GATEWAY, "prefix": 24}
    assert session.attach("shop", "a").ok == {"address": "10.89.0.2", "interface": "eth0", "prefix": 24, "gateway": GATEWAY}
    assert session.attach("shop", "b").address == "10.89.0.3"


def test_two_containers_reach_each_other(session: NetworkSession) -> None:
    session.create("shop")
    a, b = session.attach("shop", "a"), session.attach("shop", "b")
    talk(a, b)
    talk(b, a)


def test_a_container_reaches_itself_by_its_address_and_by_loopback(session: NetworkSession) -> None:
    session.create("shop")
    a = session.attach("shop", "a")
    talk(a, a)
    with a.socket() as listener, a.socket() as near:
        listener.bind(("127.0.0.1", 80))
        listener.listen()
        near.connect(("127.0.0.1", 80))


def test_ipv6_loopback_works_in_a_container(session: NetworkSession) -> None:
    session.create("shop")
    a = session.attach("shop", "a")
    with a.socket("tcp6") as listener, a.socket("tcp6") as near:
        listener.bind(("::1", 80))
        listener.listen()
        near.connect(("::1", 80))


def test_a_socket_in_the_hub_reaches_a_container_from_the_gateway(session: NetworkSession) -> None:
    hub = session.create("shop")
    a = session.attach("shop", "a")
    with a.listen() as listener, hub.socket() as near:
        near.connect((a.address, 80))
        assert source_of(listener) == GATEWAY


def test_large_datagrams_and_streams_pass(session: NetworkSession) -> None:
    session.create("shop")
    a, b = session.attach("shop", "a"), session.attach("shop", "b")
    with b.socket("udp") as far, a.socket("udp") as near:
        far.bind((b.address, 9))
        near.sendto(b"x" * 60000, (b.address, 9))
        assert len(far.recv(65536)) == 60000


def test_two_networks_of_the_same_subnet_do_not_meet(session: NetworkSession) -> None:
    session.create("one")
    session.create("two")
    a = session.attach("one", "a", ("a",))
    b, c = session.attach("two", "b", ("b",)), session.attach("two", "c", ("c",))
    assert (a.address, b.address, c.address) == ("10.89.0.2", "10.89.0.2", "10.89.0.3")
    with b.listen(), c.listen(), a.socket() as near, pytest.raises(ConnectionRefusedError):
        near.connect((c.address, 80))
    assert resolve(a, "c") is None
    talk(b, c)


def test_two_networks_of_different_subnets_do_not_meet(session: NetworkSession) -> None:
    session.create("one")
    session.create("two", "10.90.0.0/24")
    a, b = session.attach("one", "a"), session.attach("two", "b")
    with b.listen(), a.socket() as near, pytest.raises(OSError, match="unreachable"):
        near.connect((b.address, 80))


def test_nothing_leaves_a_network(session: NetworkSession) -> None:
    hub = session.create("shop")
    a = session.attach("shop", "a")
    for place in (hub, a):
        with place.socket("udp") as asking, pytest.raises(OSError, match="unreachable"):
            asking.connect(("192.0.2.1", 53))


def test_the_loopback_of_the_host_and_of_the_hub_stay_out_of_reach(session: NetworkSession) -> None:
    hub = session.create("shop")
    a = session.attach("shop", "a")
    with socket.create_server(("127.0.0.1", 0)) as host, hub.socket() as in_hub, a.socket() as near:
        in_hub.bind(("127.0.0.1", host.getsockname()[1]))
        in_hub.listen()
        with pytest.raises(ConnectionRefusedError):
            near.connect(host.getsockname())
        assert select.select([host, in_hub], [], [], 0)[0] == []


def test_a_container_on_two_networks_is_no_router_between_them(session: NetworkSession) -> None:
    session.create("one")
    session.create("two", "10.90.0.0/24")
    a, both, b = session.attach("one", "a"), session.attach("one", "both"), session.attach("two", "b")
    assert session.join("two", "both", both) == {"address": "10.90.0.3", "interface": "eth1", "prefix": 24, "gateway": "10.90.0.1"}
    with b.listen() as listener, both.socket() as near, a.socket() as outside:
        near.connect((b.address, 80))
        assert source_of(listener) == "10.90.0.3"
        with pytest.raises(OSError, match="unreachable"):
            outside.connect((b.address, 80))
    assert both.read("/proc/sys/net/ipv4/ip_forward") == "0\n"


def test_a_container_that_brings_a_namespace_gets_an_interface_in_it_whatever_is_there(session: NetworkSession) -> None:
    session.create("shop")
    session.create("spare", "10.91.0.0/24")
    brought, other = session.attach("spare", "x"), session.attach("shop", "other")
    session.ask("detach", network="spare", container="x")   # eth0 is still there, without its other end's help
    assert session.join("shop", "x", brought) == {"address": "10.89.0.3", "interface": "eth1", "prefix": 24, "gateway": GATEWAY}
    brought.address = "10.89.0.3"
    talk(other, brought)


def test_a_container_cannot_be_on_two_networks_whose_addresses_overlap(session: NetworkSession) -> None:
    session.create("one")
    session.create("two")
    both = session.attach("one", "both")
    with pytest.raises(Refused, match=r"on network one, whose addresses \(10\.89\.0\.0/24\) overlap"):
        session.join("two", "both", both)
    session.ask("detach", network="one", container="both")
    assert session.attach("two", "both").address == "10.89.0.2"


def test_the_resolver_of_the_first_network_knows_the_second(session: NetworkSession) -> None:
    session.create("one")
    session.create("two", "10.90.0.0/24")
    a, both = session.attach("one", "a"), session.attach("one", "both")
    session.attach("two", "b", ("b",))
    session.join("two", "both", both)
    assert resolve(both, "b") == "10.90.0.2"
    assert resolve(a, "b") is None


def test_a_name_on_two_networks_is_that_of_the_network_that_was_joined_first(session: NetworkSession) -> None:
    for number, network in enumerate(("wide", "middle", "near")):
        session.create(network, f"10.9{number}.0.0/24")
        session.attach(network, f"{network}-db", ("db", f"{network}-db"))
    place = session.attach("near", "web")
    session.join("middle", "web", place)
    session.join("wide", "web", place)
    gateway = "10.92.0.1"
    assert resolve(place, "db", gateway) == "10.92.0.2"
    session.ask("detach", network="near", container="near-db")
    assert resolve(place, "db", gateway) == "10.91.0.2"
    assert resolve(place, "wide-db", gateway) == "10.90.0.2"
    session.ask("remove", network="middle")
    assert resolve(place, "db", gateway) == "10.90.0.2"


def test_names_are_answered_by_udp(session: NetworkSession) -> None:
    session.create("shop")
    a = session.attach("shop", "a", ("web", "www"))
    session.attach("shop", "b", ("db",))
    assert [resolve(a, name) for name in ("db", "web", "WWW", "redis")] == ["10.89.0.3", "10.89.0.2", "10.89.0.2", None]
    assert session.ask("names", network="shop")[0] == {"web": "10.89.0.2", "www": "10.89.0.2", "db": "10.89.0.3"}


def test_names_are_answered_by_tcp_also_several_in_a_row(session: NetworkSession) -> None:
    session.create("shop")
    a = session.attach("shop", "a", ("web",))
    packet = struct.pack(">H", len(query("web"))) + query("web")
    with a.socket() as asking:
        asking.connect((GATEWAY, 53))
        asking.sendall(packet[:5])
        asking.sendall(packet[5:] + packet)
        replies = b""
        while len(replies) < 2 * (len(packet) + 16):
            replies += asking.recv(4096)
    assert replies.endswith(socket.inet_aton("10.89.0.2"))


def test_the_resolver_survives_whatever_is_sent_to_it(session: NetworkSession) -> None:
    session.create("shop")
    a = session.attach("shop", "a", ("web",))
    with a.socket("udp") as asking:
        for size in range(200):
            asking.sendto(os.urandom(size), (GATEWAY, 53))
        asking.sendto(b"", (GATEWAY, 53))
    crowd = []
    for number in range(40):   # five times as many as are kept: the oldest gives way, whatever it was up to
        asking = a.socket()
        asking.connect((GATEWAY, 53))
        asking.sendall((b"", b"\0", b"\xff\xff", b"\0\0", os.urandom(3000))[number % 5])
        crowd.append(asking)
    try:
        assert resolve(a, "web") == "10.89.0.2"
    finally:
        for asking in crowd:
            asking.close()
    assert session.attach("shop", "b").address == "10.89.0.3"


def test_of_too_many_tcp_connections_to_the_resolver_the_oldest_give_way(session: NetworkSession) -> None:
    session.create("shop")
    a = session.attach("shop", "a", ("web",))
    packet = struct.pack(">H", len(query("web"))) + query("web")
    crowd = [a.socket() for _ in range(12)]
    try:
        for asking in crowd:
            asking.connect((GATEWAY, 53))
        assert [asking.recv(1) for asking in crowd[:4]] == [b""] * 4
        for asking in crowd[4:]:   # not ended by their own time limit, then, for that is the same for all
            asking.sendall(packet)
            assert asking.recv(512).endswith(socket.inet_aton("10.89.0.2"))
    finally:
        for asking in crowd:
            asking.close()


def test_a_detached_container_is_gone_at_once_though_its_namespace_lives(session: NetworkSession) -> None:
    session.create("shop")
    a, b = session.attach("shop", "a"), session.attach("shop", "b", ("db",))
    with b.listen(), a.socket() as near:
        near.connect((b.address, 80))
        session.ask("detach", network="shop", container="b")
        assert resolve(a, "db") is None
        with a.socket() as late, pytest.raises(ConnectionRefusedError):
            late.connect((b.address, 80))
        near.sendall(b"still there?")
        with pytest.raises(ConnectionResetError):
            near.recv(1)
        with a.listen(), b.socket(timeout=0.2) as undead, pytest.raises(TimeoutError):
            undead.connect((a.address, 80))


def test_a_new_container_takes_over_the_address_of_a_detached_one(session: NetworkSession) -> None:
    session.create("shop")
    a, b = session.attach("shop", "a"), session.attach("shop", "b", ("db",))
    session.ask("detach", network="shop", container="b")
    c = session.attach("shop", "c", ("db",))
    assert c.address == b.address
    with b.listen():   # the dead one still holds the port; nobody reaches it
        talk(a, c)


def test_detaching_twice_or_from_a_network_that_is_gone_is_no_error(session: NetworkSession) -> None:
    session.create("shop")
    session.attach("shop", "a").close()
    for network in ("shop", "shop", "gone"):
        session.ask("detach", network=network, container="a")


def test_a_container_whose_namespace_is_gone_can_be_detached(session: NetworkSession) -> None:
    session.create("shop")
    a, b = session.attach("shop", "a"), session.attach("shop", "b")
    b.close()
    session.ask("detach", network="shop", container="b")
    talk(a, session.attach("shop", "c"))


def test_the_test_listens_on_a_network_under_a_name(session: NetworkSession) -> None:
    session.create("shop")
    a = session.attach("shop", "a")
    first, (fd,) = session.ask("listen", network="shop", name="hooks", port=8080)
    second, (other,) = session.ask("listen", network="shop", name="sso", port=8080)
    third, (free,) = session.ask("listen", network="shop", name="hooks", port=0, backlog=5)
    assert (first["port"], second["port"]) == (8080, 8080)
    assert first["address"] == third["address"] != second["address"]
    assert resolve(a, "hooks") == first["address"]
    with socket.socket(fileno=fd) as listener, socket.socket(fileno=other), socket.socket(fileno=free), a.socket() as near:
        near.connect(("10.89.0.254", 8080))
        assert source_of(listener) == a.address
        session.ask("unlisten", network="shop", name="hooks")
        assert resolve(a, "hooks") is None
    with a.socket() as late, pytest.raises(ConnectionRefusedError):   # closed by its owner, and nobody else holds it
        late.connect(("10.89.0.254", 8080))


def test_a_name_is_a_listener_or_a_container_not_both(session: NetworkSession) -> None:
    session.create("shop")
    session.attach("shop", "a", ("web",))
    session.ask("listen", network="shop", name="hooks", port=0)
    with pytest.raises(Refused, match="'web' belongs to a container"):
        session.ask("listen", network="shop", name="Web", port=0)
    with pytest.raises(Refused, match="'hooks' belongs to a listener"):
        session.ask("attach", network="shop", container="b", names=["hooks"])
    assert session.attach("shop", "b").address == "10.89.0.3"


def test_a_forged_source_address_is_not_let_in(session: NetworkSession) -> None:
    """Our containers have no CAP_NET_RAW over their namespace; one that was given it must not get further."""
    hub = session.create("shop")
    a, b = session.attach("shop", "a"), session.attach("shop", "b")
    with b.socket("udp") as far, a.socket("raw") as forging, hub.socket("udp") as in_hub:
        far.bind((b.address, 9))
        in_hub.bind((GATEWAY, 9))
        for source in ("10.89.0.77", GATEWAY, b.address, "127.0.0.1", "192.0.2.1"):
            forging.sendto(datagram(source, b.address, 9, source.encode()), (b.address, 0))
        forging.sendto(datagram(a.address, b.address, 9, b"own"), (b.address, 0))
        assert far.recv(100) == b"own"
        forging.sendto(datagram("10.89.0.77", GATEWAY, 9, b"forged"), (GATEWAY, 0))
        forging.sendto(datagram(a.address, GATEWAY, 9, b"own"), (GATEWAY, 0))
        in_hub.settimeout(5)
        assert in_hub.recv(100) == b"own"


def datagram(source: str, target: str, port: int, data: bytes) -> bytes:
    """Return an IPv4 packet that holds a UDP datagram; the kernel fills in the header's checksum."""
    udp = struct.pack(">4H", 9, port, 8 + len(data), 0) + data
    return struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(target)) + udp


def test_containers_may_listen_below_1024_and_ping(session: NetworkSession) -> None:
    session.create("shop")
    a, b = session.attach("shop", "a"), session.attach("shop", "b")
    assert a.read("/proc/sys/net/ipv4/ip_unprivileged_port_start") == "0\n"
    with a.socket("ping") as ping:
        ping.sendto(b"\x08\0\0\0\0\0\0\x01", (b.address, 0))
        assert ping.recv(100)[0] == 0
    with a.socket("ping", timeout=0.1) as ping:
        ping.sendto(b"\x08\0\0\0\0\0\0\x01", ("10.89.0.99", 0))
        with pytest.raises(TimeoutError):
            ping.recv(100)


def test_first_connects_need_no_address_resolution_and_lose_no_packet(session: NetworkSession) -> None:
    for number in range(20):
        network = f"n{number}"
        session.create(network)
        a, b = session.attach(network, f"a{number}"), session.attach(network, f"b{number}")
        with b.listen(), a.socket() as near:
            near.connect((b.address, 80))
            assert retransmissions(near) == 0
            assert a.read("/proc/net/arp").splitlines()[1:] == []


def retransmissions(connected: socket.socket) -> int:
    """Return tcpi_total_retrans of tcp(7)'s TCP_INFO: a SYN that was dropped comes again after a second."""
    return int(struct.unpack_from("=I", connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 100)[0])


def test_a_port_is_up_when_it_is_handed_out(session: NetworkSession) -> None:
    session.create("shop")
    a = session.attach("shop", "a")
    with a.socket("netlink") as wire:
        wire.send(struct.pack("=IHHII", 32, 18, 1, 0, 0) + struct.pack("=BxHiII", 0, 0, 2, 0, 0))   # RTM_GETLINK of eth0
        answer = wire.recv(65536)
    flags = struct.unpack_from("=I", answer, 24)[0]
    assert flags & 0x10041 == 0x10041   # IFF_UP, IFF_RUNNING, IFF_LOWER_UP


def test_a_network_can_be_made_again_after_its_removal(session: NetworkSession) -> None:
    for _ in range(3):
        session.create("shop")
        assert session.attach("shop", "a").address == "10.89.0.2"
        session.ask("remove", network="shop")
    session.ask("remove", network="shop")


def test_as_many_ports_are_made_ahead_as_the_last_networks_used(session: NetworkSession) -> None:
    def ahead(used: int) -> int:
        """Use a network that was made ahead, and return how many ports it had before."""
        for _ in range(100):
            time.sleep(0.1)   # a test's own time, in which the service makes networks ahead
            hub = session.create("one")
            ports = len(hub.read("/proc/net/dev").splitlines()) - 3   # two lines of titles, and lo
            for number in range(used):
                session.attach("one", f"c{number}")
            session.clear()
            if ports:
                return ports
        raise AssertionError("no network was made ahead")
    assert any(ahead(3) == 3 for _ in range(50))
    for _ in range(12):   # eight are remembered, and three were made ahead before
        ahead(1)
    assert [ahead(1) for _ in range(5)] == [1] * 5


def test_a_slot_asks_for_an_address(session: NetworkSession) -> None:
    session.create("shop")
    assert session.attach("shop", "a", slot=5).address == "10.89.0.5"
    assert session.attach("shop", "b", slot=2).address == "10.89.0.2"
    assert [session.attach("shop", name).address for name in "cde"] == ["10.89.0.3", "10.89.0.4", "10.89.0.6"]
    with pytest.raises(Refused, match="taken"):
        session.attach("shop", "f", slot=5)


@pytest.mark.parametrize(("request_", "why"), [
    ({"op": "create", "network": "shop", "subnet": "10.89.0.0/24"}, "exists already"),
    ({"op": "create", "network": "x", "subnet": "10.89.0.0/33"}, "no IPv4 subnet"),
    ({"op": "create", "subnet": "10.89.0.0/24"}, "no 'network'"),
    ({"op": "attach", "network": "shop", "container": "a"}, "on this network already"),
    ({"op": "attach", "network": "nowhere", "container": "a"}, "no network nowhere"),
    ({"op": "attach", "network": "shop", "container": "b", "names": [""]}, "no host name"),
    ({"op": "attach", "network": "shop", "container": "b", "names": 3}, "names must be a list"),
    ({"op": "attach", "network": "shop", "container": "b", "slot": "2"}, "slot must be a number"),
    ({"op": "attach", "network": "shop", "container": "b", "slot": 1 << 80}, "outside 10.89.0.0/24"),
    ({"op": "listen", "network": "shop", "name": "hooks", "port": 65536}, "port 65536"),
    ({"op": "listen", "network": "shop", "port": 80}, "no host name"),
    ({"op": "explode"}, "no operation 'explode'"),
    ({}, "no operation None"),
])
def test_a_bad_request_is_refused_and_changes_nothing(session: NetworkSession, request_: dict[str, object], why: str) -> None:
    session.create("shop")
    a = session.attach("shop", "a")
    session.service.send({"id": 99, **request_})
    received = session.service.receive()
    assert received is not None
    assert received[0]["id"] == 99
    assert why in received[0]["error"]
    talk(a, session.attach("shop", "b"))


def test_a_descriptor_that_is_no_namespace_is_refused(session: NetworkSession) -> None:
    session.create("shop")
    with open(os.devnull, "rb") as file, pytest.raises(Refused, match="setns"):
        session.ask("attach", (file.fileno(),), network="shop", container="a", names=[])
    assert session.attach("shop", "a").address == "10.89.0.2"


def test_a_packet_that_is_no_message_is_passed_over(session: NetworkSession) -> None:
    session.service.socket.send(b"rubbish")
    session.service.socket.send(b"J[1, 2]")
    assert session.create("shop").ok["gateway"] == GATEWAY


def test_a_full_network_says_so(session: NetworkSession) -> None:
    session.create("small", "10.91.0.0/29")
    places = [session.attach("small", str(number)) for number in range(5)]
    assert [place.address for place in places] == [f"10.91.0.{number}" for number in range(2, 7)]
    with pytest.raises(Refused, match="all 5 addresses are taken"):
        session.attach("small", "one too many")
