"""Builds a recipe's image layer by layer; what has not changed is taken from the store."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, final

from pytest_sealed.errors import ImageError, RecipeError
from pytest_sealed.images.construct import FORMAT, Construction, architecture, hash_of, requirements_of
from pytest_sealed.images.finder import find_recipe
from pytest_sealed.images.inputs import Placed, digest_of, place_files
from pytest_sealed.images.progress import Progress

if TYPE_CHECKING:
    from pytest_sealed.images.image import Image
    from pytest_sealed.images.lockfile import LockedImage
    from pytest_sealed.images.recipe import Recipe
    from pytest_sealed.images.store import Store

__all__ = ["Builder", "key_of"]


@final
class Builder:
    """Builds images into a store.

    Args:
        store: where they go.
        progress: is told what is going on.
        fresh: take no layer from earlier builds.
        locked: images by name that are made of what a lock says, whatever `fresh` is; what others are made of will be known then.
    """

    def __init__(self, store: Store, progress: Progress | None = None, *, fresh: bool = False,
                 locked: Mapping[str, LockedImage] | None = None) -> None:
        self.store, self._locked = store, locked
        self._progress = progress or Progress()
        self._fresh = fresh
        self._done: dict[str, Image] = {}

    def build(self, recipe: Recipe) -> Image:
        """Return the recipe's image, built if it isn't there or the recipe or what it uses has changed.

        Raises:
            RecipeError: the recipe is wrong; begins with file and line.
            ImageError: packages can't be fetched, a command failed, the store can't take it, or it came out otherwise than the lock has it.
        """
        if recipe.name in self._done:
            return self._done[recipe.name]
        self.store.folders.make()
        parent = self._parent(recipe, ())
        start = time.monotonic()
        key, files = key_of(recipe, parent.digest if parent else "")
        fresh = self._fresh and recipe.name not in (self._locked or ())
        image = None if fresh else self._current(recipe, key, parent)
        built = image is None
        if image is None:
            lock = f"build-{hashlib.sha256(recipe.name.encode()).hexdigest()[:32]}"
            with self.store.layers.lock(lock, lambda: self._progress.note(f"{recipe.name}: another process builds it; waiting")):
                image = None if fresh else self._current(recipe, key, parent)
                built = image is None
                image = image or self._make(recipe, parent, key, files, fresh=fresh)
        self._progress.end(recipe.name, built=built, size=image.size, seconds=time.monotonic() - start)
        self._done[recipe.name] = image
        return image

    def _parent(self, recipe: Recipe, above: tuple[str, ...]) -> Image | None:
        if not recipe.base.image:
            return None
        name, chain = recipe.base.image, (*above, recipe.name)
        if name in chain:
            raise recipe.error(("base", "image"), f"the recipe is its own base: {' → '.join((*chain, name))}")
        try:
            found = find_recipe(name, recipe.folder)
        except RecipeError as error:
            if self.store.digest(name):
                return self.store.get(name)   # an image that was loaded, not built
            raise recipe.error(("base", "image"), error.message, remedy=error.remedy) from error
        if found.base.image:
            self._parent(found, chain)
        return self.build(found)

    def _current(self, recipe: Recipe, key: str, parent: Image | None) -> Image | None:
        """Return the image if it's made of what it's to be made of now."""
        if self.store.recipe_key(recipe.name) != key:
            return None
        try:
            image = self.store.get(recipe.name)
        except ImageError:
            return None   # damaged: build it again
        if self._locked is None:
            return image
        locked = self._locked.get(recipe.name)
        as_wanted = self.store.inputs(image.reference) if locked is None else self._as_locked(image, parent, locked)
        return image if as_wanted else None

    def _as_locked(self, image: Image, parent: Image | None, locked: LockedImage) -> bool:
        own = self.store.diff_ids(image)[len(parent.layers) if parent else 0:]
        return locked.made_of(own)

    def _make(self, recipe: Recipe, parent: Image | None, key: str, files: list[list[Placed]], *, fresh: bool) -> Image:
        self._progress.begin(recipe.name)
        with self.store.building():
            self.store.folders.sweep()
            work = Construction(self.store, recipe, self._progress, fresh=fresh, locked=(self._locked or {}).get(recipe.name))
            work.start(parent)
            if recipe.python is not None:
                work.python(recipe.python)
            for step, rows in zip(recipe.steps, files, strict=True):
                work.step(step, rows)
            for state in recipe.states:
                work.state(state)
            return self.store.add(recipe.name, work.chain, work.config, architecture=architecture(), key=key, history=work.history,
                                  inputs=[one.facts() for one in work.inputs])


def key_of(recipe: Recipe, base: str) -> tuple[str, list[list[Placed]]]:
    """Return a digest of all that an image is made from, and the files of each step.

    Args:
        base: digest of what it continues; empty: nothing.

    Raises:
        RecipeError: a file isn't there.
    """
    files = [place_files(recipe, step) for step in recipe.steps]
    return hash_of([FORMAT, recipe.source.text, base, [digest_of(rows) for rows in files], requirements_of(recipe)]), files
