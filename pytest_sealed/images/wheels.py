"""Python packages for an image: fetched as wheels by the host's pip, unpacked by ourselves. Nothing of them is run."""

from __future__ import annotations

import configparser
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import uuid
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, final

from filelock import FileLock

from pytest_sealed.errors import ImageError
from pytest_sealed.images.archive import check_path

if TYPE_CHECKING:
    from pytest_sealed.images.interpreter import Interpreter
    from pytest_sealed.images.layerfile import LayerFile
    from pytest_sealed.images.recipe import PythonPackages, Recipe

__all__ = ["Wheels", "fetch_wheels"]

_LARGEST = 2 << 30   # bytes that one wheel may unpack to

# The host's pip, with the markers of another interpreter: its option --python-version leaves those alone
# (https://github.com/pypa/pip/issues/11198), and there is no other way in.
_PIP = """\
import sys
sys.path[:] = [path for path in sys.path if path]   # nothing out of the working directory
import json, runpy
from pip._vendor.packaging import markers
environment = json.loads(sys.argv.pop(1))
markers.default_environment = lambda: dict(environment)
runpy.run_module("pip", run_name="__main__", alter_sys=True)"""


def fetch_wheels(wanted: PythonPackages, text: str, recipe: Recipe, python: Interpreter, cache: Path) -> Path:
    """Return a folder with the wheels of the requirements and of all that they need.

    Args:
        text: the requirements file.
        python: the image's.
        cache: where fetched wheels stay.

    Raises:
        RecipeError: pip can't find or fetch them.
    """
    facts = [text, python.markers, python.platforms, wanted.hashes]
    folder = cache / hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if folder.is_dir():
            return folder
        fresh = cache / f"{uuid.uuid4().hex}.new"
        fresh.mkdir()
        try:
            _download(text, fresh, wanted, recipe, python)
            os.rename(fresh, folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return folder


def _download(text: str, folder: Path, wanted: PythonPackages, recipe: Recipe, python: Interpreter) -> None:
    listing = folder.with_suffix(".txt")
    listing.write_text(text, encoding="utf-8")
    argv = [sys.executable, "-c", _PIP, json.dumps(python.markers),
            "download", "--quiet", "--disable-pip-version-check", "--no-input", "--only-binary", ":all:",
            "--dest", str(folder), "--requirement", str(listing), "--python-version", python.release, "--implementation", "cp",
            "--abi", f"cp{python.version.replace('.', '')}", "--abi", "abi3", "--abi", "none",
            *(word for name in python.platforms for word in ("--platform", name)), *(["--require-hashes"] if wanted.hashes else [])]
    try:
        result = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=recipe.folder, stdin=subprocess.DEVNULL)
    finally:
        listing.unlink(missing_ok=True)
    if result.returncode:
        if "No module named 'pip'" in result.stderr:
            raise ImageError("fetching Python packages needs pip in this environment", remedy=f"{sys.executable} -m ensurepip")
        reasons = [line for line in result.stderr.splitlines() if line.startswith("ERROR")] or result.stderr.splitlines()[-2:]
        raise recipe.error(("python", "requirements"), f"the Python packages can't be fetched: {' '.join(reasons)[:600]}",
                           remedy="only wheels are taken, nothing is compiled; pip's own settings say from where")


@final
class Wheels:
    """A folder of wheels, and where they go in an image.

    See the binary distribution format (PyPA specifications).
    """

    def __init__(self, folder: Path, version: str) -> None:
        self.files = sorted(folder.glob("*.whl"))
        self.target = f"/usr/local/lib/python{version}/dist-packages"

    def unpack(self, layer: LayerFile) -> None:
        """Write all wheels into `layer`.

        Raises:
            ImageError: a wheel is broken, or a path in it leads out.
        """
        for path in self.files:
            try:
                with zipfile.ZipFile(path) as archive:
                    self._unpack(archive, layer)
            except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, UnicodeDecodeError, configparser.Error) as error:
                raise ImageError(f"the wheel {path.name} is broken: {error}", remedy=f"rm {path}   and build again") from error

    def _unpack(self, archive: zipfile.ZipFile, layer: LayerFile) -> None:
        if sum(item.file_size for item in archive.infolist()) > _LARGEST:
            raise ImageError(f"the wheel {archive.filename} unpacks to more than {_LARGEST} bytes")
        for item in sorted(archive.infolist(), key=lambda entry: entry.filename):
            if item.is_dir():
                continue
            name, script = self._place(check_path(item.filename, "the wheel's entry"))
            if not name:
                continue
            data = archive.read(item)
            if script:
                data = re.sub(rb"\A#!python[^\n]*", b"#!/usr/bin/python3", data)
            executable = script or bool(item.external_attr >> 16 & stat.S_IXUSR)
            layer.file(name, data, 0o755 if executable else 0o644)
            if name.endswith(".dist-info/entry_points.txt"):
                self._commands(data.decode(), layer)

    def _place(self, path: str) -> tuple[str, bool]:
        """Return (path in the image, whether it is a script); an empty path: left out."""
        top, _, rest = path.partition("/")
        if not top.endswith(".data"):
            return f"{self.target.strip('/')}/{path}", False
        kind, _, name = rest.partition("/")
        if kind == "headers" or not name:
            return "", False
        folder = {"purelib": self.target, "platlib": self.target, "scripts": "/usr/local/bin", "data": "/usr/local"}.get(kind)
        if folder is None:
            raise ImageError(f"the wheel's entry {path!r} is of the unknown kind {kind!r}")
        return f"{folder.strip('/')}/{name}", kind == "scripts"

    def _commands(self, text: str, layer: LayerFile) -> None:
        parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
        parser.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their case
        parser.read_string(text)
        for name, value in sorted(parser.items("console_scripts")) if parser.has_section("console_scripts") else ():
            match = re.fullmatch(r"([\w.]+)\s*:\s*([\w.]+)\s*(?:\[.*\])?", value)
            if not match or not re.fullmatch(r"[\w.-]+", name):
                continue
            first = match[2].split(".")[0]
            script = f"#!/usr/bin/python3\nimport sys\nfrom {match[1]} import {first}\n\nsys.exit({match[2]}())\n"
            layer.file(f"usr/local/bin/{name}", script.encode(), 0o755)
