"""A container that takes all it can get ends in an exact verdict, and harms no other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from boxes import EITHER_IDS, eventually, idle, sh

from pytest_sealed import Container, Sandbox

MIB = 1 << 20


@pytest.fixture
def neighbour(sandbox: Sandbox) -> Iterator[Container]:
    """A container of the same sandbox, which must be as well afterwards as before."""
    container = idle(sandbox, name="neighbour", memory="64M")
    yield container
    assert container.status == "running"
    assert not container.oom_killed
    assert sh(container, "echo well > /file; cat /file; hostname").split() == ["well", "neighbour"]
    assert idle(sandbox, name="newcomer").status == "running"


@EITHER_IDS
@pytest.mark.parametrize("init", [False, True])
@pytest.mark.usefixtures("neighbour")
def test_a_fork_bomb_ends_at_the_pids_limit(sandbox: Sandbox, init: bool) -> None:
    bomb = "bomb() { bomb | bomb & }; until [ -e /go ]; do :; done; bomb; exec sleep 1000000"
    container = sandbox.run("busybox", ["sh", "-c", bomb], pids=64, init=init, name="bomb")
    container.write_text("/go", "")
    container.wait_for_log("can't fork")
    assert (container.stats().pids or 0) <= 64
    container.kill()
    assert container.wait(60) in (128 + 9, 2)   # the shell that started it may have failed to fork, and ended


@EITHER_IDS
@pytest.mark.usefixtures("neighbour")
def test_a_disk_that_fills_is_full(sandbox: Sandbox) -> None:
    container = idle(sandbox, memory="64M")
    result = container.exec(["sh", "-c", "cat /dev/zero > /srv/big"], timeout=120)
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr
    assert (container.status, container.oom_killed) == ("running", False)
    sh(container, "rm /srv/big; echo again > /srv/small")


@EITHER_IDS
@pytest.mark.usefixtures("neighbour")
def test_files_without_content_fill_it_too(sandbox: Sandbox) -> None:
    container = idle(sandbox, memory="32M")
    result = container.exec(["sh", "-c", "cd /srv; seq 1 50000 | xargs -n 500 touch"], timeout=120)
    assert result.exit_code != 0
    assert "No space left on device" in result.stderr
    assert (container.status, container.oom_killed) == ("running", False)
    sh(container, "cd /srv; rm -r /srv; mkdir /srv; touch /srv/small")


@EITHER_IDS
@pytest.mark.usefixtures("neighbour")
def test_memory_in_every_form_ends_in_the_containers_own_verdict(sandbox: Sandbox) -> None:
    container = idle(sandbox, memory="16M", shm_size="64M")
    for command in (["tail", "/dev/zero"], ["sh", "-c", "cat /dev/zero > /dev/shm/big"]):
        before = container.stats().oom_kills
        result = container.exec(command, timeout=120)
        assert result.exit_code == 128 + 9
        eventually(lambda before=before: container.stats().oom_kills > before, "the kill is counted")  # type: ignore[misc]
    assert (container.stats().memory_peak or 0) <= 16 * MIB


@EITHER_IDS
@pytest.mark.usefixtures("neighbour")
def test_a_flood_of_output_fills_no_disk_and_stalls_nobody(sandbox: Sandbox) -> None:
    container = sandbox.run("busybox", ["yes", "a line of output"], name="flood", cpus=0.5)
    folder = container._session.run_dir / "logs"
    eventually(lambda: (folder / f"{container.id}.1").exists(), "the log has been rotated")
    position = container.log_position()
    eventually(lambda: container.log_position() > position + 16 * MIB, "it goes on writing")
    assert sum(path.stat().st_size for path in folder.iterdir() if path.name.startswith(container.id)) < 24 * MIB
    assert container.exec(["echo", "alive"]).stdout == "alive\n"


@EITHER_IDS
@pytest.mark.usefixtures("neighbour")
def test_descriptors_end_at_the_ulimit(sandbox: Sandbox) -> None:
    container = idle(sandbox, ulimits={"nofile": 32})
    result = container.exec(["sh", "-c", "i=3; while [ $i -lt 100 ]; do eval \"exec $i< /etc/passwd\" || exit 9; i=$((i+1)); done"])
    assert result.exit_code != 0
    assert "open files" in result.stderr or "Bad file descriptor" in result.stderr


@EITHER_IDS
@pytest.mark.usefixtures("neighbour")
def test_many_containers_that_end_badly_at_once(sandbox: Sandbox) -> None:
    containers = [sandbox.run("busybox", ["tail", "/dev/zero"], memory="16M") for _ in range(8)]
    assert [container.wait(120) for container in containers] == [128 + 9] * 8
    assert all(container.oom_killed for container in containers)


SOCKETS = """
import resource, socket, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
kept = []
try:
    while True:
        pair = socket.socketpair()
        for one in pair:
            one.setblocking(False)
            try:
                while True:
                    one.send(b"x" * 65536)
            except BlockingIOError:
                kept.append(one)
except OSError as error:
    print(error.strerror, flush=True)
"""


@pytest.mark.usefixtures("neighbour")
def test_sockets_and_what_waits_in_them_are_the_containers_own(sandbox: Sandbox) -> None:
    container = sandbox.run("python", ["python3", "-c", SOCKETS], memory="64M")
    code = container.wait(120)
    assert container.oom_killed or "Too many open files" in container.logs(), (code, container.logs())
    few = sandbox.run("python", ["python3", "-c", SOCKETS], ulimits={"nofile": 64}, memory="256M")
    assert few.wait(120) == 0
    assert few.logs() == "Too many open files\n"


def test_without_limits_one_takes_what_there_is(sandbox: Sandbox) -> None:
    """What a container with a limit is refused, one without is given: it is the limit that stops it."""
    script = "head -c 100000000 /dev/zero > /dev/shm/big && echo done"
    limited = idle(sandbox, memory="32M", shm_size="128M")
    assert limited.exec(["sh", "-c", script]).exit_code == 128 + 9
    assert idle(sandbox, shm_size="128M").exec(["sh", "-c", script]).stdout == "done\n"
