"""Packages of an image that its own Python decides on, or whose maintainer scripts run: built for real."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_sealed import HostUnsupported, RecipeError
from pytest_sealed.images.build import Builder
from pytest_sealed.images.image import Image
from pytest_sealed.images.recipe import load_recipe
from pytest_sealed.images.store import Store
from pytest_sealed.runtime.idmap import find_id_map

Write = Callable[..., str]

SAID = json.dumps({"libc": "", "markers": {
    "implementation_name": "cpython", "implementation_version": "3.8.1", "os_name": "posix", "platform_machine": "x86_64",
    "platform_python_implementation": "CPython", "platform_release": "6", "platform_system": "Linux", "platform_version": "1",
    "python_full_version": "3.8.1", "python_version": "3.8", "sys_platform": "linux"}})


@pytest.fixture
def index(tmp_path: Path) -> Path:
    for name in ("old", "new"):
        with zipfile.ZipFile(tmp_path / f"{name}-1.0-py3-none-any.whl", "w") as archive:
            archive.writestr(f"{name}.py", "")
            archive.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            archive.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return tmp_path


def with_packages(store: Store, recipe: Write, index: Path, python: str) -> Image:
    """Build an image whose python3 is the shell script `python`, and two packages for it."""
    text = json.dumps(f"#!/bin/sh\n{python}\n")
    Builder(store).build(load_recipe(recipe("snake", f'[[step]]\nfiles = {{ "/usr/bin/python3" = {{ text = {text}, mode = "0755" }} }}')))
    lines = ["--no-index", f"--find-links {index}", "old; python_version < '3.9'", "new; python_version >= '3.9'"]
    path = Path(recipe("app", f"[python]\nrequirements = {json.dumps(lines)}"), "image.toml")
    path.write_text(path.read_text().replace('"busybox"', '"snake"'))
    return Builder(store).build(load_recipe(str(path)))


def test_an_images_own_python_decides_on_its_packages(store: Store, recipe: Write, index: Path) -> None:
    image = with_packages(store, recipe, index, f"""case $3 in -c) echo noise; echo '{SAID}';; *) echo "$@" > /called;; esac""")
    packages = image.layers[-1] / "usr/local/lib/python3.8/dist-packages"
    assert sorted(path.name for path in packages.iterdir()) == ["old-1.0.dist-info", "old.py"]
    assert (image.layers[-1] / "called").read_text().startswith("-m compileall ")


@pytest.mark.parametrize(("python", "said"), [
    ("exit 0", "the image's python3 does not tell what it is; it says ''"),
    ("echo broken; exit 3", "[python] needs an image with a python3: broken"),
])
def test_a_python_that_does_not_say_what_it_is_is_an_error_of_its_line(
        store: Store, recipe: Write, index: Path, python: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        with_packages(store, recipe, index, python)
    assert "app/image.toml:5: " in caught.value.message
    assert said in caught.value.message
    assert list(store.folders.tmp.iterdir()) == []


CONFIGURED = """\
schema = 1
name = "configured"
[base]
debian = "bookworm"
install = "configure"
packages = ["ca-certificates"]
exclude = ["/usr/sbin/update-ca-certificates"]
[users]
app = { uid = 1000, home = "/srv/app" }
[[step]]
run = [["sh", "-c", "getent passwd app _apt > /found; dpkg --audit >> /found"]]
"""


@pytest.fixture
def configured(tmp_path: Path) -> str:
    (tmp_path / "image.toml").write_text(CONFIGURED)
    return str(tmp_path)


def test_packages_are_configured_by_their_own_scripts(new_store: Callable[[], Store], configured: str) -> None:
    ids = find_id_map()
    if ids.single:
        pytest.skip("a container of this account has one id: it has no range in /etc/subuid and /etc/subgid")
    base, step = Builder(new_store()).build(load_recipe(configured)).layers
    assert (base / "etc/ssl/certs/ca-certificates.crt").read_text().count("BEGIN CERTIFICATE") > 50   # what a postinst makes
    assert (step / "found").read_text() == "app:x:1000:1000:app:/srv/app:/bin/sh\n_apt:*:42:65534::/nonexistent:/usr/sbin/nologin\n"
    assert (base / "srv/app").stat().st_uid == ids.uid_start + 1000
    assert (base / "usr/bin/dpkg").stat().st_uid == ids.uid_start
    absent = ("usr/sbin/update-ca-certificates", "usr/share/man/man1", "etc/resolv.conf", "etc/hostname", "etc/machine-id",
              "etc/apt/apt.conf.d/99mmdebstrap")
    assert not any((base / path).exists() for path in absent)
    for folder in ("var/lib/apt/lists", "var/cache/apt", "dev", "run", "tmp"):
        assert not (base / folder).exists() or [path for path in (base / folder).rglob("*") if not path.is_dir()] == [], folder


def test_without_a_range_of_ids_nothing_is_configured_nor_fetched(
        new_store: Callable[[], Store], configured: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALED_IDS", "single")
    store = Store(new_store().root)
    store.folders.make()
    store.folders.cache.unlink()
    store.folders.cache.mkdir()
    with pytest.raises(HostUnsupported, match='install = "configure" needs a range of ids') as caught:
        Builder(store).build(load_recipe(configured))
    assert 'install = "unpack"' in caught.value.remedy
    assert list(store.folders.tmp.iterdir()) == []
    assert list(store.folders.cache.iterdir()) == []

