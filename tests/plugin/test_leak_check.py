"""The check around this project's own test sessions sees what they leave behind, and only that."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[2] / "conftest.py"


@pytest.fixture
def checked(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., pytest.RunResult]:
    """Run one test with this body under the check, in a pytest of its own."""
    monkeypatch.setenv("TMPDIR", str(pytester.path))   # what it is made to leave behind stays there
    pytester.makeconftest(CONFTEST.read_text().replace("GRACE = 3.0", "GRACE = 0.3"))

    def run(body: str, *options: str) -> pytest.RunResult:
        pytester.makepyfile("import os, signal, subprocess, tempfile\nfrom pathlib import Path\ndef test_it():\n    " + body)
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", *options)

    return run


@pytest.fixture
def dead_pid() -> int:
    with subprocess.Popen(["true"]) as process:
        pass
    return process.pid


@pytest.fixture
def cgroup(dead_pid: int) -> Iterator[Path]:
    own = Path("/proc/self/cgroup").read_text().splitlines()
    trees = [Path("/sys/fs/cgroup", *(line.split(":")[1].split(","))) for line in own if "pids" in line] + [Path("/sys/fs/cgroup")]
    path = next(tree for tree in trees if tree.is_dir()) / f"sealed-{dead_pid}-00c0ffee"
    yield path
    if path.exists():
        path.rmdir()


@pytest.fixture
def sleeper() -> Iterator[int]:
    """A process to put into a cgroup, so that no sweep of another session takes that away."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process.pid
        process.kill()


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_a_session_that_leaves_nothing_passes(checked: Callable[..., pytest.RunResult], options: tuple[str, ...]) -> None:
    result = checked("assert Path(os.environ['XDG_RUNTIME_DIR']).is_dir()", *options)
    assert result.ret == 0
    result.stdout.no_fnmatch_line("*left behind*")


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_a_run_directory_that_stays_fails_the_session(checked: Callable[..., pytest.RunResult], options: tuple[str, ...]) -> None:
    result = checked("Path(os.environ['XDG_RUNTIME_DIR'], 'pytest-sealed', f'{os.getpid()}-00c0ffee').mkdir(parents=True)", *options)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*left behind by this session*", "run directory: */pytest-sealed/*-00c0ffee", "*1 passed*"])


def test_a_process_that_stays_fails_the_session(checked: Callable[..., pytest.RunResult]) -> None:
    result = checked("subprocess.Popen(['sleep', '5'])", "-W", "ignore")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["process: * sleep 5"])


def test_an_orphan_of_the_runtime_in_our_folder_fails_the_session(checked: Callable[..., pytest.RunResult]) -> None:
    """As a supervisor that was not ended: its parent is gone, but this run's folder is among its mounts."""
    script = "mount -t tmpfs x $0; (exec -a pytest_sealed/runtime/x sleep 5) < /dev/null > /dev/null 2>&1 &"
    result = checked(f"subprocess.run(['unshare', '-Urm', 'bash', '-c', {script!r}, os.environ['XDG_RUNTIME_DIR']], check=True)")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["process: * pytest_sealed/runtime/x 5"])


def test_a_cgroup_of_a_dead_session_fails_the_session(checked: Callable[..., pytest.RunResult], cgroup: Path, sleeper: int) -> None:
    if not os.access(cgroup.parent, os.W_OK):
        pytest.skip("this account may make no cgroup here")
    result = checked(f"path = Path({str(cgroup)!r}); path.mkdir(); (path / 'cgroup.procs').write_text('{sleeper}')")
    assert result.ret == 1
    result.stdout.fnmatch_lines([f"cgroup: {cgroup}"])


def test_what_was_there_before_and_what_others_own_is_no_leak(checked: Callable[..., pytest.RunResult], cgroup: Path) -> None:
    if not os.access(cgroup.parent, os.W_OK):
        pytest.skip("this account may make no cgroup here")
    others = cgroup.with_name(f"sealed-{os.getpid()}-00c0ffee")   # this process lives, and is not the session that is checked
    cgroup.mkdir()
    try:
        result = checked(f"Path({str(others)!r}).mkdir()")
        assert result.ret == 0, result.stdout.str()
    finally:
        others.rmdir()


def test_the_folder_of_a_run_that_was_killed_is_swept(checked: Callable[..., pytest.RunResult], pytester: pytest.Pytester,
                                                      dead_pid: int) -> None:
    session = pytester.path / f"sealed-tests-{dead_pid}-x" / "pytest-sealed" / f"{dead_pid}-00c0ffee"
    session.mkdir(parents=True)
    kept = pytester.path / f"sealed-tests-{os.getpid()}-x"   # that run is alive
    kept.mkdir()
    assert checked("pass").ret == 0
    assert not session.parents[1].exists()
    assert kept.exists()
