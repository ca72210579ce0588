"""Images in installed wheels: found by their entry points, unpacked into the store at first use, by whoever is first."""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from pytest_sealed.errors import ImageError, SpecError
from pytest_sealed.images.reference import check_digest, parse_reference

if TYPE_CHECKING:
    from pytest_sealed.images.store import Store

__all__ = ["GROUP", "InstalledWheel", "installed_wheels", "unpack_wheel", "wheel_for"]

GROUP = "sealed.images"   # of entry points: an image's name → the package that holds its layout


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledWheel:
    """A wheel with an image."""

    name: str
    """The image's."""
    title: str
    """The wheel's name and version."""
    layout: Path

    @property
    def reference(self) -> str:
        """What the image is called in the store: by its digest, so that wheels of several projects don't get in each other's way.

        Raises:
            ImageError: the wheel is damaged.
        """
        try:
            [row] = json.loads((self.layout / "index.json").read_bytes())["manifests"]
            digest = check_digest(row["digest"], f"the wheel {self.title}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self.damaged(str(error)) from error
        return f"{parse_reference(self.name).name}@{digest}"

    def damaged(self, why: str) -> ImageError:
        return ImageError(f"the wheel {self.title} is damaged: {why}",
                          remedy=f"pip install --force-reinstall --no-deps {self.title.replace(' ', '==')}")


@functools.cache
def installed_wheels() -> dict[str, InstalledWheel]:
    """Return the images in wheels that this Python can import, by their full names. Looked for once: it takes some 10 ms.

    Raises:
        ImageError: two wheels hold an image of one name.
    """
    from importlib.metadata import entry_points
    found: dict[str, InstalledWheel] = {}
    for point in entry_points(group=GROUP):
        try:
            name = str(parse_reference(point.name))
        except SpecError:
            continue
        if point.dist is None:
            continue
        layout = Path(os.fspath(point.dist.locate_file(f"{point.module.replace('.', '/')}/oci")))   # type: ignore[call-overload]
        wheel = InstalledWheel(name=point.name, title=f"{point.dist.metadata['Name']} {point.dist.version}", layout=layout)
        if name in found and found[name].layout != layout:
            raise ImageError(f"two wheels hold an image {point.name!r}: {found[name].title} and {wheel.title}",
                             remedy=f"pip uninstall {point.dist.metadata['Name']}, or the other one")
        found[name] = wheel
    return found


def wheel_for(reference: str) -> InstalledWheel | None:
    """Return the installed wheel whose image `reference` names."""
    wheels = installed_wheels()
    if not wheels:
        return None
    try:
        return wheels.get(str(parse_reference(reference)))
    except SpecError:
        return None


def unpack_wheel(store: Store, wheel: InstalledWheel) -> None:
    """Put a wheel's image into the store, every blob checked by its digest. Where several processes want it, one unpacks.

    Raises:
        ImageError: the wheel is damaged.
        StoreError: the store can't take it.
    """
    from pytest_sealed.images.load import Loader
    try:
        Loader(store, exported=True, keep=False).load(str(wheel.layout))
    except ImageError as error:
        if type(error) is not ImageError:   # the store's fault
            raise
        raise wheel.damaged(error.message) from error
