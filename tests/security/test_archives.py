"""Archives of images that want out, or want too much: `load` refuses them in words, canaries stay, and nothing of them is in the store."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from archives import DOCKER, OCI, Made, digest, docker_archive, layer, layout, packed, tar_of

from pytest_sealed import ImageError, Sandbox, SealedError, StoreError, image
from pytest_sealed.images.compression import zstd
from pytest_sealed.images.load import Loader
from pytest_sealed.images.save import save
from pytest_sealed.images.store import Store
from pytest_sealed.images.verify import verify
from pytest_sealed.linux import mounts

SMALL = Made([layer({"a": "b"})], {"Cmd": ["/a"]})


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A folder beside the archives, with an image's files in it, which stay as they are."""
    folder = tmp_path / "canaries"
    folder.mkdir()
    (folder / "layer").write_bytes(SMALL.layers[0])
    (folder / "config").write_bytes(SMALL.body)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_nlink) for path in folder.iterdir()}
    yield folder
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_nlink) for path in folder.iterdir()} == before


@pytest.fixture
def refused(store: Store, tmp_path: Path) -> Callable[..., str]:
    """Loads an archive that is to be refused; returns the message, once it's sure that nothing is left."""
    def load(path: Path, **options: Any) -> str:
        store.folders.make()
        store.cache.make()
        before = everything(store)
        with pytest.raises(SealedError) as caught:
            Loader(store, **options).load(str(path))
        assert everything(store) == before
        assert "please report" not in str(caught.value)
        assert caught.value.message.replace("\n", "").isprintable()
        return caught.value.message
    return load


def everything(store: Store) -> list[str]:
    """All files of a store but locks, what is in the layers of busybox, and kept blobs that are what their digests say."""
    kept = [path for path in store.root.rglob("*") if not {"locks", "fs", "cache", "sha256"} & set(path.relative_to(store.root).parts)]
    assert all(digest(path.read_bytes()) == f"sha256:{path.name}" for path in (store.root / "blobs/sha256").iterdir())
    return sorted(str(path) for path in kept if path.name != "users")


def rows_of(tmp_path: Path, row: Any, files: dict[str, bytes] | None = None) -> Path:
    """A docker-archive with any manifest.json, and the files `c.json` and `l`."""
    return tar_of(tmp_path / "any.tar", {
        "manifest.json": json.dumps(row).encode(), "c.json": SMALL.body, "l": SMALL.layers[0], **(files or {})})


ROW = {"Config": "c.json", "RepoTags": ["m:1"], "Layers": ["l"]}


@pytest.mark.parametrize(("row", "said"), [
    ({**ROW, "Config": "../canaries/config"}, "leads out of the image"), ({**ROW, "Config": "/etc/passwd"}, "is absolute"),
    ({**ROW, "Layers": ["../canaries/layer"]}, "leads out of the image"), ({**ROW, "Layers": ["l\0"]}, r"names the file 'l\x00'"),
    ({**ROW, "Config": "c\n\x1b[31m"}, r"names the file 'c\n\x1b[31m'"), ({**ROW, "Config": "\ud800"}, r"names the file '\ud800'"),
    ({**ROW, "Layers": ["nothing"]}, "has no file 'nothing'"), ({**ROW, "Layers": "l" * 500}, "1 diff ids for 500 layers"),
    ({**ROW, "Layers": ["l"] * 100_000}, "1 diff ids for 100000 layers"), ({**ROW, "Layers": []}, "1 diff ids for 0 layers"),
    ({**ROW, "Config": "manifest.json"}, "is no JSON object"), ({**ROW, "Config": "l"}, "is no JSON"),
    ({**ROW, "RepoTags": ["../../x"]}, "is no image reference"), ({**ROW, "RepoTags": ["a\nb:1"]}, r"'a\nb'"),
    ({**ROW, "RepoTags": [f"m:{number}" for number in range(20_000)]}, "20000 names; at most 1000"),
    ({"Config": "c.json"}, "has no Config and Layers"), ([], "has no Config and Layers"), (1, "has no Config and Layers"),
])
def test_a_manifest_of_docker_that_makes_no_sense(refused: Callable[..., str], tmp_path: Path, canary: Path, row: Any, said: str) -> None:
    assert said in refused(rows_of(tmp_path, [row]))


