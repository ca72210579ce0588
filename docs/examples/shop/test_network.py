"""Who can reach whom."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from socket import socket
from typing import Any

import httpx

from pytest_sealed import Container, Sandbox
from pytest_sealed.services import Postgres, Redis

KNOCK = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=2).close()"


def test_the_web_application_reaches_the_others_by_name(web: Container, db: Postgres, cache: Redis) -> None:
    for name, port in (("db", 5432), ("cache", 6379)):
        assert web.exec(["python3", "-c", KNOCK, name, str(port)]).exit_code == 0


def test_a_container_on_another_network_reaches_nothing(sealed: Sandbox, db: Postgres) -> None:
    outsider = sealed.run("python", ["sleep", "infinity"], network=sealed.network("elsewhere"))
    by_name = outsider.exec(["python3", "-c", KNOCK, "db", "5432"])
    assert by_name.exit_code != 0
    assert "gaierror" in by_name.stderr
    assert outsider.exec(["python3", "-c", KNOCK, db.address, "5432"]).exit_code != 0


def test_the_application_calls_back_to_the_test(web: Container, sealed: Sandbox) -> None:
    listener = sealed.network().listen(9000, name="webhook")
    with ThreadPoolExecutor() as pool:
        called = pool.submit(answer_one_request, listener)
        httpx.post(web.url(8000, "/orders"), json={"sku": "A1", "notify": "http://webhook:9000/ordered"}).raise_for_status()
        assert called.result(timeout=10) == {"path": "/ordered", "body": {"id": 1, "sku": "A1", "quantity": 1}}


def answer_one_request(listener: socket) -> dict[str, Any]:
    """Accept one connection, answer its POST with 204, and return what was sent."""
    got: dict[str, Any] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.update(path=self.path, body=json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

    listener.settimeout(10)
    connection, peer = listener.accept()
    with connection:
        Handler(connection, peer, None)  # type: ignore[arg-type]  # it is never asked for its server
    return got
