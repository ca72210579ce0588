"""Nothing that a container does makes a wait for it outlast its time limit, or ends it by another error."""

from __future__ import annotations

import os
import time

import pytest
from boxes import FOREVER, idle

from pytest_sealed import ContainerExited, NotReady, Sandbox, waits
from pytest_sealed.execution import _Pump

DRIPS = """
import socket, time
listener = socket.create_server(("", 80))
print("up", flush=True)
while True:
    connection, _ = listener.accept()
    try:
        while True:
            connection.send(b"H")
            time.sleep(0.2)
    except OSError:
        connection.close()
"""


def test_a_server_that_sends_a_byte_now_and_then_is_not_ready(sandbox: Sandbox) -> None:
    container = sandbox.run("python", ["python3", "-c", DRIPS], wait=waits.log("up"))
    with pytest.raises(NotReady, match=r"within 0.5 s: waited for GET :80/"):
        container.wait_for_http(80, timeout=0.5)


def test_a_command_that_does_not_end_is_not_ready(sandbox: Sandbox) -> None:
    container = idle(sandbox)
    began = time.monotonic()
    with pytest.raises(NotReady, match="the last answer was: it had not ended after") as caught:
        container.wait_for(waits.all_of(waits.command(*FOREVER)), timeout=0.5)
    assert "within 0.5 s: waited for command" in str(caught.value)
    assert time.monotonic() - began < 9   # a single probe's own limit is 10 s
    container.wait_for(waits.any_of(waits.command("sh", "-c", "test -e /once || { touch /once; exec sleep 1000000; }")), timeout=60)


@pytest.mark.parametrize("wait", [waits.command("false"), waits.command(*FOREVER), waits.tcp(80), waits.http(80), waits.log("never")])
def test_the_end_of_the_container_is_what_ends_the_wait(sandbox: Sandbox, wait: waits.Wait) -> None:
    with pytest.raises(ContainerExited, match="exited with code 3"):
        sandbox.run("busybox", ["sh", "-c", "sleep 0.3; exit 3"], wait=wait)


def test_a_command_that_never_stops_writing_has_no_more_time_than_another() -> None:
    endless, idle_end = os.open("/dev/zero", os.O_RDONLY), os.pipe()
    with _Pump(idle_end[0], -1, b"", endless, os.dup(idle_end[0])) as pump:
        assert pump.step(time.monotonic() + 60)
        assert not pump.step(time.monotonic() - 1)
    for fd in (endless, *idle_end, *pump._sinks.keys() - {endless}):
        os.close(fd)
