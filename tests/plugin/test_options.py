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


# ---------------------------------------------------------------- what is published

PUBLISHED = """
from pytest_sealed import SpecError, container_fixture, image

web = container_fixture(image("busybox", command=["httpd", "-f", "-h", "/etc", "-p", "80"]))
other = container_fixture(image("busybox", command=["sleep", "1000"], publish="loopback"))

def test_published(web, other, sealed):
    assert other.port(80)
    for container in (web, sealed.run("busybox", ["sleep", "1000"])):
        try:
            print("PORT", container.port(80) > 0)
        except SpecError as error:
            print("PORT", error.message)
"""


def published(pytester: pytest.Pytester, *arguments: str) -> bool:
    pytester.makepyfile(PUBLISHED)
    result = pytester.runpytest("-rP", *arguments)
    result.assert_outcomes(passed=1)
    one, other = [line.partition("PORT ")[2] for line in result.outlines if "PORT " in line]
    assert (one == "True") == (other == "True")
    return one == "True"


def test_ports_are_published_unless_the_suite_says_otherwise(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEALED_PUBLISH", raising=False)
    assert published(pytester)
    assert not published(pytester, "--sealed-publish=none")
    pytester.makeini("[pytest]\nsealed_publish = none")
    assert not published(pytester)
    assert not published(pytester, "-n1")
    monkeypatch.setenv("SEALED_PUBLISH", "loopback")
    assert published(pytester)
    assert not published(pytester, "--sealed-publish=none")


def test_another_word_for_what_is_published_is_an_error_at_once(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nsealed_publish = non")
    pytester.makepyfile("def test_nothing(): pass")
    result = pytester.runpytest()
    result.stderr.fnmatch_lines(["ERROR: sealed_publish is 'non': it must be loopback or none, did you mean 'none'?"])
    assert result.ret == 4
