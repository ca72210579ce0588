"""Builds a recipe's image layer by layer; what has not changed is taken from the store."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, final

from pytest_sealed.errors import ImageError, RecipeError
from pytest_sealed.images.construct import FORMAT, Construction, architecture, hash_of, requirements_of
from pytest_sealed.images.finder import find_recipe
from pytest_sealed.images.inputs import Placed, digest_of, place_files
from pytest_sealed.images.progress import Progress

if TYPE_CHECKING:
    from pytest_sealed.images.image import Image
    from pytest_sealed.images.recipe import Recipe
    from pytest_sealed.images.store import Store

__all__ = ["Builder"]

@final
class Builder:
    """Builds images into a store.

    Args:
        store: where they go.
        progress: is told what is going on.
        fresh: take no layer from earlier builds.
    """

    def __init__(self, store: Store, progress: Progress | None = None, *, fresh: bool = False) -> None:
        self.store = store
        self._progress = progress or Progress()
        self._fresh = fresh
        self._done: dict[str, Image] = {}

    def build(self, recipe: Recipe) -> Image:
        """Return the recipe's image, built if it isn't there or the recipe or what it uses has changed.

        Raises:
            RecipeError: the recipe is wrong; begins with file and line.
            ImageError: packages can't be fetched, a command failed, or the store can't take it.
        """
        if recipe.name in self._done:
            return self._done[recipe.name]
        self.store.folders.make()
        parent = self._parent(recipe, ())
        start = time.monotonic()
        key, files = self._key(recipe, parent)
        image = None if self._fresh else self._current(recipe, key)
        built = image is None
        if image is None:
            lock = f"build-{hashlib.sha256(recipe.name.encode()).hexdigest()[:32]}"
            with self.store.layers.lock(lock, lambda: self._progress.note(f"{recipe.name}: another process builds it; waiting")):
                image = None if self._fresh else self._current(recipe, key)
                built = image is None
                image = image or self._make(recipe, parent, key, files)
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

    def _current(self, recipe: Recipe, key: str) -> Image | None:
        if self.store.recipe_key(recipe.name) != key:
            return None
        try:
            return self.store.get(recipe.name)
        except ImageError:
            return None   # damaged: build it again

    def _key(self, recipe: Recipe, parent: Image | None) -> tuple[str, list[list[Placed]]]:
        """Return a digest of all that the image is made from, and the files of each step."""
        files = [place_files(recipe, step) for step in recipe.steps]
        digests = [digest_of(rows) for rows in files]
        return hash_of([FORMAT, recipe.source.text, parent.digest if parent else "", digests, requirements_of(recipe)]), files

    def _make(self, recipe: Recipe, parent: Image | None, key: str, files: list[list[Placed]]) -> Image:
        self._progress.begin(recipe.name)
        with self.store.building():
            self.store.folders.sweep()
            work = Construction(self.store, recipe, self._progress, fresh=self._fresh)
            work.start(parent)
            if recipe.python is not None:
                work.python(recipe.python)
            for step, rows in zip(recipe.steps, files, strict=True):
                work.step(step, rows)
            for state in recipe.states:
                work.state(state)
            return self.store.add(recipe.name, work.chain, work.config, architecture=architecture(), key=key, history=work.history)
