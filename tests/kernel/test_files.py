"""Copies in and out: beneath the container's root whatever its links say, by no program of the image."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from boxes import EITHER_IDS, EITHER_SCRATCH, Scratch, idle, sh

from pytest_sealed import Container, ContainerFailed, ContainerNotStarted, Sandbox, SpecError

MIB = 1 << 20


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file of the host's that no copy may read or change."""
    path = tmp_path / "canary"
    path.write_text("of the host")
    return path


# ---------------------------------------------------------------- text


@EITHER_IDS
@EITHER_SCRATCH
@pytest.mark.parametrize("text", ["", "a line\n", "\N{SNOWMAN}\0\r\n", "x" * 300_000])
def test_what_is_written_is_what_is_read_on_both_sides(sandbox: Sandbox, scratch: Scratch, text: str) -> None:
    container = idle(sandbox, scratch=scratch)
    container.write_text("/srv/file", text)
    assert container.read_text("/srv/file") == text
    assert container.exec(["cat", "/srv/file"]).stdout_bytes == text.encode()


@EITHER_IDS
def test_a_file_is_made_with_its_parents_mode_and_owner(sandbox: Sandbox, single: bool) -> None:
    container = idle(sandbox)
    container.write_text("/srv/a/b/file", "x", mode=0o640, user=0 if single else 1000)
    owner = "0:0" if single else "1000:1000"
    assert sh(container, "stat -c '%a %u:%g' /srv/a /srv/a/b/file").splitlines() == [f"755 {owner}", f"640 {owner}"]


@pytest.mark.usefixtures("several_ids")
def test_a_file_that_is_there_keeps_its_owner_mode_and_names(sandbox: Sandbox) -> None:
    container = idle(sandbox)
    sh(container, "echo a long old text > /srv/file; chmod 604 /srv/file; chown 7:8 /srv/file; ln /srv/file /srv/second")
    container.write_text("/srv/file", "new", mode=0o777)
    assert sh(container, "stat -c '%a %u:%g' /srv/file; cat /srv/second") == "604 7:8\nnew"


@EITHER_IDS
@pytest.mark.parametrize(("path", "why"), [
    ("/nosuch", "No such file or directory"), ("/etc/passwd/x", "Not a directory"), ("/etc", "Is a directory"),
    ("/loop", "Too many levels of symbolic links"), ("/fifo", "not a regular file"), ("/dev/null", "not a regular file"),
    ("/proc/self/fd/0", "No such file or directory"),
])
def test_what_is_no_file_says_so(sandbox: Sandbox, path: str, why: str) -> None:
    container = idle(sandbox, name="web")
    sh(container, "ln -s loop /loop; mkfifo /fifo")
    with pytest.raises(ContainerFailed) as caught:
        container.read_text(path)
    assert caught.value.message.startswith(f"{path} in container 'web': ")
    assert why in caught.value.message


@pytest.mark.parametrize("path", ["etc/passwd", "", "../etc/passwd", "/etc\0/passwd"])
def test_a_path_that_is_not_absolute_is_refused(sandbox: Sandbox, path: str) -> None:
    container = idle(sandbox)
    for action in (lambda: container.read_text(path), lambda: container.write_text(path, ""), lambda: container.get(path, "/nonexistent")):
        with pytest.raises(SpecError, match="is no absolute path of a container"):
            action()


@EITHER_IDS
@pytest.mark.parametrize("path", ["/fifo", "/etc", "/dev/full", "/srv"])
def test_only_files_can_be_written(sandbox: Sandbox, path: str) -> None:
    container = idle(sandbox)
    sh(container, "mkfifo /fifo")
    with pytest.raises(ContainerFailed):
        container.write_text(path, "x")
    with pytest.raises(ContainerFailed):
        container.write_text(f"{path}/", "x")


# ---------------------------------------------------------------- links


@EITHER_IDS
@pytest.mark.parametrize("link", ["{canary}", "../../../../../../../..{canary}", "/proc/1/root{canary}", "/proc/self/root{canary}"])
def test_links_lead_within_the_container(sandbox: Sandbox, canary: Path, tmp_path: Path, link: str) -> None:
    container = idle(sandbox)
    target = link.format(canary=canary)
    sh(container, f"ln -s {target} /link; ln -s {os.path.dirname(target)} /folder; ln -s / /root/up")
    for action in (lambda: container.read_text("/link"), lambda: container.get("/link", tmp_path / "copy"),
                   lambda: container.read_text("/folder/canary"), lambda: container.read_text(f"/root/up{canary}")):
        with pytest.raises(ContainerFailed):
            action()
    for path in ("/link", "/folder/canary", "/folder/new"):
        try:
            container.write_text(path, "of the container")
        except ContainerFailed:
            continue
    assert canary.read_text() == "of the host"
    assert os.listdir(tmp_path) == ["canary"]


@EITHER_IDS
def test_a_link_to_an_absolute_path_is_followed_in_the_container(sandbox: Sandbox) -> None:
    container = idle(sandbox)
    sh(container, "ln -s /etc/hostname /link; ln -s /var /folder; ln -s /srv/made /dangling")
    assert container.read_text("/link") == "busybox\n"
    container.write_text("/folder/file", "through a link")
    assert sh(container, "cat /var/file") == "through a link"
    container.write_text("/srv/made", "")
    container.write_text("/dangling", "through the other")
    assert container.read_text("/srv/made") == "through the other"


