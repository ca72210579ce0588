"""A stand-in for the supervisor: `python -I -S network_agent.py AGENT_FD SERVICE_FD SITE_PACKAGES ROOT`.

Makes the namespaces of a session (user, net, pid, mount), starts the real network service in them, and then makes
sockets in network namespaces for the test, which gets them by SCM_RIGHTS. Ends when AGENT_FD does, and the kernel
ends the service with it.
"""

from __future__ import annotations

import os
import socket
import sys

AGENT, SERVICE, SITE, ROOT = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
sys.path.insert(0, ROOT)

from pytest_sealed.linux import mounts, namespaces  # noqa: E402
from pytest_sealed.runtime.protocol import Channel  # noqa: E402

_KINDS = {
    "tcp": (socket.AF_INET, socket.SOCK_STREAM, 0),
    "udp": (socket.AF_INET, socket.SOCK_DGRAM, 0),
    "tcp6": (socket.AF_INET6, socket.SOCK_STREAM, 0),
    "ping": (socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP),
    "raw": (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW),
    "netlink": (socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE),
}


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, text.encode())
    os.close(fd)


def _serve(agent: Channel) -> None:
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    while True:
        received = agent.receive()
        if received is None:
            return
        request, fds = received
        namespaces.setns(fds[0], namespaces.CLONE_NEWNET)
        try:
            if "read" in request:
                with open(request["read"], encoding="ascii") as file:
                    agent.send({"text": file.read()})
                continue
            with socket.socket(*_KINDS[request["kind"]]) as made:
                agent.send({}, [made.fileno()])
        except OSError as error:
            agent.send({"error": str(error)})
        finally:
            namespaces.setns(home, namespaces.CLONE_NEWNET)
            os.close(fds[0])


def main() -> None:
    uid, gid = os.getuid(), os.getgid()
    namespaces.unshare(namespaces.CLONE_NEWUSER)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"0 {uid} 1")
    _write("/proc/self/gid_map", f"0 {gid} 1")
    namespaces.unshare(namespaces.CLONE_NEWNET | namespaces.CLONE_NEWNS | namespaces.CLONE_NEWPID)
    child = os.fork()
    if child:
        os.close(AGENT)
        os.close(SERVICE)
        os.waitpid(child, 0)
        return
    mounts.mount(None, "/", None, mounts.MS_PRIVATE | mounts.MS_REC)
    mounts.mount("proc", "/proc", "proc", 0)
    if os.fork() == 0:
        os.close(AGENT)
        os.set_inheritable(SERVICE, True)
        script = os.path.join(ROOT, "pytest_sealed/runtime/network/service.py")
        os.execv(sys.executable, [sys.executable, "-I", "-S", script, str(SERVICE), SITE])  # noqa: S606
    os.close(SERVICE)
    _serve(Channel(socket.socket(fileno=AGENT)))


main()
