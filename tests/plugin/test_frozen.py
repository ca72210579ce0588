"""`--sealed-frozen` and `--sealed-offline`: a run whose images aren't all there, or are others, ends before its first test."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest

import pytest_sealed.plugin.foreseen
import pytest_sealed.plugin.frozen  # noqa: F401  (pytester forgets what runs within this process import)
from pytest_sealed.images.finder import find_recipe
from pytest_sealed.images.lock_check import here, recipe_digest
from pytest_sealed.images.lockfile import LockedImage, Lockfile
from pytest_sealed.images.store import Store

SUITE = """
from pathlib import Path
from pytest_sealed import container_fixture, image
box = container_fixture(image("busybox", command=["sleep", "100"], wait=None))
def test_one(box): Path("ran").touch()
def test_two(): Path("ran").touch()
"""
COLLECT = ("--collect-only", "-p", "pytest_sealed.plugin.project", "--sealed-project-file=out")   # as `sealed lock` does
PARALLEL = pytest.mark.parametrize("parallel", [(), ("-n2",)], ids=["alone", "xdist"])


def write_lock(pytester: pytest.Pytester, names: Iterable[str] = ("busybox",), digest: str = "") -> None:
    """Write a lock of images that the account's store has, as they are there."""
    store = Store()
    Lockfile(pytester.path / "sealed.lock", [
        LockedImage(name=name, platform=here(), manifest=digest or store.digest(name), recipe=recipe_digest(find_recipe(name), None))
        for name in names]).write()


def refused(pytester: pytest.Pytester, *arguments: str) -> str:
    result = pytester.runpytest(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert not (pytester.path / "ran").exists()
    text = result.stderr.str()
    assert text.count("ERROR: ") == 1
    assert "Traceback" not in text + result.stdout.str()
    return text


@PARALLEL
def test_a_run_without_a_lock_is_refused(pytester: pytest.Pytester, parallel: tuple[str, ...]) -> None:
    pytester.makepyfile(SUITE)
    assert refused(pytester, "--sealed-frozen", *parallel).endswith(
        f"ERROR: this run is frozen, and there is no {pytester.path}/sealed.lock\n  remedy: sealed lock   and commit the file\n")


@PARALLEL
def test_a_run_that_is_as_the_lock_says_takes_place(pytester: pytest.Pytester, parallel: tuple[str, ...]) -> None:
    pytester.makepyfile(SUITE)
    write_lock(pytester)
    pytester.runpytest("--sealed-frozen", "--sealed-offline", *parallel).assert_outcomes(passed=2)


@PARALLEL
def test_a_store_with_other_images_is_refused(pytester: pytest.Pytester, parallel: tuple[str, ...]) -> None:
    pytester.makepyfile(SUITE)
    write_lock(pytester, digest=f"sha256:{'1' * 64}")
    text = refused(pytester, "--sealed-frozen", *parallel)
    assert f"ERROR: this run is frozen, and 1 image is not as {pytester.path}/sealed.lock says:\n  busybox: was built in the store " in text
    assert text.endswith("\n  remedy: sealed sync\n")


NAMED = """
from pytest_sealed import container_fixture, image
constant = container_fixture(image("constant:1"))
elsewhere = container_fixture(image("elsewhere:1"))
@container_fixture
def function(): return image("function:1")
@container_fixture(params=["one", "two"])
def several(param): return image(f"several:{param}")
@container_fixture
def later(constant): return image("later:1")
@container_fixture
def broken(): raise ValueError
def test_all(constant, function, several, later, broken): pass
def test_deselected(elsewhere): pass
"""


@PARALLEL
def test_all_images_that_can_be_foreseen_must_be_in_the_lock(pytester: pytest.Pytester, parallel: tuple[str, ...]) -> None:
    pytester.makepyfile(NAMED)
    pytester.makeini("[pytest]\nsealed_images = registry.example/by/hand:1, constant:1")
    write_lock(pytester, names=())
    text = refused(pytester, "--sealed-frozen", "--deselect=test_all_images_that_can_be_foreseen_must_be_in_the_lock.py::test_deselected",
                   *parallel)
    rows = {"constant:1": "fixture constant", "function:1": "fixture function", "several:one": "fixture several",
            "several:two": "fixture several", "registry.example/by/hand:1": "sealed_images"}
    assert text.endswith("".join([
        f"ERROR: this run is frozen, and 5 images are not as {pytester.path}/sealed.lock says:\n",
        *(f"  {name}: isn't in the lock for {here()} ({who})\n" for name, who in sorted(rows.items())),
        "  remedy: sealed lock && sealed sync\n"]))


def test_an_image_that_nobody_could_foresee_fails_its_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SUITE + """
@container_fixture
def later(box): return image("nginx")
def test_later(later): pass
def test_by_hand(sealed): sealed.run("nginx")
""")
    write_lock(pytester)
    result = pytester.runpytest("--sealed-frozen")
    result.assert_outcomes(passed=2, errors=1, failed=1)
    said = (f"*ImageError: this run is frozen, and {pytester.path}/sealed.lock has no image 'nginx': nothing names it that can be read "
            "before the tests run")
    result.stdout.fnmatch_lines([said, "*remedy: write it into sealed_images, in pytest's configuration: nginx; and run `sealed lock`"])


