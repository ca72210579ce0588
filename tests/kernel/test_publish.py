"""What leads from the host to a container's ports: a loopback port is everybody's, a unix socket this account's alone."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import pytest
from boxes import EITHER_IDS, FOREVER, NEEDS_ROOT, idle, service

from pytest_sealed import Container, ContainerFailed, ContainerNotStarted, HostUnsupported, Sandbox, SpecError, image, tcp
from pytest_sealed.services import nginx

SERVER = ["httpd", "-f", "-h", "/etc", "-p", "80"]
NOBODY = 65534


def ask(path: Path) -> bytes:
    """Return what the web server of a container says its name is, over a unix socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(path))
        client.sendall(b"GET /hostname HTTP/1.0\r\n\r\n")
        client.shutdown(socket.SHUT_WR)   # an end that is carried on, as over TCP
        answer = b""
        while piece := client.recv(4096):
            answer += piece
    return answer.splitlines()[-1]


def as_nobody(family: socket.AddressFamily, address: str | tuple[str, int]) -> str:
    """Return the name of the error that another account of this machine gets when it connects, or nothing."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            with socket.socket(family) as client:
                client.connect(address)
        except BaseException as error:
            os.write(writer, type(error).__name__.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        name = said.read()
    os.waitpid(child, 0)
    return name


def listening(sandbox: Sandbox) -> set[int]:
    """Return the host's TCP ports that the session's forwarder listens at."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ports = {row[9]: int(row[1].partition(":")[2], 16) for row in rows if row[3] == "0A"}   # TCP_LISTEN, by inode
    links = [os.readlink(path) for path in Path(f"/proc/{service(sandbox, 'forward/service.py')}/fd").iterdir()]
    inodes = {found[1] for link in links if (found := re.fullmatch(r"socket:\[(\d+)\]", link))}
    return {port for inode, port in ports.items() if inode in inodes}


# ---------------------------------------------------------------- unix sockets


@EITHER_IDS
@pytest.mark.parametrize("asked", ["before the start", "after it"])
@pytest.mark.parametrize("publish", ["loopback", "none"])
def test_a_unix_socket_leads_to_a_port_of_the_container(sandbox: Sandbox, asked: str, publish: str) -> None:
    spec = image("busybox", command=SERVER, wait=tcp(80), publish=publish)  # type: ignore[arg-type]
    container = sandbox.run(spec, start=False)
    if asked == "before the start":
        with pytest.raises(ConnectionRefusedError):
            ask(container.unix_socket(80))
    container.start()
    path = container.unix_socket(80)
    assert (path.name, path, container.sockets) == ("80.sock", container.unix_socket(80), {path: 80})
    assert (path.stat().st_mode & 0o7777, path.parent.stat().st_mode & 0o7777, path.stat().st_uid) == (0o600, 0o700, os.geteuid())
    assert path.is_relative_to(container._session.run_dir)
    assert ask(path) == b"busybox"
    assert f"sockets  80 → {path}" in container.report()
    container.restart(0)
    assert ask(path) == b"busybox"
    container.kill()
    with pytest.raises((ConnectionResetError, BrokenPipeError, IndexError)):
        ask(path)
    container.remove()
    assert not path.parent.exists()


def test_where_nothing_listens_a_connection_ends_at_once(sandbox: Sandbox) -> None:
    container = idle(sandbox)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(container.unix_socket(81)))
        assert client.recv(1) == b""


def test_one_port_can_have_sockets_of_several_names(sandbox: Sandbox) -> None:
    container = sandbox.run("busybox", SERVER, wait=tcp(80))
    paths = [container.unix_socket(80), container.unix_socket(80, file="web.sock"), container.unix_socket(80, file=".hidden")]
    assert [path.name for path in paths] == ["80.sock", "web.sock", ".hidden"]
    assert {ask(path) for path in paths} == {b"busybox"}


@pytest.mark.parametrize("file", ["a/b", "..", ".", "a\0b", "x" * 256])
def test_a_sockets_file_has_the_name_of_one(sandbox: Sandbox, file: str) -> None:
    with pytest.raises(SpecError) as caught:
        idle(sandbox).unix_socket(80, file=file)
    assert caught.value.message == f"file={file!r} can't be the name of a file"
    assert caught.value.remedy == 'for example file="http.sock"'


