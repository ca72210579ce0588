"""The files that a recipe puts into its image: found below its folder, hashed for the key, written into a layer."""

from __future__ import annotations

import glob
import hashlib
import os
import stat
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from pytest_sealed.images.layerfile import LayerFile
    from pytest_sealed.images.recipe import FileItem, Recipe, Step

__all__ = ["Placed", "digest_of", "place_files", "write_files"]

_IGNORED = ("__pycache__", ".git", ".DS_Store")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """One file, folder or link on its way into the image."""

    name: str
    """Path in the image, without the leading `/`."""
    item: FileItem
    source: str = ""
    """Absolute path on the host; empty: the item's text or link."""


def place_files(recipe: Recipe, step: Step) -> list[Placed]:
    """Return what the files of a step are, sorted by their path in the image.

    Raises:
        RecipeError: a source isn't there, or a pattern matches nothing.
    """
    found: dict[str, Placed] = {}
    for item in step.files:
        for placed in _expand(recipe, item):
            found[placed.name] = placed
    return [found[name] for name in sorted(found)]


def _expand(recipe: Recipe, item: FileItem) -> list[Placed]:
    target = item.target.strip("/")
    if not item.source:
        if not target or item.target.endswith("/"):
            raise recipe.error(item.key, f"files: {item.target!r} must name a file")
        return [Placed(name=target, item=item)]
    full = recipe.resolve(item.key, item.source)
    pattern = glob.has_magic(item.source)
    sources = sorted(glob.glob(full, recursive=True)) if pattern else [full] if os.path.lexists(full) else []
    if not sources:
        what = "the pattern matches nothing" if pattern else "there is no such file"
        raise recipe.error(item.key, f"files: {item.source!r}: {what} ({full})")
    inside = item.target.endswith("/") or pattern
    found: list[Placed] = []
    for source in sources:
        name = f"{target}/{os.path.basename(source)}".strip("/") if inside else target
        found.extend(_walk(recipe, item, source, name))
    return found


def _walk(recipe: Recipe, item: FileItem, source: str, name: str) -> list[Placed]:
    mode = os.lstat(source).st_mode
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise recipe.error(item.key, f"files: {source} is neither a file nor a folder nor a link")
    found = [Placed(name=name, item=item, source=source)] if name else []
    if stat.S_ISDIR(mode):
        for entry in sorted(os.listdir(source)):
            if entry not in _IGNORED:
                found.extend(_walk(recipe, item, os.path.join(source, entry), f"{name}/{entry}".strip("/")))
    return found


def digest_of(files: list[Placed]) -> str:
    """Return a digest of names, modes and contents."""
    digest = hashlib.sha256()
    for placed in files:
        facts = [placed.name, placed.item.user, placed.item.mode, placed.item.link, placed.item.text]
        if placed.source:
            status = os.lstat(placed.source)
            facts += [stat.S_IFMT(status.st_mode), bool(status.st_mode & stat.S_IXUSR)]
            if stat.S_ISLNK(status.st_mode):
                facts.append(os.readlink(placed.source))
            elif stat.S_ISREG(status.st_mode):
                with open(placed.source, "rb") as file:
                    facts.append(hashlib.sha256(file.read()).hexdigest())
        digest.update(repr(facts).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def write_files(layer: LayerFile, files: list[Placed], owner: Callable[[FileItem], tuple[int, int]], real: Callable[[str], str]) -> None:
    """Write the files into `layer`.

    Args:
        owner: tells the (uid, gid) of an item's user.
        real: turns a path into the one without the image's links at its top (`bin/x` into `usr/bin/x`).
    """
    for placed in files:
        name, (uid, gid) = real(placed.name), owner(placed.item)
        entry = tarfile.TarInfo(name)
        entry.uid, entry.gid = uid, gid
        if not placed.source:
            _write_made(layer, placed.item, entry)
            continue
        status = os.lstat(placed.source)
        entry.mode = placed.item.mode if placed.item.mode is not None else 0o755 if status.st_mode & stat.S_IXUSR else 0o644
        if stat.S_ISDIR(status.st_mode):
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            layer.add(entry)
        elif stat.S_ISLNK(status.st_mode):
            entry.type, entry.linkname = tarfile.SYMTYPE, os.readlink(placed.source)
            layer.add(entry)
        else:
            with open(placed.source, "rb") as content:
                entry.size = os.fstat(content.fileno()).st_size
                layer.add(entry, content)


def _write_made(layer: LayerFile, item: FileItem, entry: tarfile.TarInfo) -> None:
    if item.link:
        entry.type, entry.linkname = tarfile.SYMTYPE, item.link
        layer.add(entry)
        return
    layer.file(entry.name, (item.text or "").encode(), item.mode if item.mode is not None else 0o644, entry.uid, entry.gid)
