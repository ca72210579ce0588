"""What the doctor and the documentation say, for the tests of hosts that lack something."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from documents import ROOT, examples

__all__ = ["finding", "shell_block"]


def finding(check: str) -> dict[str, Any]:
    """Return what `sealed doctor --json` has found by one check."""
    done = subprocess.run([sys.executable, "-m", "pytest_sealed.cli", "doctor", "--json"], capture_output=True, text=True)
    return next(found for found in json.loads(done.stdout)["findings"] if found["check"] == check)


def shell_block(page: str, containing: str) -> str:
    """Return the one shell example of a page that has a word in it."""
    assert (ROOT / page).exists()
    [text] = [example.text for example in examples("sh") if example.page == page and containing in example.text]
    return text
