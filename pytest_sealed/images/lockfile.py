"""The file `sealed.lock`: which images a project runs on, exactly. The file's reference is docs/reference/lock.md."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from pytest_sealed.errors import ImageError, RecipeError, SpecError
from pytest_sealed.images.apt import Package
from pytest_sealed.images.manifest import Platform
from pytest_sealed.images.reference import check_digest, digest_of, encode, parse_reference
from pytest_sealed.images.schema import Source, Table

__all__ = ["LOCK", "LockedImage", "LockedLayer", "LockedWheel", "Lockfile", "find_lock", "load_lock"]

LOCK = "sealed.lock"
_VERSION = 1
_LARGEST = 16 << 20   # bytes; an image of 150 packages has 40,000
_HEAD = f"""\
# Which images this project runs on, exactly. Written by `sealed lock`: commit it, and don't edit it.
version = {_VERSION}
"""
_DEB = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_WHEEL = re.compile(r"[A-Za-z0-9][\w.+!-]*\.whl", re.ASCII)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LockedLayer:
    """A layer that a recipe makes."""

    diff_id: str
    reproducible: bool
    """Whoever makes it gets the same bits. Not so: what a [[state]] prepares."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LockedWheel:
    """A Python package of a recipe's."""

    file: str
    """Its name, without a folder."""
    sha256: str
    """64 digits."""

    @property
    def requirement(self) -> str:
        """The line of a requirements file that means it and nothing else."""
        name, version = self.file.split("-")[:2]
        return f"{name}=={version} --hash=sha256:{self.sha256}"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LockedImage:
    """One image for one platform."""

    name: str
    """What it's called in the store."""
    platform: str
    manifest: str
    """Digest of its manifest; of a recipe's image, where it was locked: others have it too if all layers are reproducible."""
    recipe: str = ""
    """Digest of the recipe with all its inputs; empty: it's no recipe's."""
    base: str = ""
    """The image that the recipe continues; empty: none."""
    layers: tuple[LockedLayer, ...] = ()
    """Those that the recipe makes above its base, the lowest first."""
    packages: tuple[Package, ...] = ()
    wheels: tuple[LockedWheel, ...] = ()
    pull: str = ""
    """Where a registry has it."""
    index: str = ""
    """Digest of the index that leads to the manifest; empty: none does."""
    source: str = ""
    """Where an image came from that is neither a recipe's nor a registry's, for people."""

    @property
    def identity(self) -> str:
        """What recipes that continue this image depend on: its digest, but for what isn't reproducible."""
        if not self.recipe:
            return self.manifest
        return digest_of(encode({"recipe": self.recipe, "layers": [layer.diff_id if layer.reproducible else "" for layer in self.layers]}))

    def made_of(self, diff_ids: Sequence[str]) -> bool:
        """Say whether layers are those that the recipe makes."""
        return len(diff_ids) == len(self.layers) and all(
            layer.diff_id == diff_id or not layer.reproducible for layer, diff_id in zip(self.layers, diff_ids, strict=True))


@final
class Lockfile:
    """What a lock holds.

    Args:
        path: of the file.
        images: in any order.
    """

    def __init__(self, path: Path, images: Iterable[LockedImage] = ()) -> None:
        self.path = path
        self.images = tuple(sorted(images, key=lambda image: (image.name, image.platform)))

    @property
    def root(self) -> str:
        """The project's folder."""
        return str(self.path.parent)

    def of(self, platform: str) -> dict[str, LockedImage]:
        """Return the images for a platform, by name."""
        return {image.name: image for image in self.images if image.platform == platform}

    def find(self, reference: str, platform: str) -> LockedImage | None:
        """Return the image that `reference` means, by the store's rules for names; None: it's none, or may be several."""
        images = self.of(platform)
        if reference in images:
            return images[reference]
        try:
            parsed = parse_reference(reference)
        except SpecError:
            return None
        if str(parsed) in images:
            return images[str(parsed)]
        found = [image for name, image in images.items() if not parsed.host and name.endswith(f"/{parsed}")]
        return found[0] if len(found) == 1 else None

    def text(self) -> str:
        """Return the file's content: the same for the same images."""
        return _HEAD + "".join(f"\n[[image]]\n{line}" for line in map(_text, self.images))

    def write(self) -> bool:
        """Write the file; return False if it's that already.

        Raises:
            ImageError: it can't be written.
        """
        data = self.text().encode()
        fresh = self.path.with_name(f".{LOCK}.{uuid.uuid4().hex}")
        try:
            if self.path.exists() and self.path.read_bytes() == data:
                return False
            fresh.write_bytes(data)
            os.replace(fresh, self.path)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            raise ImageError(f"{self.path} can't be written: {error.strerror}") from error
        return True


def find_lock(start: str | None = None) -> Path:
    """Return the path of the `sealed.lock` in a folder, by default the current one, or in the nearest above it.

    Raises:
        ImageError: there is none.
    """
    folder = Path(os.path.abspath(start or os.getcwd()))
    for path in (folder, *folder.parents):
        if (path / LOCK).is_file():
            return path / LOCK
    raise ImageError(f"there is no {LOCK} in {folder}, nor in a folder above", remedy="sealed lock   in the project's folder writes it")


