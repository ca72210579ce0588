"""The supervisor of all tests' containers outlives whatever befalls one of them, and is out of reach from inside."""

from __future__ import annotations

import array
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from boxes import FOREVER, NEEDS_ROOT, children, eventually, idle, state
from weakened import weakened

from pytest_sealed import Mount, Sandbox, image, log
from pytest_sealed.request import run_request


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


# ---------------------------------------------------------------- reached from inside

# Reads the memory, descriptors and environment of whatever process it sees that isn't the image's: one that is about to become a command.
PEEK = """
import os, sys
own = {os.getpid(), 1}
print("looking", flush=True)
while True:
    for pid in [name for name in os.listdir("/proc") if name.isdigit() and int(name) not in own]:
        for file in ("environ", "maps", "mem", "fd", "root", "cwd"):
            try:
                if file in ("fd",):
                    if len(os.listdir(f"/proc/{pid}/fd")) <= 4:
                        continue   # in the middle of its execve it is the image's: the standard streams, and one that the execve closes
                elif file in ("root", "cwd"):
                    os.readlink(f"/proc/{pid}/{file}")
                else:
                    with open(f"/proc/{pid}/{file}", "rb") as opened:
                        data = opened.read(100) if file != "mem" else b""
                name = open(f"/proc/{pid}/comm").read().strip()
                if name == "sealed-super":
                    print("REACHED " + file, flush=True)
            except OSError:
                continue
"""
# A command that takes a while to become one, so that there is time to look.
SLOW = ("spawn.py", "        _execute(request, account, _filters(",
        "        signal.sigtimedwait([], 1)\n        _execute(request, account, _filters(")
OPEN = ("spawn.py", "    process.set_no_new_privs()\n    process.set_dumpable(False)\n",
        "    process.set_no_new_privs()\n    process.set_dumpable(True)\n")


def peeked(sandbox: Sandbox) -> set[str]:
    attacker = sandbox.run("python", ["python3", "-c", PEEK], wait=log("looking"))
    for _ in range(2):
        attacker.exec(["true"])
    return set(re.findall(r"^REACHED (\w+)\n", attacker.logs(), re.MULTILINE))   # whole rows: it is still writing


def test_no_process_of_the_runtimes_can_be_looked_into_from_inside(tmp_path: Path) -> None:
    with weakened(tmp_path, SLOW) as sandbox:
        assert peeked(sandbox) == set()


def test_one_that_may_be_dumped_can(tmp_path: Path) -> None:
    with weakened(tmp_path, SLOW, OPEN) as sandbox:
        assert {"environ", "fd"} <= peeked(sandbox)


TRACE = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
child = os.fork()
if child == 0:
    import time
    time.sleep(60)
for pid in (child, 1, *range(2, 40)):
    print(pid, libc.ptrace(16, pid, None, None))   # PTRACE_ATTACH
os.kill(child, 9)
"""


def test_a_container_traces_its_own_processes_and_no_others(sandbox: Sandbox) -> None:
    container = sandbox.run("python", FOREVER, init=True)
    rows = [row.split() for row in container.exec(["python3", "-c", TRACE], check=True).stdout.splitlines()]
    assert rows[0][1] == "0", "it may trace its child: else this shows nothing"
    seen = {name for name in container.exec(["ls", "/proc"]).stdout.split() if name.isdigit()}
    assert {row[0] for row in rows[1:] if row[1] == "0"} <= seen | {rows[0][0]}
    assert ["1", "-1"] in rows   # the init is the runtime's


def test_no_socket_of_the_sessions_is_seen_from_inside(sandbox: Sandbox, tmp_path: Path) -> None:
    name = f"\0of-the-host-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen()
        connect = f"import socket; socket.socket(socket.AF_UNIX).connect({name!r}); print('connected')"
        assert subprocess.run([sys.executable, "-c", connect], capture_output=True, text=True).stdout == "connected\n"
        container = sandbox.run("python", FOREVER)
        assert "ConnectionRefusedError" in container.exec(["python3", "-c", connect]).stderr
    assert container.exec(["find", "/", "-xdev", "-type", "s"]).stdout == ""
    assert container.exec(["sh", "-c", f"ls {sandbox.session.run_dir}"]).exit_code != 0


ASK = """
import array, os, socket
control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
control.connect("/session/control")
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
control.sendmsg([b'J{"op":"list"}'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs.fileno()]))])
print(ours.recv(100))
"""


@pytest.mark.parametrize("sandbox", ["single"], indirect=True)
def test_whoever_mounts_the_sessions_folder_gives_its_control_away(sandbox: Sandbox) -> None:
    """What it is worth that no container sees it."""
    folder = sandbox.session.run_dir
    given = idle(sandbox, mounts=[Mount(source="/usr", target="/usr"), Mount(source=str(folder), target="/session")])
    assert "containers" in given.exec(["python3", "-c", ASK]).stdout
    kept = idle(sandbox, mounts=[Mount(source="/usr", target="/usr")])
    assert "FileNotFoundError" in kept.exec(["python3", "-c", ASK]).stderr
