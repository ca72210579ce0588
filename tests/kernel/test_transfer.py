"""A store's images in one file, there and back, as CI caches do it: nothing is written, unpacked or built twice."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from archives import Made, docker_archive, layer, layout

from pytest_sealed.errors import ImageError
from pytest_sealed.images.build import Builder
from pytest_sealed.images.layers import Layers
from pytest_sealed.images.load import Loader
from pytest_sealed.images.progress import Progress
from pytest_sealed.images.recipe import load_recipe
from pytest_sealed.images.store import Store
from pytest_sealed.images.transfer import export_images, import_images
from pytest_sealed.images.verify import verify


def sealed(store: Store, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pytest_sealed.cli", *argv], capture_output=True, text=True, check=False,
                          env={**os.environ, "SEALED_STORE": str(store.root)})


class Told(Progress):
    def __init__(self) -> None:
        self.stages: list[str] = []
        self.built: list[str] = []

    def stage(self, text: str) -> None:
        self.stages.append(text)

    def end(self, name: str, *, built: bool, size: int, seconds: float, verb: str = "built") -> None:
        self.built += [name] * built


def test_a_build_is_up_to_date_after_an_import_and_its_layers_serve_another(
        store: Store, new_store: Callable[[], Store], recipe: Callable[..., str], tmp_path: Path) -> None:
    web = load_recipe(recipe("web", '[[step]]\nrun = [["touch", "/made"]]'))
    made = Builder(store).build(web)
    assert export_images(store, ["busybox", "web"], str(tmp_path / "cache.tar")).images == 2
    other, told = new_store(), Told()
    assert [image.reference for image in import_images(other, str(tmp_path / "cache.tar"))] == ["busybox", "web"]
    assert Builder(other, told).build(web).digest == made.digest
    assert (told.built, told.stages) == ([], [])
    assert other.get("web").created == made.created
    other.remove("web")
    assert Builder(other, told).build(web).digest == made.digest   # its step's layer went with it; the base's has stayed
    assert [stage for stage in told.stages if "unpacking" in stage] == []
    assert all(verdict.damages == () for verdict in verify(other, other.names()))


def test_what_the_file_has_is_not_written_again(store: Store, tmp_path: Path) -> None:
    path, more = tmp_path / "cache.tar", layer({"more": b"x" * 300_000})
    first = export_images(store, ["busybox"], str(path))
    before = path.read_bytes()
    again = export_images(store, ["busybox"], str(path))
    assert (again.written, again.size) == (0, first.size)
    assert path.read_bytes() == before
    Loader(store).load(str(docker_archive(tmp_path / "web.tar", (Made([more]), ["web:1"]))))
    grown = export_images(store, ["busybox", "web:1"], str(path))
    assert 300_000 < grown.written < 400_000
    assert path.read_bytes()[:first.size - 10240] == before[:first.size - 10240]


def test_what_the_file_has_no_use_for_goes_once_it_is_half_of_it(store: Store, new_store: Callable[[], Store], tmp_path: Path) -> None:
    path = tmp_path / "cache.tar"
    big = docker_archive(tmp_path / "big.tar", (Made([layer({"big": b"x" * 9_000_000})]), ["big:1"]))
    Loader(store).load(str(big))
    export_images(store, ["busybox", "big:1"], str(path))
    assert path.stat().st_size > 11_000_000
    export_images(store, ["busybox"], str(path))
    assert path.stat().st_size < 3_000_000
    assert [image.reference for image in import_images(new_store(), str(path))] == ["busybox"]


def test_an_import_of_what_is_there_unpacks_nothing(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_images(store, ["busybox"], str(tmp_path / "cache.tar"))
    digest = store.get("busybox").digest

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a layer is unpacked")
    monkeypatch.setattr("pytest_sealed.images.layers.run_inside", never)
    [found] = import_images(store, str(tmp_path / "cache.tar"))
    assert found.digest == digest


@pytest.mark.parametrize("cut", [700, 10_000, 150_000, 250_000])
def test_what_a_killed_export_has_left_is_mended_by_the_next(
        store: Store, new_store: Callable[[], Store], tmp_path: Path, cut: int) -> None:
    path = tmp_path / "cache.tar"
    export_images(store, ["busybox"], str(path))
    Loader(store).load(str(docker_archive(tmp_path / "web.tar", (Made([layer({"more": b"x" * 300_000})]), ["web:1"]))))
    export_images(store, ["busybox", "web:1"], str(path))
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    export_images(store, ["busybox", "web:1"], str(path))
    assert {image.reference for image in import_images(new_store(), str(path))} == {"busybox", "web:1"}


def test_a_failed_export_leaves_the_file_as_it_was(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cache.tar"
    export_images(store, ["busybox"], str(path))
    Loader(store).load(str(docker_archive(tmp_path / "web.tar", (Made([layer({"more": b"x" * 300_000})]), ["web:1"]))))
    before = path.read_bytes()

    def broken(self: Layers, chain: str, diff_id: str) -> Any:
        yield b"x" * 1000
        raise ImageError("the layer is damaged")
    monkeypatch.setattr(Layers, "tar", broken)
    for target in (path, tmp_path / "new.tar"):
        with pytest.raises(ImageError, match="the layer is damaged"):
            export_images(store, ["web:1"], str(target))
    assert path.read_bytes()[:len(before) - 10240] == before[:len(before) - 10240]
    assert not (tmp_path / "new.tar").exists()
    monkeypatch.undo()
    assert [image.reference for image in import_images(store, str(path))] == ["busybox"]


def test_an_image_from_elsewhere_keeps_its_digest_and_its_source(store: Store, new_store: Callable[[], Store], tmp_path: Path) -> None:
    name = {"annotations": {"io.containerd.image.name": "registry.example/web:1"}}
    [web] = Loader(store).load(str(layout(tmp_path / "in", (Made([layer({"x": "y"})]), name))))
    export_images(store, [web.reference], str(tmp_path / "cache.tar"))
    [found] = import_images(new_store(), str(tmp_path / "cache.tar"))
    assert (found.reference, found.digest, found.source) == (web.reference, web.digest, web.source)


def test_other_tools_read_the_file(store: Store, tmp_path: Path) -> None:
    export_images(store, ["busybox"], str(tmp_path / "cache.tar"))
    Loader(store).load(str(docker_archive(tmp_path / "web.tar", (Made([layer({"x": "y"})]), ["web:1"]))))
    export_images(store, ["web:1", "busybox"], str(tmp_path / "cache.tar"))
    done = subprocess.run(["skopeo", "inspect", f"oci-archive:{tmp_path}/cache.tar:web:1"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_files_that_are_something_else_are_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("precious")
    done = sealed(store, "export", str(tmp_path / "notes.txt"))
    assert done.returncode == 1
    assert "notes.txt is no file of `sealed export`\n  remedy: name another file, or remove it" in done.stderr
    assert (tmp_path / "notes.txt").read_text() == "precious"
    sealed(store, "save", "--format", "oci-archive", "busybox", str(tmp_path / "saved.tar"))
    done = sealed(store, "import", str(tmp_path / "saved.tar"))
    assert done.returncode == 1
    assert "saved.tar is no file of `sealed export`\n  remedy: sealed load" in done.stderr
    assert "can't be written: No such file or directory" in sealed(store, "export", str(tmp_path / "none/x.tar")).stderr
    assert "no image 'nope'" in sealed(store, "export", str(tmp_path / "x.tar"), "nope").stderr
    assert not (tmp_path / "x.tar").exists()


def test_the_commands_say_what_they_did(store: Store, new_store: Callable[[], Store], tmp_path: Path) -> None:
    assert sealed(store, "export", "-q", str(tmp_path / "cache.tar"), "busybox").stdout == ""
    assert sealed(store, "export", str(tmp_path / "cache.tar"), "busybox").stdout == f"{tmp_path}/cache.tar: 1 image, 2 MB, 0 MB written\n"
    other = new_store()
    assert sealed(other, "import", str(tmp_path / "cache.tar")).stdout == "busybox\n"
    assert "the store" in sealed(new_store(), "export", str(tmp_path / "none.tar")).stderr
