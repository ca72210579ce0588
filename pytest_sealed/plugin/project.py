"""A plugin for `sealed lock`, which runs `pytest --collect-only` with it: it writes down what pytest knows of a project.

The file gets a JSON object: root (the folder of the configuration), images (references, and who names each), unseen (fixtures),
platforms.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from pytest_sealed.plugin import options
from pytest_sealed.plugin.foreseen import Foreseen

__all__: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sealed-project-file", required=True, help=argparse.SUPPRESS)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    config, found = session.config, Foreseen(session.items)
    Path(config.getoption("sealed_project_file")).write_text(json.dumps({
        "root": str(config.rootpath),
        "images": {**dict.fromkeys(options.images(config), "sealed_images"), **found.images},
        "unseen": found.unseen,
        "platforms": options.platforms(config),
    }))
