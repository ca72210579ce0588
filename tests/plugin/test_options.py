"""The plugin's options: flag before environment before ini file; and the header line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

SHOW = """
def test_store(pytestconfig):
    from pytest_sealed.plugin.options import store
    print("STORE", store(pytestconfig))
"""


def store_of(pytester: pytest.Pytester, *arguments: str) -> str:
    pytester.makepyfile(SHOW)
    result = pytester.runpytest("-s", *arguments)
    result.assert_outcomes(passed=1)
    return next(line.partition("STORE ")[2] for line in result.outlines if "STORE " in line)


def test_a_flag_goes_before_the_environment(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALED_STORE", "/from/environment")
    assert store_of(pytester, "--sealed-store=/from/flag") == "/from/flag"


def test_the_environment_goes_before_the_ini_file(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makeini("[pytest]\nsealed_store = /from/ini")
    monkeypatch.setenv("SEALED_STORE", "/from/environment")
    assert store_of(pytester) == "/from/environment"


def test_a_path_in_the_ini_file_is_relative_to_that_file(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makeini("[pytest]\nsealed_store = images")
    monkeypatch.delenv("SEALED_STORE")
    folder = pytester.mkdir("below")
    monkeypatch.chdir(folder)
    assert store_of(pytester, "-c", str(pytester.path / "tox.ini"), str(pytester.path)) == str(pytester.path / "images")


def test_a_path_in_a_flag_is_relative_to_where_pytest_was_started(pytester: pytest.Pytester) -> None:
    assert store_of(pytester, "--sealed-store=here") == str(pytester.path / "here")


def test_nothing_given_is_the_accounts_own_store(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEALED_STORE")
    assert store_of(pytester) == "None"


def test_an_empty_environment_variable_is_not_given(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALED_STORE", "")
    pytester.makeini("[pytest]\nsealed_store = /from/ini")
    assert store_of(pytester) == "/from/ini"


def test_help_has_a_group_of_our_own(pytester: pytest.Pytester) -> None:
    pytester.runpytest("--help").stdout.fnmatch_lines(["containers (pytest-sealed):", "  --sealed-store=DIR *", "*sealed_store (string)*"])


def test_the_header_says_mode_cgroup_kernel_and_store(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALED_STORE", "/some/store")
    kernel = Path("/proc/sys/kernel/osrelease").read_text().strip()
    pytester.makepyfile("def test_nothing(): pass")
    header = next(line for line in pytester.runpytest().outlines if line.startswith("sealed:"))
    assert f"Linux {kernel}, images in /some/store" in header
    assert any(mode in header for mode in ("as root", "rootless"))
    assert "cgroup" in header


def test_the_header_says_so_in_single_id_mode(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALED_IDS", "single")
    pytester.makepyfile("def test_nothing(): pass")
    pytester.runpytest().stdout.fnmatch_lines(["sealed: *single id*"])


def test_the_header_says_why_there_can_be_no_containers(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALED_IDS", "wrong")
    pytester.makepyfile("def test_nothing(): pass")
    result = pytester.runpytest()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["sealed: no containers here: SEALED_IDS='wrong' is unknown*"])
