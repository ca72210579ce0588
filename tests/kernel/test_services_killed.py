"""A session whose network service or forwarder was killed: who needs it is told at once, and all ends cleanly."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from boxes import FOREVER, eventually, idle

from pytest_sealed import ContainerFailed, Sandbox


@pytest.mark.parametrize(("script", "name"), [("network/service.py", "network service"), ("forward/service.py", "forwarder")])
def test_a_start_says_what_has_died_and_the_session_ends_cleanly(script: str, name: str) -> None:
    with Sandbox() as sandbox:
        container = idle(sandbox, name="one")
        supervisor = sandbox.session.pid
        killed = next(pid for pid in map(int, Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split())
                      if script in Path(f"/proc/{pid}/cmdline").read_text())
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: not Path(f"/proc/{killed}").exists(), "it has been reaped")
        assert container.exec(["true"]).exit_code == 0
        with pytest.raises(ContainerFailed, match=f"the {name} of this session has died"):
            sandbox.run("busybox", FOREVER, name="two")
        container.stop(0)
    assert sandbox.leftovers() == []
