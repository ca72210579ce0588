"""Options of the plugin: flag, else environment, else ini file. Resolved here and nowhere else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pytest_sealed.errors import SpecError, nearest

if TYPE_CHECKING:
    import pytest

__all__ = ["add", "frozen", "images", "offline", "platforms", "publish", "required", "starts_nothing", "store", "unsupported"]

UNSUPPORTED = ("fail", "skip")
PUBLISH = ("loopback", "none")
_ON, _OFF = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def add(parser: pytest.Parser) -> None:
    """Register the options. See `pytest --help`, group "sealed"."""
    group = parser.getgroup("sealed", "containers (pytest-sealed)")
    group.addoption("--sealed-store", metavar="DIR",
                    help="folder of the image store; else SEALED_STORE, else the ini option sealed_store, else the user's own")
    parser.addini("sealed_store", "folder of the image store, relative to the ini file", default=None)
    group.addoption("--sealed-require", metavar="WORDS",
                    help="what this run must have, such as limits,subuid: where it would do without, it fails before the first test; "
                         "else SEALED_REQUIRE, else the ini option sealed_require")
    parser.addini("sealed_require", "what the suite must have, such as limits, subuid; separated by commas or blanks", default=None)
    group.addoption("--sealed-unsupported", metavar="fail|skip",
                    help="what tests that need containers do where there is no Linux kernel; else SEALED_UNSUPPORTED, else the ini option "
                         "sealed_unsupported, else fail; in CI (the variable CI is set) they always fail")
    parser.addini("sealed_unsupported", "fail or skip: what tests that need containers do where there is no Linux kernel", default=None)
    group.addoption("--sealed-publish", metavar="loopback|none",
                    help="whether ports of the host's loopback, which all users of a machine share, lead to containers; "
                         "else SEALED_PUBLISH, else the ini option sealed_publish, else loopback")
    parser.addini("sealed_publish", "loopback or none: what leads to containers that don't say otherwise", default=None)
    parser.addini("sealed_images", "images for sealed.lock that no recipe and no fixture of constant words names", default=None)
    parser.addini("sealed_platforms", "platforms that sealed.lock is for, such as linux/amd64, linux/arm64", default=None)
    group.addoption("--sealed-frozen", action="store_true", default=None,
                    help="fail before the first test unless sealed.lock names every image, and the store has just those; "
                         "else SEALED_FROZEN, else the ini option sealed_frozen")
    parser.addini("sealed_frozen", "as --sealed-frozen", type="bool", default=False)
    group.addoption("--sealed-offline", action="store_true", default=None,
                    help="fail before the first test unless the store has every image; "
                         "else SEALED_OFFLINE, else the ini option sealed_offline")
    parser.addini("sealed_offline", "as --sealed-offline", type="bool", default=False)


def store(config: pytest.Config) -> Path | None:
    """Return the folder of the image store, absolute; None: the user's own (`sealed images` shows it)."""
    flag = config.getoption("sealed_store", default=None)
    if flag is not None:
        return _absolute(flag, config.invocation_params.dir)
    environment = os.environ.get("SEALED_STORE")
    if environment:
        return _absolute(environment, config.invocation_params.dir)
    ini = config.getini("sealed_store")
    if ini:
        return _absolute(str(ini), config.inipath.parent if config.inipath is not None else config.rootpath)
    return None


def required(config: pytest.Config) -> tuple[str, ...]:
    """Return the words of `sealed_require`, each once; not checked."""
    return _words(_text(config, "sealed_require", "SEALED_REQUIRE"))


def images(config: pytest.Config) -> tuple[str, ...]:
    """Return the references of `sealed_images`, each once; not checked."""
    return _words(str(config.getini("sealed_images") or ""))


def platforms(config: pytest.Config) -> tuple[str, ...]:
    """Return those of `sealed_platforms`, each once.

    Raises:
        pytest.UsageError: one is none.
    """
    from pytest_sealed.images.manifest import Platform
    try:
        return tuple(dict.fromkeys(str(Platform.parse(word)) for word in _words(str(config.getini("sealed_platforms") or ""))))
    except SpecError as error:
        import pytest
        raise pytest.UsageError(f"sealed_platforms: {error}") from error


def frozen(config: pytest.Config) -> bool:
    """Return whether the run must be what the lock says."""
    return _flag(config, "sealed_frozen", "SEALED_FROZEN")


def offline(config: pytest.Config) -> bool:
    """Return whether every image must be there before the first test."""
    return _flag(config, "sealed_offline", "SEALED_OFFLINE")


def unsupported(config: pytest.Config) -> str:
    """Return "fail" or "skip".

    Raises:
        pytest.UsageError: it is neither.
    """
    return _one_of(config, "sealed_unsupported", "SEALED_UNSUPPORTED", UNSUPPORTED)


def publish(config: pytest.Config) -> Literal["loopback", "none"]:
    """Return "loopback" or "none".

    Raises:
        pytest.UsageError: it is neither.
    """
    return "none" if _one_of(config, "sealed_publish", "SEALED_PUBLISH", PUBLISH) == "none" else "loopback"


def starts_nothing(config: pytest.Config) -> bool:
    """Return whether this session only looks at tests and fixtures, and runs none."""
    names = ("collectonly", "setupplan", "showfixtures", "show_fixtures_per_test")
    return any(config.getoption(name, default=False) for name in names)


def _text(config: pytest.Config, name: str, variable: str) -> str:
    flag = config.getoption(name, default=None)
    if flag is not None:
        return str(flag)
    return os.environ.get(variable) or str(config.getini(name) or "")


def _one_of(config: pytest.Config, name: str, variable: str, words: tuple[str, str]) -> str:
    """Return one of `words`, by default the first."""
    given = _text(config, name, variable) or words[0]
    if given not in words:
        import pytest
        raise pytest.UsageError(f"{name} is {given!r}: it must be {' or '.join(words)}{nearest(given, words)}")
    return given


def _words(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text.replace(",", " ").split()))


def _flag(config: pytest.Config, name: str, variable: str) -> bool:
    """Return a switch. The words of the variable are those of pytest's ini file."""
    if config.getoption(name, default=None):
        return True
    environment = os.environ.get(variable, "")
    if not environment:
        return bool(config.getini(name))
    if environment.lower() not in (*_ON, *_OFF):
        import pytest
        raise pytest.UsageError(f"{variable} is {environment!r}: it must be one of {', '.join((*_ON, *_OFF))}")
    return environment.lower() in _ON


def _absolute(path: str, base: Path) -> Path:
    return Path(os.path.normpath(base / Path(path).expanduser()))
