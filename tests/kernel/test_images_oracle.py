"""A layer out of packages against what mmdebstrap and dpkg make of the same .debs, file by file."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

from pytest_sealed.images.apt import Apt
from pytest_sealed.images.build import Builder
from pytest_sealed.images.deb import Deb
from pytest_sealed.images.debs import is_slim
from pytest_sealed.images.recipe import load_recipe
from pytest_sealed.images.store import Store

# With programs that set the user's or group's id, hard links, links out of their folder, and folders of other groups.
PACKAGES = ("base-files", "passwd", "perl-base")
RECIPE = f'schema = 1\nname = "oracle"\n[base]\ndebian = "bookworm"\npackages = {json.dumps(PACKAGES)}\n'
APART = re.compile(r"(bin|sbin|lib|lib64|dev|proc|sys|run|tmp|var/tmp|root|etc|usr/local/bin|home|opt|srv|mnt|usr/lib64|usr/local|"
                   r"etc/(fstab|passwd|group|shadow|gshadow|nsswitch\.conf|hostname|resolv\.conf|machine-id))|"
                   r"(etc/apt|etc/dpkg|var/lib/apt|var/lib/dpkg|var/cache/apt|var/log/apt|dev)(/.*)?")
"""What one of them has besides: accounts and folders that every image has, and apt's and dpkg's own."""


@dataclass(frozen=True)
class Entry:
    """What counts of a file: kind, mode, owner, and what it says or leads to. Times are all the same in a layer of ours."""

    kind: bytes
    mode: int
    owner: tuple[int, int]
    content: str


def entries(tar: tarfile.TarFile) -> dict[str, Entry]:
    """Return what a tar of a root file system has, by its path where /bin and the like lead into /usr. Hard links are what they lead to."""
    found: dict[str, Entry] = {}
    for member in tar:
        name = re.sub(r"^(bin|sbin|lib|lib64)/", r"usr/\1/", member.name.removeprefix("./").strip("/"))
        source = tar.extractfile(member) if member.isreg() or member.islnk() else None
        content = sha256(source.read()).hexdigest() if source is not None else member.linkname
        kind = tarfile.REGTYPE if source is not None else member.type
        if name != ".":
            found[name] = Entry(kind, member.mode, (member.uid, member.gid), content)
    return found


def repository(folder: Path, files: list[str]) -> str:
    """Write a flat repository of .debs; return its line for apt."""
    folder.mkdir()
    rows = []
    for file in files:
        (folder / os.path.basename(file)).symlink_to(file)
        with Deb(file) as deb:
            data = Path(file).read_bytes()
            rows.append(f"{deb.control().decode().rstrip()}\nFilename: ./{os.path.basename(file)}\nSize: {len(data)}\n"
                        f"SHA256: {sha256(data).hexdigest()}\n")
    (folder / "Packages").write_text("\n".join(rows))
    return f"deb [trusted=yes] copy:{folder} ./"


@pytest.mark.skipif(os.geteuid() != 0, reason="mmdebstrap of an ordinary account can't read what is the account's own")
def test_packages_are_unpacked_as_mmdebstrap_does(new_store: Callable[[], Store], tmp_path: Path) -> None:
    """What is built from a lock has the same bits as this: see test_lock.py."""
    (tmp_path / "image.toml").write_text(RECIPE)
    made = new_store()
    Builder(made).build(load_recipe(str(tmp_path)))
    debs = [package.file for package in Apt(str(made.folders.cache / "debian"), "bookworm").fetch(PACKAGES)]
    subprocess.run([sys.executable, "-m", "pytest_sealed.cli", "save", "-q", "oracle", tmp_path / "image.tar"], check=True,
                   env={**os.environ, "SEALED_STORE": str(made.root)})
    with tarfile.open(tmp_path / "image.tar") as archive:
        [name] = json.load(archive.extractfile("manifest.json") or io.BytesIO())[0]["Layers"]
        with tarfile.open(fileobj=archive.extractfile(name)) as tar:
            ours = entries(tar)

    subprocess.run(["mmdebstrap", "--quiet", "--variant=extract", "--mode=root",
                    f"--include={','.join(Path(deb).name.partition('_')[0] for deb in debs)}", "bookworm", tmp_path / "theirs.tar",
                    repository(tmp_path / "debs", debs)], check=True)
    with tarfile.open(tmp_path / "theirs.tar") as tar:
        theirs = entries(tar)
    packaged = {name: entry for name, entry in ours.items() if not APART.fullmatch(name)}
    assert len(packaged) > 1000
    assert packaged == {name: entry for name, entry in theirs.items() if not APART.fullmatch(name) and not is_slim(f"/{name}")}
