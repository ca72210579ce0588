"""Into the container's cgroups and namespaces."""

from __future__ import annotations

import os

from pytest_sealed.linux import namespaces, process
from pytest_sealed.runtime.operations.base import Context, Operation, Refused

__all__ = ["EnterCgroup", "EnterLeaf", "Hostname", "JoinNetwork", "LoopbackUp", "Sysctl"]


class EnterCgroup(Operation):
    """Put this process into the container's cgroups, then make those the root of what it sees."""

    __slots__ = ("paths",)
    paths: tuple[str, ...]

    def apply(self, context: Context) -> None:
        for path in self.paths:
            _enter(path)
        namespaces.unshare(namespaces.CLONE_NEWCGROUP)


def _enter(path: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"0")
    finally:
        os.close(fd)


class EnterLeaf(Operation):
    """Go on to the leaf below: a cgroup v2 that hands controllers to its children may hold no process. See cgroups(7)."""

    __slots__ = ("directory",)
    directory: str

    def apply(self, context: Context) -> None:
        _enter(f"{self.directory}/cgroup.procs")


class JoinNetwork(Operation):
    """Enter the network namespace that the network service made."""

    __slots__ = ("fd",)
    fd: int

    def apply(self, context: Context) -> None:
        namespaces.setns(self.fd, namespaces.CLONE_NEWNET)


class LoopbackUp(Operation):
    """Bring up the loopback interface of a container without a network."""

    __slots__ = ()

    def apply(self, context: Context) -> None:
        import fcntl
        import socket
        import struct
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            # SIOCSIFFLAGS, IFF_UP | IFF_LOOPBACK | IFF_RUNNING: netdevice(7)
            fcntl.ioctl(control, 0x8914, struct.pack("16sH14x", b"lo", 0x49))


class Hostname(Operation):
    """Set the host name in the container's UTS namespace."""

    __slots__ = ("name",)
    name: str

    def apply(self, context: Context) -> None:
        process.sethostname(self.name)


class Sysctl(Operation):
    """Set a sysctl of the container's own namespaces, through the session's /proc."""

    __slots__ = ("name", "value")
    name: str
    value: str

    def apply(self, context: Context) -> None:
        try:
            fd = os.open(f"/proc/sys/{self.name.replace('.', '/')}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, self.value.encode())
            finally:
                os.close(fd)
        except OSError as error:
            raise Refused("sysctl", f"the sysctl {self.name}={self.value} can't be set: {error.strerror}") from error
