"""What a recipe says, checked: frozen descriptions that know their place in the file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

if TYPE_CHECKING:
    from pytest_sealed.errors import RecipeError
    from pytest_sealed.images.recipe_config import ConfigChanges
    from pytest_sealed.images.schema import Key, Source

__all__ = ["Account", "Base", "FileItem", "PythonPackages", "Recipe", "State", "Step"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What the first layer is."""

    debian: str = ""
    """A Debian release's code name; or empty."""
    image: str = ""
    """The name of another recipe, whose image this one continues; or empty."""
    install: Literal["unpack", "configure"] = "unpack"
    """`unpack` runs no maintainer scripts; `configure` does (mmdebstrap)."""
    packages: tuple[str, ...] = ()
    omit: tuple[str, ...] = ()
    """Packages taken as installed, so that neither they nor what only they need come along."""
    exclude: tuple[str, ...] = ()
    """Patterns of paths that are left out. See `globs`."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A user of the image, and a group of the same name."""

    name: str
    uid: int
    gid: int
    home: str = "/"
    """Made, and owned by the user, unless it is `/`."""
    shell: str = "/bin/sh"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FileItem:
    """A file or folder put into the image."""

    target: str
    """Absolute path; a final `/` puts the source inside that folder under its own name."""
    source: str = ""
    """Path or pattern relative to the recipe's folder, within its project; or empty."""
    text: str | None = None
    """The file's content instead of a source."""
    mode: int | None = None
    """Permission bits; None: 0755 for what its owner can run, else 0644."""
    user: str = "root"
    link: str = ""
    """Make a symbolic link to this instead."""
    key: Key = ()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One layer: files put in, then commands run without a network, then paths removed."""

    files: tuple[FileItem, ...] = ()
    run: tuple[tuple[str, ...], ...] = ()
    remove: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    """For this step's commands only."""
    user: str = "root"
    key: Key = ()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A layer that commands prepare once, such as a data directory; not the same bit for bit each time."""

    name: str
    run: tuple[tuple[str, ...], ...]
    user: str = "root"
    env: tuple[tuple[str, str], ...] = ()
    key: Key = ()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PythonPackages:
    """Wheels that are fetched before the build and unpacked into the image."""

    requirements: tuple[str, ...] = ()
    """Requirement lines."""
    file: str = ""
    """A requirements file below the recipe's folder; or empty."""
    hashes: bool = False
    """Refuse what has no hash in the requirements."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A checked recipe. Nothing has been looked up yet but its own text."""

    name: str
    folder: str
    """Where its files are; absolute."""
    source: Source
    base: Base
    accounts: tuple[Account, ...] = ()
    python: PythonPackages | None = None
    steps: tuple[Step, ...] = ()
    states: tuple[State, ...] = ()
    config: ConfigChanges

    @property
    def project(self) -> str:
        """The folder that its sources may lie in: the one that holds `fixture-images`, else the recipe's own."""
        above = os.path.dirname(self.folder)
        return os.path.dirname(above) if os.path.basename(above) == "fixture-images" else self.folder

    def resolve(self, key: Key, path: str) -> str:
        """Return the absolute path of a source.

        Raises:
            RecipeError: it lies outside the project.
        """
        full = os.path.normpath(os.path.join(self.folder, path))
        if full != self.project and not full.startswith(self.project.rstrip("/") + "/"):
            raise self.error(key, f"{path!r} leads out of the project {self.project}", remedy="copy it into the project")
        return full

    def error(self, key: Key, message: str, *, remedy: str = "") -> RecipeError:
        """Return the error that `message` is about the value at `key`; it begins with file and line."""
        return self.source.error(key, message, remedy=remedy)
