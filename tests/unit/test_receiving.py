"""Placing on the host what a container gave: messages that may lie, files that change meanwhile."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_sealed import receiving
from pytest_sealed.errors import ContainerFailed, SpecError
from pytest_sealed.receiving import MOST_DATA, Receiver, open_file, open_folder

MIB = 1 << 20


def receive(target: Path, *entries: tuple[str, str, str], most: int = MOST_DATA) -> None:
    """Receive the entries (kind, name, content or target of a link) of a folder; a folder is left by ("leave", "", "")."""
    with Receiver(target, "/source", most) as receiver:
        receiver.take({"folder": "", "mode": 0o755}, [])
        for kind, name, content in entries:
            if kind == "file":
                fd = os.memfd_create("content")
                os.write(fd, content.encode())
                receiver.take({"file": name, "mode": 0o6755, "size": len(content)}, [fd])
            else:
                receiver.take({kind: name, "mode": 0o6755, "leads": content}, [])


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "canary").write_text("of the host")
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


@pytest.fixture(autouse=True)
def _nothing_outside_is_touched(tmp_path: Path, target: Path) -> object:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before
    assert (tmp_path / "canary").read_text() == "of the host"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["canary", "target"]


# ---------------------------------------------------------------- names


def test_files_folders_and_links_are_made_without_special_bits(target: Path) -> None:
    receive(target, ("folder", "sub", ""), ("file", "file", "text"), ("link", "link", "/etc/passwd"), ("leave", "", ""),
            ("file", "file", "other"))
    assert (target / "sub/file").read_text() == "text"
    assert (target / "file").read_text() == "other"
    assert (target / "sub/link").readlink() == Path("/etc/passwd")
    assert {oct((target / name).stat().st_mode & 0o7777) for name in ("sub", "sub/file")} == {"0o755"}


@pytest.mark.parametrize("name", ["../canary", "sub/../../canary", "sub/file", "{outside}/canary", "..", "/", "", "."])
@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_a_name_that_leads_out_is_refused(target: Path, name: str, kind: str) -> None:
    with pytest.raises(ContainerFailed, match="which leads out of the copy"):
        receive(target, ("folder", "sub", ""), ("leave", "", ""), (kind, name.format(outside=target.parent), "evil"))


def test_a_link_that_is_in_the_way_is_replaced_and_not_followed(target: Path) -> None:
    receive(target, ("link", "x", str(target.parent / "canary")), ("file", "x", "evil"))
    assert (target / "x").read_text() == "evil"
    receive(target, ("link", "y", str(target.parent)), ("folder", "y", ""), ("file", "canary", "evil"))
    assert (target / "y/canary").read_text() == "evil"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["a FIFO", "a folder"])
def test_what_is_in_the_way_and_no_file_stays_there(target: Path, make: Callable[[Path], None]) -> None:
    make(target / "x")
    for kind in ("file", "link"):
        with pytest.raises(FileExistsError, match="x is there, and is no file") as caught:
            receive(target, (kind, "x", "content"))
        assert caught.value.filename == str(target / "x")
    assert not (target / "x").is_file()


def test_a_folder_that_becomes_a_link_meanwhile_is_not_entered(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver(target, "/source", MOST_DATA) as receiver:
        receiver.take({"folder": "", "mode": 0o755}, [])
        monkeypatch.setattr(os, "mkdir", lambda name, mode, dir_fd: os.symlink(target.parent, name, dir_fd=dir_fd))
        with pytest.raises(OSError, match=r"sub'$") as caught:
            receiver.take({"folder": "sub", "mode": 0o755}, [])
    assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR)


def test_a_folder_that_becomes_a_link_later_is_written_to_where_it_went(target: Path) -> None:
    with Receiver(target, "/source", MOST_DATA) as receiver:
        receiver.take({"folder": "", "mode": 0o755}, [])
        receiver.take({"folder": "sub", "mode": 0o755}, [])
        (target / "sub").rename(target / "moved")
        (target / "sub").symlink_to(target.parent)
        receiver.take({"link": "canary", "leads": "x"}, [])
    assert (target / "moved/canary").is_symlink()


# ---------------------------------------------------------------- content


def sparse(size: int, *data: tuple[int, bytes]) -> int:
    """Return a memory file of that size, with data here and there."""
    fd = os.memfd_create("sparse")
    os.ftruncate(fd, size)
    for position, content in data:
        os.pwrite(fd, content, position)
    return fd


def received(target: Path, fd: int, size: int, *, most: int = MOST_DATA) -> Path:
    with Receiver(target / "file", "/source", most) as receiver:
        receiver.take({"file": "", "mode": 0o644, "size": size}, [fd])
    return target / "file"


@pytest.mark.parametrize("size", [1, 4096, 3 * MIB + 5, 1 << 40])
def test_holes_stay_holes(target: Path, size: int) -> None:
    places = {place: b"data" for place in (0, 1 << 20, size - 4) if 0 <= place <= size - 4}
    copy = received(target, sparse(size, *places.items()), size)
    assert copy.stat().st_size == size
    assert copy.stat().st_blocks * 512 < 64 << 10
    with copy.open("rb") as file:
        for place, content in places.items():
            file.seek(place)
            assert file.read(5).rstrip(b"\0") == content


def test_a_file_that_grows_meanwhile_is_copied_as_it_was(target: Path) -> None:
    assert received(target, sparse(3 * MIB, (0, b"x" * 3 * MIB)), MIB).stat().st_size == MIB


@pytest.mark.parametrize("content", [b"", b"x" * 5000])
def test_a_file_that_shrinks_meanwhile_is_copied_as_it_is(target: Path, content: bytes) -> None:
    assert received(target, sparse(len(content), (0, content)), 3 * MIB).read_bytes() == content


def test_a_file_that_says_it_is_empty_is_read_as_those_of_proc_are(target: Path) -> None:
    assert received(target, os.open("/proc/version", os.O_RDONLY), 0).read_text() == Path("/proc/version").read_text()
    assert received(target, sparse(0), 0).read_bytes() == b""


def test_more_data_than_is_wanted_is_an_error_and_leaves_nothing(target: Path) -> None:
    assert received(target, sparse(1 << 30, (1 << 20, b"x" * MIB)), 1 << 30, most=MIB).stat().st_size == 1 << 30
    with pytest.raises(ContainerFailed, match="/source has more than 1 MiB of data") as caught:
        received(target, sparse(1 << 30, (1 << 20, b"x" * (MIB + 5000))), 1 << 30, most=MIB)
    assert caught.value.remedy == "give get() a larger max_size="
    assert list(target.iterdir()) == []
    with pytest.raises(ContainerFailed, match="/source has more than 10 B of data"):
        receive(target, ("file", "one", "1234567"), ("file", "two", "1234567"), most=10)
    assert [path.name for path in target.iterdir()] == ["one"]


def test_a_file_too_large_for_the_host_is_an_error_at_once_and_leaves_nothing(target: Path) -> None:
    with pytest.raises(OSError, match="File too large") as caught:
        received(target, sparse(1), 1 << 62)
    assert caught.value.filename == str(target / "file")
    assert list(target.iterdir()) == []


def test_more_files_than_any_sane_copy_has_are_refused(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "_MOST_ENTRIES", 4)
    receive(target, *[("file", str(number), "") for number in range(3)])
    with pytest.raises(ContainerFailed, match="/source has more than 4 files and folders") as caught:
        receive(target, *[("file", str(number), "") for number in range(4)])
    assert "tar" in caught.value.remedy


@pytest.mark.parametrize("meddle", ["nothing", "removed", "link"])
def test_a_second_name_of_a_file_is_one_if_it_can_be(target: Path, meddle: str) -> None:
    with Receiver(target, "/source", MOST_DATA) as receiver:
        receiver.take({"folder": "", "mode": 0o755}, [])
        receiver.take({"folder": "sub", "mode": 0o755}, [])
        receiver.take({"file": "first", "mode": 0o644, "size": 4, "several": "1:2"}, [sparse(4, (0, b"data"))])
        receiver.take({"leave": True}, [])
        if meddle != "nothing":
            (target / "sub/first").unlink()
        if meddle == "link":
            (target / "sub/first").symlink_to(target.parent / "canary")
        receiver.take({"file": "second", "mode": 0o644, "size": 4, "several": "1:2"}, [sparse(4, (0, b"data"))])
    second = target / "second"
    assert second.samefile(target / "sub/first") if meddle == "nothing" else True
    assert second.is_symlink() if meddle == "link" else second.read_text() == "data"


# ---------------------------------------------------------------- folders that a container may write to


@pytest.mark.parametrize("written", ["{target}/link", "link", "./link", "sub/../link", "../target/link", "link/below", "sub/link"])
def test_in_a_shared_folder_a_link_is_refused_however_the_path_is_written(target: Path, monkeypatch: pytest.MonkeyPatch,
                                                                         written: str) -> None:
    (target / "sub").mkdir()
    for place in (target, target / "sub"):
        (place / "link").symlink_to(target.parent)
    monkeypatch.chdir(target)
    facts = target.stat()
    for make in (False, True):
        with pytest.raises(SpecError, match=r"leads through the link 'link', in the folder .*target that a container may write to"):
            open_folder(Path(written.format(target=target)), {(facts.st_dev, facts.st_ino)}, make=make)
    monkeypatch.undo()


def test_in_a_shared_folder_folders_are_made_and_what_is_none_says_so(target: Path) -> None:
    facts = target.stat()
    shared = {(facts.st_dev, facts.st_ino)}
    os.close(open_folder(target / "a/b", shared, make=True))
    assert (target / "a/b").is_dir()
    (target / "a/file").write_text("")
    for path, error in (("a/file", NotADirectoryError), ("a/file/below", NotADirectoryError), ("a/nosuch", FileNotFoundError)):
        with pytest.raises(error) as caught:
            open_folder(target / path, shared)
        assert caught.value.filename == str(target / path)
    with open_file(target / "a/file", shared) as file:
        assert file.read() == b""
    os.mkfifo(target / "fifo")
    with pytest.raises(SpecError, match="fifo is no file"):
        open_file(target / "fifo", shared)
