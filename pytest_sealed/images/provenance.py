"""What the layers of a recipe's image were made from: noted in the store as they are built, for locks."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, final

from pytest_sealed.images.apt import Package
from pytest_sealed.images.lockfile import LockedWheel

__all__ = ["Inputs", "locked_wheel"]


@final
class Inputs:
    """What one layer was made from.

    Args:
        packages, wheels: None: a layer of this kind has none.
        reproducible: whoever makes it gets the same bits.
    """

    def __init__(self, *, packages: tuple[Package, ...] | None = None, wheels: tuple[LockedWheel, ...] | None = None,
                 reproducible: bool = True) -> None:
        self.packages, self.wheels, self.reproducible = packages, wheels, reproducible

    def facts(self) -> dict[str, Any]:
        """Return them as plain values."""
        facts: dict[str, Any] = {"reproducible": self.reproducible}
        if self.packages is not None:
            facts["packages"] = [dataclasses.asdict(dataclasses.replace(one, file="")) for one in self.packages]
        if self.wheels is not None:
            facts["wheels"] = [dataclasses.asdict(one) for one in self.wheels]
        return facts

    def recall(self, facts: dict[str, Any]) -> None:
        """Take the packages and wheels, if there may be any, from what `facts` returned earlier.

        Raises:
            KeyError, TypeError: they aren't there.
        """
        if self.packages is not None:
            self.packages = tuple(Package(**row) for row in facts["packages"])
        if self.wheels is not None:
            self.wheels = tuple(LockedWheel(**row) for row in facts["wheels"])


def locked_wheel(path: Path) -> LockedWheel:
    """Return what a lock says of a wheel."""
    return LockedWheel(file=path.name, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
