"""What the virtual machines start from, made once and kept outside the checkout: kernels, root disks, and the disk of image stores.

`python tests/vm/disks.py` makes what is missing, as root; `.ci/setup vm` calls it. Each thing lies in a folder whose name has a hash
of all that it is made from, so an old one is never wrong; `rm -r` the cache to have newer Debian packages.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import alpine

from pytest_sealed.images.apt import Apt
from pytest_sealed.images.apt_sources import acquire_options, sources_for
from pytest_sealed.images.build import Builder
from pytest_sealed.images.construct import FORMAT
from pytest_sealed.images.finder import find_recipe
from pytest_sealed.images.store import Store
from pytest_sealed.runtime.idmap import IdMap

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["CHECKOUT", "GUEST", "KERNELS", "ROOTS", "ROOT_PARTITION", "Disks", "cache"]

CHECKOUT = Path(__file__).resolve().parents[2]
GUEST = Path(__file__).resolve().parent / "guest"

KERNELS = ("bullseye", "bookworm", "trixie", "trixie-backports")
"""Debian suites whose cloud kernel a cell may ask for: 5.10, 6.1, 6.12, and the newest."""

ROOTS = {"bookworm": "3.11", "engines": "3.11", "trixie": "3.13", "alpine": "3.13"}
"""Root → its Python. Debian releases, Alpine, and bookworm with Docker's engine and Podman."""

ROOT_PARTITION = "5ea1ed00-01"
"""What the kernel calls the partition of a root."""

_PACKAGES = (
    "apparmor", "apt", "dbus", "dbus-user-session", "debian-archive-keyring", "iproute2", "kmod", "libpam-systemd", "mmdebstrap", "procps",
    "python3", "python3-venv", "sudo", "systemd-sysv", "uidmap",
)
_ENGINES = ("containerd", "crun", "docker.io", "podman", "runc")
_IMAGES = ("busybox", "python", "postgres", "redis", "nginx", "shop-web")
_SINGLE = ("busybox", "python", "postgres", "redis", "shop-web")   # nginx's files have several owners
_RANGE = (100000, 65536)   # the ordinary account's, in the guests' /etc/subuid: see guest/customize


def cache() -> Path:
    """Return the folder of all disks."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return Path(base if os.path.isabs(base) else os.path.expanduser("~/.cache")) / "pytest-sealed" / "vm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Disks:
    """The files that one guest starts from; they may not exist yet."""

    kernel: Path
    modules: Path
    root: Path
    stores: Path

    @classmethod
    def of(cls, kernel: str, root: str) -> Disks:
        """Return those of a kernel's suite and a root's release."""
        there = _kernel_folder(kernel)
        return cls(kernel=there / "vmlinuz", modules=there / "modules.img", root=_root_folder(root) / "root.img",
                   stores=_stores_folder() / "stores.img")

    def missing(self) -> list[Path]:
        return [path for path in (self.kernel, self.modules, self.root, self.stores) if not path.exists()]


def _hash(*facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:16]


def _texts(*paths: Path) -> list[str]:
    return [path.read_text() for path in paths]


def _kernel_folder(suite: str) -> Path:
    return cache() / f"kernel-{suite}-{_hash(1, suite)}"


def _root_folder(name: str) -> Path:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    facts = [project["project"].get(key) for key in ("dependencies", "scripts", "entry-points")]
    facts += [project["dependency-groups"][key] for key in ("demo", "vm")]
    made_of = [alpine.PACKAGES, *_texts(Path(alpine.__file__))] if name == "alpine" else _packages(name)
    return cache() / f"root-{name}-{_hash(2, name, made_of, facts, _texts(GUEST / 'customize', GUEST / 'start'))}"


def _packages(name: str) -> tuple[str, ...]:
    return _PACKAGES + _ENGINES * (name == "engines")


def _stores_folder() -> Path:
    recipes = sorted(path for top in ("fixture-images", "docs/examples/shop/fixture-images", "docs/examples/shop/shop")
                     for path in (CHECKOUT / top).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    names = [str(path.relative_to(CHECKOUT)) for path in recipes]
    return cache() / f"stores-{_hash(FORMAT, _IMAGES, _SINGLE, _RANGE, names, _texts(*recipes))}"


# making them --------------------------------------------------------------------------------------


def _say(text: str) -> None:
    print(f"\033[1m==> {text}\033[0m", file=sys.stderr, flush=True)


def _make(folder: Path, what: str, build: Callable[[Path], None]) -> None:
    """Have `build` fill a folder, which takes its name when it is whole."""
    if folder.is_dir():
        return
    _say(f"{what}, once: {folder}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.") as work:
        fresh = Path(work, "new")
        fresh.mkdir()
        build(fresh)
        os.rename(fresh, folder)
    for older in folder.parent.glob(f"{folder.name.rpartition('-')[0]}-{'?' * 16}"):
        if older != folder:
            shutil.rmtree(older)   # files of ours only: disks, not what is on them


def _disk(tree: Path, path: Path, spare: int, *, offset: int = 0) -> None:
    """Write an ext4 disk with what is in a folder and `spare` MiB free, from `offset` MiB on; the file is sparse."""
    def count(*options: str) -> int:
        return int(subprocess.run(["du", "-s", *options, str(tree)], check=True, capture_output=True, text=True).stdout.split()[0])
    inodes = count("--inodes") + spare * 64
    size = count("-m") * 11 // 10 + inodes // 4096 + spare + 8
    with open(path, "wb") as file:
        file.truncate((offset + size) * 2**20)
    _run("mke2fs", "-q", "-t", "ext4", "-m", "0", "-O", "^has_journal", "-N", str(inodes), "-E", f"offset={offset * 2**20}",
         "-d", str(tree), str(path), f"{size}M")


def _root_disk(tree: Path, path: Path) -> None:
    """Write a root's disk, in a partition: newer kernels name disks in any order, and find one by the table's number, `ROOT_PARTITION`."""
    _disk(tree, path, 2048, offset=1)
    with open(path, "r+b") as file:
        sectors = path.stat().st_size // 512 - 2048
        file.write(struct.pack("<440xI2x4x4BII48xH", int(ROOT_PARTITION[:8], 16), 0x83, 0, 0, 0, 2048, sectors, 0xAA55))


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def _mirror(suite: str) -> str:
    """Return the address of this host's Debian mirror, which has every suite."""
    match = re.search(r"(?m)^URIs: (\S+)", sources_for(suite.partition("-")[0]))
    assert match
    return match[1]


