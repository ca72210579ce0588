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
            content.seek(0)   # a test may run several times
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
            with Tree(fds[1], fds[2:], None) as tree:
                for one in read_archive(fds[0], highest_id=65535, **options):  # type: ignore[arg-type]
                    tree.add(one)
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
    "a part of 'own' is": [link("own", "../canaries"), entry("own/.wh..wh..opq")],
    "'../.wh..wh..opq' leads out": [entry("../.wh..wh..opq")],
    "'../.wh.canary' leads out": [entry("../.wh.canary")],
    "leads to '.wh.y', which isn't there": [entry(".wh.y"), hard("x", ".wh.y")],
    "of the unknown type b'M'": [entry("volumes", b"M")],
}


@pytest.mark.parametrize("said", ATTACKS)
def test_an_archive_that_wants_out_is_refused_by_name(room: Room, said: str) -> None:
    with pytest.raises(ImageError) as caught:
        room.apply(tar_of(*ATTACKS[said]))
    assert said in caught.value.message


@pytest.mark.parametrize("said", ["leads out", "no folder but a symbolic link", "a part of 'way' is",
                                  "hard link 'own', whose target '../canary' leads out"])
def test_who_trusts_an_archive_is_led_out(tmp_path: Path, said: str) -> None:
    """Python's own unpacker without a filter, CVE-2007-4559: the attacks that are safe to show, since they stay in the test's folder."""
    room = Room(tmp_path)
    with tarfile.open(fileobj=io.BytesIO(tar_of(*ATTACKS[said]))) as archive:
        archive.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
        archive.extractall(room.layer)   # noqa: S202
    with pytest.raises(AssertionError):
        room.assert_canaries()


def test_a_link_of_a_layer_below_is_no_way_out_either(room: Room) -> None:
    room.lower(link("way", "../canaries"), folder("real"))
    with pytest.raises(ImageError, match="'way' is no folder in the layers below"):
        room.apply(tar_of(entry("way/one", data=b"dead")))


def test_removals_behind_a_link_of_a_layer_below_remove_nothing(room: Room) -> None:
    room.lower(link("way", "../canaries"))
    room.apply(tar_of(entry("way/.wh.one"), entry(".wh.nothing"), hard(".wh.x", "../canary")))
    assert os.listdir(room.layer) == []
    with pytest.raises(ImageError, match="'way' is no folder in the layers below"):
        room.apply(tar_of(entry("way/.wh..wh..opq")))


def test_a_hard_link_to_a_link_of_a_layer_below_is_none(room: Room) -> None:
    room.lower(link("way", "../canary"))
    with pytest.raises(ImageError, match="leads to 'way', which is no file"):
        room.apply(tar_of(hard("own", "way"), entry("own", data=b"dead")))


def test_a_hard_link_to_a_link_is_replaced_and_not_written_through(room: Room) -> None:
    room.apply(tar_of(link("way", "../canary"), hard("own", "way"), entry("own", data=b"dead"), entry("way", data=b"dead")))
    assert [(room.layer / name).read_bytes() for name in ("own", "way")] == [b"dead", b"dead"]


def test_names_of_removals_that_are_folders_hide_nothing(room: Room) -> None:
    room.lower(entry("x"))
    room.apply(tar_of(entry(".wh.x/y"), entry(".wh..wh..opq/z")))
    assert sorted(os.listdir(room.layer)) == [".wh..wh..opq", ".wh.x"]


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


def extended(records: dict[bytes, bytes], *after: bytes, kind: bytes = b"x") -> bytes:
    """Return an extended header of any bytes, and what comes after it."""
    body = b""
    for key, value in records.items():
        size = len(key) + len(value) + 3
        length = next(digits for digits in range(1, 9) if len(str(size + digits)) == digits) + size
        body += b"%d %s=%s\n" % (length, key, value)
    return block(kind, body) + b"".join(after)


def block(kind: bytes, body: bytes = b"", name: str = "x") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(body)
    return info.tobuf(tarfile.GNU_FORMAT) + body + bytes(-len(body) % 512)


SPARSE = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"1"}


def old_sparse(blocks: int) -> bytes:
    """A sparse file of GNU tar's old form, whose map goes on for some blocks."""
    head = bytearray(block(b"S"))
    head[482] = 1
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + ((b"%011o\0" % 1) * 42 + b"\1").ljust(512, b"\0") * blocks


