"""A handle from several threads, in forked children, and after a restart with host folders."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from boxes import EITHER_IDS, needs_writable

from pytest_sealed import Container, Mount, Sandbox, SealedError


def test_a_container_can_be_stopped_while_another_thread_waits_for_its_end(sandbox: Sandbox) -> None:
    container = sandbox.run("busybox", ["sh", "-c", "trap 'exit 5' TERM; echo up; while :; do sleep 0.02; done"])
    container.wait_for_log("up")
    codes: list[int] = []
    waiter = threading.Thread(target=lambda: codes.append(container.wait()))
    waiter.start()
    container.stop()
    waiter.join(timeout=20)
    assert codes == [5]


def test_removing_a_container_wakes_who_waits_for_it(sandbox: Sandbox) -> None:
    container = sandbox.run("busybox", ["sleep", "1000"])
    results: list[object] = []
    waiter = threading.Thread(target=lambda: results.append(container.poll_exit(None)))
    waiter.start()
    container.remove()
    waiter.join(timeout=20)
    assert results == [True]


def test_containers_can_be_started_from_several_threads_at_once(sandbox: Sandbox) -> None:
    started: list[Container] = []
    threads = [threading.Thread(target=lambda: started.append(sandbox.run("busybox", ["sleep", "1000"]))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len({container.name for container in started}) == 8
    assert len({container.address for container in started}) == 8
    assert all(container.exec(["hostname"]).stdout.strip() == container.name for container in started)


def test_a_forked_child_can_neither_use_nor_end_a_container(sandbox: Sandbox) -> None:
    container = sandbox.run("busybox", ["sleep", "1000"])
    child = os.fork()
    if child == 0:
        code = 1
        try:
            container.exec(["true"])
        except SealedError as error:
            code = 0 if "forked child" in str(error) else 2
        container.remove()
        sandbox.close()
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert container.exec(["echo", "alive"]).stdout == "alive\n"


@EITHER_IDS
@pytest.mark.parametrize("read_only", [True, False])
def test_a_host_folder_is_there_again_after_a_restart(sandbox: Sandbox, tmp_path: Path, read_only: bool) -> None:
    tmp_path.chmod(0o755)
    if not read_only:
        needs_writable(sandbox)
    (tmp_path / "f").write_text("one")
    folder = Mount(source=str(tmp_path), target="/data", read_only=read_only)
    container = sandbox.run("busybox", ["sleep", "1000"], mounts=[folder])
    container.kill()
    (tmp_path / "f").write_text("two")
    container.restart()
    assert container.read_text("/data/f") == "two"
    assert container.exec(["touch", "/data/new"]).exit_code == int(read_only)
