"""The documentation names only what is there: examples compile and type-check, links and commands lead somewhere."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from documents import FENCE, ROOT, Example, anchors, examples, links, pages

import pytest_sealed
from pytest_sealed import ExecResult, Limits, Mount, Stats, Tmpfs, services
from pytest_sealed.sandbox import HostReport
from pytest_sealed.spec import ContainerOptions

PYTHON = examples("python")


@pytest.mark.parametrize("path", pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path: Path) -> None:
    for line, target in links(path):
        file, _, fragment = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), f"{path.name}:{line}: {target} does not exist"
        if fragment and found.suffix == ".md":
            assert fragment in anchors(found), f"{path.name}:{line}: {target}: no such heading"


@pytest.mark.parametrize("path", [path for path in pages() if "docs" in path.parts[-3:] or path.parent.name == "docs"],
                         ids=lambda path: str(path.relative_to(ROOT)))
def test_every_page_can_be_reached(path: Path) -> None:
    if path.name == "README.md":
        return
    linked = {(page.parent / target.partition("#")[0]).resolve() for page in pages() for _, target in links(page)}
    assert path.resolve() in linked, "no page links here"


@pytest.mark.parametrize("example", PYTHON, ids=str)
def test_every_example_is_python(example: Example) -> None:
    tree = ast.parse(example.text, example.page)
    names = [name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module
             for name in (f"{node.module}.{alias.name}" for alias in node.names) if name.startswith("pytest_sealed")]
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert attribute in importlib.import_module(module).__all__, f"{example}: {name} is not public"


def test_every_example_passes_the_type_checker(tmp_path: Path) -> None:
    """Blocks that are one file are checked as one; a block that names no file stands alone."""
    if importlib.util.find_spec("mypy") is None:
        pytest.fail("mypy is not installed: `.ci/setup test`")
    sources: dict[str, str] = {}
    for example in PYTHON:
        page = re.sub(r"[^a-z0-9]+", "_", example.page.removesuffix(".md").lower())
        name = f"{page}__{example.file or f'line_{example.line}.py'}"
        sources[name] = sources.get(name, "") + example.text
    for name, text in sources.items():
        (tmp_path / name).write_text(text)
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--strict", "--no-error-summary",
         "--cache-dir", str(ROOT / ".mypy_cache"), *sources],
        cwd=tmp_path, env={"MYPYPATH": str(ROOT), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in pages():
        named = set(re.findall(r"`make ([a-z]+)", path.read_text())) | set(re.findall(r"^make ([a-z]+)", path.read_text(), re.MULTILINE))
        assert named <= targets, f"{path.name}: no such target: {named - targets}"


def test_every_sealed_command_that_is_named_exists() -> None:
    from pytest_sealed.cli import COMMANDS
    for path in pages():
        text = path.read_text()
        named = set(re.findall(r"`sealed ([a-z]+)", text)) | set(re.findall(r"^(?:sudo )?(?:\S*/)?sealed ([a-z]+)", text, re.MULTILINE))
        assert named <= set(COMMANDS), f"{path.name}: no such command: {named - set(COMMANDS)}"


def test_every_container_option_has_a_place_in_the_reference() -> None:
    page = (ROOT / "docs/reference/container-options.md").read_text()
    documented = set(re.findall(r"^\| `(\w+)`", page, re.MULTILINE))
    assert documented == set(ContainerOptions.__annotations__)


def test_every_option_of_the_plugin_has_a_place_in_the_reference() -> None:
    page = (ROOT / "docs/reference/pytest.md").read_text()
    source = (ROOT / "pytest_sealed/plugin/options.py").read_text()
    declared = re.findall(r'add(?:option|ini)\(\s*"([\w-]+)"', source)
    assert declared
    for name in declared:
        assert f"`{name}`" in page or f"`{name} " in page, f"{name} is not in docs/reference/pytest.md"


def test_every_public_name_and_field_has_a_place_in_the_reference() -> None:
    text = "".join(path.read_text() for path in (ROOT / "docs/reference").glob("*.md"))
    quoted = set(re.findall(r"\w+", " ".join(re.findall(r"`[^`\n]+`", FENCE.sub("", text)))))
    names = {*pytest_sealed.__all__, *services.__all__}
    for kind in (ExecResult, HostReport, Limits, Mount, Stats, Tmpfs):
        names |= {field.name for field in dataclasses.fields(kind)}
    assert names - quoted == set()


def test_every_environment_variable_of_ours_has_a_place_in_the_reference() -> None:
    page = (ROOT / "docs/reference/pytest.md").read_text() + (ROOT / "docs/reference/cli.md").read_text()
    used = {name for path in (ROOT / "pytest_sealed").rglob("*.py")
            for name in re.findall(r"""environ(?:\.get\(|\[)["'](SEALED_\w+)["']""", path.read_text())}
    for name in used:
        assert f"`{name}" in page, f"{name} is in neither docs/reference/pytest.md nor cli.md"


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs/decisions"
    index = (folder / "README.md").read_text()
    for path in folder.glob("[0-9]*.md"):
        assert f"({path.name})" in index, f"{path.name} is not in docs/decisions/README.md"
        title = path.read_text().splitlines()[0]
        assert re.fullmatch(rf"# {path.name[:4]}\. \S.*", title), f"{path.name} begins with {title!r}, not '# {path.name[:4]}. …'"


def isolation_rows() -> dict[str, list[str]]:
    """Return the rows of the table on isolation: first cell → the others."""
    text = (ROOT / "docs/explanation/isolation.md").read_text().partition("## Line by line")[2]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("|")]
    assert rows[0][1:] == ["here", "Docker", "Podman", "bubblewrap", "shown by"]
    return {row[0].strip("| "): row[1:] for row in rows[2:]}


def test_every_test_that_a_page_names_exists() -> None:
    named = {name for path in pages() for name in re.findall(r"`(tests/\S+\.py::test_\w+)`", path.read_text())}
    assert len(named) > 30
    for file in {name.partition("::")[0] for name in named}:
        tree = ast.parse((ROOT / file).read_text())
        there = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        for name in named:
            assert name.partition("::")[0] != file or name.partition("::")[2] in there, f"there is no {name}"


def test_every_line_on_isolation_is_of_all_four_and_names_a_test() -> None:
    rows = isolation_rows()
    wanted = {"user namespace", "capabilities", "bounding set", "inheritable and ambient sets", "`no_new_privs`", "system calls", "masks",
              "read-only paths", "device nodes", "keyring", "rlimits", "`oom_score_adj`", "dumpable", "umask", "sysctls"}
    assert wanted <= set(rows)
    for name, cells in rows.items():
        assert len(cells) == 5
        assert all(cells), f"a cell of {name} is empty"
        assert re.fullmatch(r"`tests/(kernel|security)/[^`]+`(, `tests/[^`]+`)*", cells[-1]), f"no test from inside shows {name}"


def test_the_page_on_isolation_has_every_path_that_is_hidden_or_read_only() -> None:
    from pytest_sealed.runtime.plan import MASKED, READ_ONLY
    rows = isolation_rows()
    for name, paths in (("masks", MASKED), ("read-only paths", READ_ONLY)):
        assert {path.rpartition("/")[2] for path in paths} <= set(re.findall(r"`([^`]+)`", rows[name][0]))


@pytest.mark.parametrize("example", examples("toml"), ids=str)
def test_every_recipe_is_one(example: Example) -> None:
    from pytest_sealed.images.recipe import parse_recipe
    parse_recipe(example.text.encode(), example.page)


def test_every_key_of_a_recipe_has_a_place_in_the_reference() -> None:
    page = (ROOT / "docs/reference/recipes.md").read_text()
    sources = "".join((ROOT / "pytest_sealed/images" / name).read_text() for name in ("recipe.py", "recipe_config.py"))
    keys = {key for call in re.findall(r"\.only\(([^)*]+)\)", sources) for key in re.findall(r'"(\w+)"', call)}
    assert keys
    assert not {key for key in keys if not re.search(rf"\b{key}\b", page)}
