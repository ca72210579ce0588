"""Limits as they are written. What the kernel makes of them: tests/kernel/test_cgroups_enforced.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cgroup_host import ALL, MIB, Host, new_group, text_of

from pytest_sealed.errors import LimitUnavailable
from pytest_sealed.runtime.cgroups import Group, Hierarchy
from pytest_sealed.runtime.cgroups.cpu import CpuV1, CpuV2, weight_from_shares
from pytest_sealed.runtime.cgroups.cpuacct import CpuacctV1, CpuacctV2
from pytest_sealed.runtime.cgroups.freezer import FreezerV1
from pytest_sealed.runtime.cgroups.memory import MemoryV1, MemoryV2
from pytest_sealed.runtime.cgroups.pids import Pids


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


@pytest.mark.parametrize(("shares", "weight"), [(2, 1), (10, 1), (256, 25), (512, 50), (1024, 100), (2048, 200), (102400, 10000),
                                                (262144, 10000)])
def test_weight_from_shares(shares: int, weight: int) -> None:
    assert weight_from_shares(shares) == weight


def test_weights_never_fall_while_shares_rise() -> None:
    weights = [weight_from_shares(shares) for shares in range(2, 262145, 37)]
    assert weights == sorted(weights)
    assert (weights[0], weights[-1] <= 10000) == (1, True)


def test_v1_memory_writes_the_limit_before_the_limit_with_swap() -> None:
    assert [repr(setting) for setting in MemoryV1().settings({"memory": 64 * MIB, "swap": 16 * MIB})] == [
        f"memory.limit_in_bytes ← {64 * MIB} (memory={64 * MIB})",
        f"memory.memsw.limit_in_bytes ← {80 * MIB} (swap={16 * MIB})",
    ]


@pytest.mark.parametrize("swap", [None, 0])
def test_memory_without_swap_forbids_it(swap: int | None) -> None:
    assert [(s.file, s.value, bool(s.limit)) for s in MemoryV1().settings({"memory": 8 * MIB, "swap": swap})] == [
        ("memory.limit_in_bytes", str(8 * MIB), True),
        ("memory.swappiness", "0", False),
        ("memory.memsw.limit_in_bytes", str(8 * MIB), False),
    ]
    assert [(s.file, s.value) for s in MemoryV2().settings({"memory": 8 * MIB, "swap": swap})] == [
        ("memory.max", str(8 * MIB)), ("memory.swap.max", "0"),
    ]


def test_cpu_quota_and_shares_in_both_versions() -> None:
    limits = {"cpus": 1.5, "cpu_shares": 512}
    assert [(s.file, s.value) for s in CpuV1().settings(limits)] == [
        ("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "150000"), ("cpu.shares", "512"),
    ]
    assert [(s.file, s.value) for s in CpuV2().settings(limits)] == [("cpu.max", "150000 100000"), ("cpu.weight", "50")]


@pytest.mark.parametrize("controller", [MemoryV1(), MemoryV2(), CpuV1(), CpuV2(), CpuacctV1(), CpuacctV2(), Pids(), FreezerV1()])
def test_what_is_not_asked_for_is_notwritten(controller: MemoryV1) -> None:
    assert controller.settings({"memory": None, "cpus": None, "cpu_shares": None, "pids": None}) == []
    assert controller.asked({"memory": None}) == []


V1_FILES = {"memory.limit_in_bytes": "", "memory.memsw.limit_in_bytes": "", "memory.swappiness": "", "cpu.cfs_period_us": "",
            "cpu.cfs_quota_us": "", "cpu.shares": "", "pids.max": ""}
LIMITS = {"memory": 64 * MIB, "swap": None, "cpus": 0.25, "cpu_shares": 256, "pids": 50}


def test_v1_limits_reach_their_files(v1: Hierarchy) -> None:
    group = new_group(v1, V1_FILES)
    group.write_limits(LIMITS)
    assert text_of(group, "memory", "memory.limit_in_bytes") == str(64 * MIB)
    assert text_of(group, "memory", "memory.memsw.limit_in_bytes") == str(64 * MIB)
    assert text_of(group, "memory", "memory.swappiness") == "0"
    assert text_of(group, "cpu", "cpu.cfs_quota_us") == "25000"
    assert text_of(group, "cpu", "cpu.shares") == "256"
    assert text_of(group, "pids", "pids.max") == "50"


def test_v2_limits_reach_their_files(v2: Hierarchy) -> None:
    group = new_group(v2, {"memory.max": "", "memory.swap.max": "", "cpu.max": "", "cpu.weight": "", "pids.max": ""})
    group.write_limits(LIMITS)
    files = ("memory.max", "memory.swap.max", "cpu.max", "cpu.weight", "pids.max")
    assert {file: text_of(group, "memory", file) for file in files} == {
        "memory.max": str(64 * MIB), "memory.swap.max": "0", "cpu.max": "25000 100000", "cpu.weight": "25", "pids.max": "50",
    }


def test_a_kernel_that_does_not_account_swap_still_limits_memory(v1: Hierarchy) -> None:
    group = new_group(v1, {name: "" for name in V1_FILES if "memsw" not in name})
    group.write_limits(LIMITS)
    assert text_of(group, "memory", "memory.limit_in_bytes") == str(64 * MIB)


def test_a_kernel_that_does_not_account_swap_refuses_a_swap_limit(v1: Hierarchy) -> None:
    group = new_group(v1, {name: "" for name in V1_FILES if "memsw" not in name})
    with pytest.raises(LimitUnavailable, match=r"swap=1048576 can't be enforced: .* no such file.*\n.*swapaccount=1"):
        group.write_limits(LIMITS | {"swap": MIB})


def test_a_refused_limit_leaves_nothing_behind(v1: Hierarchy, host: Host) -> None:
    # A plain directory is a kernel that knows no limit at all.
    with pytest.raises(LimitUnavailable, match=r"memory=67108864 can't be enforced: this kernel has no such file, writing"):
        Group.create(v1, "s1", "db", LIMITS)
    assert [path for path in host.root.rglob("*") if "sealed" in path.name] == []


def test_a_refused_limit_spares_the_sessions_other_containers(v1: Hierarchy) -> None:
    other = Group.create(v1, "s1", "web", {})
    with pytest.raises(LimitUnavailable):
        Group.create(v1, "s1", "db", LIMITS)
    assert all(os.path.isdir(directory) for directory in other.directories.values())
    assert other.remove()


def test_a_default_limit_is_left_out_where_it_cannot_be_enforced(host: Host) -> None:
    host.v1("memory")
    host.kernel("pids")
    found = host.detect()
    Group.create(found, "s1", "db", {"pids": 2048, "pids_required": False})
    with pytest.raises(LimitUnavailable, match=r"pids=2048 can't be enforced: the pids controller is disabled\n.*=pids"):
        Group.create(found, "s1", "web", {"pids": 2048})


def test_v1_takes_an_ancestors_lower_quota_instead_of_a_refusal(tmp_path: Path) -> None:
    for path, quota, period in (("a", "-1", "100000"), ("a/b", "100000", "50000"), ("a/b/c", "-1", "100000")):
        (tmp_path / path).mkdir()
        (tmp_path / path / "cpu.cfs_quota_us").write_text(quota)
        (tmp_path / path / "cpu.cfs_period_us").write_text(period)
    asked = CpuV1().settings({"cpus": 4})[1]
    other = CpuV1().instead(asked, str(tmp_path / "a/b/c"))
    assert other is not None
    assert (other.file, other.value) == ("cpu.cfs_quota_us", "200000")
    assert CpuV1().instead(other, str(tmp_path / "a/b/c")) is None
