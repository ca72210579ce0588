"""A session whose network service or forwarder was killed: who needs it is told at once, and all ends cleanly."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from boxes import FOREVER, eventually, idle, service

from pytest_sealed import ContainerFailed, Sandbox, image, log
from pytest_sealed.request import run_request


@pytest.mark.parametrize(("script", "name"), [("network/service.py", "network service"), ("forward/service.py", "forwarder")])
def test_a_start_says_what_has_died_and_the_session_ends_cleanly(script: str, name: str) -> None:
    with Sandbox() as sandbox:
        container = idle(sandbox, name="one")
        killed = service(sandbox, script)
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: not Path(f"/proc/{killed}").exists(), "it has been reaped")
        assert container.exec(["true"]).exit_code == 0
        with pytest.raises(ContainerFailed, match=f"the {name} of this session has died"):
            sandbox.run("busybox", FOREVER, name="two")
        container.stop(0)
    assert sandbox.leftovers() == []


def test_a_removal_does_not_wait_for_a_network_that_never_comes() -> None:
    with Sandbox() as sandbox:
        network = sandbox.network()
        request = run_request(image("busybox", command=FOREVER), sandbox.store.get("busybox"), container="one", name="one", ports=[],
                              mounts=[], networks=[{"network": network.id, "names": ["one"]}])
        stopped = service(sandbox, "network/service.py")
        os.kill(stopped, signal.SIGSTOP)
        with sandbox.session.open("run", **request), sandbox.session.open("remove", container="one") as removal:
            sandbox.session.request("hello")
            os.kill(stopped, signal.SIGKILL)
            assert "ok" in sandbox.session.receive(removal, 20)[0]
        assert sandbox.session.request("list")[0]["containers"] == []


def test_a_log_that_nobody_keeps_any_more_is_an_error_and_no_silence() -> None:
    with Sandbox() as sandbox:
        container = sandbox.run("busybox", ["sh", "-c", "echo kept; exec sleep 1000000"], name="web", wait=log("kept"))
        forwarder = service(sandbox, "forward/service.py")
        os.kill(forwarder, signal.SIGSTOP)
        failures: list[Exception] = []

        def ask() -> None:
            try:
                container.logs()
            except ContainerFailed as error:
                failures.append(error)
        waiter = threading.Thread(target=ask)   # it has been asked, and dies before it answers
        waiter.start()
        sandbox.session.request("hello")
        os.kill(forwarder, signal.SIGKILL)
        waiter.join(20)
        actions: list[Callable[[], object]] = [
            container.logs, container.log_position, container.log_records, lambda: container.wait_for_log("never", timeout=0.1)]
        for action in actions:
            with pytest.raises(ContainerFailed, match=r"^the forwarder of this session has died\n  remedy: run the tests again"):
                action()
        assert [str(error).partition("\n")[0] for error in failures] == ["the forwarder of this session has died"]
        report = container.report()
        assert "state    running" in report
        assert report.endswith("log      can't be told: the forwarder of this session has died")
        container.remove()
    assert sandbox.leftovers() == []
