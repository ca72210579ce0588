"""Which images the tests of a run will use, as far as that can be told before they run."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from pytest_sealed.plugin import closure

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pytest

    from pytest_sealed.plugin.fixtures import ContainerFunction

__all__ = ["Foreseen"]


@final
class Foreseen:
    """The images of container fixtures whose specs hang on nothing that a test makes. No mark changes an image."""

    def __init__(self, items: Iterable[pytest.Item]) -> None:
        self.images: dict[str, str] = {}
        """References, each with the fixture that names it."""
        self.unseen: list[str] = []
        """Fixtures whose images are known only when a test runs: their functions take other fixtures."""
        self._seen: set[ContainerFunction] = set()
        for item in items:
            self._look(item)

    def _look(self, item: pytest.Item) -> None:
        from pytest_sealed.plugin.fixtures import function_of
        for name, found in closure.definitions(item).items():
            function = function_of(found[-1]) if found else None
            if function is None or function in self._seen:
                continue
            self._seen.add(function)
            images = _images(function, found[-1].params)
            for image in images:
                self.images.setdefault(image, f"fixture {name}")
            if not images:
                self.unseen.append(name)


def _images(function: ContainerFunction, params: Sequence[object] | None) -> list[str]:
    """Return the images of what the function describes, for each of its parameters; none if it needs a test for that, or fails."""
    takes = "param" in function.needs
    if function.takes_self or set(function.needs) - {"param"} or takes != bool(params):
        return []
    try:
        return [function.describe({"param": param} if takes else {}).image for param in params or (None,)]
    except Exception:   # a suite's own: the test will say so
        return []
