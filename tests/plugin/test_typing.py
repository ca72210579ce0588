"""A mistyped keyword, attribute or return type is an error of mypy's and pyright's, before any run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = (Path(__file__).parent / "typed_suite.py.txt").read_text()
WRONG = {number for number, line in enumerate(SUITE.splitlines(), 1) if line.endswith("# wrong")}


def mypy(folder: Path) -> set[int]:
    """Return the lines in which mypy sees errors."""
    (folder / "mypy.ini").write_text("[mypy]\nstrict = true\npython_version = 3.11\n")
    output = subprocess.run([sys.executable, "-m", "mypy", "--no-error-summary", "suite.py"],
                            cwd=folder, capture_output=True, text=True).stdout
    print(output)
    return {int(line) for line in re.findall(r"^suite\.py:(\d+): error:", output, re.MULTILINE)}


def pyright(folder: Path) -> set[int]:
    """Return the lines in which pyright, in its strict mode, sees errors."""
    (folder / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict", "pythonVersion": "3.11", "reportUnusedExpression": false}')
    output = subprocess.run([sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", "suite.py"],
                            cwd=folder, capture_output=True, text=True).stdout
    print(output)
    return {row["range"]["start"]["line"] + 1 for row in json.loads(output)["generalDiagnostics"] if row["severity"] == "error"}


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_what_is_wrong_is_an_error_and_nothing_else(tmp_path: Path, checker: object) -> None:
    assert len(WRONG) > 15
    (tmp_path / "suite.py").write_text(SUITE)
    found = checker(tmp_path)  # type: ignore[operator]
    assert found == WRONG
