"""Makes a project's lock: what hasn't changed stays as it was, the rest is built, or asked of its registry."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, final

from pytest_sealed.errors import ImageError, ImageNotFound
from pytest_sealed.images.build import Builder
from pytest_sealed.images.lock_check import Project, here, recipe_digest, wanted
from pytest_sealed.images.lockfile import LockedImage, LockedLayer, LockedWheel, Lockfile
from pytest_sealed.images.progress import Progress
from pytest_sealed.images.provenance import Inputs
from pytest_sealed.images.reference import parse_reference
from pytest_sealed.images.registry.pull import Puller

if TYPE_CHECKING:
    from pytest_sealed.images.apt import Package
    from pytest_sealed.images.recipe import Recipe
    from pytest_sealed.images.store import Store

__all__ = ["Locker"]

_PULLED = "sealed pull "   # how the source of a pulled image begins


@final
class Locker:
    """Makes the lock of one project.

    Args:
        store: where images are built, and where those that are there already count.
        old: the lock so far.
        upgrade: images that are to be what their packages and tags are now; None: all of them.
    """

    def __init__(self, project: Project, store: Store, old: Lockfile, progress: Progress | None = None, *,
                 upgrade: Collection[str] | None = ()) -> None:
        self._project, self._store, self._old = project, store, old
        self._progress, self._upgrade = progress or Progress(), upgrade
        self._made: dict[tuple[str, str], LockedImage] = {}
        self._here: dict[str, LockedImage] = {}
        self._builders = [Builder(store, self._progress, fresh=fresh, locked=self._here) for fresh in (False, True)]

    def lock(self) -> Lockfile:
        """Return the lock.

        Raises:
            ImageError: a recipe is wrong or can't be built, or a registry hasn't got an image; or nothing can be said of one.
        """
        platforms = dict.fromkeys((here(), *self._project.platforms, *(
            image.platform for image in self._old.images if not self._project.platforms)))
        for name, recipe in wanted(self._project).items():
            for platform in platforms:
                entry = self._recipes(name, recipe, platform) if recipe is not None else self._elsewhere(name, platform)
                if entry is not None:
                    self._made[entry.name, platform] = entry
                    if platform == here():
                        self._here[entry.name] = entry
        return Lockfile(self._old.path, self._made.values())

    def _fresh(self, name: str) -> bool:
        return self._upgrade is None or name in self._upgrade

    # recipes

    def _recipes(self, name: str, recipe: Recipe, platform: str) -> LockedImage | None:
        """Return the entry of a recipe's image; None: it has to be made on a machine of that platform."""
        base = Lockfile(self._old.path, self._made.values()).find(recipe.base.image, platform) if recipe.base.image else None
        if recipe.base.image and base is None:
            return None
        digest = recipe_digest(recipe, base)
        kept = self._old.of(platform).get(name)
        if kept is not None and kept.recipe == digest and not (self._fresh(name) and platform == here()):
            return kept
        if platform != here():
            return None
        image = self._builders[self._fresh(name)].build(recipe)
        own = self._store.diff_ids(image)[len(self._store.get(base.name).layers) if base else 0:]
        layers: list[LockedLayer] = []
        packages: list[Package] = []
        wheels: list[LockedWheel] = []
        try:
            for diff_id, facts in zip(own, self._store.inputs(name), strict=True):
                inputs = Inputs(packages=() if "packages" in facts else None, wheels=() if "wheels" in facts else None)
                inputs.recall(facts)
                layers.append(LockedLayer(diff_id=diff_id, reproducible=bool(facts["reproducible"])))
                packages += inputs.packages or ()
                wheels += inputs.wheels or ()
        except (KeyError, TypeError, ValueError) as error:   # imported from somebody's file, perhaps
            raise ImageError(f"what the image {name!r} was made from is damaged in the store {self._store.root}",
                             remedy=f"sealed build --fresh {name}") from error
        return LockedImage(name=name, platform=platform, manifest=image.digest, recipe=digest, base=base.name if base else "",
                           layers=tuple(layers), packages=tuple(packages), wheels=tuple(wheels))

    # from elsewhere

    def _elsewhere(self, reference: str, platform: str) -> LockedImage | None:
        """Return the entry of an image from elsewhere; None: its registry hasn't got one for that platform, which isn't this one."""
        kept = self._old.find(reference, platform)
        if kept is not None and kept.recipe:
            kept = None
        if kept is not None and not (self._fresh(reference) and kept.pull):
            return kept
        stored = self._stored(reference) if platform == here() else None
        if stored is not None and not (self._fresh(reference) and stored.pull):
            return stored
        before = kept or stored or next((image for (name, _), image in self._made.items() if name == reference), None)
        if before is not None and not before.pull:
            return None
        found = Puller(self._store, self._progress, platform=platform).look(before.pull if before else self._pullable(reference))
        source = found.source.removeprefix(_PULLED)
        return LockedImage(name=before.name if before else source, platform=platform, manifest=found.manifest.digest, pull=source,
                           index=found.index)

    def _stored(self, reference: str) -> LockedImage | None:
        """Return what the store says of an image."""
        try:
            image = self._store.get(reference)
        except ImageNotFound:
            return None
        name, record = image.reference, self._store.records.get(image.reference)
        _, _, config = self._store.records.documents(record)
        source = image.source
        if config.get("architecture") != here().split("/")[1]:
            return None
        if not source:
            raise ImageError(f"the image {name!r} was made here, and by no recipe, so no lock can say how to get it",
                             remedy=f"sealed push {name} HOST/NAME:TAG, and name that instead")
        pull = source.removeprefix(_PULLED) if source.startswith(_PULLED) else ""
        return LockedImage(name=name, platform=here(), manifest=image.digest, pull=pull, index=str(record.get("index", "")) if pull else "",
                           source="" if pull else "".join(char for char in source if char.isprintable()))

    def _pullable(self, reference: str) -> str:
        if not parse_reference(reference).host:
            self._store.get(reference)   # which isn't there: the error names what is
        return reference
