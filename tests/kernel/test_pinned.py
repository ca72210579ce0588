"""The example's project runs on a database that a lock file of Python packages pins: the page's commands, on an index of the test's."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest
from documents import ROOT, examples
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pytest_sealed.images.pack import pack_wheel
from pytest_sealed.images.store import Store

EXAMPLE = ROOT / "docs/examples/pinned"
PAGE = "docs/how-to/images-in-wheels.md"
LEFT_OUT = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")


def run(argv: list[str], folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "PYTHON"))}
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False,
                          env={**kept, "HOME": str(folder), "PIP_CONFIG_FILE": os.devnull, **env})


def installed(*roots: str) -> Iterator[str]:
    """Yield the names of installed packages, and of those that they need here."""
    todo, seen = list(map(Requirement, roots)), set()
    while todo:
        one = todo.pop()
        if str(one) not in seen:
            seen.add(str(one))
            yield one.name
            needs = map(Requirement, distribution(one.name).requires or ())
            todo += [need for need in needs if need.marker is None or any(
                need.marker.evaluate({"extra": extra}) for extra in ("", *one.extras))]


def packed_again(name: str, folder: Path) -> None:
    """Write the wheel that an installed package came as; without its scripts, which are made at an installation."""
    found = distribution(name)
    tags = [line.partition(": ")[2].split("-") for line in (found.read_text("WHEEL") or "").splitlines() if line.startswith("Tag: ")]
    [info] = {path.parts[0] for path in found.files or () if path.name == "METADATA"}
    rows = []
    tag = "-".join(".".join(dict.fromkeys(part)) for part in zip(*tags, strict=True))
    with zipfile.ZipFile(folder / f"{info.removesuffix('.dist-info')}-{tag}.whl", "w") as archive:
        for path in found.files or ():
            if ".." not in path.parts and path.suffix != ".pyc" and path.name not in LEFT_OUT:
                data = path.read_binary()
                archive.writestr(str(path), data)
                rows.append(f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n")
        archive.writestr(f"{info}/RECORD", "".join([*rows, f"{info}/RECORD,,\n"]))


def sha256_of(wheel: Path) -> str:
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with this account's Postgres as a wheel, and with all that the example needs besides."""
    folder = tmp_path_factory.mktemp("wheels")
    pack_wheel(Store(), "postgres", folder, version="15.1", level=1)
    done = run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], ROOT)
    assert done.returncode == 0, done.stderr
    for name in {*map(canonicalize_name, installed("psycopg[binary]", "pytest-sealed"))} - {"pytest-sealed"}:
        packed_again(name, folder)
    return folder


@pytest.fixture(scope="module")
def index(wheels: Path) -> str:
    """The URL of a folder of simple pages, see PEP 503."""
    for wheel in wheels.glob("*.whl"):
        page = wheels / "simple" / canonicalize_name(wheel.name.partition("-")[0])
        page.mkdir(parents=True)
        (page / wheel.name).hardlink_to(wheel)
        (page / "index.html").write_text(
            f'<!DOCTYPE html><html><body><a href="{wheel.name}#sha256={sha256_of(wheel)}">{wheel.name}</a></body></html>')
    return (wheels / "simple").as_uri()


@pytest.mark.usefixtures("several_ids")
@pytest.mark.parametrize(("tool", "lock", "said"), [
    ("pip-compile", "requirements.txt", "THESE PACKAGES DO NOT MATCH THE HASHES"),
    ("uv lock", "uv.lock", "Hash mismatch for `sealed-image-postgres==15.1`"),
])
def test_the_examples_project_runs_on_a_database_that_its_lock_file_pins(
        wheels: Path, index: str, tool: str, lock: str, said: str, new_store: Callable[[], Store], tmp_path: Path) -> None:
    """Resolved against the index, with hashes; refused with another hash; installed as the lock file says, run in an empty store."""
    [text] = [one.text for one in examples("sh") if one.page == PAGE and one.text.startswith(tool)]
    locking, *rest = text.splitlines()
    project = tmp_path / "project"
    project.mkdir()
    python = f"=={sys.version_info[0]}.{sys.version_info[1]}.*"   # the index has packages for this one
    (project / "pyproject.toml").write_text((EXAMPLE / "pyproject.toml").read_text().replace(">=3.10", python))
    (project / "test_database.py").write_text((EXAMPLE / "test_database.py").read_text())
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "own"], check=True)

    def shell(*lines: str) -> subprocess.CompletedProcess[str]:
        return run(["sh", "-ec", "\n".join(lines)], project, SEALED_STORE=str(store.root), PIP_INDEX_URL=index, UV_DEFAULT_INDEX=index,
                   UV_PYTHON=sys.executable, UV_PYTHON_DOWNLOADS="never", PIP_DISABLE_PIP_VERSION_CHECK="1",
                   PATH=f"{tmp_path}/own/bin:{os.path.dirname(sys.executable)}:{os.environ['PATH']}")
    store = new_store()
    done = shell(locking)
    assert done.returncode == 0, done.stderr
    [wheel] = wheels.glob("sealed_image_postgres-*.whl")
    written = (project / lock).read_text()
    assert len(re.findall(r"\bsha256:[0-9a-f]{64}\b", written)) == len(list(wheels.glob("*.whl")))
    (project / lock).write_text(written.replace(sha256_of(wheel), "0" * 64))
    done = shell(*rest)
    assert done.returncode != 0
    assert said in done.stderr
    (project / lock).write_text(written)
    done = shell(*rest)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    [name] = store.names()
    assert name.startswith("postgres@sha256:")
