"""Runs inside U0: lists the packages that an image holds, with their licences. See `pack` and `launch.run_inside`."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from typing import Any

from pytest_sealed.images.merged import mount_layers
from pytest_sealed.images.streams import write_rows
from pytest_sealed.linux.files import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2

__all__ = ["main"]

_MOST = 1 << 20          # bytes of a licence
_LARGEST = 64 << 20      # bytes of a package database
_PACKAGES = 20_000
_INSIDE = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
_LICENCE = re.compile(r"(?i)(?:licen[cs]e|copying|notice)[\w.-]*", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]*")   # it becomes part of a path


def main(payload: dict[str, Any]) -> dict[str, Any]:
    """Write a line of JSON for each package into the first fd: kind (deb, apk, pypi), name, version, source, architecture, licences (a
    table of file names and texts). The first line is the distribution, as os-release has it: id and version.

    Payload: layers (topmost first), work (an empty folder of the store).

    Raises:
        HostUnsupported: no overlay can be mounted.
    """
    root = mount_layers(f"{payload['work']}/image", payload["layers"])
    system = _fields(_text(root, "etc/os-release") or _text(root, "usr/lib/os-release"), "=")
    version = system.get("VERSION_CODENAME") or system.get("VERSION_ID", "")
    packages = [*_debian(root), *_alpine(root), *_python(root)][:_PACKAGES]
    write_rows(payload["fds"][0], [{"id": system.get("ID", ""), "version": version},
                                   *(package for package in packages if _NAME.fullmatch(package["name"]))])
    return {}


def _debian(root: int) -> Iterator[dict[str, Any]]:
    """Yield dpkg's packages: of its own database, and of the one that images without dpkg have. See dpkg(1)."""
    texts = [_text(root, "var/lib/dpkg/status", _LARGEST)]
    folder = "var/lib/dpkg/status.d"
    texts += [_text(root, f"{folder}/{name}") for name in _names(root, folder) if not name.endswith(".md5sums")]
    for paragraph in re.split(r"\n\s*\n", "\n\n".join(texts)):
        fields = _fields(paragraph, ":")
        if not fields.get("Package") or not fields.get("Version") or "not-installed" in fields.get("Status", ""):
            continue
        name, version = fields["Package"], fields["Version"]
        source, _, source_version = fields.get("Source", name).partition(" ")
        text = _text(root, f"usr/share/doc/{name}/copyright")
        yield {"kind": "deb", "name": name, "version": version, "architecture": fields.get("Architecture", ""), "source": source,
               "source_version": source_version.strip("()") or version, "licences": {"copyright": text} if text else {}}


def _alpine(root: int) -> Iterator[dict[str, Any]]:
    """Yield apk's packages, which come without texts of licences. See Alpine's apk_spec."""
    for paragraph in _text(root, "lib/apk/db/installed", _LARGEST).split("\n\n"):
        fields = _fields(paragraph, ":")
        if fields.get("P") and fields.get("V"):
            yield {"kind": "apk", "name": fields["P"], "version": fields["V"], "architecture": fields.get("A", ""),
                   "source": fields.get("o", fields["P"]), "source_version": fields["V"], "licences": {}}


def _python(root: int) -> Iterator[dict[str, Any]]:
    """Yield Python's packages that no other package manager has put there."""
    for base in ("usr/lib", "usr/local/lib"):
        for version in _names(root, base):
            if not re.fullmatch(r"python3(?:\.\d+)?", version):
                continue
            for place in ("dist-packages", "site-packages"):
                folder = f"{base}/{version}/{place}"
                if base == "usr/lib" and place == "dist-packages":
                    continue   # Debian's own
                yield from _distributions(root, folder)


def _distributions(root: int, folder: str) -> Iterator[dict[str, Any]]:
    for name in _names(root, folder):
        if not name.endswith(".dist-info"):
            continue
        fields = _fields(_text(root, f"{folder}/{name}/METADATA").partition("\n\n")[0], ":")
        if fields.get("Name") and fields.get("Version"):
            licences = {}
            for place in (f"{folder}/{name}", f"{folder}/{name}/licenses"):
                licences.update({file: _text(root, f"{place}/{file}") for file in _names(root, place) if _LICENCE.fullmatch(file)})
            yield {"kind": "pypi", "name": fields["Name"], "version": fields["Version"], "architecture": "", "source": fields["Name"],
                   "source_version": fields["Version"], "licences": {file: text for file, text in licences.items() if text}}


def _fields(text: str, separator: str) -> dict[str, str]:
    """Return the one-line fields of a paragraph."""
    rows = (line.partition(separator) for line in text.splitlines() if line[:1] not in (" ", "\t", "#"))
    return {key.strip(): value.strip().strip('"') for key, found, value in rows if found}


def _text(root: int, path: str, most: int = _MOST) -> str:
    """Return the text of a file, as the image's own programs would find it; empty: there is none, or it is too large."""
    try:
        fd = openat2(root, path, os.O_RDONLY | os.O_NONBLOCK, resolve=_INSIDE)
    except OSError:
        return ""
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > most:
            return ""
        with open(fd, "rb", closefd=False) as file:
            return file.read().decode("utf-8", "replace")
    finally:
        os.close(fd)


def _names(root: int, path: str) -> list[str]:
    try:
        fd = openat2(root, path, os.O_RDONLY | os.O_DIRECTORY, resolve=_INSIDE)
    except OSError:
        return []
    try:
        return sorted(os.listdir(fd))
    finally:
        os.close(fd)
