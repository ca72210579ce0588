"""Layer archives that want out: every one is refused by name, and canaries beside the layer stay as they are."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_sealed.errors import ImageError
from pytest_sealed.images.archive import Caps, check_path, read_archive
from pytest_sealed.images.tree import Tree

Make = Callable[[tarfile.TarFile], None]


def entry(name: str, kind: bytes = tarfile.REGTYPE, *, data: bytes = b"", link: str = "", mode: int = 0o644, uid: int = 0,
          gid: int = 0) -> tuple[tarfile.TarInfo, io.BytesIO]:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname, info.mode, info.uid, info.gid = kind, len(data), link, mode, uid, gid
    return info, io.BytesIO(data)


def tar_of(*entries: tuple[tarfile.TarInfo, io.BytesIO]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in entries:
            tar.addfile(info, content)
    return buffer.getvalue()


def folder(name: str, mode: int = 0o755) -> tuple[tarfile.TarInfo, io.BytesIO]:
    return entry(name, tarfile.DIRTYPE, mode=mode)


def link(name: str, target: str) -> tuple[tarfile.TarInfo, io.BytesIO]:
    return entry(name, tarfile.SYMTYPE, link=target)


def hard(name: str, target: str) -> tuple[tarfile.TarInfo, io.BytesIO]:
    return entry(name, tarfile.LNKTYPE, link=target)


class Room:
    """A layer's folder with canaries around it, and layers below."""

    def __init__(self, path: Path) -> None:
        self.path, self.layer = path, path / "layer"
        self.layer.mkdir()
        (path / "canary").write_text("alive")
        (path / "canaries").mkdir()
        (path / "canaries/one").write_text("alive")
        self.lowers: list[Path] = []
        self._before = self._look()

    def _look(self) -> list[tuple[str, int, int, bytes]]:
        found = []
        for file in (self.path / "canary", self.path / "canaries", self.path / "canaries/one"):
            status = file.lstat()
            found.append((str(file), status.st_mode, status.st_nlink, file.read_bytes() if file.is_file() else b"".join(
                sorted(os.fsencode(name) for name in os.listdir(file)))))
        return found

    def lower(self, *entries: tuple[tarfile.TarInfo, io.BytesIO]) -> Path:
        """Add a layer on top of the lower ones."""
        path = self.path / f"lower{len(self.lowers)}"
        path.mkdir()
        self._fill(path, tar_of(*entries))
        self.lowers.insert(0, path)
        return path

    def apply(self, data: bytes, **options: object) -> None:
        self._fill(self.layer, data, **options)

    def _fill(self, target: Path, data: bytes, **options: object) -> None:
        archive = self.path / "archive"
        archive.write_bytes(data)
        fds = [os.open(path, os.O_RDONLY) for path in (archive, target, *self.lowers)]
        try:
            tree = Tree(fds[1], fds[2:], None)
            for one in read_archive(fds[0], highest_id=65535, **options):  # type: ignore[arg-type]
                tree.add(one)
            tree.close()
        finally:
            for fd in fds:
                os.close(fd)
            archive.unlink()

    def assert_canaries(self) -> None:
        assert self._look() == self._before


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    room = Room(tmp_path)
    yield room
    room.assert_canaries()


ATTACKS = {
    "leads out": [entry("../canary", data=b"dead")],
    "leads out of": [entry("a/../../canary", data=b"dead")],
    "is absolute": [entry("/canary", data=b"dead")],
    "no folder but a symbolic link": [link("way", ".."), entry("way/canary", data=b"dead")],
    "a part of 'way' is": [link("way", "../canaries"), entry("way/one", data=b"dead")],
    "a part of 'file' is": [entry("file"), entry("file/one", data=b"dead")],
    "hard link 'own', whose target '../canary' leads out": [hard("own", "../canary"), entry("own", data=b"dead")],
    "whose target '/etc/passwd' is absolute": [hard("own", "/etc/passwd")],
    "through a symbolic link": [link("way", "../canaries"), hard("own", "way/one")],
    "isn't there": [hard("own", "nothing")],
    "which is no file": [folder("dir"), hard("own", "dir")],
    "hard link to itself": [hard("own", "own")],
    "root of the archive is no folder": [link(".", "../canaries")],
    "/dev is no folder": [link("dev", "../canaries")],
    "/proc is no folder": [entry("proc")],
    "/sys is no folder": [link("sys", "/")],
    "hides no file": [entry(".wh.")],
    "'.wh..' in": [folder("a"), entry("a/.wh..")],
    "'.wh...' in": [folder("a"), entry("a/.wh...")],
    "has uid 65536": [entry("x", uid=65536)],
    "has gid 4294967294": [entry("x", gid=4294967294)],
    "too long or too deep": [entry("a/" * 300 + "x")],
    "is too long": [entry("n" * 256)],
    "symbolic link to ''": [link("empty", "")],
    "replaces the folder 'a'": [folder("a"), entry("a/b"), entry("a", data=b"x")],
}


@pytest.mark.parametrize("said", ATTACKS)
def test_an_archive_that_wants_out_is_refused_by_name(room: Room, said: str) -> None:
    with pytest.raises(ImageError) as caught:
        room.apply(tar_of(*ATTACKS[said]))
    assert said in caught.value.message


def test_a_link_of_a_layer_below_is_no_way_out_either(room: Room) -> None:
    room.lower(link("way", "../canaries"), folder("real"))
    with pytest.raises(ImageError, match="'way' is no folder in the layers below"):
        room.apply(tar_of(entry("way/one", data=b"dead")))


