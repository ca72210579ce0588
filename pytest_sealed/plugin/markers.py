"""The `sealed` mark: a change of a container for a test, a class or a module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_sealed.errors import SpecError, nearest
from pytest_sealed.plugin import closure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_sealed.spec import ContainerSpec

__all__ = ["change", "check"]

EXAMPLE = 'for example @pytest.mark.sealed("db", memory="64M")'


def change(spec: ContainerSpec[Any], request: pytest.FixtureRequest) -> ContainerSpec[Any]:
    """Return the spec of a fixture with the changes of the marks on its scope; the nearest mark has the last word.

    Raises:
        SpecError: an unknown keyword, or a value that can't be.
    """
    __tracebackhide__ = True
    for mark in reversed(list(request.node.iter_markers("sealed"))):
        if mark.args == (request.fixturename,):
            spec = spec.replace(**mark.kwargs)
    return spec


def check(item: pytest.Item) -> None:
    """Refuse marks that could never change anything, before anything is set up.

    Raises:
        SpecError: a mark without a name, or with that of no container; of one that the test doesn't ask for; or of one
            whose scope is wider than what the mark is on.
    """
    __tracebackhide__ = True
    for node, mark in item.iter_markers_with_node("sealed"):
        if len(mark.args) != 1 or not isinstance(mark.args[0], str):
            raise SpecError(f"@pytest.mark.sealed takes the name of one container, not {mark.args!r}", remedy=EXAMPLE)
        name = mark.args[0]
        asked = closure.definitions(item).get(name) or ()
        found = asked or closure.visible(item, name)
        names = list(_containers(item))
        if not found or not _is_container(found[-1]):
            raise SpecError(f"@pytest.mark.sealed({name!r}): there is no container fixture of this name{nearest(name, names)}",
                            remedy=f"the containers of this test: {', '.join(sorted(names)) or 'none'}")
        if not asked and node is item and not closure.may_ask_later(item):
            raise SpecError(f"@pytest.mark.sealed({name!r}): this test doesn't ask for {name!r}{nearest(name, names)}",
                            remedy=f"give the test a parameter {name!r}, or remove the mark")
        scope = found[-1].scope
        if asked and not _reaches(node, item, scope):
            raise SpecError(f"@pytest.mark.sealed({name!r}): that container has scope {scope!r}, so a mark on a narrower one can't "
                            "change it",
                            remedy=f"put the mark on the {scope}, or override the fixture {name!r} for these tests")


def _containers(item: pytest.Item) -> Iterator[str]:
    for name, found in closure.definitions(item).items():
        if found and _is_container(found[-1]):
            yield name


def _is_container(definition: Any) -> bool:
    from pytest_sealed.plugin.fixtures import function_of
    return function_of(definition) is not None


def _reaches(node: Any, item: pytest.Item, scope: str) -> bool:
    """Return whether a mark on `node` is seen by a fixture of this scope."""
    kinds: dict[str, Any] = {"class": pytest.Class, "module": pytest.Module, "package": pytest.Package, "session": pytest.Session}
    place: Any = item.getparent(kinds[scope]) if scope in kinds else item
    if place is None:   # a test outside of classes is its own class scope, one outside of packages is in the session's
        place = item if scope == "class" else item.session
    return node in place.listchain()
