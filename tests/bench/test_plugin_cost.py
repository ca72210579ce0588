"""What the plugin costs a pytest run that uses no container."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

IMPORT = """
import time, pytest
started = time.perf_counter()
import pytest_sealed.plugin
print(time.perf_counter() - started)
"""

HEADER = """
import time, pytest, pytest_sealed.plugin
class Run: store = None
started = time.perf_counter()
from pytest_sealed.plugin.summary import header
header(Run())
print(time.perf_counter() - started)
"""


def seconds(code: str, folder: Path) -> list[float]:
    """Return what a fresh interpreter measured, some times, with its bytecode cached as usual."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    runs = [float(subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True).stdout)
            for _ in range(16)]
    return sorted(runs[1:])   # the first one wrote the bytecode


def test_importing_the_plugin_costs_at_most_10_ms(tmp_path: Path) -> None:
    figures = seconds(IMPORT, tmp_path)
    print(f"\nimport of the plugin: median {figures[7] * 1000:.1f} ms, min {figures[0] * 1000:.1f}, max {figures[-1] * 1000:.1f}")
    assert figures[7] <= 0.010


def test_the_header_line_costs_at_most_20_ms(tmp_path: Path) -> None:
    figures = seconds(HEADER, tmp_path)
    print(f"\nthe header line: median {figures[7] * 1000:.1f} ms, min {figures[0] * 1000:.1f}, max {figures[-1] * 1000:.1f}")
    assert figures[7] <= 0.020