def test_a_path_too_long_for_a_socket_is_refused_and_nothing_is_left(sandbox: Sandbox) -> None:
    container = idle(sandbox)
    with pytest.raises(HostUnsupported) as caught:
        container.unix_socket(80, file="x" * 100)
    assert re.fullmatch(r"a unix socket's path has at most 107 bytes, and /.*/x{100} has \d+", caught.value.message)
    assert caught.value.remedy == "set XDG_RUNTIME_DIR to a folder with a short path"
    assert container.sockets == {}
    assert not list(container._session.run_dir.glob(f"sockets/{container.id[-8:]}/*"))


def test_a_container_without_a_network_and_one_that_is_gone_have_none(sandbox: Sandbox) -> None:
    with pytest.raises(SpecError, match="has no network, so no ports"):
        idle(sandbox, network=None).unix_socket(80)
    container = idle(sandbox)
    container.remove()
    with pytest.raises(ContainerNotStarted, match="is removed"):
        container.unix_socket(80)
    assert not list(container._session.run_dir.glob(f"sockets/{container.id[-8:]}"))


def test_one_that_does_not_start_leaves_no_socket(sandbox: Sandbox) -> None:
    container = sandbox.run(image("busybox", command=["/no/such"]), start=False)
    path = container.unix_socket(80)
    with pytest.raises(ContainerFailed):
        container.start()
    assert not path.parent.exists()


@NEEDS_ROOT
def test_another_account_reaches_the_loopback_port_and_not_the_socket(sandbox: Sandbox) -> None:
    container = sandbox.run("busybox", SERVER, wait=tcp(80))
    assert as_nobody(socket.AF_INET, ("127.0.0.1", container.port(80))) == ""   # why there are sockets
    assert as_nobody(socket.AF_UNIX, str(container.unix_socket(80))) == "PermissionError"
    assert as_nobody(socket.AF_UNIX, str(container._session.run_dir / "control")) == "PermissionError"


# ---------------------------------------------------------------- publish="none"


def test_a_container_that_publishes_nothing_refuses_ports_and_names_what_there_is(sandbox: Sandbox) -> None:
    container = sandbox.run(nginx(publish="none"), name="web")
    assert container.ports == {}
    for ask_for in (container.port, container.url):
        with pytest.raises(SpecError) as caught:
            ask_for(80)
        assert caught.value.message == "container 'web' publishes no ports: those of the loopback are open to everybody on this machine"
        assert caught.value.remedy == ("unix_socket(80) is for this account alone, connect(80) for this process; "
                                       'or give it publish="loopback"')
    with container.connect(80) as connection:
        connection.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
        assert connection.recv(5) == b"HTTP/"
    assert ask(container.unix_socket(80))


@NEEDS_ROOT
def test_then_no_port_of_the_host_leads_to_it(sandbox: Sandbox) -> None:
    before = listening(sandbox)
    closed = sandbox.run(nginx(publish="none"))
    closed.unix_socket(80)
    assert listening(sandbox) <= before
    opened = sandbox.run(nginx(publish="loopback"))
    assert listening(sandbox) - before == {opened.port(80)}


def test_a_sandbox_says_it_for_its_containers_unless_they_say_otherwise() -> None:
    with Sandbox(publish="none") as parent, Sandbox(parent=parent) as child, Sandbox(parent=parent, publish="loopback") as other:
        def publishes(sandbox: Sandbox, **options: str) -> bool:
            container: Container = sandbox.run(image("busybox", command=FOREVER, **options), start=False)  # type: ignore[arg-type]
            try:
                return container.port(80) > 0
            except SpecError:
                return False
        assert [publishes(parent), publishes(child), publishes(other)] == [False, False, True]
        assert [publishes(child, publish="loopback"), publishes(other, publish="none")] == [True, False]
        with pytest.raises(SpecError, match="would be published"):
            child.run("busybox", FOREVER, ports=[80])
    with pytest.raises(SpecError) as caught:
        Sandbox(publish="nothing")  # type: ignore[arg-type]
    assert caught.value.message == "publish='nothing' is none of 'loopback', 'none'"
