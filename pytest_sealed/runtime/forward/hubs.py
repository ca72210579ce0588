"""Sockets inside network hubs: enter the hub's network namespace, make one, stay there until another is needed."""

from __future__ import annotations

import os
import socket

from pytest_sealed.linux.namespaces import CLONE_NEWNET, setns

__all__ = ["Hub", "Hubs"]


class Hub:
    """A network namespace, held by a descriptor while a container uses it."""

    __slots__ = ("fd", "key", "users")

    def __init__(self, fd: int, key: tuple[int, int]) -> None:
        self.fd = fd
        self.key = key
        self.users = 0


class Hubs:
    """The hubs in use. Two descriptors of one namespace are one hub."""

    __slots__ = ("_current", "_home", "_hubs")

    def __init__(self) -> None:
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._hubs: dict[tuple[int, int], Hub] = {}
        self._current: Hub | None = None

    def hold(self, fd: int) -> Hub:
        """Return the hub that `fd` names, with one user more; takes `fd` over."""
        status = os.fstat(fd)
        key = (status.st_dev, status.st_ino)
        hub = self._hubs.get(key)
        if hub is None:
            hub = self._hubs[key] = Hub(fd, key)
        else:
            os.close(fd)
        hub.users += 1
        return hub

    def let_go(self, hub: Hub) -> None:
        """One user less. The last one also leaves the namespace: a process inside would keep it alive."""
        hub.users -= 1
        if hub.users:
            return
        if self._current is hub:
            setns(self._home, CLONE_NEWNET)
            self._current = None
        del self._hubs[hub.key]
        os.close(hub.fd)

    def connect(self, hub: Hub, address: str, port: int) -> socket.socket:
        """Return a non-blocking socket of the hub's that is connecting to `address`.

        Raises:
            OSError: no descriptor is left (EMFILE, ENFILE), or the connection failed at once.
        """
        if self._current is not hub:
            setns(hub.fd, CLONE_NEWNET)
            self._current = hub
        upstream = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            upstream.connect((address, port))
        except BlockingIOError:
            return upstream
        except BaseException:
            upstream.close()
            raise
        return upstream
