"""The supervisor of all tests' containers outlives whatever befalls one of them."""

from __future__ import annotations

import array
import os
import signal
import socket
from pathlib import Path

import pytest
from boxes import FOREVER, NEEDS_ROOT, eventually, idle

from pytest_sealed import Mount, Sandbox, image
from pytest_sealed.request import run_request


def children(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


class Started:
    """A container's start, asked for without waiting."""

    def __init__(self, sandbox: Sandbox, name: str) -> None:
        network = sandbox.network()
        found = sandbox.store.get("busybox")
        request = run_request(image("busybox", command=FOREVER), found, container=name, name=name, ports=[], mounts=[],
                              networks=[{"network": network.id, "names": [name]}])
        self.channel = sandbox.session.open("run", **request)


def halfway(supervisor: int, before: set[int]) -> int:
    """Stop the supervisor while a container's first process waits for its id maps; return that process's pid, or 0: too late."""
    while not (new := children(supervisor) - before):
        pass
    os.kill(supervisor, signal.SIGSTOP)
    pid = new.pop()
    eventually(lambda: state(pid) in "SZ", "the container's first process waits")
    return pid if b"python" in Path(f"/proc/{pid}/cmdline").read_bytes() else 0


def test_a_container_that_dies_between_its_fork_and_its_exec_ends_alone(root_sandbox: Sandbox) -> None:
    hit = 0
    with Sandbox(parent=root_sandbox) as sandbox:
        bystander = idle(sandbox)
        supervisor = sandbox.session.pid
        for attempt in range(50):
            eventually(lambda: len(children(supervisor)) <= 3, "only the bystander and the two services are left")
            before = children(supervisor)
            start = Started(sandbox, f"victim-{attempt}")
            with start.channel:
                try:
                    pid = halfway(supervisor, before)
                    if pid:
                        os.kill(pid, signal.SIGKILL)
                finally:
                    os.kill(supervisor, signal.SIGCONT)
                message, _ = sandbox.session.receive(start.channel, 20)
                assert "error" in message or "started" in message   # the latter: it had its maps, and was about to execute its command
            hit += "error" in message
            if hit == 5:
                break
        assert hit, "never in time"
        assert bystander.exec(["true"]).exit_code == 0
        eventually(lambda: len(sandbox.session.request("list")[0]["containers"]) == 1, "only the bystander is left")


@pytest.mark.parametrize("packet", [b"", b"J", b"J[]", b"J" + b"[" * 100_000, b"M", b"\xff" * 1000, b'J{"op":"hello"}', b'J{"op":[]}',
                                    b'J{"op":"run"}', b'J{"op":"exec","container":1}'])
@pytest.mark.parametrize("given", ["nothing", "a pipe", "a datagram socket", "a closed socket"])
def test_nonsense_on_its_control_socket_ends_nothing(sandbox: Sandbox, packet: bytes, given: str) -> None:
    container = idle(sandbox)
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM if given == "a datagram socket" else socket.SOCK_SEQPACKET)
    reader, writer = os.pipe()
    fds = {"nothing": [], "a pipe": [writer], "a datagram socket": [one.fileno()], "a closed socket": [one.fileno()]}[given]
    with one, other, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
        folder = os.open(sandbox.session.run_dir, os.O_PATH)
        control.connect(f"/proc/self/fd/{folder}/control")   # a socket's path has at most 107 bytes
        os.close(folder)
        if given == "a closed socket":
            other.close()
        control.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])
        assert container.exec(["true"]).exit_code == 0
    os.close(reader)
    os.close(writer)


@NEEDS_ROOT
def test_mounts_of_host_folders_leave_no_process(root_sandbox: Sandbox, tmp_path: Path) -> None:
    with Sandbox(parent=root_sandbox) as sandbox:
        mounted = [idle(sandbox, name=f"mounts-{number}", mounts=[Mount(source=str(tmp_path), target="/mnt")]) for number in range(3)]
        eventually(lambda: len(children(sandbox.session.pid)) == 2 + len(mounted), "only the services and the containers are left")
