"""Gives a machine what a lock says: images by digest from registries, recipes built of the packages that it names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_sealed.errors import ImageError
from pytest_sealed.images.build import Builder
from pytest_sealed.images.lock_check import here, lacks, locked_recipe, recipe_digest
from pytest_sealed.images.progress import Progress
from pytest_sealed.images.reference import parse_reference
from pytest_sealed.images.registry.pull import Puller

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_sealed.images.lockfile import LockedImage, Lockfile
    from pytest_sealed.images.store import Store

__all__ = ["sync"]


def sync(lock: Lockfile, store: Store, progress: Progress | None = None) -> Iterator[tuple[str, ImageError | None]]:
    """Yield each image for this machine once it's there as the lock says, or why it isn't; those that others continue come first.

    Raises:
        ImageError: the lock has none for this machine.
    """
    progress = progress or Progress()
    images = lock.of(here())
    if not images:
        there = ", ".join(sorted({image.platform for image in lock.images})) or "none at all"
        raise ImageError(f"{lock.path} has no images for {here()}: there are {there}", remedy="sealed lock   (here, and commit the file)")
    builder = Builder(store, progress, locked=images)
    for name in sorted(images, key=lambda name: _depth(images, name)):
        try:
            if lacks(store, lock, images[name]):
                _get(lock, images[name], store, builder, progress)
                rest = lacks(store, lock, images[name])
                if rest:
                    raise ImageError(f"{name} {rest}", remedy="sealed lock")
            yield name, None
        except ImageError as error:
            yield name, error


def _depth(images: dict[str, LockedImage], name: str) -> tuple[int, str]:
    """Return how many images are below one, and its name."""
    depth, base = 0, images[name].base
    while base in images and depth < len(images):
        depth, base = depth + 1, images[base].base
    return depth, name


def _get(lock: Lockfile, image: LockedImage, store: Store, builder: Builder, progress: Progress) -> None:
    if image.pull:
        where = parse_reference(image.pull).name
        Puller(store, progress, platform=image.platform).pull(f"{where}@{image.index or image.manifest}", image.name)
        return
    if not image.recipe:
        raise ImageError(f"{image.name} came from an archive ({image.source}), and is to be {image.manifest}",
                         remedy=image.source if image.source.startswith("sealed ") else "sealed load FILE")
    recipe = locked_recipe(image.name, lock.root)
    if recipe is None:
        raise ImageError(f"the lock has {image.name} by a recipe that isn't there", remedy="sealed lock")
    base = lock.find(image.base, image.platform) if image.base else None
    if recipe_digest(recipe, base) != image.recipe:
        raise recipe.error((), f"{image.name}: the recipe, or a file of it, has changed since it was locked", remedy="sealed lock")
    builder.build(recipe)
