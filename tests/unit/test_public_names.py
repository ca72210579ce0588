"""What `from pytest_sealed import …` offers: each name once, from one place, and nothing heavy along with it."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_sealed

PACKAGE = Path(pytest_sealed.__file__).parent
PUBLIC = ["pytest_sealed", "pytest_sealed.errors", "pytest_sealed.services", "pytest_sealed.spec", "pytest_sealed.waits"]


def every_module() -> list[str]:
    found = [module.name for module in pkgutil.walk_packages([str(PACKAGE)], "pytest_sealed.")]
    return ["pytest_sealed", *sorted(name for name in found if "._recipes" not in name)]


def in_alphabet(names: list[str]) -> list[str]:
    """As ruff sorts `__all__`: CONSTANTS, Classes, functions."""
    return sorted(names, key=lambda name: (not name.isupper(), not name[:1].isupper(), name))


def test_every_public_name_is_exported_once_and_in_order() -> None:
    names = pytest_sealed.__all__
    assert len(set(names)) == len(names)
    assert names == in_alphabet(names)


@pytest.mark.parametrize("name", pytest_sealed.__all__)
def test_a_public_name_comes_from_the_module_that_defines_it(name: str) -> None:
    value = getattr(pytest_sealed, name)
    home = pytest_sealed._HOME[name]
    module = importlib.import_module(f"pytest_sealed.{home}")
    assert name in module.__all__
    assert getattr(module, name) is value
    if inspect.isclass(value) or inspect.isfunction(value):
        assert (value.__doc__ or "").strip(), f"{name} has no docstring"


def test_what_type_checkers_see_is_what_is_there() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname or alias.name: node.module for node in ast.walk(checked) if isinstance(node, ast.ImportFrom)
            for alias in node.names}
    assert seen == {name: f"pytest_sealed.{home}" for name, home in pytest_sealed._HOME.items()}
    assert sorted(seen) == sorted(pytest_sealed.__all__)
    assert dir(pytest_sealed) == sorted(pytest_sealed.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'pytest_sealed' has no attribute 'nonsense'"):
        pytest_sealed.nonsense  # noqa: B018


@pytest.mark.parametrize("name", every_module())
def test_a_module_says_what_it_offers(name: str) -> None:
    path = Path(PACKAGE.parent, *name.split("."))
    source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
    tree = ast.parse(source)
    assert ast.get_docstring(tree) or not tree.body, f"{name} has no docstring"
    exported = next((ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign)
                     and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__"), None)
    if exported is None:
        return
    assert exported == in_alphabet(exported)
    defined = {node.name for node in ast.walk(tree) if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    assigned = {target.id for node in ast.walk(tree) if isinstance(node, (ast.Assign, ast.AnnAssign))
                for target in (node.targets if isinstance(node, ast.Assign) else [node.target]) if isinstance(target, ast.Name)}
    imported = {alias.asname or alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(exported) <= defined | assigned | imported


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").exists()


def imports(module: str) -> set[str]:
    """Return the modules that a fresh interpreter has after importing `module`."""
    script = f"import sys, {module}; print('\\n'.join(sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def test_importing_the_package_imports_next_to_nothing() -> None:
    assert {name for name in imports("pytest_sealed") if name.startswith("pytest_sealed")} == {"pytest_sealed"}


def test_the_plugin_is_light_until_a_container_is_asked_for() -> None:
    heavy = {"pyroute2", "ctypes", "filelock", "asyncio", "http.client", "pytest_sealed.sandbox", "pytest_sealed.images"}
    assert not heavy & (imports("pytest_sealed.plugin") - imports("pytest"))


def test_the_public_api_never_imports_pytest_or_pyroute2() -> None:
    assert not {"pytest", "_pytest", "pyroute2"} & imports("pytest_sealed.sandbox, pytest_sealed.services")
