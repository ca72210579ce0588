"""Runs on the Postgres that a lock file of Python packages pins, by its hash: no registry, no build, nothing fetched while tests run."""

from __future__ import annotations

import psycopg

from pytest_sealed import container_fixture
from pytest_sealed.services import Postgres, postgres

db = container_fixture(postgres(memory="256M"))


def test_the_image_is_that_of_the_wheel(db: Postgres) -> None:
    assert db.image.startswith("postgres@sha256:")


def test_a_table_can_be_made(db: Postgres) -> None:
    with psycopg.connect(db.url) as connection:
        connection.execute("CREATE TABLE users (name text)")