def _kernel(suite: str) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        if suite != "bookworm":   # a suite of its own, such as backports; the host's sources have the updates of its own release
            os.environ["SEALED_DEBIAN_MIRROR"] = _mirror(suite)
        try:
            found = Apt(str(cache() / "debian"), suite).fetch(
                ("linux-image-cloud-amd64",), ("kmod", "linux-base", "initramfs-tools", "linux-initramfs-tool", "usr-is-merged"))
        finally:
            os.environ.pop("SEALED_DEBIAN_MIRROR", None)
        tree = folder / "tree"
        for package in found:   # newer suites have it in several
            _run("dpkg-deb", "-x", package.file, str(tree))
        if (tree / "usr/lib/modules").is_dir():   # where newer packages have them, and depmod doesn't look
            shutil.move(tree / "usr/lib/modules", tree / "lib/modules")
        version = next((tree / "lib/modules").iterdir()).name
        _run("depmod", "--basedir", str(tree), version)
        shutil.move(next(tree.rglob("vmlinuz*")), folder / "vmlinuz")
        _disk(tree / "lib/modules", folder / "modules.img", 16)
        (folder / "version").write_text(f"{version}\n")
        shutil.rmtree(tree)
    return build


def _root(name: str) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        wheels, tree = folder / "wheels", folder / "tree"
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--quiet"]
        _run(*pip, "wheel", "--no-deps", "--wheel-dir", str(wheels), str(CHECKOUT))
        own = next(wheels.glob("pytest_sealed-*.whl"))
        platform = alpine.PIP if name == "alpine" else ()
        subprocess.run([*pip, "download", "--only-binary", ":all:", "--python-version", ROOTS[name], *platform, "--dest", str(wheels),
                        str(own), "--group", "vm"], check=True, cwd=CHECKOUT, stdin=subprocess.DEVNULL)
        tree.mkdir()
        if name == "alpine":
            _alpine_tree(tree, wheels)
        else:
            _debian_tree(name, tree, wheels)
        _root_disk(tree, folder / "root.img")
        for path in (tree, wheels):
            shutil.rmtree(path)
    return build


def _debian_tree(name: str, tree: Path, wheels: Path) -> None:
    suite = "bookworm" if name == "engines" else name
    options = [word for line in acquire_options().splitlines() for word in ("--aptopt", line)]
    archive = tree.with_name("root.tar")
    command = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={','.join(_packages(name))}", *options,
               "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/doc/*",
               f"--customize-hook=sh {GUEST}/customize \"$1\" {wheels} {GUEST}/start", suite, str(archive), "-"]
    subprocess.run(command, input=sources_for(suite), text=True, check=True)
    _run("tar", "-x", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-f", str(archive), "-C", str(tree))
    archive.unlink()


def _alpine_tree(tree: Path, wheels: Path) -> None:
    libffi = next(package for package in Apt(str(cache() / "debian"), "bookworm").fetch(("libffi8",)) if package.name == "libffi8")
    alpine.unpack(tree, Path(libffi.file))
    _run("sh", str(GUEST / "customize"), str(tree), str(wheels), str(GUEST / "start"))


def _stores(folder: Path) -> None:
    """Build all images for root's id map, for the ordinary account's and for single-id mode."""
    os.chdir(CHECKOUT / "docs/examples/shop")   # where its recipe is found
    for name, ids, images in (
        ("root", IdMap("root", 0, 0, 0x70000000, 0x70000000, _RANGE[1]), _IMAGES),
        ("root", IdMap("single", 0, 0), _SINGLE[:1]),
        ("tester", IdMap("root", 0, 0, *_RANGE[:1] * 2, _RANGE[1]), _IMAGES),
        ("tester", IdMap("single", 0, 0), _SINGLE),
    ):
        builder = Builder(Store(cache() / "stores" / name, ids=ids))
        for image in images:
            _say(f"  {name}, {ids.mode} {ids.uid_start or ''}: {image}")
            builder.build(find_recipe(image))
    tree = folder / "tree"
    _run("cp", "-a", str(cache() / "stores"), str(tree))   # builds go on from what there is, so that stays as it is
    _run("chown", "-R", "--from=0:0", "1000:1000", str(tree / "tester"))   # what belongs to the account, not to the ids of containers
    for name in ("root", "tester"):
        shutil.rmtree(tree / name / "cache" / "wheels")
    _disk(tree, folder / "stores.img", 512)
    shutil.rmtree(tree)


def main(kernels: Iterable[str] = KERNELS, roots: Iterable[str] = tuple(ROOTS)) -> None:
    """Make what is missing."""
    for suite in kernels:
        _make(_kernel_folder(suite), f"kernel of Debian {suite}", _kernel(suite))
    for suite in roots:
        _make(_root_folder(suite), f"root disk: {suite}", _root(suite))
    _make(_stores_folder(), "image stores of the guests", _stores)


if __name__ == "__main__":
    main()
