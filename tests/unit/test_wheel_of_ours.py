"""What users install: the package, its types, the command, and the recipes that ship."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_wheel_holds_the_package_with_its_types_recipes_and_entry_points(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    [path] = tmp_path.iterdir()
    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
        entries = next(wheel.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    recipes = ROOT / "fixture-images"
    expected = {f"pytest_sealed/_recipes/{file.relative_to(recipes)}" for file in recipes.rglob("*") if file.is_file()}
    assert len(expected) >= 5
    assert expected | {"pytest_sealed/py.typed", "pytest_sealed/runtime/supervisor.py"} <= names
    assert not any(name.startswith(("tests/", "docs/")) or "__pycache__" in name for name in names)
    assert "sealed = pytest_sealed.cli:main" in entries
    assert "[pytest11]\nsealed = pytest_sealed.plugin" in entries
