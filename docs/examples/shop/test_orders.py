"""The application as its users see it, and what it leaves in the database."""

from __future__ import annotations

import httpx
import psycopg
import pytest

from pytest_sealed import Container
from pytest_sealed.services import Postgres, Redis


def test_an_order_is_stored(web: Container, db: Postgres) -> None:
    reply = httpx.post(web.url(8000, "/orders"), json={"sku": "A1", "quantity": 3})
    assert reply.status_code == 201
    with psycopg.connect(db.url) as connection:
        assert connection.execute("SELECT sku, quantity FROM orders").fetchall() == [("A1", 3)]


@pytest.mark.parametrize("sku", ["A1", "B2", "C3"])
def test_every_test_starts_from_an_empty_database(web: Container, sku: str) -> None:
    assert httpx.get(web.url(8000, "/orders")).json() == []
    order = httpx.post(web.url(8000, "/orders"), json={"sku": sku}).json()
    assert order == {"id": 1, "sku": sku, "quantity": 1}


def test_the_second_look_at_an_order_comes_from_the_cache(web: Container, cache: Redis) -> None:
    httpx.post(web.url(8000, "/orders"), json={"sku": "A1"})
    first, second = (httpx.get(web.url(8000, "/orders/1")) for _ in range(2))
    assert (first.headers["x-cache"], second.headers["x-cache"]) == ("miss", "hit")
    assert first.json() == second.json()
    assert cache.exec(["redis-cli", "exists", "order:1"]).stdout.strip() == "1"


def test_an_order_that_the_database_refuses_is_an_error(web: Container, db: Postgres) -> None:
    reply = httpx.post(web.url(8000, "/orders"), json={"sku": "A1", "quantity": -1})
    assert reply.status_code == 500
    assert "orders_quantity_check" in web.logs()
    with psycopg.connect(db.url) as connection:
        assert connection.execute("SELECT count(*) FROM orders").fetchone() == (0,)
