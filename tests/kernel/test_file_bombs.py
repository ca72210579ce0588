"""Files that a container makes to fill the memory or the time of whoever copies them out."""

from __future__ import annotations

from pathlib import Path

import pytest
from boxes import FOREVER

from pytest_sealed import ContainerFailed, Sandbox

DEEP = """
import os
os.makedirs("/ok/" + "d/" * 200)
os.mkdir("/deep")
os.chdir("/deep")
for _ in range(300):
    os.mkdir("d")
    os.chdir("d")
"""


def test_a_sparse_file_of_any_size_is_not_read_into_memory(sandbox: Sandbox) -> None:
    container = sandbox.run("python", FOREVER)
    container.exec(["python3", "-c", "open('/huge', 'wb').truncate(1 << 40)"], check=True)
    with pytest.raises(ContainerFailed, match=r"/huge in container 'python': it has more than 256 MiB") as caught:
        container.read_text("/huge")
    assert "get()" in caught.value.remedy
    container.exec(["python3", "-c", "open('/fits', 'wb').truncate(256 << 20)"], check=True)
    assert container.read_text("/fits").count("\0") == 256 << 20


def test_folders_deeper_than_any_sane_one_are_refused(sandbox: Sandbox, tmp_path: Path) -> None:
    container = sandbox.run("python", FOREVER)
    container.exec(["python3", "-c", DEEP], check=True)
    container.get("/ok", tmp_path / "ok")
    assert len(list((tmp_path / "ok").rglob("d"))) == 200
    with pytest.raises(ContainerFailed, match="/deep in container 'python': more than 256 folders within each other"):
        container.get("/deep", tmp_path / "deep")
