"""The plan of a container: which operations, in which order, with which numbers. No kernel is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_sealed.container import Container
from pytest_sealed.images.image import Image, ImageConfig
from pytest_sealed.linux.mounts import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY
from pytest_sealed.request import run_request
from pytest_sealed.runtime import operations as op
from pytest_sealed.runtime.idmap import IdMap
from pytest_sealed.runtime.plan import DEFAULT_SCRATCH, MASKED, READ_ONLY, Facts, plan
from pytest_sealed.spec import Tmpfs, make_spec

MIB = 1 << 20
SAFE = MS_NOSUID | MS_NODEV | MS_NOEXEC
RANGE = IdMap("root", 0, 0, 100000, 200000, 65536)
SINGLE = IdMap("single", 1000, 1000)
LAYERS = (Path("/store/layers/a/fs"), Path("/store/layers/b/fs"))


def request(**options: Any) -> dict[str, Any]:
    """Return the request for a container of an image with two layers, as the client makes it and the supervisor completes it."""
    image = Image(reference="box", digest="sha256:0", layers=LAYERS, size=0, created=0,
                  config=ImageConfig(env={}, labels={}, command=("sh",)))
    wanted = run_request(make_spec("box", Container, options), image,  # type: ignore[arg-type]
                         container="box-1", name="box", networks=[], ports=[], mounts=[])
    return {**wanted, "resolv_conf": "nameserver 10.89.0.1\n"}


def facts(**known: Any) -> Facts:
    usual: dict[str, Any] = {"scratch_point": "/run/s/scratch", "disk": "/disk/box-1", "etc": "/run/s/etc/box-1",
                             "procs": ["/cg/memory/tasks", "/cg/pids/tasks"], "memory_upper": True}
    return Facts(**{**usual, **known})


def planned(known: Facts | None = None, ids: IdMap = RANGE, **options: Any) -> list[op.Operation]:
    return plan(request(**options), known or facts(), ids)


def the(kind: type[op.Operation], steps: list[op.Operation]) -> Any:
    """Return the one operation of a kind."""
    [found] = [step for step in steps if type(step) is kind]
    return found


def position(steps: list[op.Operation], kind: type[op.Operation], **fields: object) -> int:
    """Return where the one operation is that has these fields."""
    [found] = [number for number, step in enumerate(steps) if type(step) is kind
               and all(getattr(step, name) == value for name, value in fields.items())]
    return found


# ---------------------------------------------------------------- the order


def test_the_limits_come_first_and_the_pivot_last() -> None:
    steps = planned()
    assert steps[0] == op.EnterCgroup(("/cg/memory/tasks", "/cg/pids/tasks"))
    assert steps[-1] == op.Pivot()


def test_the_network_is_there_before_the_sysctls_that_set_it_and_before_sys_that_shows_it() -> None:
    steps = planned(facts(network=7), sysctls={"net.core.somaxconn": "512"})
    assert position(steps, op.JoinNetwork, fd=7) < position(steps, op.Sysctl) < position(steps, op.Kernel, target="/sys")
    assert the(op.Sysctl, steps) == op.Sysctl("net.core.somaxconn", "512")


def test_without_a_network_the_loopback_is_brought_up_instead() -> None:
    steps = planned()
    assert op.LoopbackUp() in steps
    assert not any(isinstance(step, op.JoinNetwork) for step in steps)


@pytest.mark.parametrize(("ids", "groups"), [(RANGE, "1 65536"), (SINGLE, "0 0")])
def test_without_a_network_too_anyone_may_ping_and_listen_below_1024(ids: IdMap, groups: str) -> None:
    steps = planned(ids=ids, sysctls={"net.ipv4.ip_unprivileged_port_start": "80"})
    assert [step for step in steps if isinstance(step, op.Sysctl)] == [
        op.Sysctl("net.ipv4.ip_unprivileged_port_start", "0"), op.Sysctl("net.ipv4.ping_group_range", groups),
        op.Sysctl("net.ipv4.ip_unprivileged_port_start", "80")]   # what is asked for wins


def test_a_copied_image_is_the_root_as_it_is() -> None:
    steps = planned(facts(copied=True, memory_upper=False))
    assert the(op.Copied, steps) == op.Copied("/disk/box-1/root")
    assert not any(isinstance(step, (op.Overlay, op.DiskScratch, op.MemoryScratch)) for step in steps)
    assert position(steps, op.Copied) + 1 == position(steps, op.Kernel, target="/proc")


def test_the_root_is_mounted_before_anything_in_it() -> None:
    steps = planned(tmpfs=["/cache"])
    root = position(steps, op.Overlay)
    assert position(steps, op.MemoryScratch) < root
    inside = (op.Kernel, op.Devices, op.Mounted, op.Written, op.Bound, op.Tmpfs, op.Masked, op.ReadOnly)
    assert min(number for number, step in enumerate(steps) if isinstance(step, inside)) == root + 1


def test_kernel_file_systems_come_before_the_users_mounts_and_masks_after_both() -> None:
    known = facts(attached=[(9, "/host/data", "/data")], bound=[("/host/src", "/src", True)])
    steps = planned(known, tmpfs=["/cache"])
    users = [position(steps, op.Tmpfs), position(steps, op.Attached), position(steps, op.Bound, target="/src")]
    kernel = [number for number, step in enumerate(steps) if isinstance(step, (op.Kernel, op.Devices, op.Mounted))]
    masks = [number for number, step in enumerate(steps) if isinstance(step, (op.Masked, op.ReadOnly))]
    assert max(kernel) < min(users)
    assert max(users) < min(masks)


def test_the_devices_lie_in_dev_before_the_mounts_below_it() -> None:
    steps = planned()
    assert position(steps, op.Kernel, target="/dev") < position(steps, op.Devices) < position(steps, op.Mounted, target="/dev/pts")


def test_a_read_only_root_becomes_so_once_everything_is_in_place() -> None:
    assert planned(read_only=True)[-2:] == [op.ReadOnlyRoot(), op.Pivot()]
    assert op.ReadOnlyRoot() not in planned()


def test_the_working_directory_is_made_once_all_is_mounted_and_before_the_root_is_read_only() -> None:
    steps = planned(workdir="/srv", tmpfs=["/srv"], read_only=True)
    assert steps[-3:] == [op.WorkingDirectory("/srv"), op.ReadOnlyRoot(), op.Pivot()]


def test_secrets_are_mounted_into_what_is_around_them_and_no_step_shows_their_values() -> None:
    steps = planned(facts(secrets=7), secrets={"b": "hush", "a": b"hush"}, tmpfs=["/run", "/run/secrets.d/deep"], user="70")
    assert the(op.Secrets, steps) == op.Secrets(7, ("a", "b"), "/run/s/scratch", "/run/secrets", "70")
    assert position(steps, op.Tmpfs, target="/run") < position(steps, op.Secrets) < position(steps, op.Masked, path="/proc/keys")
    assert "hush" not in " ".join(map(str, steps)) + repr(request(secrets={"a": "hush"}))
    assert not any(isinstance(step, op.Secrets) for step in planned())


def test_given_files_are_written_before_anything_is_mounted_and_once() -> None:
    """Later, a link of the image could lead them into /proc or a host folder."""
    steps = planned(facts(files=8), files={"/etc/app.toml": b""})
    assert position(steps, op.Given, fd=8) == 1 + position(steps, op.Overlay)
    mounted = (op.Kernel, op.Written, op.Bound, op.Tmpfs)
    assert position(steps, op.Given) < min(number for number, step in enumerate(steps) if isinstance(step, mounted))
    again = planned(facts(files=8, kept=5), files={"/etc/app.toml": b""})
    assert not any(isinstance(step, op.Given) for step in [*planned(), *again])


# ---------------------------------------------------------------- the writable layer


@pytest.mark.parametrize(("options", "size"), [
    ({}, DEFAULT_SCRATCH),
    ({"memory": "64M"}, 32 * MIB),
    ({"memory": "64M", "scratch_size": "48M"}, 48 * MIB),
    ({"scratch_size": "2G"}, 2048 * MIB),
])
def test_a_writable_layer_in_memory_is_smaller_than_the_memory_unless_a_size_is_given(options: dict[str, Any], size: int) -> None:
    steps = planned(**options)
    assert the(op.MemoryScratch, steps) == op.MemoryScratch("/run/s/scratch", size)
    assert the(op.Overlay, steps) == op.Overlay(tuple(map(str, LAYERS)), "/run/s/scratch")


def test_a_writable_layer_on_disk_has_a_folder_of_its_own() -> None:
    steps = planned(scratch="disk")
    assert the(op.DiskScratch, steps) == op.DiskScratch("/disk/box-1")
    assert the(op.Overlay, steps).scratch == "/disk/box-1"
    assert not any(isinstance(step, op.MemoryScratch) for step in steps)


@pytest.mark.parametrize("scratch", ["memory", None])
def test_where_memory_cannot_hold_an_upper_layer_the_disk_does(scratch: str | None) -> None:
    options: dict[str, Any] = {"scratch": scratch} if scratch else {}
    assert op.DiskScratch("/disk/box-1") in planned(facts(memory_upper=False), **options)


@pytest.mark.parametrize("scratch", ["memory", "disk"])
def test_a_restart_keeps_the_root_and_mounts_all_else_afresh(scratch: str) -> None:
    known = {"attached": [(8, "/host/a", "/a"), (9, "/host/b", "/b")]}
    first, again = planned(facts(**known), scratch=scratch), planned(facts(kept=5, **known), scratch=scratch)
    assert the(op.KeepRoot, again) == op.KeepRoot((8, 9), 5)
    scratches = (op.MemoryScratch, op.DiskScratch, op.Overlay)
    assert [step for step in again if not isinstance(step, op.KeepRoot)] == [step for step in first if not isinstance(step, scratches)]


# ---------------------------------------------------------------- mounts


def test_proc_sys_and_dev_hold_no_programs_no_devices_of_the_image_and_no_setuid() -> None:
    kernel = {step.target: step for step in planned() if isinstance(step, op.Kernel)}
    assert kernel["/proc"] == op.Kernel("", SAFE, "proc", "/proc")
    assert kernel["/sys"] == op.Kernel("", SAFE | MS_RDONLY, "sysfs", "/sys")
    assert kernel["/dev"].flags == MS_NOSUID | MS_NOEXEC   # its nodes are the host's harmless ones: see Devices


def test_the_containers_root_owns_dev_by_its_id_in_the_session() -> None:
    dev = next(step for step in planned() if isinstance(step, op.Kernel) and step.target == "/dev")
    assert dev.data == "mode=755,size=64k,uid=1,gid=1"


def test_terminals_belong_to_the_group_tty_where_it_is_mapped() -> None:
    def options(ids: IdMap) -> str:
        [found] = [step.data for step in planned(ids=ids) if isinstance(step, op.Mounted) and step.fstype == "devpts"]
        return found
    assert options(RANGE).split(",") == ["newinstance", "ptmxmode=0666", "mode=0620", "gid=6"]
    assert "gid=" not in options(SINGLE)


def test_shared_memory_has_the_size_asked_for() -> None:
    def size(**options: Any) -> list[str]:
        return [step.data for step in planned(**options) if isinstance(step, op.Mounted) and step.target == "/dev/shm"]
    assert size() == [f"size={64 * MIB},mode=1777"]
    assert size(shm_size="8M") == [f"size={8 * MIB},mode=1777"]


def test_what_lies_in_another_mount_is_mounted_after_it() -> None:
    known = facts(attached=[(8, "/host/b", "/data/sub"), (9, "/host/a", "/data")], bound=[("/host/c", "/cache", True)])
    targets = [step.target for step in planned(known, tmpfs=["/data/sub/deep", "/cache/a/b", "/run"])
               if isinstance(step, (op.Tmpfs, op.Attached)) or (isinstance(step, op.Bound) and step == op.Bound(True, "/host/c", "/cache"))]
    assert targets == ["/run", "/data", "/cache", "/data/sub", "/data/sub/deep", "/cache/a/b"]


def test_a_tmpfs_has_its_size_mode_and_owner() -> None:
    steps = planned(tmpfs=["/a", Tmpfs(target="/b", size="1M", mode=0o700, user="postgres")])
    assert [step for step in steps if isinstance(step, op.Tmpfs)] == [
        op.Tmpfs(0o1777, 64 * MIB, "/a", ""), op.Tmpfs(0o700, MIB, "/b", "postgres")]


def test_its_own_limits_are_shown_read_only() -> None:
    on_v1 = planned(facts(cgroup_binds=[("/cg/memory", "/sys/fs/cgroup/memory")]))
    tmpfs = position(on_v1, op.Mounted, target="/sys/fs/cgroup")
    assert on_v1[tmpfs + 1] == op.Bound(True, "/cg/memory", "/sys/fs/cgroup/memory")
    on_v2 = planned(facts(cgroup2=True))
    assert op.Mounted("", SAFE | MS_RDONLY, "cgroup2", "/sys/fs/cgroup") in on_v2
    nowhere = planned()
    assert not any(isinstance(step, op.Mounted) and step.target == "/sys/fs/cgroup" for step in nowhere)


def test_names_and_resolver_are_files_of_the_container() -> None:
    steps = planned(hostname="web")
    assert op.Hostname("web") in steps
    assert [step for step in steps if isinstance(step, op.Written)] == [
        op.Written("web\n", "/etc/hostname"), op.Written("nameserver 10.89.0.1\n", "/etc/resolv.conf"), op.Written("", "/etc/hosts")]
    bound = op.Bound(False, "/run/s/etc/box-1/hosts", "/etc/hosts")
    assert steps.index(bound) == steps.index(op.Written("", "/etc/hosts")) + 1


def test_host_folders_are_read_only_unless_they_were_asked_for_writable() -> None:
    steps = planned(facts(bound=[("/src", "/a", True), ("/out", "/b", False)]))
    assert steps[position(steps, op.Bound, target="/a")] == op.Bound(True, "/src", "/a")
    assert steps[position(steps, op.Bound, target="/b")] == op.Bound(False, "/out", "/b")


# ---------------------------------------------------------------- masks


def test_what_tells_or_does_too_much_is_masked_or_read_only() -> None:
    steps = planned()
    assert [step for step in steps if isinstance(step, op.Masked)] == [op.Masked(path) for path in MASKED]
    assert [step for step in steps if isinstance(step, op.ReadOnly)] == [op.ReadOnly(path) for path in READ_ONLY]


@pytest.mark.parametrize("path", ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/scsi",
                                  "/proc/asound", "/proc/interrupts", "/proc/latency_stats", "/sys/firmware",
                                  "/sys/devices/virtual/powercap"])
def test_every_path_that_docker_masks_is_masked(path: str) -> None:
    assert path in MASKED


@pytest.mark.parametrize("path", ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"])
def test_every_path_that_docker_makes_read_only_is_read_only(path: str) -> None:
    assert path in READ_ONLY


# ---------------------------------------------------------------- for sessions inside


def test_nested_nothing_is_hidden_since_no_other_proc_could_be_mounted_then() -> None:
    assert {type(step) for step in planned()} - {type(step) for step in planned(nested=True)} == {op.Masked, op.ReadOnly}


def test_nested_its_cgroups_can_be_written_to_where_they_are_given_to_it() -> None:
    known: dict[str, Any] = {"cgroup_binds": [("/cg/pids/s/box", "/sys/fs/cgroup/pids")]}
    for delegated in (False, True):
        steps = planned(facts(delegated=delegated, **known), nested=True)
        assert op.Bound(not delegated, "/cg/pids/s/box", "/sys/fs/cgroup/pids") in steps
        steps = planned(facts(delegated=delegated, cgroup2=True), nested=True)
        assert the_mount(steps, "/sys/fs/cgroup").flags == SAFE | (0 if delegated else MS_RDONLY)


def the_mount(steps: list[op.Operation], target: str) -> op.Mounted:
    [found] = [step for step in steps if isinstance(step, op.Mounted) and step.target == target]
    return found


def test_nested_it_goes_on_to_the_leaf_once_its_cgroup_is_the_top() -> None:
    steps = planned(facts(leaf="/cg/s/box/sealed.leaf", delegated=True, cgroup2=True), nested=True)
    assert steps[:2] == [op.EnterCgroup(("/cg/memory/tasks", "/cg/pids/tasks")), op.EnterLeaf("/cg/s/box/sealed.leaf")]
    assert not any(isinstance(step, op.EnterLeaf) for step in planned())
