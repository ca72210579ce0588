"""Compares a lock with its project, and a machine with a lock. Fetches nothing, builds nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from pytest_sealed.errors import ImageError, ImageNotFound, RecipeError
from pytest_sealed.images.build import key_of
from pytest_sealed.images.finder import FOLDER, find_recipe, recipe_names
from pytest_sealed.images.installed import wheel_for
from pytest_sealed.images.lockfile import LOCK, LockedImage, Lockfile
from pytest_sealed.images.manifest import Platform
from pytest_sealed.images.recipe import FILE

if TYPE_CHECKING:
    from pytest_sealed.images.recipe import Recipe
    from pytest_sealed.images.store import Store

__all__ = ["Project", "differences", "here", "lacking", "lacks", "locked_recipe", "recipe_digest", "wanted"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """What a lock has to hold."""

    root: Path
    """The folder of the configuration, where the lock is too."""
    images: Mapping[str, str]
    """References of images, and who names each: for people."""
    platforms: tuple[str, ...] = ()
    """Those that it's to run on; empty: whatever machine is asked."""

    @property
    def lock(self) -> Path:
        return self.root / LOCK


def here() -> str:
    """Return this machine's platform."""
    return str(Platform.parse(""))


def wanted(project: Project) -> dict[str, Recipe | None]:
    """Return the images of a project, a base before what continues it, each with its recipe; None: it's from elsewhere.

    Not what an installed wheel has: the lock of the Python packages pins that.

    Raises:
        RecipeError: a recipe is wrong.
    """
    found: dict[str, Recipe | None] = {}
    folder = project.root / FOLDER
    own = sorted(name for name in os.listdir(folder) if (folder / name / FILE).is_file()) if folder.is_dir() else []
    for name in own:
        _add(found, find_recipe(name, str(project.root)).name, str(project.root), ())
    for reference in sorted(name for name in project.images if wheel_for(name) is None):
        _add(found, reference, str(project.root), ())
    return found


def _add(found: dict[str, Recipe | None], reference: str, start: str, above: tuple[str, ...]) -> None:
    if reference in found:
        return
    recipe = locked_recipe(reference, start)
    if recipe is not None and recipe.base.image:
        if reference in above:
            raise recipe.error(("base", "image"), f"the recipe is its own base: {' → '.join((*above, reference))}")
        _add(found, recipe.base.image, recipe.folder, (*above, reference))
    found[reference] = recipe


def locked_recipe(name: str, start: str) -> Recipe | None:
    """Return the recipe whose image is called `name`; None: there is none.

    Raises:
        RecipeError: it is wrong.
    """
    if "/" in name or name.partition(":")[0] not in recipe_names(start):
        return None
    recipe = find_recipe(name, start)
    return recipe if recipe.name == name else None


def recipe_digest(recipe: Recipe, base: LockedImage | None) -> str:
    """Return the digest of a recipe with all that it's made from.

    Args:
        base: what it continues.

    Raises:
        RecipeError: a file isn't there.
    """
    return f"sha256:{key_of(recipe, base.identity if base else '')[0]}"


def differences(project: Project, lock: Lockfile, *, whole: bool = True) -> dict[str, str]:
    """Return what a lock has otherwise than its project, by image; empty: nothing.

    Args:
        whole: `project` names all images there are: others in the lock are a difference.

    Raises:
        RecipeError: a recipe is wrong.
    """
    found: dict[str, str] = {}
    names = wanted(project)
    for platform in project.platforms or (here(),):
        needed = set()
        for name, recipe in names.items():
            entry = lock.find(name, platform)
            if entry is not None:
                needed.add(entry.name)
            why = _difference(project, lock, name, recipe, entry, platform)
            if why:
                found.setdefault(name, why)
        for name in sorted(set(lock.of(platform)) - needed) if whole else ():
            found.setdefault(name, "is in the lock, and nothing names it any more")
    return found


def _difference(project: Project, lock: Lockfile, name: str, recipe: Recipe | None, entry: LockedImage | None, platform: str) -> str:
    if entry is None:
        return f"isn't in the lock for {platform}" + (f" ({project.images[name]})" if name in project.images else "")
    if recipe is None:
        return "was made by a recipe that isn't there any more" if entry.recipe else ""
    base = lock.find(recipe.base.image, platform) if recipe.base.image else None
    if recipe.base.image and base is None:
        return ""   # which is a difference itself
    return "its recipe, or a file of it, has changed since it was locked" if recipe_digest(recipe, base) != entry.recipe else ""


def lacking(store: Store, lock: Lockfile, platform: str = "") -> dict[str, str]:
    """Return what a store has otherwise than a lock, by image; empty: nothing.

    Args:
        platform: by default this machine's.
    """
    found = {}
    for name, entry in lock.of(platform or here()).items():
        why = lacks(store, lock, entry)
        if why:
            found[name] = why
    return found


def lacks(store: Store, lock: Lockfile, entry: LockedImage) -> str:
    """Return what a store has otherwise than a lock says of one image; empty: nothing."""
    try:
        image = store.get(entry.name)
        if image.reference != entry.name:
            return f"isn't in the store {store.root}"
        if image.digest == entry.manifest:
            return ""
        if not entry.recipe:
            return f"is {image.digest} in the store {store.root}, and the lock has {entry.manifest}"
        recipe, base = locked_recipe(entry.name, lock.root), store.get(entry.base) if entry.base else None
        if recipe is not None and store.recipe_key(entry.name) == key_of(recipe, base.digest if base else "")[0] \
                and entry.made_of(store.diff_ids(image)[len(base.layers) if base else 0:]):
            return ""
    except RecipeError as error:
        return error.message
    except ImageNotFound:
        return f"isn't in the store {store.root}"
    except ImageError as error:
        return f"can't be used: {error.message}"
    return f"was built in the store {store.root} of something else than the lock says"
