"""Images as wheels: what is in one, and how its image gets into the store: checked, once, by many."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from archives import Made, docker_archive, layer, layout

from pytest_sealed import Sandbox, image
from pytest_sealed.errors import ImageError, SpecError
from pytest_sealed.images.installed import installed_wheels, wheel_for
from pytest_sealed.images.load import Loader
from pytest_sealed.images.pack import pack_wheel
from pytest_sealed.images.progress import Progress
from pytest_sealed.images.prune import prune
from pytest_sealed.images.store import Store
from pytest_sealed.images.verify import verify


@pytest.fixture(autouse=True)
def fresh_look() -> Iterator[None]:
    """Wheels are looked for once in a process; each test has others."""
    installed_wheels.cache_clear()
    yield
    installed_wheels.cache_clear()


@pytest.fixture(scope="module")
def wheel(busybox: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_wheel(busybox, "busybox", tmp_path_factory.mktemp("dist"), version="1.37")


def install(wheel: Path, target: Path) -> Path:
    argv = ["install", "--disable-pip-version-check", "--no-input", "--no-index", "--no-deps", "--target", str(target), str(wheel)]
    done = subprocess.run([sys.executable, "-m", "pip", *argv], capture_output=True, text=True, check=False,
                          env={**os.environ, "PIP_CONFIG_FILE": os.devnull})
    assert done.returncode == 0, done.stdout + done.stderr
    return target


@pytest.fixture
def site(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the installed wheel, from which this process can import."""
    monkeypatch.syspath_prepend(str(install(wheel, tmp_path / "site")))
    return tmp_path / "site"


def test_a_wheel_holds_a_layout_licences_sources_and_a_bill_of_materials(store: Store, wheel: Path, tmp_path: Path) -> None:
    assert wheel.name.startswith("sealed_image_busybox-1.37-py3-none-manylinux_2_17_")
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
        assert archive.testzip() is None
    info = "sealed_image_busybox-1.37.dist-info"
    rows = [line.rsplit(",", 2) for line in files[f"{info}/RECORD"].decode().splitlines()]
    assert {name for name, _, _ in rows} == set(files)
    for name, digest, size in rows[:-1]:
        found = base64.urlsafe_b64encode(hashlib.sha256(files[name]).digest()).rstrip(b"=").decode()
        assert (digest, int(size)) == (f"sha256={found}", len(files[name]))
    assert files[f"{info}/entry_points.txt"] == b"[sealed.images]\nbusybox = sealed_image_busybox\n"
    assert b"GNU General Public License" in files[f"{info}/licenses/busybox-static/copyright"]   # which the image itself leaves out
    assert b"License-File: busybox-static/copyright\n" in files[f"{info}/METADATA"]
    bill = json.loads(files[f"{info}/sboms/image.cdx.json"])
    [component] = [row for row in bill["components"] if row["name"] == "busybox-static"]
    assert component["purl"].startswith("pkg:deb/busybox-static@1%3A1.37")   # the image has no os-release, which names the distribution
    assert b"deb busybox-static 1:1.37" in files["sealed_image_busybox/SOURCES.txt"]
    assert b" from busybox 1:1.37" in files["sealed_image_busybox/SOURCES.txt"]
    again = pack_wheel(store, "busybox", tmp_path, version="1.37")
    assert again.read_bytes() == wheel.read_bytes()


