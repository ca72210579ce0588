"""How many descriptors a container's programs may have, and how many containers a session whose account may have few."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from boxes import EITHER_IDS, FOREVER, idle, sh

from pytest_sealed import Sandbox

SHOWN = ["sh", "-c", "ulimit -n; ulimit -Hn"]


@EITHER_IDS
@pytest.mark.parametrize("init", [False, True])
def test_a_limit_counts_the_commands_own_descriptors_only(sandbox: Sandbox, init: bool) -> None:
    for number in range(6):   # of each of which the supervisor holds some
        idle(sandbox, name=f"other-{number}")
    container = sandbox.run("busybox", SHOWN, ulimits={"nofile": (8, 16)}, init=init)
    assert (container.wait(30), container.logs().split()) == (0, ["8", "16"])
    container = idle(sandbox, name="idle", ulimits={"nofile": (8, 16)}, init=init)
    assert container.exec(SHOWN, check=True).stdout.split() == ["8", "16"]


def test_a_low_soft_limit_is_the_containers_and_not_the_supervisors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Sandbox() as sandbox:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        try:
            sandbox.session  # noqa: B018  (it starts now)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in range(20):
            container = sandbox.run("busybox", FOREVER, name=f"box-{number}", network=None)
        assert sh(container, "ulimit -n") == "64\n"
        limits = Path(f"/proc/{sandbox.session.pid}/limits").read_text().splitlines()
        own = next(line.split()[3:5] for line in limits if line.startswith("Max open files"))
        assert own == [str(hard)] * 2
