"""A small web shop: orders in Postgres, looked up through Redis. WSGI, no framework."""

from __future__ import annotations

import hashlib
import json
import os
import urllib.request
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

import psycopg
import redis
import waitress
from psycopg.rows import dict_row

Reply = tuple[HTTPStatus, object, dict[str, str]]

DATABASE_URL = os.environ["DATABASE_URL"]
cache = redis.Redis.from_url(os.environ["REDIS_URL"])


def database() -> psycopg.Connection[dict[str, Any]]:
    return psycopg.Connection[dict[str, Any]].connect(DATABASE_URL, row_factory=dict_row)


def health() -> Reply:
    with database() as connection:
        connection.execute("SELECT 1")
    cache.ping()
    return HTTPStatus.OK, {"status": "ok"}, {}


def list_orders() -> Reply:
    with database() as connection:
        return HTTPStatus.OK, connection.execute("SELECT * FROM orders ORDER BY id").fetchall(), {}


def create_order(body: dict[str, Any]) -> Reply:
    """Store an order; tell whoever asked to be told (`"notify": "http://…"`)."""
    with database() as connection:
        order = connection.execute(
            "INSERT INTO orders (sku, quantity) VALUES (%s, %s) RETURNING *", (body["sku"], body.get("quantity", 1)),
        ).fetchone()
    if "notify" in body:
        urllib.request.urlopen(body["notify"], json.dumps(order).encode(), timeout=5).close()  # noqa: S310
    return HTTPStatus.CREATED, order, {}


def get_order(number: int) -> Reply:
    """Look an order up, in Redis first; the header x-cache tells where it was."""
    key = f"order:{number}"
    cached = cache.get(key)
    if cached is not None:
        return HTTPStatus.OK, json.loads(cached), {"x-cache": "hit"}
    with database() as connection:
        order = connection.execute("SELECT * FROM orders WHERE id = %s", (number,)).fetchone()
    if order is None:
        return HTTPStatus.NOT_FOUND, {"error": f"there is no order {number}"}, {}
    cache.set(key, json.dumps(order), ex=60)
    return HTTPStatus.OK, order, {"x-cache": "miss"}


def sign(rounds: int) -> Reply:
    """Sign the price list: nothing but CPU time."""
    return HTTPStatus.OK, {"signature": hashlib.pbkdf2_hmac("sha256", b"prices", b"salt", rounds).hex()}, {}


def export(megabytes: int) -> Reply:
    """Write the whole catalogue, carelessly built up in memory."""
    pages = [bytes([65 + number % 26]) * (1 << 20) for number in range(megabytes)]
    return HTTPStatus.OK, {"bytes": sum(map(len, pages))}, {}


def route(method: str, path: str, query: dict[str, str], read: Callable[[], bytes]) -> Reply:
    match method, path.strip("/").split("/"):
        case "GET", ["health"]:
            return health()
        case "GET", ["orders"]:
            return list_orders()
        case "POST", ["orders"]:
            return create_order(json.loads(read()))
        case "GET", ["orders", number] if number.isdecimal():
            return get_order(int(number))
        case "GET", ["signature"]:
            return sign(int(query["rounds"]))
        case "GET", ["export"]:
            return export(int(query["megabytes"]))
    return HTTPStatus.NOT_FOUND, {"error": f"nothing at {method} {path}"}, {}


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    print(environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("QUERY_STRING", ""))
    query = {name: values[-1] for name, values in parse_qs(environ.get("QUERY_STRING", "")).items()}
    status, body, headers = route(environ["REQUEST_METHOD"], environ["PATH_INFO"], query, environ["wsgi.input"].read)
    start_response(f"{status.value} {status.phrase}", [("content-type", "application/json"), *headers.items()])
    return [json.dumps(body).encode()]


if __name__ == "__main__":
    waitress.serve(application, port=8000, threads=4)
