"""`--sealed-frozen` and `--sealed-offline`: what must be there before the first test, and what a frozen run's containers may be of."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pytest_sealed.errors import ImageError, ImageNotFound, no_linux
from pytest_sealed.plugin import options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pytest

    from pytest_sealed.images.image import Image
    from pytest_sealed.images.lock_check import Project
    from pytest_sealed.images.store import Store

__all__ = ["guard", "refusal"]


def refusal(config: pytest.Config, items: Iterable[pytest.Item], store: Store) -> str:
    """Return why a run of these tests can't begin, with the command that mends it; empty: it can."""
    if no_linux() is not None:   # which each test says
        return ""
    from pytest_sealed.images.lock_check import Project
    from pytest_sealed.plugin.foreseen import Foreseen
    images = {**dict.fromkeys(options.images(config), "sealed_images"), **Foreseen(items).images}
    project = Project(root=config.rootpath, images=images)
    try:
        return _not_frozen(project, store) if options.frozen(config) else _not_there(project, store)
    except ImageError as error:
        return f"whether every image is there can't be told: {error}"


def _not_frozen(project: Project, store: Store) -> str:
    from pytest_sealed.images.lock_check import differences, lacking
    from pytest_sealed.images.lockfile import load_lock
    if not project.lock.is_file():
        return f"this run is frozen, and there is no {project.lock}\n  remedy: sealed lock   and commit the file"
    lock = load_lock(project.lock)
    changed = differences(project, lock, whole=False)
    found = {**lacking(store, lock), **changed}
    return _told(f"this run is frozen, and {_count(found)} not as {project.lock} says", found,
                 "sealed lock && sealed sync" if changed else "sealed sync")


def _not_there(project: Project, store: Store) -> str:
    from pytest_sealed.images.lock_check import here, locked_recipe
    from pytest_sealed.images.lockfile import load_lock
    lock = load_lock(project.lock) if project.lock.is_file() else None
    locked = lock.of(here()) if lock is not None else {}
    found, commands = {}, []
    for name in dict.fromkeys((*locked, *sorted(project.images))):
        try:
            store.get(name)
        except ImageError as error:
            found[name] = error.message
            if lock is None or lock.find(name, here()) is None:
                recipe = locked_recipe(name, str(project.root)) if isinstance(error, ImageNotFound) else None
                commands.append(f"sealed build {name}" if recipe is not None else error.remedy)
    if lock is not None and set(found) & set(locked):
        commands.insert(0, "sealed sync")
    return _told(f"this run is offline, and {_count(found)} not there", found, " && ".join(dict.fromkeys(commands)))


def _count(found: dict[str, str]) -> str:
    return f"{len(found)} image{'s are' if len(found) > 1 else ' is'}"


def _told(what: str, found: dict[str, str], remedy: str) -> str:
    rows = "".join(f"\n  {name}: {why}" for name, why in sorted(found.items()))
    return f"{what}:{rows}\n  remedy: {remedy}" if found else ""


def guard(config: pytest.Config) -> Callable[[Image], None] | None:
    """Return what refuses, in a frozen run, an image that nobody could foresee; None: the run isn't frozen."""
    if not options.frozen(config):
        return None
    from pytest_sealed.images.installed import installed_wheels
    from pytest_sealed.images.lock_check import here
    from pytest_sealed.images.lockfile import LOCK, load_lock
    lock, began = load_lock(config.rootpath / LOCK), time.time()
    pinned = {wheel.reference for wheel in installed_wheels().values()}

    def check(image: Image) -> None:
        known = lock.find(image.reference, here()) is not None or image.reference in pinned
        if not known and image.created < began:   # else it's a snapshot of this run's
            raise ImageError(f"this run is frozen, and {lock.path} has no image {image.reference!r}: nothing names it that can be read "
                             "before the tests run",
                             remedy=f"write it into sealed_images, in pytest's configuration: {image.reference}; and run `sealed lock`")
    return check
