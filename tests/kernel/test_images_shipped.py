"""The images whose recipes ship, as they are in this account's store."""

from __future__ import annotations

import pytest
from boxes import idle

from pytest_sealed import Sandbox
from pytest_sealed.services import nginx, postgres, redis


def test_postgres_takes_less_than_150_mb(sandbox: Sandbox) -> None:
    assert 50e6 < sandbox.store.get("postgres").size < 150e6


@pytest.mark.usefixtures("several_ids")
@pytest.mark.parametrize("spec", [postgres(), redis(), nginx()], ids=lambda spec: spec.image)
def test_a_server_ends_at_once_and_in_order_when_it_is_stopped(sandbox: Sandbox, spec: object) -> None:
    server = sandbox.run(spec)  # type: ignore[call-overload]
    server.stop(timeout=5)
    assert (server.exit_code, server.exit_signal) == (0, None)


@pytest.mark.usefixtures("several_ids")
def test_a_look_whether_nginx_is_ready_leaves_no_line_in_its_log(sandbox: Sandbox) -> None:
    web = sandbox.run(nginx())
    with web.connect(80) as connection:
        connection.sendall(b"GET /mine HTTP/1.0\r\n\r\n")
        connection.recv(100)
    web.wait_for_log('"GET /mine HTTP/1.0" 404')
    assert [line for line in web.logs(stream="stdout").splitlines() if "/mine" not in line] == []


def test_wget_of_busybox_takes_a_time_limit(sandbox: Sandbox) -> None:
    box = idle(sandbox)
    box.write_text("/srv/page", "hello")
    box.exec(["httpd", "-h", "/srv", "-p", "80"], check=True)
    assert box.exec(["wget", "-q", "-T", "5", "-O", "-", "http://127.0.0.1/page"], check=True).stdout == "hello"
    silent = idle(sandbox, name="silent")
    silent.exec(["sh", "-c", "nc -ll -p 81 -e sleep 100 >/dev/null 2>&1 &"], check=True)
    silent.wait_for_port(81)
    answer = box.exec(["wget", "-T", "1", "-O", "-", "http://silent:81/"], timeout=20)
    assert (answer.exit_code, answer.stderr.splitlines()[-1]) == (1, "wget: download timed out")
