"""Unpacking on the host what a container gave: an archive that may lie."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from pytest_sealed.copying import _place
from pytest_sealed.errors import ContainerFailed


def unpack(target: Path, *members: tuple[str, str, str]) -> None:
    """Unpack members (name, kind, content or link target) as a copy does."""
    stream = io.BytesIO()
    kinds = {"file": tarfile.REGTYPE, "link": tarfile.SYMTYPE, "folder": tarfile.DIRTYPE, "hard": tarfile.LNKTYPE, "fifo": tarfile.FIFOTYPE,
             "device": tarfile.CHRTYPE}
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type, member.mode = kinds[kind], 0o6755
            member.size = len(content) if kind == "file" else 0
            member.linkname = content if kind in ("link", "hard") else ""
            archive.addfile(member, io.BytesIO(content.encode()) if kind == "file" else None)
    stream.seek(0)
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            _place(archive, member, target)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "canary").write_text("of the host")
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


@pytest.fixture(autouse=True)
def _nothing_outside_is_touched(tmp_path: Path, target: Path) -> object:
    yield
    assert (tmp_path / "canary").read_text() == "of the host"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["canary", "target"]


def test_files_folders_and_links_are_made_without_special_bits(target: Path) -> None:
    unpack(target, ("sub", "folder", ""), ("sub/file", "file", "text"), ("sub/link", "link", "/etc/passwd"))
    assert (target / "sub/file").read_text() == "text"
    assert (target / "sub/link").readlink() == Path("/etc/passwd")
    assert {oct((target / name).stat().st_mode & 0o7777) for name in ("sub", "sub/file")} == {"0o755"}


@pytest.mark.parametrize("name", ["../canary", "sub/../../canary", "{outside}/canary", "..", "/", "", "."])
@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_a_name_that_leads_out_is_refused(target: Path, name: str, kind: str) -> None:
    with pytest.raises((ContainerFailed, OSError)):
        unpack(target, ("sub", "folder", ""), (name.format(outside=target.parent), kind, "evil"))


@pytest.mark.parametrize("members", [
    [("link", "link", "{outside}"), ("link/canary", "file", "evil")],
    [("link", "link", ".."), ("link/canary", "file", "evil")],
    [("link", "link", "{outside}"), ("link/new", "folder", "")],
    [("file", "file", ""), ("file/new", "file", "evil")],
    [("missing/new", "file", "evil")],
])
def test_nothing_is_written_below_what_is_no_folder(target: Path, members: list[tuple[str, str, str]]) -> None:
    with pytest.raises(ContainerFailed, match="below something that is no folder"):
        unpack(target, *((name, kind, content.format(outside=target.parent)) for name, kind, content in members))


def test_a_link_that_is_in_the_way_is_replaced_and_not_followed(target: Path) -> None:
    unpack(target, ("x", "link", str(target.parent / "canary")), ("x", "file", "evil"))
    assert (target / "x").read_text() == "evil"
    unpack(target, ("y", "link", str(target.parent)), ("y", "folder", ""), ("y/canary", "file", "evil"))
    assert (target / "y/canary").read_text() == "evil"


@pytest.mark.parametrize("kind", ["hard", "fifo", "device"])
def test_what_is_neither_file_folder_nor_link_is_never_made(target: Path, kind: str) -> None:
    (target / "file").write_text("")
    try:
        unpack(target, ("special", kind, "file"))
    except (ContainerFailed, OSError, tarfile.TarError):
        return
    assert (target / "special").is_file()
    assert (target / "special").stat().st_nlink == 1
