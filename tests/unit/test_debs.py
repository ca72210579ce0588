"""Debian packages read and fetched without dpkg and apt: every compression, what is broken, mirrors that lie or fail."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from registries import Quiet, served

from pytest_sealed.errors import ImageError
from pytest_sealed.images import mirror
from pytest_sealed.images.apt import Package
from pytest_sealed.images.compression import zstd
from pytest_sealed.images.deb import Deb
from pytest_sealed.images.mirror import fetch_debs

CONTROL = b"Package: tiny\nVersion: 1:2-3\nArchitecture: all\n"
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".zst": lambda data: zstd().compress(data)}


def tar(**files: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def ar(*members: tuple[str, bytes]) -> bytes:
    text = b"!<arch>\n"
    for name, data in members:
        text += f"{name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    return text


def deb(packing: str = ".xz", *, control: bytes | None = None, data: bytes | None = None) -> bytes:
    return ar(("debian-binary", b"2.0\n"),
              (f"control.tar{packing}", PACKED[packing](tar(postinst=b"exit 1", control=CONTROL)) if control is None else control),
              (f"data.tar{packing}", PACKED[packing](tar(odd=b"odd", even=b"even" * 100_000)) if data is None else data))


@pytest.mark.parametrize("packing", PACKED)
def test_a_package_is_read_whatever_it_is_packed_with(tmp_path: Path, packing: str) -> None:
    (tmp_path / "tiny.deb").write_bytes(deb(packing))
    with Deb(str(tmp_path / "tiny.deb")) as package:
        assert package.control() == CONTROL
        with package.data() as files:
            assert [(entry.name, entry.size) for entry in files] == [("./odd", 3), ("./even", 400_000)]


def read(path: Path) -> None:
    """Read all there is in a package."""
    with Deb(str(path)) as package:
        package.control()
        with package.data() as files:
            for entry in files:
                content = files.extractfile(entry)
                assert content is not None
                content.read()


@pytest.mark.parametrize(("data", "said"), [
    (b"", "it's no ar archive"),
    (b"!<arch>\nshort", "a header in it is broken"),
    (deb()[:-30], "end"),
    (ar(("debian-binary", b"2.0\n")), "it has no control.tar"),
    (ar(("control.tar.rar", b"")), "its files are packed in an unknown way, '.rar'"),
    (ar(*[("x", b"")] * 30), "it has more than 20 members"),
    (deb(control=lzma.compress(tar(postinst=b""))), "it has no control file"),
    (deb(control=b"nonsense"), ""),
    (deb(".gz", data=b"nonsense"), ""),
    (deb(".zst", data=b"nonsense"), ""),
    (deb("", data=b"nonsense" * 100), ""),
], ids=lambda value: str(value)[:30] if isinstance(value, str) else "")
def test_a_broken_package_is_named_with_the_remedy(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "tiny.deb"
    path.write_bytes(data)
    with pytest.raises(ImageError) as caught:
        read(path)
    assert caught.value.message.startswith(f"{path} can't be read: ")
    assert said in caught.value.message
    assert caught.value.remedy == f"rm {path}   and build again"


def test_an_error_of_who_writes_the_files_is_not_the_packages(tmp_path: Path) -> None:
    (tmp_path / "tiny.deb").write_bytes(deb())
    with pytest.raises(OSError, match="full"), Deb(str(tmp_path / "tiny.deb")) as package, package.data():
        raise OSError("full")


# mirrors

DEB = deb()
PATH = "pool/updates/main/t/tiny/tiny_2-3_all.deb"
TINY = Package(name="tiny", version="1:2-3", architecture="all", path=PATH, size=len(DEB), sha256=hashlib.sha256(DEB).hexdigest())


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[tuple[int, bytes]], list[str]]]:
    """What a mirror answers, one after the other, and at last 404; and what it was asked for."""
    given: list[tuple[int, bytes]] = []
    asked: list[str] = []

    class Mirror(Quiet):
        def do_GET(self) -> None:  # noqa: N802  (http.server's name)
            asked.append(self.path)
            status, body = given.pop(0) if given else (404, b"")
            self.send_response(status)
            self.send_header("Content-Length", str(len(DEB)))
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True
    monkeypatch.setattr(mirror, "_PAUSE", 0.0)
    with served(Mirror) as host:
        monkeypatch.setenv("SEALED_DEBIAN_MIRROR", f"http://{host}/debian")
        yield given, asked


def fetch(cache: Path) -> bytes:
    [found] = fetch_debs([TINY], "trixie", "arm", cache)
    return Path(found.file).read_bytes()


def test_a_package_is_fetched_once_and_kept_where_apt_looks(tmp_path: Path, answers: tuple[list[tuple[int, bytes]], list[str]]) -> None:
    answers[0][:] = [(200, DEB)]
    assert fetch(tmp_path) == fetch(tmp_path) == DEB
    assert answers[1] == [f"/debian/{PATH}"]
    assert [path.name for path in (tmp_path / "trixie-armhf/archives").iterdir()] == ["tiny_1%3a2-3_all.deb"]


def test_a_security_update_is_looked_for_where_it_may_be(tmp_path: Path, answers: tuple[list[tuple[int, bytes]], list[str]]) -> None:
    answers[0][:] = [(404, b""), (404, b""), (200, DEB)]
    assert fetch(tmp_path) == DEB
    assert answers[1] == [f"/debian/{PATH}", f"/debian-security/{PATH}", "/debian/pool/main/t/tiny/tiny_2-3_all.deb"]


def test_what_fails_for_a_moment_is_tried_again(tmp_path: Path, answers: tuple[list[tuple[int, bytes]], list[str]]) -> None:
    answers[0][:] = [(503, b""), (200, DEB[:100]), (200, DEB)]
    assert fetch(tmp_path) == DEB
    assert answers[1] == [f"/debian/{PATH}"] * 3


@pytest.mark.parametrize(("status", "body", "said"), [
    (200, DEB[:-1] + b"!", f"its SHA256 is {hashlib.sha256(DEB[:-1] + b'!').hexdigest()}, expected {TINY.sha256}"),
    (403, b"", "answers 403"),
])
def test_what_no_mirror_has_is_an_error_that_says_who_was_asked(
        tmp_path: Path, answers: tuple[list[tuple[int, bytes]], list[str]], status: int, body: bytes, said: str) -> None:
    answers[0][:] = [(status, body)]
    with pytest.raises(ImageError) as caught:
        fetch(tmp_path)
    assert caught.value.message.startswith("the package tiny 1:2-3 of the lock can't be fetched\n    http://127.0.0.1:")
    assert f"/debian/{PATH}: {said}\n" in caught.value.message
    assert "/debian-security/" in caught.value.message
    assert caught.value.remedy.startswith("SEALED_DEBIAN_MIRROR names another mirror; ")
    assert list((tmp_path / "trixie-armhf/archives").iterdir()) == []


def test_a_changed_file_of_an_earlier_build_is_fetched_again(tmp_path: Path, answers: tuple[list[tuple[int, bytes]], list[str]]) -> None:
    answers[0][:] = [(200, DEB), (200, DEB)]
    fetch(tmp_path)
    (tmp_path / "trixie-armhf/archives/tiny_1%3a2-3_all.deb").write_bytes(DEB[:-1] + b"!")
    assert fetch(tmp_path) == DEB


def test_a_folder_of_packages_is_a_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "debs").mkdir()
    (tmp_path / "debs/tiny_2-3_all.deb").write_bytes(DEB)
    monkeypatch.setenv("SEALED_DEBIAN_MIRROR", f"file://{tmp_path}/debs")
    assert fetch(tmp_path / "cache") == DEB


@pytest.mark.parametrize(("mirror", "said"), [("ftp://mirror.example", "only http, https and file are known here"),
                                              ("http://ann:secret@127.0.0.1:9", "can't be reached: ")])
def test_a_mirror_that_is_none_is_named_without_its_password(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirror: str, said: str) -> None:
    monkeypatch.setattr("pytest_sealed.images.mirror._PAUSE", 0.0)
    monkeypatch.setenv("SEALED_DEBIAN_MIRROR", mirror)
    with pytest.raises(ImageError) as caught:
        fetch(tmp_path)
    assert f"{mirror.replace('ann:secret@', '')}/{PATH}: {said}" in caught.value.message
    assert "secret" not in caught.value.message
