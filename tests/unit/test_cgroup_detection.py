"""Where an account may make cgroups, on every kind of host."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from cgroup_host import ALL, Host

from pytest_sealed.errors import LimitUnavailable
from pytest_sealed.runtime.cgroups import Group, Hierarchy, remove_dead_probes
from pytest_sealed.runtime.cgroups.detection import delegate_command


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def v1(host: Host) -> Hierarchy:
    for name in ALL:
        host.v1(name)
    return host.detect()


def test_v1_uses_pytests_own_cgroup_in_each_hierarchy(host: Host) -> None:
    memory = host.v1("memory", "/ci/job 1", point="with blank")
    cpu = host.v1("cpu,cpuacct", "/")
    found = host.detect()
    assert (found.version, found.kind) == ("v1", "v1")
    assert found.bases["memory"] == f"{memory}/ci/job 1"
    assert found.bases["cpu"] == found.bases["cpuacct"] == str(cpu)


def test_co_mounted_controllers_share_one_directory_whatever_the_mount_point_is_called(host: Host) -> None:
    point = host.v1("cpuacct,cpu", "/a", point="cpu,cpuacct")
    group = Group.create(host.detect(), "s1", "db", {})
    assert group.procs_paths() == [f"{point}/a/sealed-s1/db/cgroup.procs"]
    assert group.remove()


def test_a_hybrid_host_freezes_through_v2_and_limits_through_v1(host: Host) -> None:
    for name in ALL:
        host.v1(name)
    unified = host.v2("/", point="unified", controllers="", top=True)
    found = host.detect()
    assert (found.version, found.kind) == ("v1", "hybrid")
    assert found.bases["freezer"] == str(unified)
    assert found.bases["memory"] == f"{host.root}/memory"
    assert found.describe() == "cgroup v1 (hybrid): memory, cpu, cpuacct, pids, freezer"


def test_a_container_without_cgroup_namespace_sees_its_own_directory_mounted(host: Host) -> None:
    point = host.v1("memory", "/docker/abc/job", top="/docker/abc")
    assert host.detect().bases["memory"] == f"{point}/job"


def test_the_delegated_directory_serves_where_pytests_own_cgroup_does_not(host: Host) -> None:
    point = host.v1("memory", "/elsewhere", visible=False)
    (point / f"sealed-{os.geteuid()}").mkdir()
    assert host.detect().bases["memory"] == f"{point}/sealed-{os.geteuid()}"


def test_without_a_delegated_directory_the_refusal_names_the_command(host: Host) -> None:
    host.v1("memory", "/../outside", visible=False)    # as seen from a cgroup namespace
    (host.root / "outside").mkdir()
    refusal = host.detect().refusals["memory"]
    assert refusal.reason == f"pytest's own cgroup isn't visible below {host.root}/memory"
    assert refusal.remedy == delegate_command()
    assert refusal.remedy.endswith("sealed delegate")


@pytest.mark.parametrize(("disabled", "absent", "reason", "remedy"), [
    (("pids",), (), "the pids controller is disabled", "boot with cgroup_enable=pids (kernel command line)"),
    ((), ("pids",), "this kernel has no pids controller", "a kernel that has it, such as the distribution's own"),
    ((), (), "the pids controller isn't mounted",
     "sudo mkdir -p /sys/fs/cgroup/pids && sudo mount -t cgroup -o pids cgroup /sys/fs/cgroup/pids"),
])
def test_a_controller_that_is_not_there_says_why(host: Host, disabled: tuple[str, ...], absent: tuple[str, ...],
                                                  reason: str, remedy: str) -> None:
    host.v1("memory")
    host.kernel(*disabled, absent=absent)
    refusal = host.detect().refusals["pids"]
    assert (refusal.reason, refusal.remedy) == (reason, remedy)


def test_v2_uses_pytests_own_cgroup_for_all_controllers(host: Host) -> None:
    own = host.v2("/user.slice/mine.scope", enabled="cpu memory pids")
    found = host.detect()
    assert found.version == found.kind == "v2"
    assert found.bases == dict.fromkeys([*ALL, "freezer"], str(own))
    assert not found.needs_leaf


def test_v2_that_does_not_offer_a_controller_names_the_drop_in(host: Host) -> None:
    host.v2("/mine.scope", controllers="memory pids")
    found = host.detect()
    assert "cpu" not in found.bases
    assert "cpuacct" in found.bases    # a core file, there without the controller
    assert "Delegate=cpu memory pids" in found.refusals["cpu"].remedy
    assert found.refusals["cpu"].reason == f"the cpu controller isn't delegated to {host.root}/mine.scope"


def test_v2_outside_the_visible_tree_is_refused_with_systemd_run(host: Host) -> None:
    host.v2("/", controllers="")
    host.own[-1] = "0::/../elsewhere"
    host.written(host.root)
    found = host.detect()
    assert found.bases == {}
    assert found.describe() == "cgroup v2: no controller that this account may use"
    with pytest.raises(LimitUnavailable, match=r"memory=1 can't be enforced.*\n.*systemd-run --user --scope -p Delegate=yes"):
        Group.create(found, "s1", "db", {"memory": 1})


def test_no_cgroups_at_all_refuses_limits_and_nothing_else(host: Host) -> None:
    host.written(host.root)
    found = host.detect()
    assert (found.version, found.describe()) == ("none", "no cgroups")
    group = Group.create(found, "s1", "db", {"pids": 10, "pids_required": False})
    assert (group.stats(), group.oom_kills(), group.procs_paths(), group.remove()) == ({}, 0, [], True)
    with pytest.raises(LimitUnavailable, match=r"cpus=0.5 can't be enforced: no cgroup file system is mounted below .*\n"):
        Group.create(found, "s1", "db", {"cpus": 0.5})


def test_probing_leaves_nothing(v1: Hierarchy, host: Host) -> None:
    assert [path for path in host.root.rglob("*") if "sealed" in path.name] == []


def test_a_probe_that_somebody_else_made_or_removed_is_one_all_the_same(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    (host.v1("memory") / f"sealed.probe-{os.getpid()}").mkdir()
    (host.v1("cpu") / f"sealed.probe-{os.getpid()}").mkdir()
    rmdir = os.rmdir
    monkeypatch.setattr(os, "rmdir", lambda path: (rmdir(path), rmdir(path)))
    assert sorted(host.detect().bases) == ["cpu", "memory"]


def test_probes_of_the_dead_are_removed_and_those_of_the_living_are_not(v1: Hierarchy, host: Host) -> None:
    (host.proc / "17").mkdir()
    places = [host.root / "memory", host.root / "pids"]
    for place in places:
        for name in ("sealed.probe-17", "sealed.probe-18", "sealed.probe-19", "sealed.leaf", "sealed-18-00000000", "probe-18"):
            (place / name).mkdir()
        (place / "sealed.probe-19/file").write_text("")   # as one that the account may not remove
    assert remove_dead_probes(v1, str(host.proc)) == [f"{place}/sealed.probe-18" for place in places]
    for place in places:
        assert sorted(path.name for path in place.iterdir() if path.is_dir()) == [
            "probe-18", "sealed-18-00000000", "sealed.leaf", "sealed.probe-17", "sealed.probe-19"]


def test_a_hierarchy_survives_json(host: Host) -> None:
    host.v1("memory", "/a")
    host.kernel("pids")
    before = host.detect()
    after = Hierarchy.from_json(json.loads(json.dumps(before.to_json())))
    assert after.to_json() == before.to_json()
    assert after.refusals["pids"].reason == before.refusals["pids"].reason


def occupied(host: Host) -> tuple[Hierarchy, Path]:
    """Return a v2 host on which pytest itself sits in the base, and the base."""
    # The mount point itself: elsewhere, root leaves the cgroups that systemd has not delegated alone.
    base = host.v2("/", procs="4711\n4712\n")
    leaf = base / "sealed.leaf"
    leaf.mkdir()
    (leaf / "cgroup.procs").write_text("")
    return host.detect(), base


def test_controllers_not_yet_enabled_above_pytest_need_a_leaf(host: Host) -> None:
    found, base = occupied(host)
    assert found.needs_leaf
    assert found.enter_leaf(4711) == f"{base}/sealed.leaf"
    assert (base / "sealed.leaf" / "cgroup.procs").read_text() == "4712"    # the last that was moved
    assert (base / "cgroup.subtree_control").read_text() == "+memory +cpu +pids"
    assert not found.needs_leaf
    assert found.enter_leaf(4711) is None


def test_who_is_in_the_leaf_already_works_in_its_parent(host: Host) -> None:
    host.v2("/mine/sealed.leaf", procs="4711\n")
    found = host.detect()
    assert found.bases["memory"] == f"{host.root}/mine"


def test_where_a_process_cannot_be_moved_to_the_leaf_limits_are_refused_when_asked_for(host: Host) -> None:
    found, base = occupied(host)
    (base / "sealed.leaf" / "cgroup.procs").unlink()
    assert found.enter_leaf(4711) is None
    assert list(found.bases) == ["cpuacct", "freezer"]
    Group.create(found, "s1", "web", {})
    with pytest.raises(LimitUnavailable, match=r"cpus=1 can't be .* can't be made an inner node .*No such file.*\n.*systemd-run"):
        Group.create(found, "s1", "db", {"cpus": 1})
