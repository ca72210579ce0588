"""Every test that asks for `web` gets its own web application, Postgres and Redis, on its own private network."""

from __future__ import annotations

from pathlib import Path

import psycopg

from pytest_sealed import Container, ContainerSpec, container_fixture, http, image
from pytest_sealed.services import Postgres, Redis, postgres, redis

SCHEMA = Path(__file__).parent / "shop" / "schema.sql"


def create_tables(db: Postgres) -> None:
    with psycopg.connect(db.url) as connection:
        connection.execute(SCHEMA.read_bytes())


db = container_fixture(postgres(memory="256M", setup=create_tables))
cache = container_fixture(redis(memory="64M"))


@container_fixture
def web(db: Postgres, cache: Redis) -> ContainerSpec[Container]:
    return image(
        "shop-web", memory="128M", cpus=1, wait=http(8000, "/health"),
        env={"DATABASE_URL": db.internal_url, "REDIS_URL": cache.internal_url},
    )
