"""The supervisor of all tests' containers outlives whatever befalls one of them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from boxes import FOREVER, eventually, idle

from pytest_sealed import Sandbox, image
from pytest_sealed.request import run_request


def children(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


class Started:
    """A container's start, asked for without waiting."""

    def __init__(self, sandbox: Sandbox, name: str) -> None:
        network = sandbox.network()
        found = sandbox.store.get("busybox")
        request = run_request(image("busybox", command=FOREVER), found, container=name, name=name, ports=[], mounts=[],
                              networks=[{"network": network.id, "names": [name]}])
        self.channel = sandbox.session.open("run", **request)


def halfway(supervisor: int, before: set[int]) -> int:
    """Stop the supervisor while a container's first process waits for its id maps; return that process's pid, or 0: too late."""
    while not (new := children(supervisor) - before):
        pass
    os.kill(supervisor, signal.SIGSTOP)
    pid = new.pop()
    eventually(lambda: state(pid) in "SZ", "the container's first process waits")
    return pid if b"python" in Path(f"/proc/{pid}/cmdline").read_bytes() else 0


def test_a_container_that_dies_between_its_fork_and_its_exec_ends_alone(root_sandbox: Sandbox) -> None:
    hit = 0
    with Sandbox(parent=root_sandbox) as sandbox:
        bystander = idle(sandbox)
        supervisor = sandbox.session.pid
        for attempt in range(50):
            eventually(lambda: len(children(supervisor)) <= 3, "only the bystander and the two services are left")
            before = children(supervisor)
            start = Started(sandbox, f"victim-{attempt}")
            with start.channel:
                try:
                    pid = halfway(supervisor, before)
                    if pid:
                        os.kill(pid, signal.SIGKILL)
                finally:
                    os.kill(supervisor, signal.SIGCONT)
                message, _ = sandbox.session.receive(start.channel, 20)
                assert ("error" if pid else "started") in message
            hit += bool(pid)
            if hit == 5:
                break
        assert hit, "never in time"
        assert bystander.exec(["true"]).exit_code == 0
        eventually(lambda: len(sandbox.session.request("list")[0]["containers"]) == 1, "only the bystander is left")
