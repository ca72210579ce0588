"""Postgres, Redis and nginx: real servers, ready when the test sees them."""

from __future__ import annotations

import socket
import struct
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from plugin_suites import run

from pytest_sealed import ContainerSpec, NotReady, Sandbox, SpecError, image, make_spec, probe
from pytest_sealed.services import Nginx, Postgres, Redis, nginx, pgwire, postgres, redis


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


# ---------------------------------------------------------------- PostgreSQL


def test_postgres_takes_a_session_at_once(sandbox: Sandbox) -> None:
    for number in range(5):
        db = sandbox.run(postgres(memory="256M"), name=f"db-{number}")
        with psycopg.connect(db.url) as connection:
            assert connection.execute("SELECT current_database(), current_user").fetchone() == ("test", "test")
        db.remove()


def test_every_postgres_starts_empty(pytester: pytest.Pytester) -> None:
    run(pytester, """
import psycopg
from pytest_sealed.services import postgres

def migrate(db):
    with psycopg.connect(db.url) as connection:
        connection.execute("CREATE TABLE orders (id serial PRIMARY KEY, sku text)")

db = container_fixture(postgres("15", memory="256M", setup=migrate))

@pytest.mark.parametrize("number", range(2))
def test_empty(db, number):
    with psycopg.connect(db.url) as connection:
        assert connection.execute("INSERT INTO orders (sku) VALUES ('A1') RETURNING id").fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM orders").fetchone() == (1,)
""", passed=2)


def test_the_facts_of_a_postgres_are_there_before_it_starts(sandbox: Sandbox) -> None:
    db = sandbox.run(postgres(database="shop", env={"A": "1"}), name="db", start=False)
    assert isinstance(db, Postgres)
    assert (db.user, db.password, db.database, db.host) == ("test", "test", "shop", "127.0.0.1")
    assert db.internal_url == "postgresql://test@db:5432/shop"
    assert db.url == f"postgresql://test@127.0.0.1:{db.port_number}/shop"
    before = db.url
    db.start()
    assert db.url == before


@pytest.mark.parametrize("name", ["shop", "Größe %/ü", 'a"b', "x" * 63])
def test_a_database_has_the_name_that_was_asked_for(sandbox: Sandbox, name: str) -> None:
    db = sandbox.run(postgres(database=name))
    with psycopg.connect(db.url) as connection:
        assert connection.execute("SELECT current_database()").fetchone() == (name,)


def test_a_database_keeps_its_name_and_rows_over_a_restart(sandbox: Sandbox) -> None:
    db = sandbox.run(postgres(database="shop"))
    with psycopg.connect(db.url) as connection:
        connection.execute("CREATE TABLE orders ()")
    db.restart()
    with psycopg.connect(db.url) as connection:
        assert connection.execute("SELECT count(*) FROM orders").fetchone() == (0,)


@pytest.mark.parametrize("name", ["", "x" * 64, "a\0b"])
def test_a_name_that_no_database_can_have_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match="is no name of a database"):
        postgres(database=name)


def test_containers_reach_postgres_by_its_internal_url(sandbox: Sandbox) -> None:
    db = sandbox.run(postgres(), name="db")
    client = sandbox.run(postgres(command=["sleep", "1000"], wait=None, env={"URL": db.internal_url}), name="client")
    assert client.exec(["sh", "-c", 'psql -At "$URL" -c "SELECT 6 * 7"'], check=True).stdout == "42\n"


def pretends(answer: bytes) -> ContainerSpec[Postgres]:
    """Describe something with an open port 5432 that answers every connection with `answer`."""
    octal = "".join(f"\\{byte:03o}" for byte in answer)
    wait = postgres().wait
    return make_spec("busybox", Postgres, {"wait_timeout": 0.3, "wait": wait,  # type: ignore[typeddict-item]
                                           "command": ["nc", "-ll", "-p", "5432", "-e", "printf", octal]})


def test_postgres_is_not_ready_while_it_starts_up_behind_an_open_port(sandbox: Sandbox) -> None:
    fields = b"SFATAL\0C57P03\0Mthe database system is starting up\0\0"
    with pytest.raises(NotReady, match=r"waited for PostgreSQL to answer; the last answer was: .* is starting up \(57P03\)"):
        sandbox.run(pretends(b"E" + struct.pack("!i", 4 + len(fields)) + fields))


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request", b"E\xff\xff\xff\xff", b""])
def test_what_does_not_speak_the_protocol_is_never_ready(sandbox: Sandbox, answer: bytes) -> None:
    with pytest.raises(NotReady, match=r"waited for PostgreSQL to answer; the last answer was: .*(protocol|closed the connection|reset)"):
        sandbox.run(pretends(answer))


def test_a_server_that_asks_for_a_password_is_ready(sandbox: Sandbox) -> None:
    sandbox.run(pretends(b"R" + struct.pack("!ii", 8, 10)))


# ---------------------------------------------------------------- its protocol


