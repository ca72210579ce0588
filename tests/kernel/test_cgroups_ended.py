"""How a cgroup ends: frozen and thawed, killed, removed; nothing left behind, and nobody else's taken along."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cgroup_children import Child, burn, idle, started

from pytest_sealed.runtime.cgroups import Group, Hierarchy, detect, leftovers, remove_session
from pytest_sealed.runtime.sweep import sweep

MIB = 1 << 20
NUMBERS = itertools.count()


@pytest.fixture
def hierarchy() -> Hierarchy:
    return detect()


@pytest.fixture
def session(hierarchy: Hierarchy) -> Iterator[str]:
    """A session of this test's own, of which nothing may be left. Named after a live process: else sweeps take it."""
    name = f"{os.getpid()}-t{next(NUMBERS)}"
    yield name
    assert remove_session(hierarchy, name)
    assert name not in leftovers(hierarchy)


KINDS = ["as found", "v1"]


def without_v2(hierarchy: Hierarchy) -> Hierarchy:
    """Return the hierarchy of a host without a v2 tree beside v1."""
    if hierarchy.kind != "hybrid":
        pytest.skip("only a hybrid host can do without its v2 tree")
    return Hierarchy("v1", {name: base for name, base in hierarchy.bases.items() if name != "freezer"}, {})


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_container_uses_no_cpu_until_it_is_thawed(hierarchy: Hierarchy, session: str, kind: str) -> None:
    hierarchy = without_v2(hierarchy) if kind == "v1" else hierarchy
    group = Group.create(hierarchy, session, "db", {})
    with started(group) as child:
        child.go()
        assert child.receive() == "spinning"
        assert group.freeze(timeout=5)
        frozen = group.stats()["cpu_seconds"]
        burn(0.05)
        assert group.stats()["cpu_seconds"] == frozen
        assert group.freeze()    # again: harmless
        group.thaw()
        group.thaw()
        deadline = time.monotonic() + 10
        while group.stats()["cpu_seconds"] == frozen:
            assert time.monotonic() < deadline
    assert group.remove()
    assert remove_session(hierarchy, session)


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_container_ends_with_its_session(hierarchy: Hierarchy, session: str, kind: str) -> None:
    hierarchy = without_v2(hierarchy) if kind == "v1" else hierarchy
    group = Group.create(hierarchy, session, "db", {})
    with started(group) as child:
        child.go()
        assert child.receive() == "spinning"
        assert group.freeze(timeout=5)
        assert group.remove() is False
        remove_session(hierarchy, session)
        assert child.end() == -signal.SIGKILL
    assert remove_session(hierarchy, session)


def test_a_session_that_may_be_alive_loses_only_what_is_empty(hierarchy: Hierarchy, session: str) -> None:
    busy = Group.create(hierarchy, session, "busy", {})
    empty = Group.create(hierarchy, session, "empty", {})
    with started(busy, idle) as child:
        assert remove_session(hierarchy, session, kill=False) is False
        assert busy.pids() == [child.pid]
        assert not any(os.path.exists(directory) for directory in empty.directories.values())
        child.go()
        assert child.end() == 0
    assert remove_session(hierarchy, session, kill=False)


def test_a_child_enters_as_a_thread(hierarchy: Hierarchy, session: str) -> None:
    group = Group.create(hierarchy, session, "db", {"pids": 5})
    newer, files = group.entry()
    born = [] if newer is None else [f"{newer}/cgroup.procs"]   # where clone3 puts a child; fork can't

    def enter(child: Child) -> None:
        for path in files + born:
            with open(path, "wb", buffering=0) as file:
                file.write(b"0")
        idle(child)
    with Child(enter) as child:
        assert child.receive() == "there"
        assert group.pids() == [child.pid]
        assert group.stats()["pids_current"] == 1
    assert group.remove()


def test_kill_ends_every_process_and_thaws(hierarchy: Hierarchy, session: str) -> None:
    group = Group.create(hierarchy, session, "db", {})
    with started(group) as one, started(group, idle) as two:
        assert group.freeze(timeout=5)
        group.kill()
        assert (one.end(), two.end()) == (-signal.SIGKILL, -signal.SIGKILL)
    assert group.remove()


def test_a_group_with_a_process_stays_until_it_has_ended(hierarchy: Hierarchy, session: str) -> None:
    group = Group.create(hierarchy, session, "db", {"memory": 64 * MIB, "cpus": 1, "pids": 9})
    with started(group, idle) as child:
        assert child.receive() == "there"
        os.mkdir(f"{group.directories['pids']}/nested")
        assert group.remove() is False
        assert group.remove() is False
    assert group.remove()
    assert not any(os.path.exists(directory) for directory in group.directories.values())


def test_a_thousand_groups_leave_nothing(hierarchy: Hierarchy, session: str) -> None:
    before = {base: sorted(os.listdir(base)) for base in hierarchy.bases.values()}
    for number in range(1000):
        assert Group.create(hierarchy, session, f"c{number}", {"memory": 64 * MIB, "cpus": 0.5, "pids": 9}).remove()
    assert remove_session(hierarchy, session)
    ours = {base: [name for name in os.listdir(base) if session in name] for base in before}
    assert not any(ours.values())


def test_a_sweep_removes_the_probe_of_a_process_that_was_killed_and_no_other(hierarchy: Hierarchy) -> None:
    [base, *_] = hierarchy.bases.values()
    child = os.fork()
    if child == 0:
        try:
            os.rmdir = lambda _path: signal.raise_signal(signal.SIGKILL)  # type: ignore[assignment, misc]
            detect()
        finally:
            os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    dead, living = Path(base, f"sealed.probe-{child}"), Path(base, f"sealed.probe-{os.getppid()}")
    assert dead.is_dir()
    living.mkdir()
    try:
        sweep()
        assert dead.is_dir()   # its pid isn't free yet
        os.waitpid(child, 0)
        sweep()
        assert not dead.exists()
        assert living.is_dir()
    finally:
        living.rmdir()
