"""What leads from the host to a container's ports: loopback ports, and unix sockets that only this account can use."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_sealed.errors import HostUnsupported

if TYPE_CHECKING:
    from pytest_sealed.lifecycle import Lifecycle
    from pytest_sealed.runtime.client import Session

__all__ = ["Endpoints"]

_LONGEST = 107   # bytes of a socket's path: see unix(7)


class Endpoints:
    """Those of one container; each is there before the container starts, and leads to it as long as it is there.

    Attributes:
        ports: of the container → of the host's loopback.
        sockets: (port of the container, name of the file) → path.
    """

    def __init__(self, session: Session, life: Lifecycle, container: str) -> None:
        self.ports: dict[int, int] = {}
        self.sockets: dict[tuple[int, str], Path] = {}
        self._session, self._life, self._container = session, life, container
        self._waiting: list[tuple[int, socket.socket]] = []   # for the start: they hold their addresses, and let nobody in

    def port(self, port: int) -> int:
        """Return the loopback port that leads to `port`; opened if it isn't there."""
        with self._life.lock:
            if port not in self.ports:
                self.ports[port] = self._open(port, socket.AF_INET, ("127.0.0.1", 0))[1]
            return self.ports[port]

    def unix_socket(self, port: int, file: str) -> Path:
        """Return the path of a unix socket that leads to `port`; made, with mode 0600 in a folder of mode 0700, if it isn't there.

        Raises:
            HostUnsupported: the path is longer than a socket's may be.
        """
        with self._life.lock:
            if (port, file) not in self.sockets:
                path = self._folder / file
                length = len(os.fsencode(path))
                if length > _LONGEST:
                    raise HostUnsupported(f"a unix socket's path has at most {_LONGEST} bytes, and {path} has {length}",
                                          remedy="set XDG_RUNTIME_DIR to a folder with a short path")
                self._open(port, socket.AF_UNIX, str(path))
                self.sockets[port, file] = path
            return self.sockets[port, file]

    @property
    def _folder(self) -> Path:
        return self._session.run_dir / "sockets" / self._container.rpartition("-")[2]

    def _open(self, port: int, family: socket.AddressFamily, address: Any) -> Any:
        """Open a socket that leads to `port`, now or from the start on; return its address."""
        if self._life.removed:
            self._life.require_started()
        if family == socket.AF_UNIX:
            for folder in (self._folder.parent, self._folder):
                folder.mkdir(exist_ok=True)
                folder.chmod(0o700)   # whatever a test's umask leaves of it
        with contextlib.ExitStack() as on_failure:
            listener = on_failure.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.bind(address)
            if family == socket.AF_UNIX:
                on_failure.callback(os.unlink, address)
                os.chmod(address, 0o600)
            name = listener.getsockname()
            if self._life.asked:
                listener.listen(socket.SOMAXCONN)
                self._session.request("publish", [listener.fileno()], container=self._container, port=port)
                listener.close()
            else:
                self._waiting.append((port, listener))
            on_failure.pop_all()
        return name

    def waiting(self) -> tuple[list[int], list[socket.socket]]:
        """Return the ports, and the sockets that lead to each, that are to be handed over at the start."""
        return [port for port, _ in self._waiting], [listener for _, listener in self._waiting]

    def handed_over(self) -> None:
        """Let go of what waited for the start, or for nothing any more."""
        for _, listener in self._waiting:
            listener.close()
        self._waiting.clear()

    def close(self) -> None:
        """Let go of everything: the container is gone."""
        self.handed_over()
        for path in self.sockets.values():
            path.unlink(missing_ok=True)
        if self.sockets:
            with contextlib.suppress(OSError):   # it went with the run directory
                self._folder.rmdir()
