"""Redis, or Valkey: a server with no data, ready when it answers PING."""

from __future__ import annotations

from typing import TYPE_CHECKING, final
from urllib.parse import quote

from pytest_sealed.container import Container
from pytest_sealed.spec import ContainerSpec, make_spec
from pytest_sealed.waits import probe

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pytest_sealed.spec import ContainerOptions

__all__ = ["Redis", "redis"]

PORT = 6379
SHIPPED = "7"      # the version of the recipe "redis"
_ONE_PROBE = 2.0   # seconds


@final
class Redis(Container):
    """A Redis server."""

    @property
    def host(self) -> str:
        """Where the test reaches it."""
        return "127.0.0.1"

    @property
    def port_number(self) -> int:
        """The port at which the test reaches it; the same before and after its start."""
        return self.port(PORT)

    @property
    def url(self) -> str:  # type: ignore[override]
        """The URL by which the test reaches its database 0; where no ports are published, by a unix socket, as redis-py takes it."""
        if self.spec.publish == "none":
            return f"unix://{quote(str(self.unix_socket(PORT)))}?db=0"
        return f"redis://{self.host}:{self.port_number}/0"

    @property
    def internal_url(self) -> str:
        """The URL by which containers on its network reach its database 0."""
        return f"redis://{self.name}:{PORT}/0"


def redis(version: str = SHIPPED, **options: Unpack[ContainerOptions]) -> ContainerSpec[Redis]:
    """Describe a Redis server without data.

    Args:
        version: of the image; other ones than the shipped need an image `redis:VERSION` in the store.
        options: see `ContainerOptions`.

    Raises:
        SpecError: an unknown option, or a value that can't be.
    """
    options.setdefault("wait", probe(_answers, "an answer to PING"))
    return make_spec("redis" if version == SHIPPED else f"redis:{version}", Redis, options)


def _answers(server: Redis) -> str | None:
    """See whether it takes commands: while it loads a file, it answers -LOADING. One with a password answers -NOAUTH."""
    with server.connect(PORT, timeout=_ONE_PROBE) as connection:
        connection.sendall(b"*1\r\n$4\r\nPING\r\n")
        answer = connection.recv(200)
    if answer.startswith((b"+PONG", b"-NOAUTH", b"-WRONGPASS")):
        return None
    return answer.decode(errors="replace").strip() or "the server closed the connection"
