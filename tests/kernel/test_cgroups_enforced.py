"""What the kernel makes of our cgroups: limits that hold, figures that add up, nothing left behind."""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest
from cgroup_children import Child, burn, idle, started

from pytest_sealed.errors import LimitUnavailable
from pytest_sealed.runtime.cgroups import Group, Hierarchy, detect, leftovers, remove_session

MIB = 1 << 20
NUMBERS = itertools.count()
QUOTA = 0.5
PERIOD = 0.1       # seconds
SLICE = 0.005      # seconds that one CPU may run on after the quota is used up (sched_cfs_bandwidth_slice_us)


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


# Memory ------------------------------------------------------------------------------------------


def allocate(child: Child) -> None:
    """Take memory, one MiB at a time, and say how many it is."""
    child.wait()
    held = []
    for count in range(1, 1000):
        block = mmap.mmap(-1, MIB)
        for page in range(0, MIB, mmap.PAGESIZE):
            block[page] = 1
        held.append(block)
        child.send(count)


def figures(group: Group) -> dict[str, float]:
    """Return the figures of a cgroup that are numbers."""
    return {name: value for name, value in group.stats().items() if value is not None}


def test_a_process_beyond_the_memory_limit_is_killed_within_8_mib_of_it(hierarchy: Hierarchy, session: str) -> None:
    group = Group.create(hierarchy, session, "db", {"memory": 64 * MIB})
    with started(group, allocate) as child:
        child.go()
        count = child.last()
        assert child.end() == -signal.SIGKILL
    assert 56 <= count <= 64
    assert group.oom_kills() == 1
    stats = figures(group)
    assert stats["oom_kills"] == 1
    assert stats["memory_limit"] == 64 * MIB
    assert 56 * MIB <= stats["memory_peak"] <= 64 * MIB
    assert group.remove()


def test_a_process_below_the_memory_limit_is_not_killed(hierarchy: Hierarchy, session: str) -> None:
    group = Group.create(hierarchy, session, "db", {"memory": 1200 * MIB})
    with started(group, allocate) as child:
        child.go()
        while child.receive() != 100:
            pass
        assert figures(group)["memory_current"] >= 100 * MIB
        child.kill()
    assert group.oom_kills() == 0
    assert group.remove()


def test_one_containers_oom_is_not_anothers(hierarchy: Hierarchy, session: str) -> None:
    small = Group.create(hierarchy, session, "small", {"memory": 16 * MIB})
    other = Group.create(hierarchy, session, "other", {"memory": 16 * MIB})
    with started(other, idle) as bystander, started(small, allocate) as child:
        child.go()
        assert child.end() == -signal.SIGKILL
        assert (small.oom_kills(), other.oom_kills()) == (1, 0)
        bystander.go()
        assert bystander.end() == 0
    assert small.remove()
    assert other.remove()


def test_swap_is_off_unless_asked_for(hierarchy: Hierarchy, session: str) -> None:
    without = Group.create(hierarchy, session, "without", {"memory": 32 * MIB})
    within = Group.create(hierarchy, session, "within", {"memory": 32 * MIB, "swap": 8 * MIB})

    def figure(group: Group, file: str) -> int:
        with open(f"{group.directories['memory']}/{file}") as opened:
            return int(opened.read())
    if hierarchy.version == "v1":
        assert figure(without, "memory.memsw.limit_in_bytes") == 32 * MIB
        assert figure(without, "memory.swappiness") == 0
        assert figure(within, "memory.memsw.limit_in_bytes") == 40 * MIB
    else:
        assert (figure(without, "memory.swap.max"), figure(within, "memory.swap.max")) == (0, 8 * MIB)


# CPU ---------------------------------------------------------------------------------------------


def prefer(group: Group) -> None:
    """Let the session of `group` have the CPUs before all else here, so that on a busy machine it is the quota that counts."""
    directory = os.path.dirname(group.directories["cpu"])
    name, value = ("cpu.shares", "262144") if group.hierarchy.version == "v1" else ("cpu.weight", "10000")
    with open(f"{directory}/{name}", "w") as file:
        file.write(value)


def use_cpu(seconds: float) -> Callable[[Child], object]:
    """Return a child's function that ends once it has used that much CPU time."""
    def function(child: Child) -> None:
        child.wait()
        burn(seconds)
    return function


def test_half_a_cpu_is_never_more_by_the_cgroups_own_figures(hierarchy: Hierarchy, session: str) -> None:
    group = Group.create(hierarchy, session, "db", {"cpus": QUOTA})
    prefer(group)
    with started(group, use_cpu(0.15)) as one, started(group, use_cpu(0.15)) as two:
        one.go()
        two.go()
        assert (one.end(), two.end()) == (0, 0)
    stats = figures(group)
    assert stats["throttled_periods"] > 0
    assert stats["throttled_seconds"] > 0
    assert stats["cpu_seconds"] >= 0.3
    # The period that runs when the last process ends isn't counted yet; each CPU may overrun by a slice.
    assert stats["cpu_seconds"] <= (stats["periods"] + 1) * QUOTA * PERIOD + (os.cpu_count() or 1) * SLICE
    assert group.remove()