@pytest.mark.parametrize("rows", [[], {}, "text", [ROW] * 1001, None])
def test_a_list_of_images_that_makes_no_sense(refused: Callable[..., str], tmp_path: Path, rows: Any) -> None:
    assert "lists no images" in refused(rows_of(tmp_path, rows))


def test_manifests_that_are_too_large_or_too_deep(refused: Callable[..., str], tmp_path: Path) -> None:
    for body, said in ((b"[" * 200_000, "nested too deeply"), (b" " * (5 << 20), "larger than 4 MiB"),
                       (b"[1" + b"0" * 5000 + b"]", "is no JSON"),
                       (b"\xff\xfe", "is no JSON"), (b"", "is no JSON")):
        assert said in refused(tar_of(tmp_path / "x.tar", {"manifest.json": body}))


# what the outer archive does


def outer(tmp_path: Path, *entries: tuple[str, bytes, str | bytes]) -> Path:
    """A tar of (name, type, link or content)."""
    with tarfile.open(tmp_path / "outer.tar", "w") as tar:
        for name, kind, what in entries:
            info = tarfile.TarInfo(name)
            info.type = kind
            if isinstance(what, bytes):
                info.size = len(what)
                tar.addfile(info, io.BytesIO(what))
            else:
                info.linkname = what
                tar.addfile(info)
    return tmp_path / "outer.tar"


REG, SYM, HARD = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
MANIFEST = ("manifest.json", REG, json.dumps([ROW]).encode())
CONFIG = ("c.json", REG, SMALL.body)


@pytest.mark.parametrize(("entries", "said"), [
    ([MANIFEST, CONFIG, ("l", SYM, "../canaries/layer")], "has no file 'l'"),
    ([MANIFEST, CONFIG, ("l", SYM, "/etc/passwd")], "has no file 'l'"),
    ([MANIFEST, CONFIG, ("l", HARD, "../canaries/layer")], "has no file 'l'"), ([MANIFEST, CONFIG, ("l", SYM, "l")], "has no file 'l'"),
    ([MANIFEST, CONFIG, ("l", SYM, "m"), ("m", SYM, "l")], "has no file 'l'"),
    ([MANIFEST, CONFIG, ("l", tarfile.CHRTYPE, "")], "has no file 'l'"),
    ([MANIFEST, ("c.json", SYM, "../canaries/config")], "has no file 'c.json'"),
    ([("manifest.json", tarfile.FIFOTYPE, "")], "holds no image"),
    ([MANIFEST, ("../canaries/new", REG, b"dead")], "leads out"), ([MANIFEST, ("/tmp/new", REG, b"dead")], "is absolute"),
    ([MANIFEST, ("x/" * 300, REG, b"")], "too deep"),
])
def test_entries_of_an_archive_that_lead_elsewhere(refused: Callable[..., str], tmp_path: Path, canary: Path,
                                                   entries: list[tuple[str, bytes, str | bytes]], said: str) -> None:
    assert said in refused(outer(tmp_path, *entries))


def test_the_last_of_several_files_of_a_name_counts_and_is_checked(store: Store, refused: Callable[..., str], tmp_path: Path) -> None:
    other = ("l", REG, layer({"other": "x"}))
    good = ("l", REG, SMALL.layers[0])
    assert "digest is" in refused(outer(tmp_path, MANIFEST, CONFIG, good, other))
    assert [one.reference for one in Loader(store).load(str(outer(tmp_path, MANIFEST, CONFIG, other, good)))] == ["m:1"]


