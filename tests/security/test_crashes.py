"""A crash of any of a run's processes, and of several at once, at whatever instant: nothing is left once the next run starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "crash.py"
INSTANTS = int(os.environ.get("SEALED_TEST_INSTANTS", "10"))   # the pipeline tries more


@pytest.mark.parametrize("number", range(INSTANTS))
def test_nothing_is_left_whatever_is_killed_and_when(tmp_path: Path, number: int) -> None:
    done = subprocess.run([sys.executable, SCRIPT, tmp_path], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
