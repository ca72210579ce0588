"""PostgreSQL: a server with an empty database, ready when it answers in its own protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, final
from urllib.parse import quote

from pytest_sealed.container import Container
from pytest_sealed.errors import SpecError
from pytest_sealed.services import pgwire
from pytest_sealed.spec import ContainerSpec, make_spec
from pytest_sealed.waits import probe

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pytest_sealed.spec import ContainerOptions

__all__ = ["Postgres", "postgres"]

PORT = 5432
SHIPPED = "15"          # the version of the recipe "postgres"
_PREPARED = "test"      # the superuser and the database of that recipe
_ONE_PROBE = 2.0        # seconds


@final
class Postgres(Container):
    """A PostgreSQL server. The names `user`, `password` and `database` are those of its superuser and its database."""

    @property
    def user(self) -> str:
        """The superuser's name."""
        return self._setting("POSTGRES_USER")

    @property
    def password(self) -> str:
        """The superuser's password. The image that this project ships asks for none: its network is the test's own."""
        return self._setting("POSTGRES_PASSWORD")

    @property
    def database(self) -> str:
        """The database's name."""
        return self._setting("POSTGRES_DB")

    @property
    def host(self) -> str:
        """Where the test reaches it; where no ports are published, the folder of a unix socket, as libpq takes it."""
        return str(self.unix_socket(PORT, file=f".s.PGSQL.{PORT}").parent) if self.spec.publish == "none" else "127.0.0.1"

    @property
    def port_number(self) -> int:
        """The port at which the test reaches it; the same before and after its start."""
        return PORT if self.spec.publish == "none" else self.port(PORT)

    @property
    def url(self) -> str:  # type: ignore[override]
        """The URL by which the test reaches it, as psycopg, SQLAlchemy and others take it."""
        user, database = quote(self.user, safe=""), quote(self.database, safe="")
        if self.spec.publish == "none":
            return f"postgresql://{user}@/{database}?host={quote(self.host)}&port={PORT}"
        return f"postgresql://{user}@{self.host}:{self.port_number}/{database}"

    @property
    def internal_url(self) -> str:
        """The URL by which containers on its network reach it."""
        return f"postgresql://{quote(self.user, safe='')}@{self.name}:{PORT}/{quote(self.database, safe='')}"

    def _setting(self, name: str) -> str:
        return {**self.image_config.env, **dict(self.spec.env)}.get(name, _PREPARED)


def postgres(version: str = SHIPPED, *, database: str = _PREPARED, **options: Unpack[ContainerOptions]) -> ContainerSpec[Postgres]:
    """Describe a PostgreSQL server with an empty database.

    Args:
        version: of the image; other ones than the shipped need an image `postgres:VERSION` in the store.
        database: the name of its database.
        options: see `ContainerOptions`.

    Raises:
        SpecError: an unknown option, or a value that can't be.
    """
    if not database or "\0" in database or len(database.encode()) > 63:
        raise SpecError(f"database={database!r} is no name of a database", remedy="give 1 to 63 characters")
    options.setdefault("wait", probe(_answers, "PostgreSQL to answer"))
    options["env"] = {"POSTGRES_DB": database, **options.get("env", {})}
    return make_spec("postgres" if version == SHIPPED else f"postgres:{version}", Postgres, options)


def _answers(server: Postgres) -> str | None:
    """See whether the database takes a session. An open port is not enough: the server may be starting up."""
    try:
        with server.connect(PORT, timeout=_ONE_PROBE) as connection:
            pgwire.start_up(connection, server.user, server.database)
    except pgwire.Refused as error:
        if error.code != pgwire.INVALID_CATALOG_NAME or server.database == _PREPARED:
            return str(error)
        return _name_database(server)
    return None


def _name_database(server: Postgres) -> str | None:
    """Give the image's database the wanted name: some 2 ms, where CREATE DATABASE copies files for 30."""
    with server.connect(PORT, timeout=_ONE_PROBE) as connection:
        pgwire.start_up(connection, server.user, "postgres")
        name = server.database.replace('"', '""')
        try:
            pgwire.execute(connection, f'ALTER DATABASE "{_PREPARED}" RENAME TO "{name}"')
        except pgwire.Refused as error:
            return str(error)
    return _answers(server)
