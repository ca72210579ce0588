"""nginx: a web server, ready when a worker takes connections."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, final

from pytest_sealed.container import Container
from pytest_sealed.spec import ContainerSpec, make_spec
from pytest_sealed.waits import probe

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pytest_sealed.spec import ContainerOptions

__all__ = ["Nginx", "nginx"]

PORT = 80
SHIPPED = "1.22"    # the version of the recipe "nginx"
_ONE_PROBE = 2.0    # seconds


@final
class Nginx(Container):
    """An nginx server."""

    def url(self, port: int = PORT, path: str = "", *, scheme: str = "http") -> str:
        """Return the URL by which the test reaches it, for example `url(path="/index.html")`."""
        return super().url(port, path, scheme=scheme)

    @property
    def internal_url(self) -> str:
        """The URL by which containers on its network reach it."""
        return f"http://{self.name}"


def nginx(version: str = SHIPPED, **options: Unpack[ContainerOptions]) -> ContainerSpec[Nginx]:
    """Describe an nginx server. Its pages and settings come by `files=` or `mounts=`.

    Args:
        version: of the image; other ones than the shipped need an image `nginx:VERSION` in the store.
        options: see `ContainerOptions`.

    Raises:
        SpecError: an unknown option, or a value that can't be.
    """
    options.setdefault("wait", probe(_takes_connections, "a worker to take a connection"))
    return make_spec("nginx" if version == SHIPPED else f"nginx:{version}", Nginx, options)


def _takes_connections(server: Nginx) -> str | None:
    """See whether a worker takes a connection that asks for nothing: it ends it, and logs nothing.

    An open port is not enough: it is open before the master heeds signals, and what is then sent to a PID 1 is lost.
    """
    with server.connect(PORT, timeout=_ONE_PROBE) as connection:
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)
    return None
