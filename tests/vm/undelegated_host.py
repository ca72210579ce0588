"""An ordinary account on cgroup v2, where nobody has delegated a cgroup to it and no systemd can: limits are refused word by word, in
every place where they are asked for, and the documented remedy mends it. That all else works is tried by the other tests of the cell.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from documents import ROOT
from told import finding, shell_block

from pytest_sealed import ContainerChanges, LimitUnavailable, Sandbox
from pytest_sealed.images.folders import default_root

REASON = "this account can't make a cgroup in /sys/fs/cgroup (Permission denied)"
REMEDY = ("nothing here delegates cgroups: run as root, or give this account a cgroup (chown its directory, cgroup.procs and "
          "cgroup.subtree_control) and start pytest in it")
STORE = default_root()   # pytester moves HOME

SUITE = """
from pytest_sealed import container_fixture, image
db = container_fixture(image("busybox", command=["sleep", "1000"], memory="64M"))
def test_one(db): pass
def test_two(db): pass
def test_three(sealed): assert sealed.run("busybox", ["true"]).wait() == 0
"""


@pytest.fixture(scope="module")   # a session takes long to start where the processor is emulated
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


@pytest.mark.parametrize(("limits", "what"), [
    ({"memory": "64M"}, "memory=67108864"), ({"cpus": 0.5}, "cpus=0.5"), ({"cpu_shares": 512}, "cpu_shares=512"),
    ({"pids": 10}, "pids=10"),
])
def test_a_limit_is_refused_with_the_remedy(sandbox: Sandbox, limits: ContainerChanges, what: str) -> None:
    options: ContainerChanges = {**limits, "name": "web"}
    with pytest.raises(LimitUnavailable) as caught:
        sandbox.run("busybox", ["true"], **options)
    assert caught.value.message == f"container 'web' (busybox) did not start: {what} can't be enforced: {REASON}"
    assert caught.value.remedy == REMEDY


def test_without_limits_a_container_runs_and_says_that_it_has_none(sandbox: Sandbox) -> None:
    container = sandbox.run("busybox", ["sleep", "1000000"])
    stats = container.stats()
    assert (stats.memory, stats.memory_limit, stats.cpu_seconds, stats.pids) == (None, None, None, None)
    assert container.exec(["true"]).exit_code == 0
    with pytest.raises(LimitUnavailable) as caught:
        container.pause()
    assert (caught.value.message, caught.value.remedy) == (f"pausing can't be enforced: {REASON}", REMEDY)


def test_the_doctor_says_which_are_refused() -> None:
    found = finding("limits")
    assert (found["state"], found["found"]) == ("missing", REASON)
    assert found["effect"].startswith("memory= is refused; swap= is refused; cpus= is refused; cpu_shares= is refused; pids= is refused, "
                                      "and nothing stops a fork bomb")
    assert (found["remedy"]["commands"], found["remedy"]["text"]) == ([], REMEDY)


def test_the_tests_that_need_them_fail_with_the_remedy_and_others_pass(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALED_STORE", str(STORE))
    pytester.makepyfile(SUITE)
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=1, errors=2)
    text = result.stdout.str()
    assert ", no limits on cgroup v2 (`sealed doctor` says why), " in text
    assert text.count(f"memory=67108864 can't be enforced: {REASON}") >= 2
    assert f"remedy: {REMEDY}" in text
    assert "missing   limits" in text   # the doctor's words, in the first failure


def test_a_suite_that_requires_them_does_not_begin(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SUITE)
    result = pytester.runpytest_subprocess("--sealed-require=limits")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"  limits: {REASON}\n    remedy: {REMEDY}\n" in result.stderr.str()


def test_in_a_cgroup_given_as_documented_the_examples_limits_hold() -> None:
    script = (f"{shell_block('docs/how-to/hosts/systemd.md', 'cgroup=')}\n"
              f"exec {sys.executable} -m pytest -q -p no:cacheprovider test_limits.py -k too_large_an_export")
    done = subprocess.run(["sh", "-euc", script], cwd=ROOT / "docs/examples/shop", capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
