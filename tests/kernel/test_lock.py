"""A lock made of a project, an empty store made as it says, and runs that are frozen to it."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
from archives import Made, architecture, digest, layer, packed
from registries import Registry, push_by_hand
from test_images_packages import SAID

from pytest_sealed.errors import ImageError
from pytest_sealed.images.build import Builder
from pytest_sealed.images.lock_check import Project, differences, here, lacking
from pytest_sealed.images.lock_make import Locker
from pytest_sealed.images.lock_sync import sync
from pytest_sealed.images.lockfile import Lockfile, load_lock
from pytest_sealed.images.recipe import load_recipe
from pytest_sealed.images.store import Store

NEW = Callable[[], Store]
OTHER = "linux/s390x"


def write(root: Path, name: str, text: str, base: str = 'image = "busybox"') -> Path:
    folder = root / "fixture-images" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "image.toml").write_text(f'schema = 1\nname = "{name}"\n[base]\n{base}\n{text}\n')
    return folder


def project(root: Path, *images: str, platforms: tuple[str, ...] = ()) -> Project:
    return Project(root=root, images=dict.fromkeys(images, "a test"), platforms=platforms)


def lock(what: Project, store: Store, *, upgrade: Collection[str] | None = ()) -> Lockfile:
    """Write the lock and return it as it's read."""
    old = load_lock(what.lock) if what.lock.exists() else Lockfile(what.lock)
    Locker(what, store, old, upgrade=upgrade).lock().write()
    return load_lock(what.lock)


def synced(lock: Lockfile, store: Store) -> Store:
    for _, error in sync(lock, store):
        if error is not None:
            raise error
    assert lacking(store, lock) == {}
    assert list(store.folders.tmp.iterdir()) == []
    return store


def content(store: Store, name: str, path: str) -> str:
    return next((layer / path).read_text() for layer in reversed(store.get(name).layers) if (layer / path).exists())


STATE = """\
[[step]]
files = { "/hello" = { text = "hello" } }
[[state]]
name = "now"
run = [["sh", "-c", "cat /proc/sys/kernel/random/uuid > /now"]]
"""


