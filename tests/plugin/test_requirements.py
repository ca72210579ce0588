"""`sealed_require`: a run that would do without ends before its first test; and the doctor's findings in the first failure's report."""

from __future__ import annotations

import pytest

import pytest_sealed.doctor.requirements  # noqa: F401  (pytester forgets what runs within this process import, and with it patches)

SUITE = """
from pathlib import Path
def test_one(sealed):
    Path("ran").touch()
    sealed.run("busybox", ["true"]).wait()
def test_two(): Path("ran").touch()
"""
HARMLESS = "network"   # true on every host that runs these tests


@pytest.fixture(autouse=True)
def _suite(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SUITE)


def refused(pytester: pytest.Pytester, *arguments: str) -> str:
    result = pytester.runpytest(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert not (pytester.path / "ran").exists()
    return result.stderr.str()


@pytest.mark.parametrize("parallel", [(), ("-n2",)], ids=["alone", "xdist"])
def test_what_is_missing_ends_the_run_before_its_first_test(
        pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, parallel: tuple[str, ...]) -> None:
    monkeypatch.setenv("SEALED_IDS", "single")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(pytester.mkdir("run")))
    text = refused(pytester, "--sealed-require=subuid,network", *parallel)
    assert "ERROR: this run would do without what its suite requires (sealed_require = subuid, network)" in text
    assert not (pytester.path / "run/pytest-sealed").exists()
    assert "  subuid: SEALED_IDS=single asks for single-id mode\n    remedy: unset SEALED_IDS\n" in text
    assert "network:" not in text
    assert "Traceback" not in text


def test_the_ini_file_and_the_environment_say_it_too(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALED_IDS", "single")
    pytester.makeini("[pytest]\nsealed_require = network\n    subuid")
    assert "subuid: " in refused(pytester)
    monkeypatch.setenv("SEALED_REQUIRE", HARMLESS)   # goes before the ini file
    pytester.runpytest().assert_outcomes(passed=2)


@pytest.mark.parametrize("parallel", [(), ("-n2",)], ids=["alone", "xdist"])
def test_what_is_there_lets_the_tests_run(pytester: pytest.Pytester, parallel: tuple[str, ...]) -> None:
    pytester.runpytest(f"--sealed-require={HARMLESS},containers", *parallel).assert_outcomes(passed=2)


def test_limits_are_tried_by_setting_them(pytester: pytest.Pytester) -> None:
    from pytest_sealed.doctor.limits import Answers
    if set(Answers.get().refused) & {"memory", "cpus", "cpu_shares", "pids"}:
        assert "limits: " in refused(pytester, "--sealed-require=limits")
    else:
        pytester.runpytest("--sealed-require=limits").assert_outcomes(passed=2)


def test_a_limit_that_fails_is_named_with_its_remedy(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_sealed.doctor import limits
    from pytest_sealed.runtime.cgroups import Hierarchy
    answers = limits.Answers(hierarchy=Hierarchy("v1", {}, {}),
                             refused={"memory": ("memory=1 can't be enforced: Permission denied", "sudo sealed delegate")})
    monkeypatch.setattr(limits.Answers, "get", classmethod(lambda _cls: answers))
    text = refused(pytester, "--sealed-require=limits pids")
    assert "  limits: Permission denied\n    remedy: " in text
    assert "pids: " not in text


@pytest.mark.parametrize(("word", "hint"), [("limit", ", did you mean 'limits'?"), ("subuids", ", did you mean 'subuid'?"), ("zzz", "")])
def test_an_unknown_word_is_refused_with_the_nearest(pytester: pytest.Pytester, word: str, hint: str) -> None:
    text = refused(pytester, f"--sealed-require={word}")
    assert f"ERROR: sealed_require has {word!r}, which is unknown{hint}\n  remedy: use some of containers, limits, " in text


def test_looking_at_tests_needs_nothing(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALED_IDS", "single")
    assert pytester.runpytest("--sealed-require=subuid", "--collect-only", "-q").ret == 0


def test_the_words_are_those_of_the_reference() -> None:
    import re

    from documents import ROOT

    from pytest_sealed.doctor.requirements import WORDS
    page = (ROOT / "docs/reference/pytest.md").read_text()
    table = page.partition("| word | required |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", table)) == set(WORDS)


# ---------------------------------------------------------------- the first failure


def test_the_first_test_that_the_host_cannot_do_has_the_doctors_findings(
        pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile("def test_one(sealed): sealed.network()\ndef test_two(sealed): sealed.network()\ndef test_three(): assert 0")
    monkeypatch.setenv("SEALED_IDS", "wrong")
    result = pytester.runpytest()
    result.assert_outcomes(errors=2, failed=1)
    assert result.stdout.str().count(" sealed doctor ---") == 1
    result.stdout.fnmatch_lines([
        "*HostUnsupported: SEALED_IDS='wrong' is unknown",
        "*--- sealed doctor ---*",
        "missing *SEALED_IDS='wrong' is unknown",
        "*remedy: unset it, or set SEALED_IDS=single",
        "Containers can't run here.",
    ])
    result.stdout.no_fnmatch_line("ok   *")


def test_a_failure_that_is_not_the_hosts_has_none(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_one(sealed): sealed.run('no-such-image')\ndef test_two(sealed): assert 0")
    result = pytester.runpytest()
    result.assert_outcomes(failed=2)
    result.stdout.no_fnmatch_line("*sealed doctor*")


def test_a_doctor_that_fails_hides_no_failure(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile("def test_one(sealed): sealed.network()")
    monkeypatch.setenv("SEALED_IDS", "wrong")
    monkeypatch.setattr("pytest_sealed.doctor.examine", lambda _store: 1 // 0)
    result = pytester.runpytest()
    result.stdout.fnmatch_lines(["*HostUnsupported: SEALED_IDS='wrong' is unknown", "sealed doctor failed: ZeroDivisionError(*"])