def test_a_link_to_the_outside_is_kept_as_text_and_never_followed(room: Room) -> None:
    room.apply(tar_of(link("way", "../canary"), entry("way", data=b"dead"), link("abs", "/etc/passwd"), entry("abs", data=b"dead")))
    assert (room.layer / "way").read_bytes() == b"dead"
    assert not (room.layer / "way").is_symlink()


def test_devices_and_what_lies_below_dev_are_left_out(room: Room) -> None:
    room.apply(tar_of(folder("dev"), entry("dev/null", tarfile.CHRTYPE), link("dev/x", "/"), entry("sda", tarfile.BLKTYPE), entry("ok")))
    assert sorted(os.listdir(room.layer)) == ["dev", "ok"]
    assert os.listdir(room.layer / "dev") == []


def test_a_fifo_is_made_and_not_opened(room: Room) -> None:
    room.apply(tar_of(folder("etc"), entry("etc/passwd", tarfile.FIFOTYPE, mode=0o644)))
    assert (room.layer / "etc/passwd").is_fifo()


def test_setuid_bits_stay_within_the_image(room: Room) -> None:
    room.apply(tar_of(entry("su", data=b"x", mode=0o4755)))
    assert (room.layer / "su").stat().st_mode & 0o7777 == 0o4755


def test_attributes_that_overlay_or_the_host_would_believe_are_dropped(room: Room) -> None:
    info, content = entry("file", data=b"x")
    keys = ("user.overlay.opaque", "trusted.overlay.opaque", "security.capability", "user.kept")
    info.pax_headers = {f"SCHILY.xattr.{key}": "y" for key in keys}
    room.apply(tar_of((info, content)))
    assert os.listxattr(room.layer / "file") == ["user.kept"]


@pytest.mark.parametrize(("what", "caps"), [("entries", Caps(entries=10)), ("bytes", Caps(size=20_000))])
def test_bombs_are_stopped_at_the_caps(room: Room, what: str, caps: Caps) -> None:
    with pytest.raises(ImageError, match=what):
        room.apply(tar_of(*(entry(f"f{number}", data=b"\0" * 1000) for number in range(30))), caps=caps)


def test_a_sparse_file_of_a_terabyte_counts_as_a_terabyte(room: Room) -> None:
    info, content = entry("sparse", data=b"x")
    info.pax_headers = {"GNU.sparse.size": str(1 << 40), "GNU.sparse.map": "0,1", "GNU.sparse.numblocks": "1"}
    with pytest.raises(ImageError, match="more than"):
        room.apply(tar_of((info, content)))


def test_a_digest_that_is_another_is_refused_and_both_are_named(room: Room) -> None:
    data = tar_of(entry("x"))
    with pytest.raises(ImageError, match="expected sha256:0") as caught:
        room.apply(data, diff_id="sha256:0")
    assert hashlib.sha256(data).hexdigest() in caught.value.message


def test_bytes_after_the_end_count_for_the_digest(room: Room) -> None:
    data = tar_of(entry("x")) + b"\0" * 10240
    room.apply(data, diff_id=f"sha256:{hashlib.sha256(data).hexdigest()}")


def test_an_archive_cut_within_an_entry_is_broken(room: Room) -> None:
    with pytest.raises(ImageError, match="broken within 'x'"):
        room.apply(tar_of(entry("x", data=b"y" * 5000))[:2000])


def test_an_archive_cut_within_a_header_is_broken(room: Room) -> None:
    with pytest.raises(ImageError, match="broken"):
        room.apply(tar_of(entry("x"), entry("y"))[:700])


def test_a_bad_checksum_after_good_entries_is_not_taken_for_the_end(room: Room) -> None:
    data = bytearray(tar_of(entry("x"), entry("y"), entry("z")))
    data[512 + 148] ^= 1
    with pytest.raises(ImageError, match="broken"):
        room.apply(bytes(data))


def test_a_negative_size_never_loops(room: Room) -> None:
    data = bytearray(tar_of(entry("x", data=b"y")))
    data[124:136] = b"\xff" * 12   # base 256: -1
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    with pytest.raises(ImageError):
        room.apply(bytes(data))


def test_a_huge_header_is_refused_before_it_is_read(room: Room) -> None:
    info, content = entry("x")
    info.pax_headers = {"comment": "c" * (17 << 20)}
    with pytest.raises(ImageError, match="a header of"):
        room.apply(tar_of((info, content)))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_damage_gives_entries_or_an_image_error(data: st.DataObject) -> None:
    good = tar_of(folder("a"), entry("a/b", data=b"hello" * 100), link("l", "a"), hard("h", "a/b"), entry("a/.wh.x"))
    bytes_ = bytearray(good)
    for _ in range(data.draw(st.integers(1, 6))):
        bytes_[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    read, write = os.pipe()
    os.write(write, bytes(bytes_[: data.draw(st.integers(0, len(good)))])[:60_000])
    os.close(write)
    try:
        for one in read_archive(read, highest_id=65535):
            if one.kind == "file":
                assert sum(len(chunk) for chunk in one.chunks()) <= 1 << 20
    except ImageError:
        pass
    finally:
        os.close(read)


@given(st.text(max_size=60))
def test_a_checked_path_never_leaves(name: str) -> None:
    try:
        path = check_path(name, "it")
    except ImageError:
        return
    assert not path.startswith("/")
    assert ".." not in path.split("/")
    assert os.path.normpath(os.path.join("/root", path)).startswith("/root")
