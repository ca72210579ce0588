"""Several workers, several runs: right, and with nothing shared but the store."""

from __future__ import annotations

import subprocess
import sys

import pytest
from plugin_suites import PRELUDE, run, started

SUITE = """
db = container_fixture(box(), scope="session")
cache = container_fixture(box())

@container_fixture
def web(db, cache): return box()

@pytest.mark.parametrize("number", range(8))
def test_stack(db, cache, web, number, worker_id):
    assert (reach(web, "db"), reach(web, "cache")) == ("db", "cache")
    assert cache.exec(["test", "-e", "/mark"]).exit_code == 1
    cache.write_text("/mark", worker_id)
    with db.connect(80): pass
    db.write_text("/worker", worker_id)
    assert db.read_text("/worker") == worker_id
    with open(f"session-{worker_id}", "w") as file: file.write(db.id)
"""


def test_four_workers_have_containers_of_their_own(pytester: pytest.Pytester) -> None:
    result = run(pytester, SUITE, "-n4", passed=8)
    sessions = [path.read_text() for path in pytester.path.glob("session-gw*")]
    assert len(set(sessions)) == len(sessions) > 1
    assert started(result) == 16 + len(sessions)


def test_the_controller_starts_nothing(pytester: pytest.Pytester) -> None:
    run(pytester, "db = container_fixture(box())\ndef test_db(db): pass", "-n1", conftest="""
import os
from pytest_sealed.plugin.session import RUN
def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        assert config.stash[RUN]._root is None
        with open("controller", "w") as file: file.write("nothing")
""")
    assert (pytester.path / "controller").read_text() == "nothing"


def test_the_header_is_there_under_xdist(pytester: pytest.Pytester) -> None:
    lines = run(pytester, "def test_nothing(): pass", "-n2").outlines
    assert sum(line.startswith("sealed: ") for line in lines) == 1


def test_a_flag_reaches_the_workers(pytester: pytest.Pytester) -> None:
    result = run(pytester, "db = container_fixture(box())\ndef test_db(db): pass", "-n1", "--sealed-store=empty", errors=1)
    assert f"the store {pytester.path}/empty has no image 'busybox'" in result.stdout.str()


def test_a_worker_that_crashes_takes_its_containers_along_and_the_others_go_on(pytester: pytest.Pytester) -> None:
    result = run(pytester, """
import os
db = container_fixture(box())

@pytest.mark.parametrize("number", range(4))
def test_db(db, number):
    if number == 0:
        os._exit(9)
""", "-n2", passed=3, failed=1)
    assert "crashed while running" in result.stdout.str()
    assert started(result) >= 1


def test_two_runs_at_once_do_not_meet(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(PRELUDE + SUITE)
    runs = [subprocess.Popen([sys.executable, "-m", "pytest", "-n2", "-p", "no:cacheprovider"], cwd=pytester.path,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    for one in runs:
        output, _ = one.communicate(timeout=120)
        assert one.returncode == 0, output
        assert "8 passed" in output
        assert "nothing left behind" in output
