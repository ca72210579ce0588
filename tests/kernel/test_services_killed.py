"""A session whose network service or forwarder was killed: who needs it is told at once, and all ends cleanly."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from boxes import FOREVER, eventually, idle

from pytest_sealed import ContainerFailed, Sandbox, image
from pytest_sealed.request import run_request


def service(sandbox: Sandbox, script: str) -> int:
    """Return the pid of a service of the session."""
    supervisor = sandbox.session.pid
    return next(pid for pid in map(int, Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split())
                if script in Path(f"/proc/{pid}/cmdline").read_text())


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
