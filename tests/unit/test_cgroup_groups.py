"""A cgroup's names, figures, freezing and removal."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from cgroup_host import ALL, MIB, Host, new_group, text_of

from pytest_sealed.errors import InternalError, LimitUnavailable
from pytest_sealed.runtime.cgroups import Group, Hierarchy, Refusal, leftovers, remove_session
from pytest_sealed.runtime.cgroups.freezer import FreezerV1


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def v1(host: Host) -> Hierarchy:
    for name in ALL:
        host.v1(name)
    return host.detect()


@pytest.fixture
def v2(tmp_path: Path) -> Hierarchy:
    host = Host(tmp_path / "v2")
    host.v2("/user/mine", enabled="cpu memory pids")
    return host.detect()


def test_leftovers_are_the_sessions_and_not_the_delegated_accounts(v1: Hierarchy, host: Host) -> None:
    Group.create(v1, "b2", "db", {})
    Group.create(v1, "a1", "db", {})
    (host.root / "memory" / "sealed-1000").mkdir()
    (host.root / "pids" / "sealed-c3").mkdir()    # half removed by someone who was killed
    assert leftovers(v1) == ["a1", "b2", "c3"]
    assert remove_session(v1, "a1")
    assert remove_session(v1, "c3")
    assert leftovers(v1) == ["b2"]


def test_removal_takes_nested_directories_along(v1: Hierarchy, host: Host) -> None:
    group = Group.create(v1, "s1", "db", {})
    os.makedirs(f"{group.directories['memory']}/made/inside")
    assert group.remove()
    assert group.remove()    # nothing to do
    assert leftovers(v1) == ["s1"]
    assert remove_session(v1, "s1")


def test_cgroups_that_are_nested_deeper_than_a_path_is_long_go_too(v1: Hierarchy) -> None:
    group = Group.create(v1, "s1", "db", {})
    fd = os.open(group.directories["memory"], os.O_PATH)
    for _ in range(5000):
        for name in ("a", "beside"):
            os.mkdir(name, dir_fd=fd)
        inner = os.open("a", os.O_PATH, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    assert group.remove()
    assert not os.path.exists(group.directories["memory"])


def test_where_a_container_may_divide_its_cgroup_v2_commands_start_in_a_leaf(v1: Hierarchy, v2: Hierarchy) -> None:
    one, two = new_group(v1, {}), new_group(v2, {"cgroup.events": "", "cgroup.procs": ""})
    for group in (one, two):
        group.delegate(os.geteuid(), os.getegid())
    directory = two.directories["pids"]
    assert (one.entry(beside=True), one.leaf) == (one.entry(), "")
    assert (two.entry()[0], two.entry(beside=True)[0]) == (directory, f"{directory}/sealed.leaf")
    assert os.path.isdir(two.leaf)


def test_who_may_divide_its_cgroups_on_a_hybrid_host_sees_that_of_v2_too(v1: Hierarchy, host: Host) -> None:
    host.v2(point="unified", controllers="")
    group = new_group(host.detect(), {})
    usual = group.inside_binds()
    group.delegate(os.geteuid(), os.getegid())
    assert group.inside_binds() == [*usual, (group.directories["freezer"], "/sys/fs/cgroup/unified")]


def test_a_directory_that_cannot_go_is_false_and_the_others_go(v1: Hierarchy) -> None:
    group = new_group(v1, {})
    Path(group.directories["memory"], "file").write_text("")    # ENOTEMPTY, as EBUSY in a cgroup
    assert group.remove() is False
    assert [name for name, directory in group.directories.items() if os.path.exists(directory)] == ["memory"]


def test_a_directory_that_goes_while_its_session_is_removed_is_no_error(v1: Hierarchy, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [Group.create(v1, "s1", name, {}) for name in ("a", "b")]
    for group in groups:
        Path(group.directories["pids"], "file").write_text("")    # a directory that can't go, as if it held a process
    killed: list[str] = []

    def gone(_self: object, directory: str) -> None:
        killed.append(os.path.basename(directory))
        raise FileNotFoundError(directory)
    monkeypatch.setattr(FreezerV1, "kill", gone)
    assert remove_session(v1, "s1") is False
    assert sorted(killed) == ["a", "b"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", ".hidden", "ü"])
def test_a_name_that_is_no_directory_name_is_our_bug(v1: Hierarchy, name: str) -> None:
    with pytest.raises(InternalError, match="no name for a cgroup"):
        Group.create(v1, "s1", name, {})
    with pytest.raises(InternalError, match="no name for a cgroup"):
        Group.create(v1, name, "db", {})


def test_a_session_of_digits_would_be_an_accounts_directory(v1: Hierarchy) -> None:
    with pytest.raises(InternalError, match="sealed-1000 is an account's delegated directory"):
        remove_session(v1, "1000")


def test_a_cgroup_is_never_used_twice(v1: Hierarchy) -> None:
    Group.create(v1, "s1", "db", {})
    with pytest.raises(InternalError, match="exists already"):
        Group.create(v1, "s1", "db", {})
    assert leftovers(v1) == ["s1"]


def test_v1_figures(v1: Hierarchy) -> None:
    group = new_group(v1, {
        "memory.usage_in_bytes": "4096\n", "memory.max_usage_in_bytes": "8192\n",
        "memory.limit_in_bytes": "9223372036854771712\n",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", "cpuacct.usage": "1500000000\n",
        "cpu.stat": "nr_periods 9\nnr_throttled 4\nthrottled_time 250000000\n", "pids.current": "3\n", "pids.max": "max\n",
    })
    assert group.stats() == {
        "memory_current": 4096, "memory_peak": 8192, "memory_limit": None, "oom_kills": 2, "cpu_seconds": 1.5, "periods": 9,
        "throttled_periods": 4, "throttled_seconds": 0.25, "pids_current": 3, "pids_peak": 3, "pids_limit": None,
    }
    assert group.oom_kills() == 2


def test_v2_figures_and_the_highest_seen_where_the_kernel_keeps_no_peak(v2: Hierarchy) -> None:
    group = new_group(v2, {
        "memory.current": "8192\n", "memory.max": "1048576\n", "memory.events": "low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\n",
        "cpu.stat": "usage_usec 2500000\nuser_usec 1\nnr_periods 7\nnr_throttled 2\nthrottled_usec 40000\n",
        "pids.current": "2\n", "pids.peak": "6\n", "pids.max": "50\n",
    })
    group.stats()
    Path(group.directories["memory"], "memory.current").write_text("4096\n")
    assert group.stats() == {
        "memory_current": 4096, "memory_peak": 8192, "memory_limit": MIB, "oom_kills": 1, "cpu_seconds": 2.5, "periods": 7,
        "throttled_periods": 2, "throttled_seconds": 0.04, "pids_current": 2, "pids_peak": 6, "pids_limit": 50,
    }


def test_figures_of_a_removed_group_are_not_an_error(v1: Hierarchy) -> None:
    group = Group.create(v1, "s1", "db", {})
    assert group.remove()
    assert group.stats()["memory_current"] is None
    assert group.oom_kills() == 0


def test_programs_inside_see_their_own_v1_directories(host: Host, v1: Hierarchy) -> None:
    group = Group(v1, "s1", "db")
    assert group.inside_binds() == [
        (f"{host.root}/{name}/sealed-s1/db", f"/sys/fs/cgroup/{name}") for name in ("memory", "cpu", "cpuacct", "pids")
    ]


def test_on_v2_a_container_mounts_its_own_hierarchy(v2: Hierarchy) -> None:
    assert Group(v2, "s1", "db").inside_binds() == []


def test_v1_stops_whoever_is_forked_meanwhile_too(v1: Hierarchy) -> None:
    with subprocess.Popen(["sleep", "100"]) as one, subprocess.Popen(["sleep", "100"]) as two:
        try:
            group = new_group(v1, {"cgroup.procs": f"{one.pid}\n", "tasks": f"{one.pid}\n{two.pid}\n"})
            assert group.freeze(timeout=0.05) is False
            Path(group.directories["pids"], "cgroup.procs").write_text(f"{one.pid}\n{two.pid}\n")
            assert group.freeze() is True
            group.thaw()
            assert group.freeze(timeout=5) is True
            group.kill()
            assert (one.wait(5), two.wait(5)) == (-signal.SIGKILL, -signal.SIGKILL)
        finally:
            one.kill()
            two.kill()


def test_v1_kills_though_somebody_cannot_be_stopped(v1: Hierarchy) -> None:
    with subprocess.Popen(["sleep", "100"]) as one:
        group = new_group(v1, {"cgroup.procs": f"{one.pid}\n", "tasks": f"{one.pid}\n{os.getpid()}\n"})
        group.kill()
        assert one.wait(5) == -signal.SIGKILL


def test_v2_freezing_is_read_from_the_events(v2: Hierarchy) -> None:
    group = new_group(v2, {"cgroup.freeze": "", "cgroup.events": "populated 1\nfrozen 0\n"})
    assert group.freeze(timeout=0) is False
    Path(group.directories["freezer"], "cgroup.events").write_text("populated 1\nfrozen 1\n")
    assert group.freeze(timeout=0) is True
    group.thaw()
    assert text_of(group, "freezer", "cgroup.freeze") == "0"


def test_pausing_without_a_freezer_says_why() -> None:
    hierarchy = Hierarchy("v1", {}, {"pids": Refusal("the pids controller isn't mounted", "mount it")})
    with pytest.raises(LimitUnavailable, match=r"pausing can't be enforced: the pids controller isn't mounted\n.*mount it"):
        Group(hierarchy, "s1", "db").freeze()
