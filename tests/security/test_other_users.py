"""Other users of the machine: a session's control socket, files and ports are its account's, and ports are on the loopback only."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from boxes import EITHER_IDS, NEEDS_ROOT, idle

from pytest_sealed import Sandbox

NOBODY = 65534
LISTENING = "0A"   # of /proc/net/tcp, see proc_net(5)


def as_another(work: Callable[[], object]) -> str:
    """Do something as another user of the machine; return what it came to, or the name of the error."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            said = str(work())
        except BaseException as error:
            said = type(error).__name__
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as file:
        return file.read()


def connects(path: Path) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
        os.chdir(path.parent)   # a socket's path has at most 107 bytes
        control.connect(path.name)
    return "connected"


@pytest.fixture(params=["range", "single"])
def reachable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A session to whose folder others have a way: what is left is its own mode. No other test's session is in there."""
    if request.param == "single":
        monkeypatch.setenv("SEALED_IDS", "single")
    with tempfile.TemporaryDirectory(prefix="sealed-way-") as way:
        os.chmod(way, 0o711)
        monkeypatch.setenv("XDG_RUNTIME_DIR", way)
        with Sandbox() as sandbox:
            sandbox.session.run_dir.parent.chmod(0o711)
            idle(sandbox)
            yield sandbox


@NEEDS_ROOT
def test_another_user_reaches_neither_the_control_socket_nor_logs(reachable: Sandbox) -> None:
    run_dir, pid = reachable.session.run_dir, reachable.session.pid
    attacks = (lambda: connects(run_dir / "control"), lambda: os.listdir(run_dir), lambda: os.listdir(run_dir / "logs"),
               lambda: (run_dir / "session.json").read_text(), lambda: os.listdir(f"/proc/{pid}/fd"),
               lambda: os.readlink(f"/proc/{pid}/root"))
    for attack in attacks:
        assert as_another(attack) == "PermissionError"


@NEEDS_ROOT
def test_were_its_folder_open_the_socket_could_be_reached(reachable: Sandbox) -> None:
    run_dir = reachable.session.run_dir
    run_dir.chmod(0o711)
    (run_dir / "control").chmod(0o777)
    assert as_another(lambda: connects(run_dir / "control")) == "connected"


def test_the_folders_of_a_session_are_closed(sandbox: Sandbox) -> None:
    idle(sandbox, scratch="disk")
    session = sandbox.session
    for folder in (session.run_dir, session.run_dir.parent, session.disk.parent):
        assert (folder.stat().st_mode & 0o077, folder.stat().st_uid) == (0, os.geteuid()), folder


def listeners() -> set[str]:
    """Return the addresses at which anything on the host listens, as in /proc/net/tcp and tcp6."""
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    return {row[1] for row in rows if row[3] == LISTENING}


def anywhere(addresses: set[str]) -> set[str]:
    return {address for address in addresses if address.rpartition(":")[0] != "0100007F"}   # 127.0.0.1


@EITHER_IDS
def test_ports_listen_on_the_loopback_only(sandbox: Sandbox) -> None:
    container = idle(sandbox)
    ports = [container.port(number) for number in (80, 5432)]
    own = {address for address in listeners() if int(address.rpartition(":")[2], 16) in ports}
    assert len(own) == 2
    assert anywhere(own) == set()
    with socket.create_server(("0.0.0.0", 0)) as server:   # else this shows nothing
        port = server.getsockname()[1]
        assert anywhere({address for address in listeners() if int(address.rpartition(":")[2], 16) == port})
