"""Options of the plugin: flag, else environment, else ini file. Resolved here and nowhere else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

__all__ = ["add", "starts_nothing", "store"]


def add(parser: pytest.Parser) -> None:
    """Register the options. See `pytest --help`, group "sealed"."""
    group = parser.getgroup("sealed", "containers (pytest-sealed)")
    group.addoption("--sealed-store", metavar="DIR",
                    help="folder of the image store; else SEALED_STORE, else the ini option sealed_store, else the user's own")
    parser.addini("sealed_store", "folder of the image store, relative to the ini file", default=None)


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


def starts_nothing(config: pytest.Config) -> bool:
    """Return whether this session only looks at tests and fixtures, and runs none."""
    names = ("collectonly", "setupplan", "showfixtures", "show_fixtures_per_test")
    return any(config.getoption(name, default=False) for name in names)


def _absolute(path: str, base: Path) -> Path:
    return Path(os.path.normpath(base / Path(path).expanduser()))
