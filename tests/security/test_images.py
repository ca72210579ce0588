"""Images whose own files would lead the runtime's mounts and writes astray: a start stays inside, or is refused in words."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from boxes import EITHER_IDS, FOREVER, sh

from pytest_sealed import ContainerFailed, Sandbox, SpecError


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    folder = tmp_path / "canary"
    folder.mkdir()
    for name in ("hosts", "hostname", "resolv.conf", "passwd", "null"):
        (folder / name).write_text("canary:x:0:0::/:/bin/sh\n")
    return folder


def facts(folder: Path) -> list[tuple[str, str, int, int]]:
    return sorted((path.name, path.read_text(), path.stat().st_uid, path.stat().st_mode) for path in folder.iterdir())


class Box:
    """Runs containers of busybox with one more layer on top, made by hand."""

    def __init__(self, sandbox: Sandbox, layer: Path, patch: pytest.MonkeyPatch) -> None:
        self.sandbox, self.layer = sandbox, layer
        layer.mkdir()
        found = sandbox.store.get("busybox")
        patch.setattr(sandbox.store, "get", lambda reference: dataclasses.replace(found, layers=(*found.layers, layer)))

    def link(self, path: str, leads: str | Path) -> None:
        (self.layer / path).parent.mkdir(parents=True, exist_ok=True)
        (self.layer / path).symlink_to(leads)

    def run(self, **options: Any) -> str:
        """Start a container, and return the first lines of what the names and devices look like inside."""
        ids = self.sandbox.session.ids
        if ids.mode == "root":
            for path in (self.layer, *self.layer.rglob("*")):
                os.chown(path, ids.uid_start, ids.gid_start, follow_symlinks=False)
        container = self.sandbox.run("busybox", FOREVER, **options)
        container.write_text("/etc/added", "mine")
        return sh(container, "cat /etc/hosts /etc/hostname /etc/resolv.conf; ls /proc/1/fd; test -d /sys/class && echo sys")


@pytest.fixture
def box(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    return Box(sandbox, tmp_path / "layer", monkeypatch)


# CVE-2025-31133 and CVE-2025-52565: what is mounted or bound on a path of the image's lands where its link leads.
@EITHER_IDS
@pytest.mark.parametrize("name", ["dev", "proc", "sys"])
@pytest.mark.parametrize("make", [lambda path, canary: path.symlink_to(canary), lambda path, _: path.symlink_to("/etc"),
                                  lambda path, _: path.symlink_to("../../../../.."), lambda path, _: path.write_text(""),
                                  lambda path, _: os.mkfifo(path)], ids=["to the host", "to a folder", "up", "a file", "a FIFO"])
def test_kernel_file_systems_are_mounted_on_folders_only(box: Box, canary: Path, name: str, make: Callable[[Path, Path], object]) -> None:
    before = facts(canary)
    make(box.layer / name, canary)
    with pytest.raises(ContainerFailed, match=f"the image's /{name} is no folder"):
        box.run()
    assert facts(canary) == before


@EITHER_IDS
@pytest.mark.parametrize("leads", ["{canary}", "../../../..{canary}", "/proc/self/fd/9", "/proc/1/cwd", "/proc/sys/kernel", "/nowhere"])
def test_an_etc_that_leads_elsewhere_is_refused(box: Box, canary: Path, leads: str) -> None:
    before = facts(canary)
    box.link("etc", leads.format(canary=canary))
    with pytest.raises(ContainerFailed, match="the image's /etc/hostname can't be written") as caught:
        box.run(user="0")
    assert "please report" not in str(caught.value)
    assert facts(canary) == before


@EITHER_IDS
@pytest.mark.parametrize("leads", ["{canary}", "../../../../../..{canary}", "/proc/1/root{canary}", "/proc/1/cwd"])
def test_a_working_directory_that_leads_elsewhere_is_made_nowhere_else(box: Box, canary: Path, leads: str) -> None:
    before = facts(canary)
    box.link("srv/app", leads.format(canary=canary))
    for workdir in ("/srv/app", "/srv/app/new"):
        with pytest.raises(ContainerFailed, match=f"the working directory '{workdir}' can't be made") as caught:
            box.run(workdir=workdir)
        assert "please report" not in str(caught.value)
    assert facts(canary) == before


@EITHER_IDS
def test_a_working_directory_below_a_link_is_made_where_it_leads_in_the_container(box: Box) -> None:
    box.link("app", "../../opt")
    box.run(workdir="/app/new")
    assert [sh(container, "pwd").strip() for container in box.sandbox.containers] == ["/opt/new"]


@EITHER_IDS
@pytest.mark.parametrize("leads", ["{canary}/hosts", "../../../../../..{canary}/hosts", "/proc/sys/kernel/core_pattern", "/proc/1/environ"])
def test_name_files_that_lead_elsewhere_write_nothing_there(box: Box, canary: Path, leads: str) -> None:
    before, pattern = facts(canary), Path("/proc/sys/kernel/core_pattern").read_text()
    for name in ("hosts", "hostname", "resolv.conf"):
        box.link(f"etc/{name}", leads.format(canary=canary))
    shown = box.run(user="0")
    assert "busybox" in shown
    assert "nameserver" in shown
    assert shown.split()[-1] == "sys"
    assert (facts(canary), Path("/proc/sys/kernel/core_pattern").read_text()) == (before, pattern)


@EITHER_IDS
@pytest.mark.parametrize("leads", ["/dev/null", "../dev/null", "/dev/fd/1", "/run/systemd/resolve/stub-resolv.conf", "passwd",
                                   "/proc/self/mounts", "hosts", "hostname", "resolv.conf"])
def test_name_files_are_the_runtimes_own_and_what_they_led_to_stays_itself(box: Box, leads: str) -> None:
    for name in ("hosts", "hostname", "resolv.conf"):
        box.link(f"etc/{name}", leads)
    box.run(user="0", name="web")
    [container] = box.sandbox.containers
    assert sh(container, "cd /etc; stat -c %F hosts hostname resolv.conf").splitlines() == ["regular file"] * 3
    assert sh(container, "cat /etc/hostname; tail -n 1 /etc/hosts; cat /etc/resolv.conf").split()[:4] == [
        "web", container.address, "web", "nameserver"]
    assert sh(container, "stat -c '%F %t:%T' /dev/null; echo x > /dev/null; head -n 1 /etc/passwd; ls /run").splitlines() == [
        "character special file 1:3", "root:x:0:0:root:/root:/bin/sh"]
    assert [line.split()[1] for line in sh(container, "cat /proc/mounts").splitlines() if "/etc" in line.split()[1]] == ["/etc/hosts"]


@EITHER_IDS
@pytest.mark.parametrize("name", ["hosts", "hostname", "resolv.conf"])
def test_a_folder_where_a_name_file_belongs_is_refused(box: Box, name: str) -> None:
    (box.layer / "etc" / name).mkdir(parents=True)
    with pytest.raises(ContainerFailed, match=f"the image's /etc/{name} can't be written: Is a directory") as caught:
        box.run(user="0")
    assert "mend the image" in caught.value.remedy


@EITHER_IDS
@pytest.mark.parametrize("leads", ["/dev/zero", "/proc/kmsg", "passwd", "/dev/stdin", "{canary}/passwd", ""])
def test_an_account_file_that_is_none_names_nobody_and_keeps_nobody_waiting(box: Box, canary: Path, leads: str) -> None:
    if leads:
        box.link("etc/passwd", leads.format(canary=canary))
    else:
        (box.layer / "etc").mkdir()
        os.mkfifo(box.layer / "etc/passwd")
    with pytest.raises(SpecError, match="the container's /etc/passwd has no user 'canary'"):
        box.run(user="canary")
    assert "nameserver" in box.sandbox.run("busybox", ["sleep", "1000000"], user="0", name="zero").read_text("/etc/resolv.conf")


@EITHER_IDS
def test_a_writable_layer_too_small_for_the_runtime_is_refused_in_words(sandbox: Sandbox) -> None:
    with pytest.raises(ContainerFailed, match="its writable layer is too small for /etc/") as caught:
        sandbox.run("busybox", FOREVER, scratch_size="4K")
    assert "scratch_size" in caught.value.remedy