def test_a_snapshot_of_a_frozen_run_can_be_used_in_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SUITE + """
def test_snapshot(box, sealed):
    box.write_text("/note", "mine")
    box.stop()
    assert sealed.run(box.snapshot(), ["cat", "/note"]).wait() == 0
""")
    write_lock(pytester)
    pytester.runpytest("--sealed-frozen").assert_outcomes(passed=3)


@PARALLEL
def test_offline_all_that_is_missing_is_listed_with_one_command(pytester: pytest.Pytester, parallel: tuple[str, ...]) -> None:
    pytester.makepyfile(SUITE)
    pytester.makeini("[pytest]\nsealed_images = registry.example/by/hand:1")
    text = refused(pytester, "--sealed-offline", "--sealed-store=empty", *parallel)
    store = pytester.path / "empty"
    assert text.endswith(
        f"ERROR: this run is offline, and 2 images are not there:\n  busybox: the store {store} has no image 'busybox'\n"
        f"  registry.example/by/hand:1: the store {store} has no image 'registry.example/by/hand:1'\n"
        "  remedy: sealed build busybox && sealed pull registry.example/by/hand:1\n")
    write_lock(pytester)
    text = refused(pytester, "--sealed-offline", "--sealed-store=empty", *parallel)
    assert text.endswith("\n  remedy: sealed sync && sealed pull registry.example/by/hand:1\n")


def test_offline_other_images_than_the_locks_do(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SUITE)
    write_lock(pytester, digest=f"sha256:{'1' * 64}")
    pytester.runpytest("--sealed-offline").assert_outcomes(passed=2)


def test_a_damaged_lock_is_told_in_its_own_words(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SUITE)
    (pytester.path / "sealed.lock").write_text("<<<<<<< HEAD\n")
    assert "ERROR: whether every image is there can't be told: sealed.lock:1: no TOML: " in refused(pytester, "--sealed-frozen")


def test_the_environment_and_the_ini_file_say_it_too(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(SUITE)
    monkeypatch.setenv("SEALED_FROZEN", "1")
    refused(pytester)
    pytester.makeini("[pytest]\nsealed_frozen = true")
    monkeypatch.setenv("SEALED_FROZEN", "off")   # goes before the ini file
    pytester.runpytest().assert_outcomes(passed=2)
    (pytester.path / "ran").unlink()
    monkeypatch.delenv("SEALED_FROZEN")
    refused(pytester)
    monkeypatch.setenv("SEALED_FROZEN", "maybe")
    assert "ERROR: SEALED_FROZEN is 'maybe': it must be one of 1, true, yes, on, 0, false, no, off\n" in refused(pytester)


def test_only_looking_at_tests_is_never_refused(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SUITE)
    assert pytester.runpytest("--sealed-frozen", "--collect-only").ret == 0


def test_what_a_lock_is_made_of_is_told_without_running_a_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(NAMED)
    pytester.makeini("[pytest]\nsealed_images = by/hand:1\nsealed_platforms = arm64\naddopts = -n2 --sealed-frozen\n"
                     "filterwarnings = error")
    assert pytester.runpytest_subprocess(*COLLECT).ret == 0
    assert json.loads((pytester.path / "out").read_text()) == {
        "root": str(pytester.path), "unseen": ["later", "broken"], "platforms": ["linux/arm64"],
        "images": {"by/hand:1": "sealed_images", "constant:1": "fixture constant", "function:1": "fixture function",
                   "several:one": "fixture several", "several:two": "fixture several", "elsewhere:1": "fixture elsewhere"}}


def test_a_platform_that_is_none_is_an_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SUITE)
    pytester.makeini("[pytest]\nsealed_platforms = linux/amd64, a/b/c/d")
    result = pytester.runpytest_subprocess(*COLLECT)
    assert result.ret == 4
    assert "sealed_platforms: 'a/b/c/d' is no platform" in result.stderr.str() + result.stdout.str()
