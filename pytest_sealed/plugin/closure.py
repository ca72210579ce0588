"""What pytest knows of the fixtures of a test. The one module that reads pytest's private attributes.

Where their shape has changed, the answers are empty: then containers start later, or a mistyped name goes
unnoticed, and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = ["active_names", "definitions", "dependencies", "is_overridden", "may_ask_later", "visible"]

FixtureDef = Any   # pytest.FixtureDef; its attributes func, argname, argnames, scope and cached_result are the same since 7


def definitions(item: pytest.Item) -> Mapping[str, Sequence[FixtureDef]]:
    """Return the fixtures in the closure of a test, each name's from furthest to closest."""
    info = getattr(item, "_fixtureinfo", None)
    found: Mapping[str, Sequence[FixtureDef]] = getattr(info, "name2fixturedefs", {})
    return found


def visible(item: pytest.Item, name: str) -> Sequence[FixtureDef]:
    """Return the fixtures of this name that a test could ask for, from furthest to closest."""
    manager = getattr(item.session, "_fixturemanager", None)
    if manager is None:
        return ()
    where = item if pytest.version_tuple >= (8, 1) else item.nodeid
    return manager.getfixturedefs(name, where) or ()


def active_names(item: pytest.Item) -> set[str]:
    """Return the names of the fixtures that a test uses, those included that were asked for by `getfixturevalue`."""
    request = getattr(item, "_request", None)
    return {*getattr(item, "fixturenames", ()), *getattr(request, "_fixture_defs", ())}


def may_ask_later(item: pytest.Item) -> bool:
    """Return whether the test, or a fixture of its suite, takes `request`, and so may ask for fixtures by `getfixturevalue`."""
    from pytest_sealed.plugin.fixtures import is_ours
    theirs = [one for found in definitions(item).values() for one in found
              if not is_ours(one) and not str(getattr(one.func, "__module__", "")).startswith(("_pytest.", "pytest_sealed."))]
    direct = getattr(getattr(item, "_fixtureinfo", None), "argnames", ())
    return "request" in direct or any("request" in one.argnames for one in theirs)


def dependencies(request: pytest.FixtureRequest, names: Iterable[str]) -> Iterator[object]:
    """Yield the values of the fixtures `names` and of all that these depend on, each once. All must have been set up."""
    active: Mapping[str, FixtureDef] = getattr(request, "_fixture_defs", {})
    waiting, seen = list(names), {"request", request.fixturename}
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        definition = active.get(name)
        if definition is not None:
            waiting += definition.argnames
            if definition.cached_result is not None:
                yield definition.cached_result[0]


def is_overridden(request: pytest.FixtureRequest) -> bool:
    """Return whether a container fixture is set up for its spec only: for another one that overrides it and asks for it.

    A wider-scoped one is set up for other tests too, and one that a plain fixture overrides is wanted for itself.
    """
    from pytest_sealed.plugin.fixtures import function_of
    name = str(request.fixturename)
    found = definitions(request._pyfuncitem).get(name, ())
    mine = getattr(request, "_fixturedef", None)
    if request.scope != "function" or mine not in found or found[-1] is mine:
        return False
    override = function_of(found[list(found).index(mine) + 1])
    return override is not None and name in override.needs
