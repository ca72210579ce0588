"""Where there is no Linux kernel: everything imports, and what starts something says one sentence with the way out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_sealed.errors import no_linux

HERE = Path(__file__).parent
SYSTEMS = [("darwin", "macOS"), ("win32", "Windows")]
BECOME = """
import asyncio, filelock, sys, tarfile   # which look at the system themselves
sys.path.insert(0, {folder!r})
from other_systems import become
become({system!r})
from pytest_sealed import container_fixture, image
from pytest_sealed.services import postgres
db = container_fixture(postgres())
wide = container_fixture(image("busybox"), scope="session")
"""
SUITE = """
def test_db(db): pass
def test_again(db): pass
def test_wide(wide): pass
def test_by_hand(sealed): sealed.run("busybox")
def test_other(): pass
"""


def suite(pytester: pytest.Pytester, system: str, *arguments: str, ini: str = "", ci: str = "") -> pytest.RunResult:
    pytester.makeconftest(BECOME.format(folder=str(HERE), system=system))
    pytester.makepyfile(SUITE)
    pytester.makeini(f"[pytest]\n{ini}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CI", ci)
        return pytester.runpytest_subprocess("-rs", "-p", "no:faulthandler", *arguments)


@pytest.mark.parametrize(("system", "name"), SYSTEMS)
def test_everything_imports_and_every_command_has_its_help(system: str, name: str) -> None:
    done = subprocess.run([sys.executable, str(HERE / "other_systems.py"), system], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


@pytest.mark.parametrize(("system", "name"), SYSTEMS)
def test_a_test_that_needs_containers_fails_by_one_sentence(pytester: pytest.Pytester, system: str, name: str) -> None:
    result = suite(pytester, system)
    result.assert_outcomes(passed=1, errors=4)
    assert f"sealed: no containers here: containers need a Linux kernel, and this is {name}" in result.outlines
    errors = [line for line in result.outlines if line.startswith("E   ") and "HostUnsupported" in line]
    assert len(errors) == 4
    assert all(line.endswith(f"HostUnsupported: containers need a Linux kernel, and this is {name}") for line in errors)
    result.stdout.fnmatch_lines(["*remedy: run the tests in a Linux virtual machine or on a Linux CI runner*"])
    result.stdout.no_fnmatch_line("*sealed doctor*")


@pytest.mark.parametrize(("system", "name"), SYSTEMS)
def test_a_suite_may_skip_them_instead(pytester: pytest.Pytester, system: str, name: str) -> None:
    result = suite(pytester, system, ini="sealed_unsupported = skip")
    result.assert_outcomes(passed=1, skipped=4)
    result.stdout.fnmatch_lines([f"SKIPPED * containers need a Linux kernel, and this is {name}"])


def test_in_ci_they_fail_all_the_same(pytester: pytest.Pytester) -> None:
    suite(pytester, "darwin", "--sealed-unsupported=skip", ci="true").assert_outcomes(passed=1, errors=4)


def test_a_ci_variable_that_says_no_is_no_ci(pytester: pytest.Pytester) -> None:
    suite(pytester, "darwin", "--sealed-unsupported=skip", ci="false").assert_outcomes(passed=1, skipped=4)


def test_a_wrong_word_is_refused_before_the_tests_on_every_system(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_other(): pass")
    result = pytester.runpytest("--sealed-unsupported=skpi")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: sealed_unsupported is 'skpi': it must be fail or skip, did you mean 'skip'?"])


def test_a_suite_that_requires_something_ends_with_the_sentence(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_other(): pass")
    code = f"import sys; sys.path.insert(0, {str(HERE)!r}); import pytest, tarfile, tempfile, subprocess, asyncio, filelock; " \
           "from other_systems import become; become('darwin'); sys.exit(pytest.main(['--sealed-require=limits', '-p', 'no:faulthandler']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=pytester.path, capture_output=True, text=True)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "containers need a Linux kernel, and this is macOS" in done.stderr


@pytest.mark.parametrize("command", [["images"], ["run", "busybox"], ["build", "busybox"], ["ps"], ["sweep"]])
def test_a_command_says_the_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    from pytest_sealed.cli import main
    monkeypatch.setattr("sys.platform", "darwin")
    assert main(command) == (125 if command[0] == "run" else 1)
    assert capsys.readouterr().err == (
        "sealed: containers need a Linux kernel, and this is macOS\n"
        "  remedy: run the tests in a Linux virtual machine or on a Linux CI runner\n")


def test_the_doctor_says_it_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from pytest_sealed.cli import main
    monkeypatch.setattr("sys.platform", "win32")
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "missing   containers  containers need a Linux kernel, and this is Windows" in out
    assert "WSL 2" in out


def test_on_linux_there_is_no_such_error() -> None:
    assert os.uname().sysname == "Linux"
    assert no_linux() is None