@pytest.fixture
def no_debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host without apt and dpkg; the path of a file that is there once one of them was asked for."""
    (tmp_path / "bin").mkdir()
    for name in ("apt-get", "apt-cache", "apt-config", "dpkg", "dpkg-deb"):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\necho {name} >> {tmp_path}/called\nexit 127\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return tmp_path / "called"


def test_a_store_made_from_the_lock_has_the_same_bits_without_apt_and_dpkg(
        store: Store, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, fetched: Path, request: pytest.FixtureRequest,
        monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "tiny", STATE)
    what = lock(project(tmp_path), store)
    images = what.of(here())
    assert [(name, [one.reproducible for one in image.layers]) for name, image in images.items()] == [
        ("busybox", [True, True]), ("tiny", [True, False])]
    assert images["busybox"].manifest == store.digest("busybox")
    mirror = tmp_path / "mirror"
    for package in images["busybox"].packages:
        (mirror / package.path).parent.mkdir(parents=True)
        (mirror / package.path).symlink_to(next(fetched.glob(
            f"debian/trixie-*/archives/{package.name}_{package.version.replace(':', '%3a')}_*.deb")))
    called = request.getfixturevalue("no_debian")
    monkeypatch.setenv("SEALED_DEBIAN_MIRROR", f"file://{mirror}")
    empty = Store(tmp_path_factory.mktemp("store"))   # with nothing fetched
    try:
        synced(what, empty)
        assert not called.exists()
        assert empty.digest("busybox") == store.digest("busybox")
        assert empty.diff_ids(empty.get("tiny"))[:-1] == store.diff_ids(store.get("tiny"))[:-1]
        assert content(empty, "tiny", "now") != content(store, "tiny", "now")
    finally:
        for name in reversed(empty.names()):
            empty.remove(name)


def test_what_is_there_as_the_lock_says_is_not_made_again(store: Store, new_store: NEW, tmp_path: Path) -> None:
    write(tmp_path, "tiny", STATE)
    what = lock(project(tmp_path), store)
    other = synced(what, new_store())
    before = {name: other.records.get(name) for name in other.names()}
    synced(what, other)
    assert {name: other.records.get(name) for name in other.names()} == before
    assert lock(project(tmp_path), store).text() == what.text()


def test_an_image_that_a_build_made_of_the_same_is_as_the_lock_says(store: Store, new_store: NEW, tmp_path: Path) -> None:
    what = lock(project(tmp_path), store) if write(tmp_path, "tiny", STATE) else None
    assert what is not None
    other = new_store()
    Builder(other).build(load_recipe(str(tmp_path / "fixture-images/tiny")))
    assert lacking(other, what) == {}


def test_other_packages_than_the_locks_are_replaced(store: Store, new_store: NEW, tmp_path: Path) -> None:
    """The lock has one package less than what a build takes now."""
    what = lock(project(tmp_path, "busybox"), store)
    [image] = what.images
    packages = tuple(one for one in image.packages if one.name != "usr-is-merged")
    other = new_store()
    with pytest.raises(ImageError) as caught:
        synced(Lockfile(what.path, [dataclasses.replace(image, packages=packages)]), other)
    assert "layer 1 of busybox (base of Debian trixie) came out as sha256:" in caught.value.message
    assert caught.value.message.endswith(f", and the lock has {image.layers[0].diff_id}")
    assert caught.value.remedy == "commands that give other bits each time belong into a [[state]]; then `sealed lock` again"
    assert other.names() == []
    open_layer = dataclasses.replace(image.layers[0], reproducible=False)   # nobody asks which bits, so it's made of the lock's packages
    less = Lockfile(what.path, [dataclasses.replace(image, packages=packages, layers=(open_layer, image.layers[1]))])
    synced(less, other)
    assert not (other.get("busybox").layers[0] / "var/lib/dpkg/status.d/usr-is-merged").exists()
    assert lacking(other, what) == {"busybox": f"was built in the store {other.root} of something else than the lock says"}
    assert synced(what, other).digest("busybox") == image.manifest


def test_a_recipe_that_has_changed_since_is_not_built(store: Store, new_store: NEW, tmp_path: Path) -> None:
    folder = write(tmp_path, "tiny", '[[step]]\nfiles = { "/file" = "file" }')
    (folder / "file").write_text("one")
    what = lock(project(tmp_path), store)
    (folder / "file").write_text("two")
    other = new_store()
    found = dict(sync(what, other))
    assert found["busybox"] is None
    assert str(found["tiny"]).endswith("tiny: the recipe, or a file of it, has changed since it was locked\n  remedy: sealed lock")
    assert other.names() == ["busybox"]
    again = lock(project(tmp_path), store)
    assert {one.name for one in set(again.images) ^ set(what.images)} == {"tiny"}
    assert content(synced(again, other), "tiny", "file") == "two"


def test_an_image_whose_packages_nobody_noted_is_built_once_more(store: Store, tmp_path: Path) -> None:
    record = store.records.get("busybox")
    store.records.put("busybox", {key: value for key, value in record.items() if key != "inputs"})
    for path in store.folders.steps.iterdir():
        path.write_text(json.dumps({"diff_ids": json.loads(path.read_text())["diff_ids"]}))
    [image] = lock(project(tmp_path, "busybox"), store).images
    assert [one.name for one in image.packages] == ["busybox-static", "usr-is-merged"]
    assert image.manifest == record["manifest"]


def test_damaged_notes_of_what_an_image_was_made_from_are_told(store: Store, tmp_path: Path) -> None:
    record = store.records.get("busybox")
    damaged: list[list[Any]] = [[{}], [1, 2], record["inputs"][:1],
                                [{**record["inputs"][0], "packages": [{"name": "x"}]}, record["inputs"][1]]]
    try:
        for inputs in damaged:
            store.records.put("busybox", {**record, "inputs": inputs})
            with pytest.raises(ImageError, match="what the image 'busybox' was made from is damaged in the store") as caught:
                lock(project(tmp_path, "busybox"), store)
            assert caught.value.remedy == "sealed build --fresh busybox"
    finally:
        store.records.put("busybox", record)


def wheel(folder: Path, name: str, version: str) -> None:
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        info = f"{name}-{version}.dist-info"
        archive.writestr(f"{name}.py", f"version = {version!r}\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


def test_python_packages_stay_those_of_the_lock(store: Store, new_store: NEW, tmp_path: Path) -> None:
    python = json.dumps(f"#!/bin/sh\ncase $3 in -c) echo '{SAID}';; esac\n")
    write(tmp_path, "snake", f'[[step]]\nfiles = {{ "/usr/bin/python3" = {{ text = {python}, mode = "0755" }} }}')
    wheel(tmp_path, "tool", "1.0")
    write(tmp_path, "app", f'[python]\nrequirements = {json.dumps(["--no-index", f"--find-links {tmp_path}", "tool"])}', 'image = "snake"')
    what = lock(project(tmp_path), store)
    assert [one.file for one in what.of(here())["app"].wheels] == ["tool-1.0-py3-none-any.whl"]
    wheel(tmp_path, "tool", "2.0")
    other = new_store()
    (other.root / "cache").unlink()   # what has been fetched before
    (other.root / "cache").mkdir()
    os.symlink(store.folders.cache / "debian", other.root / "cache/debian")
    synced(what, other)
    assert other.digest("app") == what.of(here())["app"].manifest
    assert content(other, "app", "usr/local/lib/python3.8/dist-packages/tool.py") == "version = '1.0'\n"


# from elsewhere


def push(plain: Registry, name: str, tag: str, text: str) -> str:
    """Push an image that holds one file; return its digest."""
    manifest, blobs = packed(Made([layer({"file": text})], {"Cmd": ["/file"]}))
    push_by_hand(plain.host, name, tag, manifest, blobs)
    return digest(manifest)


def test_a_tag_stays_what_it_was_until_it_is_upgraded(store: Store, new_store: NEW, plain: Registry, tmp_path: Path) -> None:
    reference = f"{plain.host}/locked/tag:1"
    first = push(plain, "locked/tag", "1", "first")
    what = lock(project(tmp_path, reference), store)
    assert [(one.name, one.pull, one.manifest, one.index) for one in what.images] == [(reference, reference, first, "")]
    assert store.names() == ["busybox"]   # a lock fetches no layers
    second = push(plain, "locked/tag", "1", "second")
    other = synced(what, new_store())
    assert other.digest(reference) == first
    assert content(other, reference, "file") == "first"
    assert lock(project(tmp_path, reference), other).text() == what.text()
    upgraded = lock(project(tmp_path, reference), other, upgrade=(reference,))
    assert [(one.name, one.pull, one.manifest) for one in upgraded.images] == [(reference, reference, second)]
    assert lacking(other, upgraded) == {reference: f"is {first} in the store {other.root}, and the lock has {second}"}
    assert content(synced(upgraded, other), reference, "file") == "second"


def test_an_index_is_locked_with_the_image_of_each_platform(store: Store, new_store: NEW, plain: Registry, tmp_path: Path) -> None:
    rows = []
    for one in ("s390x", architecture()):
        manifest, blobs = packed(Made([layer({"which": one})], {"Cmd": ["/which"]}, {"architecture": one}))
        push_by_hand(plain.host, "locked/index", one, manifest, blobs)
        rows.append({"mediaType": json.loads(manifest)["mediaType"], "digest": digest(manifest), "size": len(manifest),
                     "platform": {"architecture": one, "os": "linux"}})
    index = json.dumps({"schemaVersion": 2, "manifests": rows, "mediaType": "application/vnd.oci.image.index.v1+json"}).encode()
    push_by_hand(plain.host, "locked/index", "1", index, {})
    reference = f"{plain.host}/locked/index:1"
    both = project(tmp_path, reference, platforms=(OTHER, here()))
    what = lock(both, store)
    assert {one.platform: (one.index, one.manifest) for one in what.images} == {
        OTHER: (digest(index), rows[0]["digest"]), here(): (digest(index), rows[1]["digest"])}
    assert differences(both, what) == {}
    other = synced(what, new_store())
    assert other.digest(reference) == rows[1]["digest"]
    assert other.records.get(reference)["index"] == digest(index)


def test_an_image_of_the_store_is_locked_as_it_is_there(store: Store, new_store: NEW, plain: Registry, tmp_path: Path) -> None:
    from pytest_sealed.images.registry.pull import Puller
    first = push(plain, "locked/named", "1", "first")
    Puller(store).pull(f"{plain.host}/locked/named:1", "short:1")
    push(plain, "locked/named", "1", "second")
    what = lock(project(tmp_path, "short:1"), store)
    assert [(one.name, one.pull, one.manifest) for one in what.images] == [("short:1", f"{plain.host}/locked/named:1", first)]
    assert synced(what, new_store()).digest("short:1") == first


def test_what_no_registry_has_is_said_before_anything_is_written(store: Store, plain: Registry, tmp_path: Path) -> None:
    for reference, said in ((f"{plain.host}/locked/absent:1", "missing or private"), ("busibox", "did you mean 'busybox'?")):
        with pytest.raises(ImageError, match=said.replace("?", r"\?")):
            lock(project(tmp_path, reference), store)
    assert not (tmp_path / "sealed.lock").exists()


def test_an_image_that_was_made_by_hand_cannot_be_locked(store: Store, tmp_path: Path) -> None:
    store.tag("busybox", "mine:1")
    with pytest.raises(ImageError, match="the image 'mine:1' was made here, and by no recipe") as caught:
        lock(project(tmp_path, "mine:1"), store)
    assert caught.value.remedy == "sealed push mine:1 HOST/NAME:TAG, and name that instead"


def test_an_image_of_an_archive_is_locked_by_digest_and_has_to_be_loaded(store: Store, new_store: NEW, tmp_path: Path) -> None:
    from pytest_sealed.images.load import Loader
    from pytest_sealed.images.save import save
    save(store, ["busybox"], str(tmp_path / "box.tar"))
    Loader(store, name="box:1").load(str(tmp_path / "box.tar"))
    what = lock(project(tmp_path, "box:1"), store)
    assert [(one.name, one.pull, one.source) for one in what.images] == [("box:1", "", f"sealed load {tmp_path}/box.tar")]
    other = new_store()
    with pytest.raises(ImageError, match="box:1 came from an archive") as caught:
        synced(what, other)
    assert caught.value.remedy == f"sealed load {tmp_path}/box.tar"
    Loader(other, name="box:1").load(str(tmp_path / "box.tar"))
    assert lacking(other, what) == {}


# other platforms


def test_what_another_platform_has_locked_stays_while_it_is_right(store: Store, tmp_path: Path) -> None:
    write(tmp_path, "tiny", STATE)
    what = lock(project(tmp_path), store)
    Lockfile(what.path, [*what.images, *(dataclasses.replace(one, platform=OTHER) for one in what.images)]).write()
    assert {(one.name, one.platform) for one in lock(project(tmp_path), store).images} == {
        (name, platform) for name in ("busybox", "tiny") for platform in (here(), OTHER)}
    write(tmp_path, "tiny", STATE.replace("hello", "bye"))
    assert ("tiny", OTHER) not in {(one.name, one.platform) for one in lock(project(tmp_path), store).images}
    assert differences(project(tmp_path, platforms=(here(), OTHER)), load_lock(what.path)) == {"tiny": f"isn't in the lock for {OTHER}"}


def test_a_lock_without_this_platform_is_said(new_store: NEW, store: Store, tmp_path: Path) -> None:
    what = lock(project(tmp_path, "busybox"), store)
    other = Lockfile(what.path, [dataclasses.replace(one, platform=OTHER) for one in what.images])
    with pytest.raises(ImageError, match=rf"sealed.lock has no images for {here()}: there are {OTHER}"):
        list(sync(other, new_store()))


# the commands


SUITE = """
from pytest_sealed import container_fixture, image
tiny = container_fixture(image("tiny", command=["sleep", "100"], wait=None))
def test_it(tiny): assert tiny.read_text("/hello") == "hello"
"""


def test_a_project_is_locked_here_and_run_frozen_on_a_machine_with_nothing(
        store: Store, new_store: NEW, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "project"
    write(root, "tiny", STATE)
    (root / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\n")
    (root / "test_it.py").write_text(SUITE)

    def run(*argv: str) -> tuple[int, str]:
        result = subprocess.run([sys.executable, "-m", *argv], cwd=root, capture_output=True, text=True)
        return result.returncode, result.stdout + result.stderr

    monkeypatch.setenv("SEALED_STORE", str(store.root))
    assert run("pytest_sealed.cli", "lock", "--check") == (
        1, f"sealed: there is no {root}/sealed.lock\n  remedy: sealed lock   and commit the file\n")
    status, text = run("pytest_sealed.cli", "lock", "-q")
    assert (status, text) == (0, "")
    status, text = run("pytest_sealed.cli", "lock", "--check")
    assert (status, text) == (0, f"{root}/sealed.lock is up to date: 2 images\n")
    synced = new_store()
    monkeypatch.setenv("SEALED_STORE", str(synced.root))
    status, text = run("pytest", "--sealed-frozen")
    assert status == 4, text
    assert text.endswith("  remedy: sealed sync\n\n")
    status, text = run("pytest_sealed.cli", "sync", "-q")
    assert (status, text) == (0, "")
    status, text = run("pytest", "--sealed-frozen", "--sealed-offline")
    assert status == 0, text
    synced.tag("tiny", "other:1")
    assert run("pytest_sealed.cli", "sync")[0] == 0
    assert synced.names() == ["busybox", "other:1", "tiny"]   # it may be another project's
    assert run("pytest_sealed.cli", "sync", "--prune") == (
        0, "busybox: as sealed.lock says\ntiny: as sealed.lock says\nother:1: removed\n0 MB freed\n")
    assert synced.names() == ["busybox", "tiny"]
    write(root, "tiny", STATE.replace("hello", "bye"))
    assert run("pytest_sealed.cli", "lock", "--check") == (1, (
        f"sealed: {root}/sealed.lock is out of date:\n  tiny: its recipe, or a file of it, has changed since it was locked\n"
        "  remedy: sealed lock   and commit the file\n"))
    synced.tag("busybox", "other:1")
    status, text = run("pytest_sealed.cli", "sync", "--prune")
    assert status == 1
    assert "other:1" in synced.names()   # nothing goes before all that the lock says is there
    assert "tiny: the recipe, or a file of it, has changed since it was locked\n  remedy: sealed lock\n" in text
    (root / "test_it.py").write_text("import nothing_of_this_name")
    status, text = run("pytest_sealed.cli", "lock")
    assert status == 1
    assert text.startswith("sealed: pytest can't collect the tests here, so which images they use isn't known:\n    ")
    assert "No module named 'nothing_of_this_name'" in text
