"""Copies into and out of a host folder that a container may write to: what it makes there leads nobody astray."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from boxes import EITHER_IDS, idle, sh

from pytest_sealed import Container, ContainerFailed, Mount, Sandbox, SpecError, log

RACE = 1.0   # seconds

# Exchanges a folder and a link, and a file and a link, as fast as it can: see rename(2). Both names are there all the time.
SWAP = """
import ctypes
libc = ctypes.CDLL(None)
print("swapping", flush=True)
while True:
    libc.renameat2(-100, b"/shared/out/sub", -100, b"/shared/out/link", 2)
    libc.renameat2(-100, b"/shared/file", -100, b"/shared/other", 2)
"""


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file of the host's that no copy may read or change, alone in its folder."""
    (tmp_path / "precious").mkdir()
    path = tmp_path / "precious/canary"
    path.write_text("of the host")
    return path


@pytest.fixture
def container(sandbox: Sandbox, shared: Path) -> Container:
    container = idle(sandbox, mounts=[Mount(source=str(shared), target="/shared", read_only=False)])
    sh(container, "mkdir -p /out/sub; echo evil | tee /out/canary > /out/sub/canary")
    return container


@pytest.fixture(autouse=True)
def _the_canary_lives(canary: Path) -> object:
    yield
    assert canary.read_text() == "of the host"
    assert os.listdir(canary.parent) == ["canary"]


@EITHER_IDS
@pytest.mark.parametrize("target", ["link", "link/below", "link/below/deeper", "sub/link"])
def test_a_link_on_the_way_to_the_target_is_refused(container: Container, shared: Path, canary: Path, target: str) -> None:
    sh(container, f"mkdir /shared/sub; ln -s {canary.parent} /shared/link; ln -s {canary.parent} /shared/sub/link")
    for source in ("/out", "/out/canary"):
        with pytest.raises(SpecError) as caught:
            container.get(source, shared / target)
        assert caught.value.message == (
            f"{shared / target} leads through the link 'link', in the folder {shared} that a container may write to")
        assert caught.value.remedy
    with pytest.raises(SpecError, match="leads through the link"):
        container.put(shared / target / "canary", "/stolen")


@EITHER_IDS
def test_a_link_in_the_place_of_a_file_or_folder_is_replaced(container: Container, shared: Path, canary: Path) -> None:
    sh(container, f"mkdir /shared/out; ln -s {canary.parent} /shared/out/sub; ln -s {canary} /shared/out/canary;"
                  f"ln -s {canary} /shared/canary")
    container.get("/out", shared / "out")
    container.get("/out/canary", shared)
    for path in ("canary", "out/canary", "out/sub/canary"):
        assert (shared / path).read_text() == "evil\n"
        assert not (shared / path).is_symlink()


@EITHER_IDS
def test_a_links_target_is_not_put_into_a_container(container: Container, shared: Path, canary: Path) -> None:
    sh(container, f"ln -s {canary} /shared/file; ln -s {canary.parent} /shared/folder; mkfifo /shared/fifo")
    for name in ("file", "folder"):
        with pytest.raises(SpecError, match="leads through the link"):
            container.put(shared / name, "/stolen")
    with pytest.raises(SpecError, match="is no file, in a folder that a container may write to"):
        container.put(shared / "fifo", "/stolen")
    container.put(shared, "/stolen")
    assert sh(container, "ls /stolen; readlink /stolen/file; readlink /stolen/folder").split() == [
        "file", "folder", str(canary), str(canary.parent)]


@EITHER_IDS
def test_a_link_that_the_test_has_made_outside_is_followed(container: Container, shared: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    container.get("/out", tmp_path / "link/copy")
    container.get("/out/canary", tmp_path / "link")
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["canary", "copy"]
    (tmp_path / "to shared").symlink_to(shared)
    container.get("/out/canary", tmp_path / "to shared/file")
    assert (shared / "file").read_text() == "evil\n"
    container.put(tmp_path / "link/canary", "/put")
    assert container.read_text("/put") == "evil\n"


@pytest.mark.parametrize("copy", [
    lambda container, shared: container.get("/out", shared / "out"),
    lambda container, shared: container.get("/out/canary", shared / "out/sub"),
    lambda container, shared: container.get("/out/canary", shared / "file"),
    lambda container, shared: container.put(shared, "/stolen"),
    lambda container, shared: container.put(shared / "out/sub", "/stolen"),
    lambda container, shared: container.put(shared / "file", "/stolen/file"),
], ids=["get folder", "get into folder", "get file", "put folder", "put folder below", "put file"])
def test_names_that_are_swapped_all_the_time_lead_nowhere(sandbox: Sandbox, shared: Path, canary: Path,
                                                          copy: Callable[[Container, Path], None]) -> None:
    (shared / "out/sub").mkdir(parents=True)
    (shared / "out/link").symlink_to(canary.parent)
    (shared / "file").write_text("harmless")
    (shared / "other").symlink_to(canary)
    container = sandbox.run("python", ["python3", "-c", SWAP], mounts=[Mount(source=str(shared), target="/shared", read_only=False)],
                            wait=log("swapping"))
    container.exec(["sh", "-c", "mkdir -p /out/sub; echo evil | tee /out/canary > /out/sub/canary"], check=True)
    deadline = time.monotonic() + RACE
    while time.monotonic() < deadline:
        try:
            copy(container, shared)
        except (SpecError, ContainerFailed, OSError):   # a link where there should be none, or what was there is gone
            pass
        assert canary.read_text() == "of the host"
    assert container.status == "running", container.logs()
    assert container.exec(["sh", "-c", "grep -r 'of the host' /stolen"]).stdout == ""


@EITHER_IDS
def test_in_a_folder_that_is_not_known_as_shared_a_link_is_followed(sandbox: Sandbox, container: Container, shared: Path, tmp_path: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    """So the attacks above work where nothing stands against them."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "secret").write_text("of another")
    sh(container, f"ln -s {victim} /shared/link")
    monkeypatch.setattr(sandbox.session, "shared", set())
    container.get("/out/canary", shared / "link/written")
    assert (victim / "written").read_text() == "evil\n"
    container.put(shared / "link/secret", "/stolen")
    assert container.read_text("/stolen") == "of another"
