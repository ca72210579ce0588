"""Paths in a container that an attacker inside swaps all the time: copies, working directories and users are resolved beneath its root."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from boxes import NEEDS_ROOT, eventually, host_pid, sh

from pytest_sealed import Container, Sandbox, SealedError, log

RACE = 0.5   # seconds

# Exchanges a folder and a link, and a file and a link, as fast as it can: see rename(2). Both names are there all the time.
SWAP = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
print("swapping", flush=True)
while True:
    for one, other in ((b"/srv/way", b"/srv/link"), (b"/srv/file", b"/srv/file-link"), (b"/etc/passwd", b"/etc/passwd-link")):
        libc.renameat2(-100, one, -100, other, 2)
"""


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A folder of the host's that nothing may read or change."""
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "file").write_text("of the host")
    (folder / "passwd").write_text("canary:x:0:0::/:/bin/sh\n")
    return folder


@pytest.fixture(params=["{canary}", "../../../../../../..{canary}", "/proc/1/root{canary}", "/proc/self/cwd{canary}", "/proc/1/cwd"])
def container(sandbox: Sandbox, canary: Path, request: pytest.FixtureRequest) -> Container:
    leads = request.param.format(canary=canary)
    prepare = (f"mkdir /srv/way; echo mine | tee /srv/way/file > /srv/file; ln -s {leads} /srv/link; ln -s {leads}/file /srv/file-link;"
               f"ln -s {leads}/passwd /etc/passwd-link")
    return sandbox.run("python", ["sh", "-c", f"{prepare}; exec python3 -c '{SWAP}'"], wait=log("swapping"))


# CVE-2018-15664, CVE-2019-14271 (copies), CVE-2024-21626 (working directories), CVE-2016-3697 (users)
ATTACKS: dict[str, Callable[[Container, Path, Path], object]] = {
    "get a file": lambda container, _, copies: container.get("/srv/file", copies / "file"),
    "get a folder": lambda container, _, copies: container.get("/srv/way", copies / "folder"),
    "get from a folder": lambda container, _, copies: container.get("/srv/way/file", copies / "one"),
    "read": lambda container, _, copies: (copies / "read").write_text(container.read_text("/srv/way/file")),
    "put a file": lambda container, source, _: container.put(source / "file", "/srv/way/file"),
    "put a folder": lambda container, source, _: container.put(source, "/srv/way"),
    "write": lambda container, source, _: container.write_text("/srv/way/file", "evil"),
    "exec there": lambda container, source, copies: (copies / "said").write_text(
        container.exec(["sh", "-c", "cat file; echo evil > new"], workdir="/srv/way").stdout),
    "user": lambda container, source, copies: (copies / "user").write_text(container.exec(["cat", "/srv/link/file"], user="canary").stdout),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_paths_that_are_swapped_all_the_time_lead_nowhere(container: Container, canary: Path, tmp_path: Path, attack: str) -> None:
    source, copies = tmp_path / "source", tmp_path / "copies"
    source.mkdir()
    copies.mkdir()
    (source / "file").write_text("evil")
    before = {path.name: path.read_text() for path in canary.iterdir()}
    deadline = time.monotonic() + RACE
    done = refused = 0
    while time.monotonic() < deadline:
        try:
            ATTACKS[attack](container, source, copies)
            done += 1
        except (SealedError, FileNotFoundError):   # a link that leads to nothing in the container
            refused += 1
    assert done + refused
    assert container.status == "running", container.logs()
    assert {path.name: path.read_text() for path in canary.iterdir()} == before
    assert not [path for path in copies.rglob("*") if path.is_file() and "of the host" in path.read_text()]
    if attack == "user":
        assert not done


def test_the_attacker_swaps(container: Container) -> None:
    """Else what is above shows nothing."""
    seen: set[str] = set()

    def both() -> bool:
        seen.add(sh(container, "test -h /srv/way && echo link || echo folder"))
        return seen == {"link\n", "folder\n"}
    eventually(both, "it has been either")


@NEEDS_ROOT
@pytest.mark.parametrize("container", ["{canary}"], indirect=True)
def test_who_looks_first_and_then_goes_by_the_path_is_led_out(container: Container) -> None:
    way = Path(f"/proc/{host_pid(container)}/root/srv/way")

    def led_out() -> bool:
        try:
            return not way.is_symlink() and (way / "file").read_text() == "of the host"
        except FileNotFoundError:
            return False
    eventually(led_out, "it has swapped between the look and the read")