def test_a_refusal_of_postgres_has_its_code_and_text(sandbox: Sandbox) -> None:
    db = sandbox.run(postgres())
    with db.connect(5432) as connection, pytest.raises(pgwire.Refused, match=r'database "nowhere" does not exist \(3D000\)') as caught:
        pgwire.start_up(connection, "test", "nowhere")
    assert caught.value.code == pgwire.INVALID_CATALOG_NAME
    with db.connect(5432) as connection:
        pgwire.start_up(connection, "test", "test")
        with pytest.raises(pgwire.Refused, match="syntax error"):
            pgwire.execute(connection, "SELEKT 1")


# ---------------------------------------------------------------- Redis, nginx


def test_redis_answers_and_starts_empty(sandbox: Sandbox) -> None:
    for number in range(2):
        cache = sandbox.run(redis(memory="64M"), name=f"cache-{number}")
        assert isinstance(cache, Redis)
        assert cache.exec(["redis-cli", "dbsize"]).stdout == "0\n"
        cache.exec(["redis-cli", "set", "a", "1"], check=True)
        assert cache.url == f"redis://127.0.0.1:{cache.port_number}/0"
        assert cache.internal_url == f"redis://cache-{number}:6379/0"
        with cache.connect(6379) as connection:
            connection.sendall(b"GET a\r\n")
            assert connection.recv(100) == b"$1\r\n1\r\n"


def test_redis_with_a_password_is_ready_too(sandbox: Sandbox) -> None:
    cache = sandbox.run(redis(command=["redis-server", "--bind", "*", "--requirepass", "secret"]))
    assert cache.exec(["redis-cli", "ping"]).stdout.startswith("NOAUTH")


def test_nginx_serves_what_a_setup_put_there(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("hello")

    def publish(web: Nginx) -> None:
        web.put(tmp_path / "index.html", "/usr/share/nginx/html/index.html")

    web = sandbox.run(nginx(memory="64M", setup=publish), name="web")
    assert isinstance(web, Nginx)
    assert urllib.request.urlopen(web.url(path="/index.html"), timeout=5).read() == b"hello"   # noqa: S310
    assert web.internal_url == "http://web"
    assert urllib.request.urlopen(web.url(80, "index.html"), timeout=5).read() == b"hello"   # noqa: S310


# ---------------------------------------------------------------- specs


@pytest.mark.parametrize(("spec", "reference"), [
    (postgres(), "postgres"), (postgres("15"), "postgres"), (postgres("16"), "postgres:16"),
    (redis(), "redis"), (redis("6"), "redis:6"), (nginx(), "nginx"), (nginx("1.27"), "nginx:1.27"),
])
def test_the_shipped_version_is_the_image_without_a_tag(spec: object, reference: str) -> None:
    assert spec.image == reference  # type: ignore[attr-defined]


def test_specs_of_a_service_compare_by_what_they_say() -> None:
    assert postgres(memory="64M") == postgres(memory="64M")
    assert postgres(memory="64M") != postgres(memory="65M")
    assert redis() == redis()


def test_a_mistyped_option_names_the_nearest() -> None:
    with pytest.raises(SpecError, match="there is no container option 'memry', did you mean 'memory'"):
        postgres(memry="64M")  # type: ignore[call-arg]


def test_a_probe_of_ones_own_decides_when_a_container_is_ready(sandbox: Sandbox) -> None:
    seen = []

    def third_time(container: object) -> str | None:
        seen.append(container)
        if len(seen) == 1:
            raise ConnectionRefusedError(111, "not yet")
        return None if len(seen) == 3 else f"only {len(seen)}"

    box = sandbox.run(image("busybox", command=["sleep", "1000"], wait=probe(third_time, "the third time")))
    assert seen == [box] * 3
    with pytest.raises(NotReady, match="waited for the impossible; the last answer was: no"):
        sandbox.run(image("busybox", command=["sleep", "1000"], wait=probe(lambda _: "no", "the impossible"), wait_timeout=0.1))
    with pytest.raises(SpecError, match="can't be called"):
        probe("pg_isready", "ready")  # type: ignore[arg-type]


# ---------------------------------------------------------------- without ports of the host


def test_postgres_and_redis_are_reached_by_unix_sockets_where_nothing_is_published(sandbox: Sandbox) -> None:
    db, cache = sandbox.run(postgres(database="a shop", publish="none")), sandbox.run(redis(publish="none"))
    assert db.ports == cache.ports == {}
    assert db.url == f"postgresql://test@/a%20shop?host={db.host}&port=5432"
    assert (Path(db.host, ".s.PGSQL.5432").is_socket(), db.port_number) == (True, 5432)
    for connection in (psycopg.connect(db.url), psycopg.connect(host=db.host, port=db.port_number, user=db.user, dbname=db.database)):
        with connection:
            assert connection.execute("SELECT current_database()").fetchone() == ("a shop",)
    url, [path] = cache.url, cache.sockets
    assert url == cache.url == f"unix://{path}?db=0"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"PING\r\n")
        assert client.recv(100) == b"+PONG\r\n"
    with pytest.raises(SpecError, match="publishes no ports"):
        cache.port_number  # noqa: B018