@pytest.mark.parametrize("data", [
    extended({b"comment": b"c" * (2 << 20)}, block(b"0")),
    block(b"L", b"n" * (2 << 20)) + block(b"0"),
    extended(SPARSE, block(b"0", b"9999999\n" + b"1\n" * (1 << 20))),
    old_sparse(5000),
    b"".join(extended({b"k%d" % number: b"v" * 500_000}, kind=b"g") for number in range(3)) + block(b"0"),
], ids=["record", "name", "sparse", "old sparse", "global"])
def test_endless_headers_are_refused_before_they_are_read(room: Room, data: bytes) -> None:
    with pytest.raises(ImageError, match="headers of more than 1024 KiB"):
        room.apply(data + bytes(1024))


@pytest.mark.parametrize("body", [b"5 abc" * 200 + b"=", b"9999999 a=b\n", b"0 a=b\n", b"a=b\n", b"6 a=b\n6 a=b", b"7 abcd\n"])
def test_records_that_overlap_are_broken(room: Room, body: bytes) -> None:
    with pytest.raises(ImageError, match="has a broken extended header"):
        room.apply(block(b"x", body) + block(b"0") + bytes(1024))


def test_headers_for_all_entries_that_follow_are_ignored(room: Room) -> None:
    room.apply(extended({b"path": b"../canary", b"uid": b"99999"}, block(b"0", b"x", "a"), block(b"0", b"y", "b"), bytes(1024), kind=b"g"))
    assert sorted(os.listdir(room.layer)) == ["a", "b"]


@pytest.mark.parametrize(("key", "value", "said"), [
    (b"path", b"../canary", "leads out"), (b"path", b"/canary", "is absolute"), (b"path", b"a\0b", "a\\x00b"),
    (b"linkpath", b"../canary", "leads out"), (b"linkpath", b"a\0b", "a\\x00b"),
    (b"GNU.sparse.name", b"../canary", "leads out"), (b"uid", b"-1", "has uid -1"), (b"gid", b"65536", "has gid 65536"),
    (b"size", b"-5", "negative size"), (b"size", b"-5000", "negative size"), (b"size", b"%d" % 2**70, "unpacks to more than"),
    (b"SCHILY.xattr.user.a\0b", b"v", "attribute 'user.a\\x00b'"), (b"SCHILY.xattr.user." + b"n" * 300, b"v", "attribute 'user.nnn"),
    (b"SCHILY.xattr.user.a", b"v" * 70_000, "attribute 'user.a' of 70000 bytes, which the store's file system can't hold"),
])
def test_what_an_extended_header_says_is_checked_too(room: Room, key: bytes, value: bytes, said: str) -> None:
    more = SPARSE if key == b"GNU.sparse.name" else {}
    with pytest.raises(ImageError) as caught:
        room.apply(extended({**more, key: value}, block(b"1" if key == b"linkpath" else b"0", b"1\n0\n1\n".ljust(513, b"x")), bytes(1024)))
    assert said in caught.value.message


@pytest.mark.parametrize(("time", "found"), [(b"nan", 0), (b"-inf", 0), (b"inf", 2**33), (b"-5", 0), (b"12.5", 12.5), (b"soon", 0)])
@pytest.mark.parametrize("kind", [b"0", b"5"])
def test_any_time_is_one(room: Room, kind: bytes, time: bytes, found: float) -> None:
    room.apply(extended({b"mtime": time}, block(kind), bytes(1024)))
    assert (room.layer / "x").stat().st_mtime == found


@pytest.mark.parametrize("name", [b"a\nb\x1b[31m", b"a\xff\xfe", b"a\xed\xa0\x80", b" ", b"-rf", b"\\..\\x"])
def test_names_of_any_bytes_are_kept(room: Room, name: bytes) -> None:
    room.apply(extended({b"path": name}, block(b"0"), bytes(1024)))
    assert os.listdir(os.fsencode(room.layer)) == [name]


@pytest.mark.parametrize("map_", [b"-5,-10,3,-2,100,5", b"0,99999999999999999999", b"1,2,3", b"5,5,0,5", b"a,b"])
def test_a_map_that_makes_no_sense_ends(room: Room, map_: bytes) -> None:
    """With a file of the size that is said, or with a refusal."""
    try:
        room.apply(extended({b"GNU.sparse.size": b"10", b"GNU.sparse.map": map_}, block(b"0", b"x" * 20), bytes(1024)))
    except ImageError:
        return
    assert (room.layer / "x").stat().st_size == 10


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
