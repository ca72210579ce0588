"""Resolves and fetches Debian packages by the host's apt, with a state directory of our own and no privileges."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

from filelock import FileLock

from pytest_sealed.errors import ImageError, nearest
from pytest_sealed.images.apt_sources import acquire_options, sources_for

__all__ = ["Apt", "Package", "deb_name", "matches"]

_FRESH = 24 * 3600   # seconds for which package lists count as current


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A package and the file that holds it."""

    name: str
    version: str
    architecture: str
    path: str
    """Where a mirror has it, below its address: `pool/main/…`."""
    size: int
    """Bytes of the .deb."""
    sha256: str
    """Of the .deb, 64 digits."""
    file: str = ""
    """Absolute path of the .deb here; empty: it hasn't been fetched."""


@final
class Apt:
    """A Debian release as this host's apt sees it; package lists and .debs are kept in `root`.

    Args:
        say: is told what is being fetched.
        fresh: fetch the package lists anew, however old they are.
    """

    def __init__(self, root: str, suite: str, say: Callable[[str], None] = lambda _text: None, *, fresh: bool = False) -> None:
        self.suite, self.say, self._fresh = suite, say, fresh
        try:
            self.architecture = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError) as error:
            raise ImageError("building from Debian packages needs apt and dpkg on this host",
                             remedy="build on a Debian or Ubuntu machine") from error
        self.root = os.path.join(root, f"{suite}-{self.architecture}")
        self.archives = os.path.join(self.root, "archives")

    def fetch(self, packages: tuple[str, ...], omit: tuple[str, ...] = ()) -> list[Package]:
        """Return `packages` and all that they depend on, downloaded. Recommends are left out.

        Raises:
            ImageError: an unknown package (names the nearest), no answer from the mirror, or unmet dependencies.
        """
        os.makedirs(self.root, exist_ok=True)
        with FileLock(f"{self.root}/lock"):
            self._configure(omit)
            self._update(force=self._fresh)
            try:
                return self._download(packages)
            except ImageError as first:
                stale = "404" in first.message or "has no package" in first.message or "Depends" in first.message
                if not stale or time.time() - os.path.getmtime(f"{self.root}/updated") < 60:
                    raise
                try:
                    self._update(force=True)   # the mirror may have replaced or added a version since
                except ImageError:
                    raise first from None
                return self._download(packages)

    def _configure(self, omit: tuple[str, ...]) -> None:
        for folder in ("etc/apt.conf.d", "etc/preferences.d", "etc/sources.list.d", "lists/partial", "archives/partial"):
            os.makedirs(f"{self.root}/{folder}", exist_ok=True)
        settings = {
            "Dir": "/", "Dir::Etc": f"{self.root}/etc", "Dir::Etc::parts": "apt.conf.d", "Dir::Etc::sourceparts": "sources.list.d",
            "Dir::Etc::trusted": "/etc/apt/trusted.gpg", "Dir::Etc::trustedparts": "/etc/apt/trusted.gpg.d",
            "Dir::State": self.root, "Dir::State::lists": f"{self.root}/lists", "Dir::State::status": f"{self.root}/status",
            "Dir::State::extended_states": f"{self.root}/extended_states",
            "Dir::Cache": self.root, "Dir::Cache::archives": self.archives, "Dir::Log": self.root,
            "APT::Architecture": self.architecture, "APT::Architectures": self.architecture,
            "APT::Sandbox::User": "root",   # don't change to _apt, who can't read this folder
            "APT::Install-Recommends": "false", "APT::Get::Assume-Yes": "true", "Acquire::Languages": "none", "Acquire::Retries": "3",
            "Quiet::NoUpdate": "true", "Debug::NoLocking": "true",
        }
        self._write("apt.conf", "".join(f'{key} "{value}";\n' for key, value in settings.items()) + acquire_options())
        self._write("etc/sources.list.d/debian.sources", sources_for(self.suite))
        self._write("status", "".join(
            f"Package: {name}\nStatus: install ok installed\nArchitecture: {self.architecture}\nMulti-Arch: allowed\n"
            f"Version: 9999:0\nMaintainer: omitted <omitted@localhost>\nDescription: omitted\n\n" for name in omit))

    def _write(self, name: str, text: str) -> None:
        with open(f"{self.root}/{name}", "w", encoding="utf-8") as file:
            file.write(text)

    def _run(self, *argv: str) -> str:
        environment = {**os.environ, "APT_CONFIG": f"{self.root}/apt.conf", "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
        result = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment, stdin=subprocess.DEVNULL)
        if result.returncode:
            raise ImageError(self._explain(argv, result.stdout, result.stderr), remedy=(
                "check the recipe's packages, this host's apt sources and its network; SEALED_DEBIAN_MIRROR names another mirror"))
        return result.stdout

    def _explain(self, argv: tuple[str, ...], out: str, err: str) -> str:
        missing = re.search(r"Unable to locate package (\S+)|Package '?(\S+?)'? has no installation candidate", err)
        if missing:
            name = missing[1] or missing[2]
            names = subprocess.run(["apt-cache", "pkgnames", name[:3]], capture_output=True, text=True, check=False,
                                   env={**os.environ, "APT_CONFIG": f"{self.root}/apt.conf"}).stdout.split()
            return f"Debian {self.suite} has no package {name!r}{nearest(name, names)}"
        unmet = re.findall(r"(?m)^ \S+ : .*$", out)
        reasons = [line.strip() for line in unmet] or [line for line in err.splitlines() if line.startswith("E:")] or err.splitlines()[-3:]
        return f"`{' '.join(argv[:2])}` for Debian {self.suite} failed: {'; '.join(reasons[:4])}"

    def _update(self, force: bool) -> None:
        stamp = f"{self.root}/updated"
        wanted = sources_for(self.suite)
        if not force and os.path.exists(stamp) and time.time() - os.path.getmtime(stamp) < _FRESH:
            with open(stamp, encoding="utf-8") as file:
                if file.read() == wanted:
                    return
        self.say(f"fetching the package lists of Debian {self.suite}")
        try:
            self._run("apt-get", "update", "-q", "-o", "APT::Update::Error-Mode=any")
        except ImageError:
            if force or not os.path.exists(stamp):
                raise
            self.say("the mirror did not answer; going on with the package lists of before")
            return
        self._write("updated", wanted)

    def _download(self, packages: tuple[str, ...]) -> list[Package]:
        plan = self._run("apt-get", "install", "--simulate", "-q", "usr-is-merged", *packages)
        found = re.findall(r"(?m)^Inst ([^\s:]+)\S* (?:\[\S+\] )?\((\S+) .*\[(\w+)\]\)", plan)
        result = [self._known(row) for row in self._show(found)]
        missing = [package for package in result if not os.path.exists(package.file)]
        if missing:
            self.say(f"fetching {len(missing)} of {len(result)} packages")
            self._run("apt-get", "install", "--download-only", "-q", "usr-is-merged", *packages)
        for package in result:
            if not matches(package.file, package):
                raise ImageError(f"{package.file} isn't {package.name} {package.version} as the mirror's list has it",
                                 remedy=f"rm -f {package.file}   and build again")
        return sorted(result, key=lambda package: package.name)

    def _show(self, found: list[tuple[str, str, str]]) -> Iterator[dict[str, str]]:
        """Yield what the lists say of each (name, version, architecture)."""
        text = self._run("apt-cache", "show", *(f"{name}={version}" for name, version, _ in found))
        rows = [dict(re.findall(r"(?m)^([\w-]+): (.*)$", block)) for block in text.split("\n\n")]
        by_name = {(row.get("Package"), row.get("Version"), row.get("Architecture")): row for row in rows}
        for key in found:
            row = by_name.get(key, {})
            if not {"Filename", "Size", "SHA256"} <= set(row):
                raise ImageError(f"the package lists of Debian {self.suite} don't say where {key[0]} {key[1]} is, or its SHA256")
            yield row

    def _known(self, row: dict[str, str]) -> Package:
        name, version, architecture = row["Package"], row["Version"], row["Architecture"]
        return Package(name=name, version=version, architecture=architecture, path=row["Filename"], size=int(row["Size"]),
                       sha256=row["SHA256"], file=f"{self.archives}/{deb_name(name, version, architecture)}")


def deb_name(name: str, version: str, architecture: str) -> str:
    """Return what apt calls the file of a package."""
    return f"{name}_{version.replace(':', '%3a')}_{architecture}.deb"


def matches(path: str, package: Package) -> bool:
    """Say whether the file at `path` is that package, by its digest."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size != package.size:
                return False
            digest = hashlib.sha256()
            while data := file.read(1 << 20):
                digest.update(data)
    except OSError:
        return False
    return digest.hexdigest() == package.sha256