def test_other_tools_read_the_layout(wheel: Path, tmp_path: Path) -> None:
    install(wheel, tmp_path)
    done = subprocess.run(["skopeo", "inspect", f"oci:{tmp_path}/sealed_image_busybox/oci"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_installed_wheel_makes_its_image_known_by_name(site: Path, new_store: Callable[[], Store], tmp_path: Path) -> None:
    store = new_store()
    found = store.get("busybox")
    assert found.reference == f"busybox@{found.digest}"
    assert found.source == "wheel sealed-image-busybox 1.37"
    with Sandbox(store=store) as sandbox:
        box = sandbox.run(image("busybox"), ["echo", "hello"])
        assert box.wait(30) == 0
        assert box.logs() == "hello\n"
        assert box.name == "busybox"
    assert verify(store, [found.reference])[0].damages == ()
    (tmp_path / "sealed.lock").write_text("version = 1\n")
    argv = [sys.executable, "-m", "pytest_sealed.cli", "prune", "--lock"]
    kept = subprocess.run(argv, cwd=tmp_path, env={**os.environ, "SEALED_STORE": str(store.root), "PYTHONPATH": str(site)}, check=False)
    assert (kept.returncode, store.names()) == (0, [found.reference])   # the lock of the Python packages names it
    assert prune(store, older_than=0).names == (found.reference,)
    assert store.get("busybox").digest == found.digest   # from the wheel, again


def test_what_a_wheel_pins_comes_before_what_the_store_has_of_that_name(site: Path, store: Store, tmp_path: Path) -> None:
    assert "busybox" in store.names()
    found = store.pinned("busybox")
    assert found.source == "wheel sealed-image-busybox 1.37"
    assert store.pinned("busybox:latest") == found
    with Sandbox(store=store) as sandbox:
        assert sandbox.run(image("busybox"), ["true"]).image == found.reference
    assert store.get("busybox").source == ""
    assert {one.reference for one in store.images()} == {"busybox", found.reference}
    assert all(not verdict.damages for verdict in verify(store, store.names()))
    with pytest.raises(ImageError):
        store.pinned("busybox:1.2")


def test_many_workers_unpack_it_once(site: Path, new_store: Callable[[], Store]) -> None:
    store = new_store()
    script = """
import sys
from pytest_sealed.images import layers
from pytest_sealed.images.store import Store
unpacked, run = [], layers.run_inside
layers.run_inside = lambda module, *rest, **more: (unpacked.append(module), run(module, *rest, **more))[1]
sys.stdin.readline()
print(len(Store().get("busybox").layers), unpacked.count("pytest_sealed.images.apply"))
"""
    workers = [subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={
        **os.environ, "SEALED_STORE": str(store.root), "PYTHONPATH": str(site)}) for _ in range(6)]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    answers = [worker.communicate(timeout=120)[0].split() for worker in workers]
    assert all(worker.returncode == 0 for worker in workers)
    [count] = {answer[0] for answer in answers}
    assert sum(int(answer[1]) for answer in answers) == int(count)


@pytest.mark.parametrize(("pattern", "change", "said"), [
    ("blobs/sha256/*", lambda data: data[:-1] + b"!", "the wheel sealed-image-busybox 1.37 is damaged: "),
    ("blobs/sha256/*", lambda data: data[:len(data) // 2], "the wheel sealed-image-busybox 1.37 is damaged: "),
    ("index.json", lambda data: b"{}", "the wheel sealed-image-busybox 1.37 is damaged: 'manifests'"),
])
def test_a_damaged_wheel_is_named_with_the_command_that_mends_it(
        site: Path, new_store: Callable[[], Store], pattern: str, change: Callable[[bytes], bytes], said: str) -> None:
    path = max((site / "sealed_image_busybox/oci").glob(pattern), key=lambda path: path.stat().st_size)
    path.write_bytes(change(path.read_bytes()))
    store = new_store()
    with pytest.raises(ImageError) as caught:
        store.get("busybox")
    assert caught.value.message.startswith(said)
    assert caught.value.remedy == "pip install --force-reinstall --no-deps sealed-image-busybox==1.37"
    assert store.names() == []


def test_a_newer_wheel_is_another_image_and_both_may_be_in_the_store(
        store: Store, wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_store: Callable[[], Store]) -> None:
    Loader(store).load(str(docker_archive(tmp_path / "web.tar", (Made([layer({"x": "y"})]), ["busybox:2"]))))
    target, found = new_store(), []
    newer = pack_wheel(store, "busybox:2", tmp_path / "dist")
    assert newer.name.startswith("sealed_image_busybox-2-")
    for number, one in enumerate((wheel, newer)):
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(install(one, tmp_path / f"site-{number}")))
            installed_wheels.cache_clear()
            found.append(target.get(["busybox", "busybox:2"][number]))
    assert found[0].digest != found[1].digest
    assert target.names() == sorted(one.reference for one in found)


def test_two_wheels_of_one_name_are_refused(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    shutil.copytree(site, other)
    (other / "sealed_image_busybox").rename(other / "another")
    info = (other / "sealed_image_busybox-1.37.dist-info").rename(other / "another-2.dist-info")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: another\nVersion: 2\n")
    (info / "entry_points.txt").write_text("[sealed.images]\nbusybox = another\n")
    monkeypatch.syspath_prepend(str(other))
    with pytest.raises(ImageError, match=r"two wheels hold an image 'busybox': .*another 2") as caught:
        wheel_for("busybox")
    assert "pip uninstall" in caught.value.remedy


def test_an_image_that_came_compressed_keeps_its_digest_in_a_wheel(store: Store, tmp_path: Path) -> None:
    name = {"annotations": {"io.containerd.image.name": "registry.example/team/web:1.2"}}
    [web] = Loader(store).load(str(layout(tmp_path / "in", (Made([layer({"x": "y"})]), name))))
    packed = pack_wheel(store, web.reference, tmp_path)
    assert packed.name.startswith("sealed_image_team_web-1.2-")
    with zipfile.ZipFile(packed) as archive:
        assert json.loads(archive.read("sealed_image_team_web/oci/index.json"))["manifests"][0]["digest"] == web.digest
        points = archive.read("sealed_image_team_web-1.2.dist-info/entry_points.txt").decode()
        assert points.endswith("registry.example/team/web:1.2 = sealed_image_team_web\n")


def test_a_blob_of_a_wheel_is_checked_even_where_it_unpacks_to_the_same(
        store: Store, new_store: Callable[[], Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made([layer({"x": "y"})])
    [web] = Loader(store, name="web:1").load(str(layout(tmp_path / "in", (made, {}))))
    monkeypatch.syspath_prepend(str(install(pack_wheel(store, web.reference, tmp_path), tmp_path / "site")))
    [path] = [path for path in (tmp_path / "site/sealed_image_web/oci/blobs/sha256").iterdir() if path.read_bytes().startswith(b"\x1f\x8b")]
    data = bytearray(path.read_bytes())
    data[5] ^= 1   # of the time in gzip's header
    path.write_bytes(data)
    with pytest.raises(ImageError, match="the wheel sealed-image-web 1 is damaged: a layer has the digest"):
        new_store().get("web:1")


class Notes(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_packages_are_found_and_their_names_can_not_leave_the_wheel(store: Store, tmp_path: Path) -> None:
    status = ("Package: good\nVersion: 1:2-3\nSource: upstream (2-3)\nArchitecture: amd64\nStatus: install ok installed\n\n"
              "Package: ../../evil\nVersion: 1\n\nPackage: bare\nVersion: 1\nLicense-File: ../x\n")
    files = {"etc/os-release": "ID=debian\nVERSION_CODENAME=trixie\n", "var/lib/dpkg/status": status,
             "usr/share/doc/good/copyright": "-> /etc/terms", "etc/terms": "terms",
             "usr/share/doc/bare/copyright": "-> ../../../../../../etc/shadow",
             "lib/apk/db/installed": "P:musl\nV:1.2\nA:x86_64\no:musl\n",
             "usr/lib/python3.11/site-packages/shop-1.0.dist-info/METADATA": "Name: shop\nVersion: 1.0\n\nName: body\n",
             "usr/lib/python3.11/site-packages/shop-1.0.dist-info/licenses/LICENSE.txt": "MIT"}
    Loader(store).load(str(docker_archive(tmp_path / "web.tar", (Made([layer(files)]), ["web:1"]))))
    notes = Notes()
    with zipfile.ZipFile(pack_wheel(store, "web:1", tmp_path, progress=notes)) as archive:
        licences = {name.partition(".dist-info/licenses/")[2]: archive.read(name).decode() for name in archive.namelist()
                    if "/licenses/" in name}
        assert licences == {"good/copyright": "terms", "shop/LICENSE.txt": "MIT"}
        assert archive.read("sealed_image_web/SOURCES.txt").decode().splitlines() == [
            "deb good 1:2-3 from upstream 2-3", "deb bare 1 from bare 1", "apk musl 1.2 from musl 1.2", "pypi shop 1.0 from shop 1.0"]
        [bill] = [json.loads(archive.read(name)) for name in archive.namelist() if name.endswith(".cdx.json")]
        assert [row["purl"] for row in bill["components"]] == [
            "pkg:deb/debian/good@1%3A2-3?arch=amd64&distro=trixie", "pkg:deb/debian/bare@1?distro=trixie",
            "pkg:apk/debian/musl@1.2?arch=x86_64&distro=trixie", "pkg:pypi/shop@1.0"]
    assert notes.notes == ["web:1: no licence was found of bare, musl"]


def test_an_image_without_packages_says_so(store: Store, tmp_path: Path) -> None:
    Loader(store).load(str(docker_archive(tmp_path / "web.tar", (Made([layer({"x": "y"})]), ["web:1"]))))
    notes = Notes()
    pack_wheel(store, "web:1", tmp_path, progress=notes)
    assert [note for note in notes.notes if "it has no package database that is known (dpkg, apk, Python)" in note]


def test_what_is_above_the_limit_is_refused_with_the_figure(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ImageError) as caught:
        pack_wheel(store, "busybox", tmp_path / "dist", limit=500_000)
    assert caught.value.message == "the wheel of busybox has 1.0 MB, and an index takes 0.5 MB a file"
    assert "--limit, for an index of your own" in caught.value.remedy
    assert not (tmp_path / "dist").exists()
    with pytest.raises(SpecError, match="'new' is no version of a wheel"):
        pack_wheel(store, "busybox", tmp_path, version="new")
    (tmp_path / "file").write_text("")
    with pytest.raises(ImageError, match="can't be written: "):
        pack_wheel(store, "busybox", tmp_path / "file")


def test_the_command_prints_the_path_and_the_list_of_images_names_what_waits(
        store: Store, tmp_path: Path, new_store: Callable[[], Store]) -> None:
    def sealed(where: Store, *argv: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "pytest_sealed.cli", *map(str, argv)], capture_output=True, text=True, check=False,
                              env={**os.environ, "SEALED_STORE": str(where.root), "PYTHONPATH": str(tmp_path / "site")})
    done = sealed(store, "pack", "--wheel", "busybox", "-q", "--version", "3", "--level", "1", "-o", tmp_path / "dist")
    install(Path(done.stdout.strip()), tmp_path / "site")
    other = new_store()
    assert "in wheels, and unpacked at first use: busybox (sealed-image-busybox 3)\n" in sealed(other, "images").stdout
    assert sealed(other, "history", "busybox").returncode == 0
    out = sealed(other, "images").stdout
    assert "in wheels" not in out
    assert "wheel sealed-image-busybox 3" in out