# ---------------------------------------------------------------- files and folders


@EITHER_IDS
@EITHER_SCRATCH
def test_a_big_file_goes_in_and_comes_out_unchanged(sandbox: Sandbox, scratch: Scratch, tmp_path: Path) -> None:
    container = idle(sandbox, scratch=scratch)
    source, back = tmp_path / "source", tmp_path / "back"
    with source.open("wb") as file:
        for number in range(50):
            file.write(hashlib.sha256(bytes([number])).digest() * (MIB // 32))
    source.chmod(0o750)
    container.put(source, "/srv/big")
    assert sh(container, "sha256sum < /srv/big; stat -c %a /srv/big").split() == [
        hashlib.sha256(source.read_bytes()).hexdigest(), "-", "750"]
    container.get("/srv/big", back)
    assert back.read_bytes() == source.read_bytes()
    assert back.stat().st_mode & 0o777 == 0o750


def tree(root: Path) -> None:
    (root / "sub/deep").mkdir(parents=True)
    (root / "empty").mkdir(mode=0o700)
    (root / "file").write_text("one")
    (root / "sub/deep/script").write_text("two")
    (root / "sub/deep/script").chmod(0o755)
    (root / "link").symlink_to("/etc/passwd")
    (root / "sub/up").symlink_to("../file")
    os.link(root / "file", root / "sub/same")
    os.mkfifo(root / "fifo")


def listed(root: Path) -> dict[str, tuple[str, str]]:
    """Return what is in a folder: the kind and mode of each entry, and its content."""
    found = {}
    for path in sorted(root.rglob("*")):
        mode = path.lstat().st_mode
        content = os.readlink(path) if path.is_symlink() else path.read_text() if path.is_file() else ""
        found[str(path.relative_to(root))] = ("link" if path.is_symlink() else oct(mode), content)
    return found


@EITHER_IDS
def test_a_folder_goes_in_and_comes_out_but_for_what_is_neither_file_folder_nor_link(sandbox: Sandbox, tmp_path: Path) -> None:
    container = idle(sandbox)
    source, back = tmp_path / "source", tmp_path / "back"
    tree(source)
    container.put(source, "/srv/copy")
    assert sh(container, "cd /srv/copy; find . | sort").split() == [
        ".", "./empty", "./file", "./link", "./sub", "./sub/deep", "./sub/deep/script", "./sub/same", "./sub/up"]
    container.get("/srv/copy", back)
    (source / "fifo").unlink()
    assert listed(back) == listed(source)


@pytest.mark.usefixtures("several_ids")
def test_copies_belong_to_whom_they_were_given_to(sandbox: Sandbox, tmp_path: Path) -> None:
    container = idle(sandbox)
    tree(tmp_path / "source")
    container.put(tmp_path / "source", "/srv/copy", user=1000)
    container.put(tmp_path / "source/file", "/srv/file", user=70)
    assert set(sh(container, "find /srv/copy -exec stat -c %u:%g {} +").split()) == {"1000:1000"}
    assert sh(container, "stat -c %u:%g /srv/file") == "70:70\n"


@EITHER_IDS
def test_a_folder_put_twice_is_merged_and_newer_files_win(sandbox: Sandbox, tmp_path: Path) -> None:
    container = idle(sandbox)
    for name, text in (("old", "1"), ("both", "1")):
        (tmp_path / name).write_text(text)
    container.put(tmp_path, "/srv")
    (tmp_path / "old").unlink()
    (tmp_path / "both").write_text("2")
    container.put(tmp_path, "/srv")
    assert sh(container, "cat /srv/old /srv/both") == "12"


def test_a_file_copied_to_a_folder_of_the_host_keeps_its_name(sandbox: Sandbox, tmp_path: Path) -> None:
    idle(sandbox).get("/etc/hostname", tmp_path)
    assert (tmp_path / "hostname").read_text() == "busybox\n"


@EITHER_IDS
@pytest.mark.parametrize("target", ["/srv", "/srv/", "/new/folder/", "/", "/link", "/srv/../srv/."])
def test_a_file_copied_to_a_folder_of_the_container_keeps_its_name(sandbox: Sandbox, tmp_path: Path, target: str) -> None:
    container = idle(sandbox, name="web")
    sh(container, "ln -s /srv /link")
    (tmp_path / "file").write_text("of the host")
    for _ in range(2):
        container.put(tmp_path / "file", target)
    assert sh(container, f"cat {target}/file") == "of the host"
    with pytest.raises(ContainerFailed, match=f"{target} in container 'web': Is a directory"):
        container.write_text(target, "")


def test_who_or_what_a_copy_cannot_belong_to_is_refused(sandbox: Sandbox, tmp_path: Path) -> None:
    container = idle(sandbox)
    (tmp_path / "file").write_text("of the host")
    ways: list[Callable[[Any], object]] = [
        lambda user: container.put(tmp_path, "/srv", user=user), lambda user: container.put(tmp_path / "file", "/f", user=user),
        lambda user: container.write_text("/f", "", user=user)]
    for user in (-1, 65536, "nobody", True, None):
        for put in ways:
            with pytest.raises(SpecError, match=f"user={user!r} can't own a copy\n  remedy: give a uid of the container"):
                put(user)
    for mode in ("644", -1, 0o10000):
        with pytest.raises(SpecError, match=f"mode={mode!r} is no mode\n  remedy: for example 0o755"):
            container.write_text("/f", "", mode=mode)   # type: ignore[arg-type]
    assert sh(container, "ls /srv; ls /f 2>&1; true") == "ls: /f: No such file or directory\n"


def test_a_source_that_is_not_there_is_an_error_and_changes_nothing(sandbox: Sandbox, tmp_path: Path) -> None:
    container = idle(sandbox, name="web")
    with pytest.raises(FileNotFoundError, match="nosuch"):
        container.put(tmp_path / "nosuch", "/srv/copy")
    with pytest.raises(ContainerFailed, match=r"/nosuch in container 'web': .*No such file or directory"):
        container.get("/nosuch", tmp_path / "copy")
    assert container.exec(["test", "-e", "/srv/copy"]).exit_code == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["fifo", "/dev/zero"])
def test_only_files_and_folders_can_be_copied_in(sandbox: Sandbox, tmp_path: Path, path: str) -> None:
    container = idle(sandbox)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(SpecError) as caught:
        container.put(tmp_path / path, "/srv/copy")
    assert caught.value.message == f"{tmp_path / path} is neither a file nor a folder"
    assert caught.value.remedy == "put() copies those; write_text() writes what a program says"
    assert container.exec(["test", "-e", "/srv/copy"]).exit_code == 1


@EITHER_IDS
@pytest.mark.parametrize("path", ["/fifo", "/dev/null"])
def test_only_files_and_folders_can_be_copied_out(sandbox: Sandbox, tmp_path: Path, path: str) -> None:
    container = idle(sandbox)
    sh(container, "mkfifo /fifo")
    with pytest.raises(ContainerFailed, match="not a regular file"):
        container.get(path, tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


def test_links_in_a_folder_come_out_as_links_and_nothing_is_written_through_them(sandbox: Sandbox, canary: Path, tmp_path: Path) -> None:
    container = idle(sandbox)
    sh(container, f"mkdir /out; ln -s {canary} /out/canary; ln -s {tmp_path} /out/folder")
    target = tmp_path / "target"
    container.get("/out", target)
    assert (os.readlink(target / "canary"), os.readlink(target / "folder")) == (str(canary), str(tmp_path))
    sh(container, "rm /out/folder /out/canary; mkdir /out/folder; echo evil | tee /out/folder/canary > /out/canary")
    container.get("/out", target)
    assert (target / "canary").read_text() == (target / "folder/canary").read_text() == "evil\n"
    assert not (target / "folder").is_symlink()
    assert canary.read_text() == "of the host"


# ---------------------------------------------------------------- when


def ended(sandbox: Sandbox, scratch: Scratch) -> Container:
    container = sandbox.run("busybox", ["sh", "-c", "echo result > /srv/result"], scratch=scratch)
    assert container.wait(60) == 0
    return container


@EITHER_IDS
@EITHER_SCRATCH
def test_after_its_end_its_files_are_still_there(sandbox: Sandbox, scratch: Scratch, tmp_path: Path) -> None:
    container = ended(sandbox, scratch)
    assert container.read_text("/srv/result") == "result\n"
    container.get("/srv", tmp_path / "out")
    assert (tmp_path / "out/result").read_text() == "result\n"
    container.write_text("/srv/more", "written afterwards")
    assert container.read_text("/srv/more") == "written afterwards"
    container.remove()
    with pytest.raises(ContainerNotStarted):
        container.read_text("/srv/result")


def test_no_program_of_the_image_runs_for_a_copy(sandbox: Sandbox, tmp_path: Path) -> None:
    container = idle(sandbox)
    (tmp_path / "source").mkdir()
    sh(container, "rm -rf /usr /bin /lib /lib64 /sbin 2> /dev/null; true")
    container.put(tmp_path / "source", "/srv")
    container.get("/etc", tmp_path / "etc")
    assert (tmp_path / "etc/hostname").read_text() == "busybox\n"


def test_a_full_container_takes_no_more_and_says_which_file_it_was(sandbox: Sandbox, tmp_path: Path) -> None:
    container = idle(sandbox, scratch_size="4M", name="web")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/big").write_bytes(b"x" * 8 * MIB)
    actions: list[Callable[[], None]] = [
        lambda: container.put(tmp_path / "folder/big", "/srv/a"), lambda: container.write_text("/srv/a", "x" * 8 * MIB),
        lambda: container.put(tmp_path / "folder", "/srv/a")]
    for action in actions:
        with pytest.raises(ContainerFailed, match=r"^/srv/a in container 'web': No space left on device"):
            action()
        sh(container, "rm -r /srv/a")
    container.write_text("/srv/a", "there is room again")
