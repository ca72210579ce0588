"""Removes what a store needn't keep: by age, size and lock, and what no image has. What a live session uses stays, whatever is said."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from pytest_sealed.images.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Collection

    from pytest_sealed.images.image import Image
    from pytest_sealed.images.store import Store

__all__ = ["Pruned", "prune", "shared_sizes"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What was removed, or would be."""

    names: tuple[str, ...]
    in_use: tuple[str, ...]
    """What would have gone as well, were it not used by a live session."""
    freed: int
    """Bytes of layers and kept blobs; of a dry run those of the layers only."""


def prune(store: Store, *, older_than: float | None = None, size: int | None = None, keep: Collection[str] | None = None,
          dry_run: bool = False, progress: Progress | None = None) -> Pruned:
    """Remove images, and then the layers, blobs and remains of killed processes that nothing needs.

    Args:
        older_than: seconds: images that were neither made nor used since.
        size: bytes: those used longest ago, until the layers take no more than this.
        keep: names: all images but these. The age and the size hold for these all the same.
        dry_run: only say what would go.
    """
    if not store.folders.layers.is_dir():
        return Pruned(names=(), in_use=(), freed=0)
    progress = progress or Progress()
    progress.begin("store")
    progress.stage("waiting for builds and pulls to end")
    with store.building(exclusive=True):
        def unnamed(image: Image) -> bool:
            return keep is not None and image.reference not in keep
        images = sorted(store.images(), key=lambda image: (not unnamed(image), store.used(image)))   # size counts what is left then
        going: list[Image] = []
        spared: list[Image] = []
        limit = time.time() - older_than if older_than is not None else 0.0
        for image in images:
            left = [one for one in images if one not in going]
            if unnamed(image) or store.used(image) < limit or (size is not None and _layers_size(store, left) > size):
                (spared if store.in_use(image.digest) else going).append(image)
        names, in_use = tuple(image.reference for image in going), tuple(image.reference for image in spared)
        if dry_run:
            kept = [image for image in images if image not in going]
            present = {f"sha256:{path.name}" for path in store.folders.layers.iterdir()}
            return Pruned(names=names, in_use=in_use, freed=sum(map(store.layers.size, present - _chains(kept))))
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(store.records.path(name))
        store.folders.sweep()
        return Pruned(names=names, in_use=in_use, freed=store.prune())


def _chains(images: list[Image]) -> set[str]:
    return {f"sha256:{path.parent.name}" for image in images for path in image.layers}


def _layers_size(store: Store, images: list[Image]) -> int:
    return sum(map(store.layers.size, _chains(images)))


def shared_sizes(store: Store, images: list[Image]) -> dict[str, int]:
    """Return, by reference, the bytes of an image's layers that an image of another digest has too."""
    return {image.reference: sum(map(store.layers.size, _chains([image]) & _chains(
        [other for other in images if other.digest != image.digest]))) for image in images}