def test_half_a_cpu_is_half_a_cpu_over_two_seconds(hierarchy: Hierarchy, session: str) -> None:
    """Of the quota nothing is lost, either. Only periods that used it up are counted: in others somebody else may have had the CPUs."""
    group = Group.create(hierarchy, session, "db", {"cpus": QUOTA})
    prefer(group)
    with started(group, use_cpu(1000)) as child:
        child.go()
        while (stats := figures(group))["throttled_periods"] < 2 / PERIOD:
            time.sleep(PERIOD)   # no more often: looking takes time of the same CPUs
        child.kill()
    assert stats["cpu_seconds"] >= 0.45 * PERIOD * stats["throttled_periods"]
    assert stats["cpu_seconds"] <= 0.55 * PERIOD * (stats["periods"] + 1)


def test_cpu_shares_are_relative(hierarchy: Hierarchy, session: str) -> None:
    much = Group.create(hierarchy, session, "much", {"cpu_shares": 1024})
    little = Group.create(hierarchy, session, "little", {"cpu_shares": 256})
    cpu = max(os.sched_getaffinity(0))

    def signals_after(seconds: float) -> Callable[[Child], object]:
        def function(child: Child) -> None:
            child.wait()
            child.send("spinning")
            child.wait()
            burn(seconds)
            child.send("enough")
            while True:
                pass
        return function
    with started(much, signals_after(0.8)) as more, started(little) as less:
        for child in (more, less):
            os.sched_setaffinity(child.pid, {cpu})
            child.go()
            assert child.receive() == "spinning"
        before = [figures(group)["cpu_seconds"] for group in (much, little)]
        more.go()
        assert more.receive() == "enough"
        after = [figures(group)["cpu_seconds"] for group in (much, little)]
        used = [late - early for late, early in zip(after, before, strict=True)]
        assert used[0] / used[1] == pytest.approx(4, rel=0.15)


def test_a_quota_above_that_of_pytests_own_cgroup_is_no_error(hierarchy: Hierarchy, session: str) -> None:
    outer = Group.create(hierarchy, session, "outer", {"cpus": 0.5})
    below = Hierarchy(hierarchy.version, {"cpu": outer.directories["cpu"]}, {})
    inner = Group.create(below, session, "inner", {"cpus": 2})
    if hierarchy.version == "v1":    # which refuses it, where v2 lets the lower quota rule
        with open(f"{inner.directories['cpu']}/cpu.cfs_quota_us") as quota:
            assert int(quota.read()) == 50_000
    assert inner.remove()
    assert remove_session(below, session)


# Processes ---------------------------------------------------------------------------------------


def fork_all(child: Child) -> None:
    """Fork until the kernel refuses; say how many it were."""
    child.wait()
    pids: list[int] = []
    try:
        while len(pids) < 100:
            pid = os.fork()
            if pid == 0:
                signal.pause()
            pids.append(pid)
    except OSError as error:
        child.send([len(pids), error.errno])
    child.wait()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_fork_bomb_ends_at_the_pids_limit(hierarchy: Hierarchy, session: str) -> None:
    group = Group.create(hierarchy, session, "db", {"pids": 5})
    with started(group, fork_all) as child:
        child.go()
        assert child.receive() == [4, errno.EAGAIN]
        assert group.stats()["pids_current"] == group.stats()["pids_limit"] == 5
        assert len(group.pids()) == 5
        child.go()
        assert child.end() == 0
    assert group.stats()["pids_current"] == 0
    assert group.remove()


def test_a_child_enters_by_itself(hierarchy: Hierarchy, session: str) -> None:
    group = Group.create(hierarchy, session, "db", {"pids": 5})

    def enter(child: Child) -> None:
        for path in group.procs_paths():
            fd = os.open(path, os.O_WRONLY)
            os.write(fd, b"0")
            os.close(fd)
        idle(child)
    with Child(enter) as child:
        assert child.receive() == "there"
        assert group.pids() == [child.pid]
    assert group.pids() == []


def test_a_limit_that_the_kernel_refuses_leaves_nothing(hierarchy: Hierarchy, session: str) -> None:
    with pytest.raises(LimitUnavailable, match=r"pids=-7 can't be enforced: Invalid argument, writing -7 to /.*/pids.max"):
        Group.create(hierarchy, session, "db", {"memory": 64 * MIB, "pids": -7})
    assert session not in leftovers(hierarchy)
