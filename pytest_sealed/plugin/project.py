"""Tells `sealed lock`, in a process of its own, what pytest knows of a project: `python -m pytest_sealed.plugin.project FILE [ARGUMENT…]`.

The file gets a JSON object: root (the folder of the configuration), images (references, and who names each), unseen (fixtures),
platforms. The arguments are pytest's; it collects and runs nothing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pytest_sealed.plugin import options
from pytest_sealed.plugin.foreseen import Foreseen

__all__ = ["main"]


class _Collected:
    """A plugin that writes down what was collected."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        found = Foreseen(session.items)
        self._path.write_text(json.dumps({
            "root": str(session.config.rootpath),
            "images": {**dict.fromkeys(options.images(session.config), "sealed_images"), **found.images},
            "unseen": found.unseen,
            "platforms": options.platforms(session.config),
        }))


def main(argv: list[str]) -> int:
    """Collect; return pytest's exit status."""
    path, *arguments = argv
    return int(pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", *arguments], plugins=[_Collected(path)]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
