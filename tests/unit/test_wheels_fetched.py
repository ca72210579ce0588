"""Which wheels an image gets is up to its own Python, whatever the host's is."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.markers import default_environment

from pytest_sealed.errors import ImageError, RecipeError
from pytest_sealed.images.construct import requirements_of
from pytest_sealed.images.interpreter import ASK, Interpreter, interpreter_from
from pytest_sealed.images.recipe import load_recipe
from pytest_sealed.images.wheels import fetch_wheels

SAID = subprocess.run([sys.executable, *ASK[1:]], capture_output=True, check=True).stdout
OWN = interpreter_from(SAID)
OTHER = dataclasses.replace(OWN, release="3.8.1", glibc=31, markers={
    **OWN.markers, "python_version": "3.8", "python_full_version": "3.8.1", "platform_machine": "riscv64"})


def test_an_interpreter_tells_what_markers_compare_with() -> None:
    assert OWN.markers == default_environment()
    assert OWN.version == f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert OWN.release == ".".join(map(str, sys.version_info[:3]))
    assert OWN.glibc > 20


def test_what_an_image_prints_before_its_answer_does_not_matter() -> None:
    assert interpreter_from(b"$ python3 ...\na warning\n{}\n" + SAID) == OWN


def changed(**markers: object) -> bytes:
    return json.dumps({"libc": "glibc 2.36", "markers": {**OWN.markers, **markers}}).encode()


@pytest.mark.parametrize("answer", [
    b"", b"\n", b"{}", b"[]", b"null", b"[" * 90_000, b"\xff", b"x" * 70_000, changed(python_version=3),
    changed(python_version="3.11/../.."), changed(python_version="3.9", python_full_version="3.10.1"),
    changed(python_full_version="3.11"), changed(more="x"), changed(platform_machine="../x"),
    changed().replace(b'"os_name"', b'"os"'), b'{"libc": 3, "markers": {}}', SAID + b"and more",
])
def test_what_is_no_answer_is_refused(answer: bytes) -> None:
    with pytest.raises(ImageError, match="the image's python3 does not tell what it is") as caught:
        interpreter_from(answer)
    assert "python" in caught.value.remedy
    assert len(caught.value.message) < 400


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_refused(answer: bytes) -> None:
    with pytest.raises(ImageError):
        interpreter_from(answer)


def test_wheels_fit_the_images_own_c_library() -> None:
    assert OTHER.platforms[:2] == ["manylinux_2_31_riscv64", "manylinux_2_30_riscv64"]
    assert OTHER.platforms[-2:] == ["manylinux2014_riscv64", "linux_riscv64"]
    assert interpreter_from(changed().replace(b"glibc 2.36", b"")).platforms == [f"linux_{OWN.markers['platform_machine']}"]


def wheel(folder: Path, name: str, *needs: str, tag: str = "py3-none-any", python: str = ">=3.0") -> None:
    lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0", f"Requires-Python: {python}", "Provides-Extra: more",
             *(f"Requires-Dist: {need}" for need in needs)]
    with zipfile.ZipFile(folder / f"{name}-1.0-{tag}.whl", "w") as archive:
        archive.writestr(f"{name}-1.0.dist-info/METADATA", "\n".join(lines) + "\n")
        archive.writestr(f"{name}-1.0.dist-info/WHEEL", f"Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")


@pytest.fixture
def index(tmp_path: Path) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    wheel(folder, "app", "old; python_version < '3.9'", "new; python_version >= '3.9'", "extra; extra == 'more'",
          "risc; platform_machine == 'riscv64'")
    for name in ("new", "extra", "pinned"):
        wheel(folder, name)
    wheel(folder, "old", python="==3.8.1")
    wheel(folder, "risc", tag="cp38-cp38-manylinux_2_31_riscv64")
    wheel(folder, "libc", tag="cp38-cp38-manylinux_2_32_riscv64")
    return folder


def fetched(index: Path, python: Interpreter, *lines: str) -> set[str]:
    """Return the names of the wheels that an image with this interpreter gets."""
    recipe = index.parent / "recipe"
    recipe.mkdir(exist_ok=True)
    (recipe / "json.py").write_text("raise SystemExit('run by the build')")
    (recipe / "image.toml").write_text(
        f'schema = 1\nname = "recipe"\n[base]\nimage = "python"\n[python]\nrequirements = {json.dumps(lines)}\n')
    found = load_recipe(str(recipe))
    assert found.python is not None
    text = "\n".join(["--no-index", f"--find-links {index}", *lines])
    folder = fetch_wheels(found.python, text, found, python, index.parent / "cache")
    return {path.name.partition("-")[0] for path in folder.iterdir()}


def test_markers_are_those_of_the_images_interpreter(index: Path) -> None:
    assert fetched(index, OTHER, "app[more]", "pinned; python_full_version == '3.8.1'") == {"app", "extra", "old", "pinned", "risc"}
    assert fetched(index, OWN, "app[more]", "pinned; python_full_version == '3.8.1'") == {"app", "extra", "new"}


def test_a_wheel_for_a_newer_c_library_than_the_images_is_not_taken(index: Path) -> None:
    with pytest.raises(RecipeError, match=r"image\.toml:6: the Python packages can't be fetched: .*libc"):
        fetched(index, OTHER, "libc")
    assert fetched(index, dataclasses.replace(OTHER, glibc=32), "libc") == {"libc"}


def test_an_environment_without_pip_says_how_to_get_it(index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    monkeypatch.setattr(sys, "executable", f"{bare}/bin/python")
    with pytest.raises(ImageError, match="needs pip in this environment") as caught:
        fetched(index, OWN, "pinned")
    assert caught.value.remedy == f"{bare}/bin/python -m ensurepip"


@pytest.mark.parametrize("line", ["-r base.txt", "-rbase.txt", "--requirement=base.txt", "  -c pins.txt", "--constraint pins.txt"])
def test_requirements_in_another_file_are_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "image.toml").write_text('schema = 1\nname = "x"\n[base]\nimage = "python"\n[python]\nrequirements = "needs.txt"\n')
    needs = tmp_path / "needs.txt"
    needs.write_text("flask-r==1.0   # -r is no option here\n")
    recipe = load_recipe(str(tmp_path))
    assert requirements_of(recipe) == needs.read_text()
    needs.write_text(f"flask==3.0\n{line}\n")
    with pytest.raises(RecipeError, match=r"image\.toml:6: .*requirements that are in another file aren't read") as caught:
        requirements_of(recipe)
    assert line.strip() in caught.value.message
