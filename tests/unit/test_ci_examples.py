"""The CI files that users copy: checked against their published schemas, and what they name exists."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from documents import ROOT

EXAMPLES = ROOT / "docs/examples/ci"


def validate(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "check_jsonschema", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_workflow_is_one_for_github() -> None:
    validate("--builtin-schema", "vendor.github-workflows", str(EXAMPLES / "github-workflow.yml"))


def test_the_pipeline_is_one_for_gitlab() -> None:
    validate("--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci", str(EXAMPLES / "gitlab-ci.yml"))


@pytest.mark.parametrize("name", ["github-workflow.yml", "gitlab-ci.yml"])
def test_it_names_commands_and_words_that_there_are(name: str) -> None:
    from pytest_sealed.cli import COMMANDS
    from pytest_sealed.doctor.requirements import WORDS
    text = (EXAMPLES / name).read_text()
    assert set(re.findall(r"^\s*(?:- |run: )?sealed ([a-z]+)", text, re.MULTILINE)) >= {"build", "doctor"}
    assert set(re.findall(r"\bsealed ([a-z]+)", text)) <= set(COMMANDS)
    assert "sealed import images.tar" in text
    assert "sealed export images.tar" in text
    required = re.search(r"SEALED_REQUIRE: (\S+)", text)
    assert required is not None
    assert set(required[1].split(",")) <= set(WORDS)


def test_the_page_has_the_steps_of_the_workflow() -> None:
    """They are run as they stand there, so they must be the same."""
    page = (ROOT / "docs/how-to/ci.md").read_text()
    steps = re.search(r"name: What containers need\n\s+run: \|\n((?: {10}.*\n)+)", (EXAMPLES / "github-workflow.yml").read_text())
    assert steps is not None
    assert re.sub(r"^ {10}", "", steps[1], flags=re.MULTILINE) in page


def test_the_schema_of_the_doctors_json_takes_the_example_of_its_page() -> None:
    page = (ROOT / "docs/reference/doctor.md").read_text()
    example = re.search(r"```json\n(.*?)```", page, re.DOTALL)
    assert example is not None
    assert json.loads(example[1])["schema"] == 1


@pytest.mark.parametrize("page", ["how-to/hosts/debian.md", "how-to/hosts/ubuntu.md", "how-to/hosts/systemd.md", "how-to/ci.md",
                                  "how-to/hosts/gitlab-kubernetes.md", "how-to/hosts/wsl.md"])
def test_each_kind_of_host_has_a_page_with_commands(page: str) -> None:
    assert "```" in (ROOT / "docs" / page).read_text()


def test_each_page_that_the_doctor_names_exists() -> None:
    named = {match for path in (ROOT / "pytest_sealed/doctor").glob("*.py")
             for match in re.findall(r'"(how-to/[\w/-]+\.md)"', path.read_text())}
    assert len(named) > 5
    for page in named:
        assert (ROOT / "docs" / page).is_file(), page