def test_archives_with_too_many_names(refused: Callable[..., str], tmp_path: Path) -> None:
    empty = tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "many.tar").write_bytes(empty * 100_001 + bytes(1024))
    assert "more than 100000 files" in refused(tmp_path / "many.tar")
    (tmp_path / "wide.tar").write_bytes(tarfile.TarInfo(("n" * 250 + "/") * 15 + "x").tobuf(tarfile.PAX_FORMAT) * 5000 + bytes(1024))
    assert "16 MiB of names" in refused(tmp_path / "wide.tar")


@pytest.mark.parametrize("squeeze", [gzip.compress, zstd().compress], ids=["gzip", "zstd"])
def test_a_compressed_archive_that_is_cut_or_blown_up(refused: Callable[..., str], tmp_path: Path, squeeze: Callable[[bytes], bytes],
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    good = squeeze(docker_archive(tmp_path / "x.tar", (SMALL, ["x:1"])).read_bytes())
    for size in (2, 5, len(good) // 2, len(good) - 1):
        (tmp_path / "cut").write_bytes(good[:size])
        assert "cut short" in (said := refused(tmp_path / "cut")) or "is no tar" in said
    (tmp_path / "damaged").write_bytes(good[:40] + bytes([good[40] ^ 255]) + good[41:])
    refused(tmp_path / "damaged")
    monkeypatch.setattr("pytest_sealed.images.compression._UNWATCHED", 1 << 20)
    (tmp_path / "bomb").write_bytes(squeeze(bytes(64 << 20)))
    assert "unpacks to more than 200 times its size" in refused(tmp_path / "bomb")
    monkeypatch.setattr("pytest_sealed.images.sources._LARGEST", 1 << 20)
    (tmp_path / "large").write_bytes(squeeze(os.urandom(2 << 20)))
    refused(tmp_path / "large")


def test_an_archive_cut_anywhere_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    whole = docker_archive(tmp_path / "x.tar", (SMALL, ["x:1"])).read_bytes()
    end = len(whole.rstrip(b"\0"))
    for size in (0, 1, 511, 512, 700, end // 2, end - 1):
        (tmp_path / "cut.tar").write_bytes(whole[:size])
        refused(tmp_path / "cut.tar")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_a_store_without_room_for_what_is_compressed_says_so(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    archive = docker_archive(tmp_path / "x", (Made([layer({"a": os.urandom(9 << 20)})]), ["x:1"]))
    (tmp_path / "x.gz").write_bytes(gzip.compress(archive.read_bytes()))
    mounts.mount("tmpfs", f"{tmp_path}/small", "tmpfs", 0, "size=4m")
    try:
        with pytest.raises(StoreError, match="is full"):
            Loader(Store(tmp_path / "small/store")).load(str(tmp_path / "x.gz"))
    finally:
        mounts.umount2(f"{tmp_path}/small", mounts.MNT_DETACH)


# layouts


def test_links_of_a_layout_are_not_followed(refused: Callable[..., str], tmp_path: Path, canary: Path) -> None:
    folder = layout(tmp_path / "in", (SMALL, {"annotations": {"org.opencontainers.image.ref.name": "m:1"}}))
    blob = folder / "blobs/sha256" / digest(SMALL.body).removeprefix("sha256:")
    blob.unlink()
    blob.symlink_to(canary / "config")
    assert f"{blob} can't be read: it is a link, or behind one" in refused(folder)
    (folder / "blobs/sha256").rename(tmp_path / "elsewhere")
    (folder / "blobs/sha256").symlink_to(tmp_path / "elsewhere")
    assert "it is a link, or behind one" in refused(folder)
    (folder / "blobs/sha256").unlink()
    (folder / "index.json").unlink()
    os.mkfifo(folder / "index.json")
    assert "is no file" in refused(folder)
    (folder / "index.json").unlink()
    (folder / "manifest.json").write_text(json.dumps([{**ROW, "Config": "out/config", "Layers": ["out/layer"]}]))
    (folder / "out").symlink_to(canary)
    assert "it is a link, or behind one" in refused(folder)


def index_of(tmp_path: Path, rows: Any, blobs: dict[str, bytes]) -> Path:
    body = rows if isinstance(rows, bytes) else json.dumps({"schemaVersion": 2, "manifests": rows}).encode()
    return tar_of(tmp_path / "layout.tar", {"index.json": body, **{f"blobs/sha256/{name.removeprefix('sha256:')}": data
                                                                     for name, data in blobs.items()}})


def row_of(data: bytes, kind: str = f"{OCI}.manifest.v1+json", **changes: Any) -> dict[str, Any]:
    return {"mediaType": kind, "digest": digest(data), "size": len(data),
            "annotations": {"org.opencontainers.image.ref.name": "m:1"}, **changes}


@pytest.mark.parametrize(("changes", "said"), [
    ({"digest": "sha256:../../../../etc/passwd"}, "is no sha256 digest"), ({"digest": "sha512:" + "0" * 128}, "is no sha256 digest"),
    ({"digest": "sha256:" + "0" * 64 + "\n"}, "is no sha256 digest"), ({"digest": None}, "is no sha256 digest"),
    ({"digest": "sha256:" + "0" * 64}, "has no file"), ({"size": -1}, "has the size '-1'"),
    ({"size": 2**70}, "expected 1180591620717411303424"),
    ({"size": 1}, "expected 1"), ({"size": True}, "has the size"), ({"size": 1e3}, "has the size"), ({"size": "7"}, "has the size"),
    ({"annotations": {"org.opencontainers.image.ref.name": "../x"}}, "no image reference"),
    ({"mediaType": "application/vnd.cncf.helm.config.v1+json\x1b[31m", }, ""), ({"mediaType": 7}, ""),
])
def test_a_descriptor_that_makes_no_sense(store: Store, refused: Callable[..., str], tmp_path: Path, changes: dict[str, Any],
                                          said: str) -> None:
    manifest, blobs = packed(SMALL)
    path = index_of(tmp_path, [row_of(manifest, **changes)], blobs)
    if said:
        assert said in refused(path)
    else:   # what a manifest says of itself counts
        assert Loader(store).load(str(path))[0].digest == digest(manifest)


@pytest.mark.parametrize("what", ["manifest", "config", "layer"])
def test_a_blob_with_another_digest_or_size(refused: Callable[..., str], tmp_path: Path, what: str) -> None:
    manifest, blobs = packed(SMALL)
    name = {"manifest": digest(manifest), "config": digest(SMALL.body), "layer": json.loads(manifest)["layers"][0]["digest"]}[what]
    for data, said in ((blobs[name][:-1] + b"!", name), (blobs[name] + b"!", "expected"), (b"", "expected")):
        assert said in (told := refused(index_of(tmp_path, [row_of(manifest)], {**blobs, name: data}))) or "layer 1 of m:1 (gzip)" in told


def test_a_diff_id_that_is_anothers(refused: Callable[..., str], tmp_path: Path) -> None:
    for kind in (OCI, DOCKER):
        made = Made([layer({"a": "b"})], changes={"rootfs": {"type": "layers", "diff_ids": ["sha256:" + "1" * 64]}})
        manifest, blobs = packed(made, kind=kind)
        assert f"digest is {digest(made.layers[0])}, expected sha256:1111" in refused(index_of(tmp_path, [row_of(manifest)], blobs))
    assert "expected sha256:1111" in refused(docker_archive(tmp_path / "x.tar", (made, ["x:1"])))


def test_indexes_within_indexes_and_in_circles(refused: Callable[..., str], tmp_path: Path) -> None:
    """A circle would need a digest that holds itself: what there can be is depth, and width."""
    manifest, blobs = packed(SMALL)
    inner = manifest
    for _ in range(5):
        row = {**row_of(inner), "mediaType": f"{OCI}.index.v1+json" if inner is not manifest else f"{OCI}.manifest.v1+json"}
        inner = json.dumps({"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": [row]}).encode()
        blobs[digest(inner)] = inner
    assert "indexes within indexes, more than 3 deep" in refused(index_of(tmp_path, [row_of(inner, f"{OCI}.index.v1+json")], blobs))
    assert "lists 2000 images" in refused(index_of(tmp_path, [row_of(manifest)] * 2000, blobs))
    assert "larger than 4 MiB" in refused(index_of(tmp_path, [row_of(manifest)] * 20_000, blobs))
    name = "sha256:" + "a" * 64
    circle = json.dumps({"schemaVersion": 2, "manifests": [row_of(b"", digest=name)]}).encode()
    assert "has the digest" in refused(index_of(tmp_path, [row_of(b"", digest=name, size=len(circle))], {name: circle}))


# what is within


def tar(*entries: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as writer:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            writer.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def test_a_layer_with_several_files_of_a_name_shows_the_last_and_is_saved_with_all(store: Store, new_store: Callable[[], Store],
                                                                                   tmp_path: Path) -> None:
    made = Made([tar(("a", b"one"), ("b", b"x" * 99), ("a", b"three"), ("b", b"y" * 99), ("c", b"z"))], {"Cmd": ["/a"]})
    [found] = Loader(store).load(str(docker_archive(tmp_path / "x.tar", (made, ["twice:1"]))))
    assert [(found.layers[0] / name).read_bytes() for name in "abc"] == [b"three", b"y" * 99, b"z"]
    assert [one.damages for one in verify(store, ["twice:1"])] == [()]
    save(store, ["twice:1"], str(tmp_path / "again.tar"))
    other = new_store()
    assert Loader(other).load(str(tmp_path / "again.tar"))[0].digest == found.digest
    assert not list(store.root.rglob("replaced"))


def test_what_a_layer_replaces_by_links_is_saved_too(store: Store, tmp_path: Path) -> None:
    first, second = io.BytesIO(), tarfile.TarInfo("a")
    second.type, second.linkname = tarfile.SYMTYPE, "b"
    with tarfile.open(fileobj=first, mode="w") as writer:
        for name in ("a", "b"):
            info = tarfile.TarInfo(name)
            info.size = 5
            writer.addfile(info, io.BytesIO(b"first"))
        writer.addfile(second)
    made = Made([first.getvalue()])
    Loader(store).load(str(docker_archive(tmp_path / "x.tar", (made, ["replaced:1"]))))
    save(store, ["replaced:1"], str(tmp_path / "again.tar"))
    with tarfile.open(tmp_path / "again.tar") as reader:
        name = json.loads(reader.extractfile("manifest.json").read())[0]["Layers"][0]  # type: ignore[union-attr]
        assert reader.extractfile(name).read() == made.layers[0]  # type: ignore[union-attr]


@pytest.mark.parametrize(("changes", "said"), [
    ({"Env": ["A=\ud800"]}, "surrogates not allowed"), ({"Cmd": ["echo", "\udcff"]}, "surrogates not allowed"),
    ({"WorkingDir": "\ud800"}, "surrogates not allowed"), ({"User": "\ud800"}, "surrogates not allowed"),
    ({"Labels": {"\ud800": "x"}}, "surrogates not allowed"), ({"Env": ["A=\0"]}, "Env holds"), ({"Env": {"A": 1}}, "Env is"),
    ({"Entrypoint": ["\0"]}, "Entrypoint holds"), ({"Cmd": [1]}, "Cmd holds"),

    ({"User": 5}, "User is '5'"), ({"WorkingDir": ["/"]}, "WorkingDir is"), ({"StopSignal": "SIGNOPE"}, "there is no signal 'SIGNOPE'"),
    ({"StopSignal": "99"}, "there is no signal"), ({"StopSignal": ["x"]}, ""),
    ({"ExposedPorts": {"1-65535/tcp": {}}}, "ExposedPorts holds"), ({"ExposedPorts": {"65536": {}}}, "ExposedPorts holds"),
    ({"ExposedPorts": {f"{port}/tcp": {} for port in range(1, 3000)}}, "2999 TCP ports"),
    ({"Healthcheck": {"Test": ["CMD", "x"], "Interval": -1}}, "Healthcheck has the Interval"),
    ({"Healthcheck": {"Test": ["CMD", "x"], "Timeout": float("nan")}}, "Healthcheck has the Timeout"),
    ({"Healthcheck": {"Test": ["CMD", "x"], "Retries": 1e300}}, "Healthcheck has the Retries"),
    ({"Volumes": ["/data"]}, "Volumes is"), ({"Labels": "x"}, "Labels is"),
])
def test_a_config_with_absurd_values_is_refused(refused: Callable[..., str], tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    made = Made(SMALL.layers, changes)
    assert said in (message := refused(docker_archive(tmp_path / "x.tar", (made, ["x:1"]))))
    assert "config can't be understood" in message


@pytest.mark.parametrize("rootfs", [None, [], {}, {"diff_ids": "x"}, {"diff_ids": []}, {"diff_ids": ["x"]},
                                    {"diff_ids": ["sha256:" + "0" * 64] * 501}])
def test_a_config_without_layers_or_with_too_many(refused: Callable[..., str], tmp_path: Path, rootfs: Any) -> None:
    refused(docker_archive(tmp_path / "x.tar", (Made(SMALL.layers, changes={"rootfs": rootfs}), ["x:1"])))


def run(store: Store, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pytest_sealed.cli", "run", *argv], capture_output=True, text=True, check=False,
                          env={**os.environ, "SEALED_STORE": str(store.root)})


@pytest.mark.parametrize(("changes", "said"), [
    ({"User": "4294967295"}, "4294967295"), ({"User": "-1"}, "-1"), ({"User": "no\nbody"}, r"no\nbody"), ({"User": "0:x"}, "group 'x'"),
    ({"WorkingDir": "x" * 5000}, "working directory"), ({"Cmd": [""]}, "command"), ({"Cmd": [], "Entrypoint": []}, "command"),
    ({"Env": ["A=" + "x" * 200_000]}, "Argument list too long"), ({"Entrypoint": ["sh"] * 200_000}, "too long"),
])
def test_a_config_that_no_container_can_have_fails_its_start_in_words(store: Store, busybox_layers: list[bytes], tmp_path: Path,
                                                                     changes: dict[str, Any], said: str) -> None:
    Loader(store).load(str(docker_archive(tmp_path / "x.tar", (Made(busybox_layers, {"Cmd": ["true"], **changes}), ["absurd:1"]))))
    done = run(store, "absurd:1")
    assert done.returncode in (125, 126, 127), done
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "please report" not in done.stderr


@pytest.fixture(scope="module")
def busybox_layers(busybox: Store) -> list[bytes]:
    found = busybox.get("busybox")
    return [b"".join(busybox.layers.tar(f"sha256:{path.parent.name}", diff_id)) for path, diff_id in zip(
        found.layers, json.loads(busybox.documents("busybox")[2])["rootfs"]["diff_ids"], strict=True)]


@pytest.mark.parametrize("gone", ["dev", "proc", "sys", "etc", "tmp", "run"])
def test_an_image_that_removes_what_the_runtime_needs_starts_all_the_same(store: Store, busybox_layers: list[bytes], tmp_path: Path,
                                                                         gone: str) -> None:
    made = Made([*busybox_layers, tar((f".wh.{gone}", b""))])
    Loader(store).load(str(docker_archive(tmp_path / "x.tar", (made, ["gone:1"]))))
    with Sandbox(store=store) as sandbox:
        container = sandbox.run(image("gone:1", wait=None), ["sh", "-c", "echo > /dev/null && test -d /proc/self && cat /etc/hostname"])
        assert container.wait(60) == 0, container.logs()


def test_an_error_names_image_layer_and_what_to_do(store: Store, tmp_path: Path) -> None:
    path = docker_archive(tmp_path / "x.tar", (Made([layer({"../../x": "dead"})]), ["bad:1"]))
    with pytest.raises(ImageError, match=r"the entry '\.\./\.\./x' leads out of the image"):
        Loader(store).load(str(path))