def load_lock(path: Path) -> Lockfile:
    """Return the lock that is at `path`.

    Raises:
        ImageError: it can't be read, or isn't one; names file and line.
    """
    remedy = f"take back the last `{LOCK}` that worked, or remove it; then run `sealed lock`"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path} can't be read: {error.strerror}", remedy="sealed lock") from error
    try:
        source = Source.decode(os.path.relpath(path), data, most=_LARGEST)
        top = source.parse()
        if top.values.get("version") != _VERSION:
            top.fail("version", f"version = {top.values.get('version')!r} is unknown to this version of pytest-sealed")
        top.only("version", "image")
        images = [_image(table) for table in top.tables("image")]
        seen: set[tuple[str, str]] = set()
        for number, image in enumerate(images):
            if (image.name, image.platform) in seen:
                raise source.error(("image", number), f"{image.name} for {image.platform} is there twice")
            seen.add((image.name, image.platform))
    except RecipeError as error:
        raise ImageError(error.message, remedy=remedy) from error
    return Lockfile(path, images)


# reading


def _image(table: Table) -> LockedImage:
    table.only("name", "platform", "manifest", "recipe", "base", "layers", "packages", "wheels", "pull", "index", "source")
    name, platform = table.required("name"), table.required("platform")
    try:
        parse_reference(name)
        pull = table.string("pull")
        if pull:
            parse_reference(pull)
        Platform.parse(platform)
    except SpecError as error:
        table.fail("name", error.message)
    return LockedImage(
        name=name, platform=platform, manifest=_digest(table, "manifest", needed=True), recipe=_digest(table, "recipe"),
        base=table.string("base"), pull=pull, index=_digest(table, "index"), source=table.string("source"),
        layers=tuple(_layer(row) for row in table.tables("layers")), packages=tuple(_package(row) for row in table.tables("packages")),
        wheels=tuple(_wheel(row) for row in table.tables("wheels")),
    )


def _digest(table: Table, name: str, *, needed: bool = False) -> str:
    if not needed and name not in table:
        return ""
    value = table.required(name)
    try:
        return check_digest(value, name)
    except ImageError as error:
        table.fail(name, error.message)


def _sha256(table: Table) -> str:
    value = table.required("sha256")
    if not re.fullmatch(r"[0-9a-f]{64}", value):
        table.fail("sha256", f"sha256 = {value[:80]!r} is no digest of 64 digits")
    return value


def _layer(table: Table) -> LockedLayer:
    table.only("diff_id", "reproducible")
    return LockedLayer(diff_id=_digest(table, "diff_id", needed=True), reproducible=table.flag("reproducible", True))


def _package(table: Table) -> Package:
    table.only("name", "version", "architecture", "path", "size", "sha256")
    name, version, architecture = (table.required(key) for key in ("name", "version", "architecture"))
    path = table.required("path")
    if not (_DEB.fullmatch(name) and re.fullmatch(r"[\w.+:~-]+", version) and re.fullmatch(r"[a-z0-9]+", architecture)):
        table.fail("name", f"{name!r} {version!r} {architecture!r} is no package")
    if path.startswith("/") or ".." in path.split("/") or not re.fullmatch(r"[\w./+:~%-]+", path, re.ASCII):
        table.fail("path", f"path = {path!r} is no path below a mirror")
    return Package(name=name, version=version, architecture=architecture, path=path, size=table.integer("size", 0, 1, 1 << 40),
                   sha256=_sha256(table))


def _wheel(table: Table) -> LockedWheel:
    table.only("file", "sha256")
    file = table.required("file")
    if not _WHEEL.fullmatch(file) or file.count("-") < 4:
        table.fail("file", f"file = {file!r} is no wheel's name")
    return LockedWheel(file=file, sha256=_sha256(table))


# writing


def _text(image: LockedImage) -> str:
    words = ("name", "platform", "pull", "index", "source", "recipe", "base", "manifest")
    lines = [f"{key} = {_value(getattr(image, key))}" for key in words if getattr(image, key)]
    lines += _rows("layers", ({"diff_id": layer.diff_id, "reproducible": layer.reproducible} for layer in image.layers))
    lines += _rows("packages", ({"name": one.name, "version": one.version, "architecture": one.architecture, "path": one.path,
                                 "size": one.size, "sha256": one.sha256} for one in image.packages))
    lines += _rows("wheels", ({"file": wheel.file, "sha256": wheel.sha256} for wheel in image.wheels))
    return "\n".join(lines) + "\n"


def _rows(name: str, rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield an array of tables with a line for each, so that a change is a line of a diff."""
    lines = [f"    {{ {', '.join(f'{key} = {_value(value)}' for key, value in row.items())} }}," for row in rows]
    if lines:
        yield f"{name} = ["
        yield from lines
        yield "]"


def _value(value: str | int | bool) -> str:
    return json.dumps(value, ensure_ascii=False)   # as TOML has it: none of these holds a control character
