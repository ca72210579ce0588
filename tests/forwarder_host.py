"""Starts the real forwarder in namespaces of its own, with hubs in which the test has sockets.

Run as a script it is the host's first half: it makes the namespaces, sends the test what it made, and becomes
the service. Imported, it is the test's side of that.
"""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from types import TracebackType
from typing import Any

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if __name__ == "__main__":
    sys.path.insert(0, ROOT)

from pytest_sealed.linux import mounts, namespaces  # noqa: E402
from pytest_sealed.runtime.protocol import Channel, pair  # noqa: E402

SERVICE = os.path.join(ROOT, "pytest_sealed", "runtime", "forward", "service.py")
HUBS = 2
SERVERS, CLIENTS = 40, 20         # sockets of each hub: bound and not yet listening; fresh
TIMEOUT = 20.0                    # seconds, after which a test that hangs fails


class Hub:
    """A network namespace of the host's: its descriptor, and sockets in it."""

    def __init__(self, fds: list[int]) -> None:
        self.fd = fds[0]
        self._servers = [socket.socket(fileno=fd) for fd in fds[1:1 + SERVERS]]
        self._clients = [socket.socket(fileno=fd) for fd in fds[1 + SERVERS:]]

    def server(self) -> socket.socket:
        """Return a socket bound to a port of the hub's 127.0.0.1. It doesn't listen yet."""
        server = self._servers.pop()
        server.settimeout(TIMEOUT)
        return server

    def client(self) -> socket.socket:
        """Return an unconnected socket in the hub."""
        client = self._clients.pop()
        client.settimeout(TIMEOUT)
        return client

    def close(self) -> None:
        os.close(self.fd)
        for one in self._servers + self._clients:
            one.close()


class ForwarderHost:
    """A running forwarder. Close it, or use it as a context manager."""

    def __init__(self, rundir: str, *, pipes: int = 16, files: int = 4096, tmpfs: str = "") -> None:
        self.rundir = rundir
        ours, theirs = pair()
        setup, their_setup = pair()
        with theirs, their_setup:
            passed = (their_setup.fileno(), theirs.fileno())
            self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
            self.process = subprocess.Popen(
                [os.path.realpath(sys.executable), "-I", "-S", __file__, *map(str, passed), rundir, str(pipes), str(files), tmpfs],
                pass_fds=passed, stderr=self._stderr)
        self.channel = ours
        ours.socket.settimeout(TIMEOUT)
        self._number = self._heard = 0
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self.hubs = []
        with setup:
            for _ in range(HUBS):
                received = setup.receive()
                assert received is not None, "the namespaces could not be made"
                self.hubs.append(Hub(received[1]))

    def tell(self, op: str, fds: tuple[int, ...] = (), **message: Any) -> None:
        """Send a request that gets no answer."""
        self.channel.send({"op": op, **message}, fds)

    def ask(self, op: str, fds: tuple[int, ...] = (), **message: Any) -> dict[str, Any]:
        """Send a request and return its answer's "ok"."""
        with self._lock:
            self._number += 1
            self.channel.send({"op": op, "id": self._number, **message}, fds)
            received = self.channel.receive()
        assert received is not None, "the forwarder has ended"
        assert received[0]["id"] == self._number
        return dict(received[0]["ok"])

    def listen(self, container: str, port: int, *, address: str | None = "127.0.0.1", hub: int = 0) -> tuple[str, int]:
        """Have a port of the host's loopback forwarded to `port` of `container`; return its address."""
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen(1024)
            self.ask("listen", (listening.fileno(), self.hubs[hub].fd), container=container, port=port, address=address)
            name: tuple[str, int] = listening.getsockname()
        return name

    def connect(self, address: tuple[str, int]) -> socket.socket:
        client = socket.create_connection(address, timeout=TIMEOUT)
        self._sockets.append(client)
        return client

    def close_clients(self) -> None:
        for one in self._sockets:
            one.close()
        self._sockets.clear()

    def open_files(self) -> list[str]:
        """What the service's descriptors name, as in /proc/PID/fd."""
        self.ask("traffic", container="nobody")    # until it is the service that runs in that process
        folder = f"/proc/{self.process.pid}/fd"
        found = []
        for name in os.listdir(folder):
            try:
                found.append(os.readlink(f"{folder}/{name}"))
            except FileNotFoundError:
                pass
        return found

    def comes_to_rest(self) -> bool:
        """Tell whether the service soon waits for something; one that spins never does."""
        until = time.monotonic() + TIMEOUT
        while time.monotonic() < until:
            with open(f"/proc/{self.process.pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "S":
                    return True
        return False

    def complaints(self) -> str:
        """Return what the service has written to stderr since the last call: each exception that it survived."""
        self._stderr.seek(self._heard)
        text = self._stderr.read().decode()
        self._heard += len(text.encode())
        return text

    def close(self) -> int:
        """End the service by ending its channel; return its exit code."""
        self.channel.close()
        self.close_clients()
        for hub in self.hubs:
            hub.close()
        code = self.process.wait(TIMEOUT)
        complaints = self.complaints()
        self._stderr.close()
        assert not complaints, complaints
        return code

    def __enter__(self) -> ForwarderHost:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _loopback_up() -> None:
    import fcntl
    import struct
    with socket.socket() as control:
        fcntl.ioctl(control.fileno(), 0x8914, struct.pack("16sH14x", b"lo", 1))     # SIOCSIFFLAGS, IFF_UP: netdevice(7)


def _host(setup: Channel, service: int, rundir: str, pipes: str, files: str, tmpfs: str) -> None:
    user, group = os.getuid(), os.getgid()
    namespaces.unshare(namespaces.CLONE_NEWUSER)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"0 {user} 1")
    _write("/proc/self/gid_map", f"0 {group} 1")
    namespaces.unshare(namespaces.CLONE_NEWNS | namespaces.CLONE_NEWIPC | namespaces.CLONE_NEWUTS)
    if tmpfs:
        mounts.mount("tmpfs", rundir, "tmpfs", 0, f"size={tmpfs}")
    for _ in range(HUBS):
        namespaces.unshare(namespaces.CLONE_NEWNET)
        _loopback_up()
        servers = [socket.socket() for _ in range(SERVERS)]
        for server in servers:
            server.bind(("127.0.0.1", 0))
        clients = [socket.socket() for _ in range(CLIENTS)]
        namespace = os.open("/proc/self/ns/net", os.O_RDONLY)
        setup.send({}, [namespace, *(one.fileno() for one in servers + clients)])
        os.close(namespace)
        for one in servers + clients:
            one.close()
    setup.close()
    namespaces.unshare(namespaces.CLONE_NEWNET)
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(files), int(files)))
    os.execv(sys.executable, [sys.executable, "-I", "-S", SERVICE, str(service), rundir, pipes])  # noqa: S606


if __name__ == "__main__":
    _host(Channel(socket.socket(fileno=int(sys.argv[1]))), int(sys.argv[2]), *sys.argv[3:])
