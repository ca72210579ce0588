"""A container's life against bubblewrap's, and a fresh Postgres against Docker's where there is one. Run with -s."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator

import psycopg
import pytest
from figures import in_turn

from pytest_sealed import Sandbox
from pytest_sealed.services import postgres

AGAINST_BWRAP = 4.0     # times bwrap's, the promise
FRESH_POSTGRES = 120.0  # ms, start to `SELECT 1` to removed, the promise on the development machine


@pytest.fixture(scope="module")
def root() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


def test_true_in_a_container_takes_at_most_four_times_bubblewrap(root: Sandbox) -> None:
    bwrap = shutil.which("bwrap")
    assert bwrap, "bubblewrap is missing: apt install bubblewrap"

    def sealed() -> None:
        with Sandbox(parent=root) as sandbox:
            assert sandbox.run("busybox", ["true"], memory="64M", cpus=0.5).wait() == 0

    def bubblewrap() -> None:
        subprocess.run([bwrap, "--unshare-all", "--ro-bind", "/", "/", "true"], check=True)
    ours, theirs = in_turn(100, **{"sealed: network, limits, overlay, true, removed": sealed, "bwrap --unshare-all true": bubblewrap})
    print(f"\n{ours}\n{theirs}\nratio of the medians {ours.median / theirs.median:.2f}, promised at most {AGAINST_BWRAP}")
    assert ours.median <= AGAINST_BWRAP * theirs.median


def test_a_fresh_postgres_for_each_test(root: Sandbox) -> None:
    def sealed() -> None:
        with Sandbox(parent=root) as sandbox:
            database = sandbox.run(postgres(memory="256M"))
            with psycopg.connect(database.url) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
    works: dict[str, Callable[[], None]] = {"sealed: fresh Postgres, SELECT 1, removed": sealed}
    docker = _docker()
    if docker is not None:
        works["Docker + testcontainers: the same"] = docker
    rows = in_turn(30, **works)
    print("", *rows, sep="\n")
    if docker is None:
        print("Docker and testcontainers: not installed here, or no engine runs")
    else:
        print(f"ratio of the medians {rows[1].median / rows[0].median:.1f}")
    assert rows[0].median <= FRESH_POSTGRES


def _docker() -> Callable[[], None] | None:
    """Return the same work done by testcontainers, where that and a Docker engine are there."""
    try:
        from testcontainers.postgres import PostgresContainer
    except ImportError:
        return None
    if subprocess.run(["docker", "info"], capture_output=True, env=dict(os.environ)).returncode:
        return None

    def testcontainers() -> None:
        with PostgresContainer("postgres:15", driver=None) as container, psycopg.connect(container.get_connection_url()) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    return testcontainers
