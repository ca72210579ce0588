"""Files that a container makes to fill the memory, the disk or the time of whoever copies them out."""

from __future__ import annotations

from pathlib import Path

import pytest
from boxes import EITHER_IDS, EITHER_SCRATCH, FOREVER, Scratch, idle, sh

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


def size_on_disk(folder: Path) -> int:
    """Return the bytes that files take, each counted once."""
    facts = {facts.st_ino: facts.st_blocks * 512 for facts in map(Path.stat, folder.rglob("*"))}
    return sum(facts.values())


@EITHER_IDS
@EITHER_SCRATCH
def test_a_sparse_file_is_copied_out_as_one(sandbox: Sandbox, scratch: Scratch, tmp_path: Path) -> None:
    container = idle(sandbox, scratch=scratch)
    sh(container, "mkdir /out; printf start > /out/huge; truncate -s 1024G /out/huge; printf end >> /out/huge; : > /out/empty")
    container.get("/out/huge", tmp_path / "one")
    container.get("/out", tmp_path / "folder")
    for copy in (tmp_path / "one", tmp_path / "folder/huge"):
        assert copy.stat().st_size == (1 << 40) + 3
        with copy.open("rb") as file:
            assert file.read(10) == b"start" + b"\0" * 5
            file.seek(-5, 2)
            assert file.read() == b"\0\0end"
    assert (tmp_path / "folder/empty").read_bytes() == b""
    assert size_on_disk(tmp_path) < 1 << 20


@EITHER_IDS
def test_a_file_with_many_names_is_copied_out_once(sandbox: Sandbox, tmp_path: Path) -> None:
    container = idle(sandbox)
    sh(container, "mkdir -p /out/sub; head -c 10000000 /dev/zero | tr '\\0' x > /out/0;"
                  "for i in $(seq 1 200); do ln /out/0 /out/$i; ln /out/0 /out/sub/$i; done")
    container.get("/out", tmp_path / "copy")
    assert size_on_disk(tmp_path) < 11_000_000
    assert {path.stat().st_size for path in (tmp_path / "copy").rglob("*") if path.is_file()} == {10_000_000}
    assert (tmp_path / "copy/0").stat().st_nlink == 401


def test_a_file_that_never_stops_growing_is_copied_as_it_was(sandbox: Sandbox, tmp_path: Path) -> None:
    container = idle(sandbox, memory="256M")
    sh(container, "mkdir /out; (while :; do echo more; done >> /out/log) & sleep 0.1")
    container.get("/out/log", tmp_path / "log")
    container.get("/out", tmp_path / "folder")
    assert 0 < (tmp_path / "log").stat().st_size <= (tmp_path / "folder/log").stat().st_size


def test_more_data_than_the_test_allows_is_refused(sandbox: Sandbox, tmp_path: Path) -> None:
    container = idle(sandbox, name="web")
    sh(container, "mkdir /out; head -c 3000000 /dev/zero | tr '\\0' x > /out/big; cp /out/big /out/second")
    container.get("/out/big", tmp_path, max_size="3M")
    for path in ("/out", "/out/big"):
        with pytest.raises(ContainerFailed, match=r"/out(/big)? has more than 1 MiB of data") as caught:
            container.get(path, tmp_path / "copy", max_size="1M")
        assert "max_size" in caught.value.remedy
    assert not (tmp_path / "copy").is_file()
    assert list((tmp_path / "copy").iterdir()) == []
