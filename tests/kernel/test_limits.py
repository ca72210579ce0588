"""What a container may use: each limit holds, ends in its exact verdict, and is told by the figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from boxes import EITHER_IDS, FOREVER, Scratch, eventually, idle, logged, sh

from pytest_sealed import Container, ContainerFailed, Sandbox, SealedWarning, SpecError, Tmpfs, image

MIB = 1 << 20
EAT = "awk 'BEGIN { s = \"x\"; while (length(s) < %d) s = s s; print length(s) }'"


def df(container: Container, path: str) -> int:
    """Return the size in bytes of the file system at a path."""
    return int(sh(container, f"df -k {path} | tail -n 1 | awk '{{print $2}}'")) << 10


# ---------------------------------------------------------------- memory


@EITHER_IDS
def test_whoever_exceeds_the_memory_is_killed_and_the_verdict_says_so(sandbox: Sandbox) -> None:
    container = sandbox.run("busybox", ["tail", "/dev/zero"], memory="16M", name="hog")
    assert container.wait(60) == 128 + 9
    assert container.oom_killed
    assert (container.exit_code, container.exit_signal) == (None, 9)
    assert container.obituary() == ("container 'hog' was ended by SIGKILL, after the kernel had killed a process of it for reaching its "
                                    "memory limit of 16 MiB (tail /dev/zero)")
    stats = container.stats()
    assert (stats.oom_kills, stats.memory_limit) == (1, 16 * MIB)
    assert stats.memory_peak is not None
    assert 12 * MIB <= stats.memory_peak <= 16 * MIB
    assert "memory   peak 16 MiB of 16 MiB (100%), 1 killed for reaching it" in container.report()


@EITHER_IDS
def test_a_command_beside_is_killed_and_the_container_lives(sandbox: Sandbox) -> None:
    container = idle(sandbox, memory="16M")
    assert not container.oom_killed
    assert container.exec(["tail", "/dev/zero"]).exit_code == 128 + 9
    assert (container.status, container.oom_killed, container.stats().oom_kills) == ("running", True, 1)


def test_whoever_stays_below_is_left_alone(sandbox: Sandbox) -> None:
    assert logged(sandbox, EAT % (8 * MIB), memory="64M").strip() == str(8 * MIB)
    assert not sandbox.containers[-1].oom_killed


def test_without_a_limit_there_is_none(sandbox: Sandbox) -> None:
    stats = idle(sandbox).stats()
    assert stats.memory_limit is None
    assert stats.memory is not None
    assert 0 < stats.memory < 64 * MIB


@EITHER_IDS
@pytest.mark.usefixtures("memory_layers")
def test_a_full_writable_layer_is_a_full_disk_and_no_end_by_memory(sandbox: Sandbox) -> None:
    container = idle(sandbox, memory="64M")
    result = container.exec(["dd", "if=/dev/zero", "of=/srv/big", "bs=1M", "count=100"])
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr
    assert not container.oom_killed
    assert df(container, "/srv") == 32 * MIB
    sh(container, "rm /srv/big; dd if=/dev/zero of=/srv/small bs=1M count=16")


@pytest.mark.usefixtures("memory_layers")
@pytest.mark.parametrize(("options", "size"), [({}, 1024 * MIB), ({"scratch_size": "5M"}, 5 * MIB), ({"memory": "64M"}, 32 * MIB),
                                               ({"memory": "64M", "scratch_size": "40M"}, 40 * MIB)])
def test_the_writable_layer_in_memory_has_its_size(sandbox: Sandbox, options: dict[str, str], size: int) -> None:
    assert df(idle(sandbox, **options), "/") == size  # type: ignore[arg-type]


def test_a_size_without_a_layer_in_memory_is_warned_of_once(
        sandbox: Sandbox, recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this kernel's memory can hold a layer, the supervisor's answer is changed to that of one whose memory can't."""
    session = sandbox.session
    asked = session.request

    def request(op: str, *arguments: Any, **fields: Any) -> Any:
        answer = asked(op, *arguments, **fields)
        return ({**answer[0], "memory_upper": False}, *answer[1:]) if op == "hello" else answer
    monkeypatch.setattr(session, "warned", set())
    idle(sandbox)
    idle(sandbox, scratch="disk")
    if session.request("hello")[0]["memory_upper"]:
        idle(sandbox, scratch_size="8M")
    assert [str(item.message) for item in recwarn] == []
    monkeypatch.setattr(session, "request", request)
    for _ in range(2):
        idle(sandbox, scratch_size="8M").restart(0)
    assert [(item.category, str(item.message)) for item in recwarn] == [(SealedWarning, (
        "scratch_size= has no effect: memory can't hold a writable layer here, so each is below "
        f"{session.disk.parent}, of any size\n  remedy: Linux 6.6 or later, or leave scratch_size= out"))]


@pytest.mark.parametrize("key", ["memory", "pids", "cpus"])
def test_a_limit_that_a_spec_has_set_can_be_lifted(sandbox: Sandbox, key: str) -> None:
    limited = image("busybox", command=FOREVER, memory="64M", pids=50, cpus=0.5)
    file = {"v1": {"memory": "memory/memory.limit_in_bytes", "pids": "pids/pids.max", "cpus": "cpu/cpu.cfs_quota_us"},
            "v2": {"memory": "memory.max", "pids": "pids.max", "cpus": "cpu.max"}}[sandbox.describe().cgroup][key]

    def shown(**options: Any) -> str:
        return sh(sandbox.run(limited, **options), f"cat /sys/fs/cgroup/{file}").split()[0]
    assert shown() == {"memory": str(64 * MIB), "pids": "50", "cpus": "50000"}[key]
    lifted = shown(**{key: None})
    assert lifted in ("max", "-1") or int(lifted) > 1 << 60


def test_on_disk_more_fits_than_in_memory(sandbox: Sandbox) -> None:
    container = idle(sandbox, memory="32M", scratch="disk")
    sh(container, "dd if=/dev/zero of=/srv/big bs=1M count=100")
    assert sh(container, "stat -c %s /srv/big") == f"{100 * MIB}\n"
    assert not container.oom_killed


def test_swap_is_off_unless_asked_for(sandbox: Sandbox) -> None:
    assert sandbox.describe().cgroup in ("v1", "v2")
    name = {"v1": "memory/memory.memsw.limit_in_bytes", "v2": "memory.swap.max"}[sandbox.describe().cgroup]
    extra = 0 if sandbox.describe().cgroup == "v2" else 64 * MIB

    def swap(container: Container) -> int:
        return int(sh(container, f"cat /sys/fs/cgroup/{name}")) - extra
    assert swap(idle(sandbox, memory="64M")) == 0
    assert swap(idle(sandbox, memory="64M", swap="16M")) == 16 * MIB
    with pytest.raises(SpecError, match="swap= needs memory="):
        idle(sandbox, swap="16M")


# ---------------------------------------------------------------- CPU


@EITHER_IDS
def test_a_share_of_a_cpu_is_never_more_by_the_kernels_own_count(sandbox: Sandbox) -> None:
    container = sandbox.run("busybox", ["sh", "-c", "while :; do :; done"], cpus=0.2)
    eventually(lambda: (container.stats().throttled_periods or 0) >= 3, "it is made to wait")
    stats = container.stats()
    assert stats.periods is not None
    assert stats.cpu_seconds is not None
    assert stats.throttled_seconds is not None
    assert stats.throttled_seconds > 0
    # 0.02 s in each period of 0.1 s, one period more that has begun, and 10 ms a CPU by which slices overrun
    assert stats.cpu_seconds <= 0.02 * (stats.periods + 1) + 0.05
    assert "throttled for" in container.report()


def test_without_a_limit_nobody_is_made_to_wait(sandbox: Sandbox) -> None:
    container = sandbox.run("busybox", ["sh", "-c", "while :; do :; done"])
    eventually(lambda: (container.stats().cpu_seconds or 0) > 0.2, "it runs")
    assert not container.stats().throttled_periods


def test_the_weight_of_a_container_is_its_own(sandbox: Sandbox) -> None:
    """That the kernel keeps to it is tried in test_cgroups_enforced."""
    file, usual, double = {"v1": ("cpu/cpu.shares", "1024", "2048"), "v2": ("cpu.weight", "100", "200")}[sandbox.describe().cgroup]
    assert sh(idle(sandbox), f"cat /sys/fs/cgroup/{file}").strip() == usual
    assert sh(idle(sandbox, cpu_shares=2048), f"cat /sys/fs/cgroup/{file}").strip() == double


# ---------------------------------------------------------------- processes


@EITHER_IDS
def test_a_container_has_at_most_its_number_of_processes(sandbox: Sandbox) -> None:
    container = idle(sandbox, pids=8)
    result = container.exec(["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done"])
    assert result.exit_code != 0
    assert "can't fork" in result.stderr
    assert 5 <= (container.stats().pids or 0) <= 8   # the shell that failed has ended, and so has what started it
    more = idle(sandbox, pids=20)
    sh(more, "for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done")
    eventually(lambda: more.stats().pids == 1 + 8, "all eight run")


def test_processes_are_limited_to_2048_by_default(sandbox: Sandbox) -> None:
    file = {"v1": "pids/pids.max", "v2": "pids.max"}[sandbox.describe().cgroup]
    assert sh(idle(sandbox), f"cat /sys/fs/cgroup/{file}") == "2048\n"


# ---------------------------------------------------------------- file systems in memory


@EITHER_IDS
def test_shared_memory_has_its_size(sandbox: Sandbox) -> None:
    assert df(idle(sandbox), "/dev/shm") == 64 * MIB
    container = idle(sandbox, shm_size="2M")
    assert df(container, "/dev/shm") == 2 * MIB
    assert "No space left" in container.exec(["dd", "if=/dev/zero", "of=/dev/shm/big", "bs=1M", "count=3"]).stderr


@EITHER_IDS
@pytest.mark.parametrize("scratch", ["memory", "disk"])
def test_a_tmpfs_has_its_size_owner_and_mode(sandbox: Sandbox, scratch: Scratch, single: bool) -> None:
    user = "root" if single else "nobody"
    container = idle(sandbox, scratch=scratch, tmpfs=["/cache", Tmpfs(target="/var/new/run", size="3M", mode=0o750, user=user)])
    assert sh(container, "stat -c '%a %U' /cache /var/new /var/new/run").splitlines() == ["1777 root", "755 root", f"750 {user}"]
    assert (df(container, "/cache"), df(container, "/var/new/run")) == (64 * MIB, 3 * MIB)
    assert sh(container, "touch /var/new/run/mine; stat -c %U /var/new/run/mine", user=user) == f"{user}\n"
    options = sh(container, "grep ' /var/new/run ' /proc/mounts").split()[3].split(",")
    assert {"nosuid", "nodev", "rw"} <= set(options)


def test_a_tmpfs_hides_what_the_image_has_there(sandbox: Sandbox) -> None:
    container = idle(sandbox, tmpfs=["/usr/share"])
    assert sh(container, "ls -A /usr/share") == ""
    assert container.read_text("/etc/passwd")


def test_a_tmpfs_of_an_unknown_user_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(SpecError, match="the container's /etc/passwd has no user 'nosuch'"):
        idle(sandbox, tmpfs=[Tmpfs(target="/cache", user="nosuch")])


# ---------------------------------------------------------------- read-only root, ulimits, sysctls


@EITHER_IDS
@pytest.mark.parametrize("scratch", ["memory", "disk"])
def test_a_read_only_root_can_be_written_nowhere_but_where_it_was_asked_for(sandbox: Sandbox, scratch: Scratch) -> None:
    container = idle(sandbox, read_only=True, tmpfs=["/tmp"], scratch=scratch)
    for path in ("/file", "/etc/file", "/var/file", "/usr/bin/file", "/etc/passwd"):
        assert "Read-only file system" in container.exec(["touch", path]).stderr
    sh(container, "touch /tmp/file /dev/shm/file; echo x > /dev/null; cat /etc/hosts /etc/resolv.conf /etc/hostname")
    assert container.exec(["mount", "-o", "remount,rw", "/"]).exit_code != 0
    with pytest.raises(ContainerFailed, match="Read-only file system"):
        container.write_text("/file", "x")


@EITHER_IDS
def test_ulimits_hold_for_the_command_and_those_beside_it(sandbox: Sandbox) -> None:
    script = "for name in n c f; do ulimit -S$name; ulimit -H$name; done"
    options = {"nofile": (64, 128), "core": 0, "fsize": (2048, -1)}
    container = sandbox.run("busybox", ["sh", "-c", f"{script}; exec sleep 1000000"], ulimits=options)  # type: ignore[arg-type]
    expected = ["64", "128", "0", "0", "4", "unlimited"]
    container.wait_for_log("unlimited")
    assert container.logs().split() == expected
    assert sh(container, script).split() == expected


def test_a_ulimit_that_cannot_be_raised_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(ContainerFailed) as caught:
        idle(sandbox, ulimits={"nofile": 1 << 30}, name="web")
    assert caught.value.message == ("container 'web' (busybox) did not start: ulimit nofile=1073741824:1073741824 can't be set: "
                                    "not allowed to raise maximum limit")
    assert caught.value.remedy


@EITHER_IDS
def test_sysctls_are_the_containers_own(sandbox: Sandbox) -> None:
    names = [Path("/proc/sys/net/ipv4/tcp_fin_timeout"), Path("/proc/sys/kernel/shmmax")]
    host = [path.read_text() for path in names]
    container = idle(sandbox, sysctls={"net.ipv4.tcp_fin_timeout": "77", "kernel.shmmax": "1000000"})
    script = f"cat {names[0]} {names[1]}"
    assert sh(container, script).split() == ["77", "1000000"]
    assert sh(idle(sandbox), script).split() != ["77", "1000000"]
    assert [path.read_text() for path in names] == host


@pytest.mark.parametrize(("name", "value", "why"), [("net.nosuch", "1", "No such file or directory"),
                                                    ("net.ipv4.tcp_fin_timeout", "many", "Invalid argument")])
def test_a_sysctl_that_the_kernel_refuses_is_named(sandbox: Sandbox, name: str, value: str, why: str) -> None:
    with pytest.raises(SpecError) as caught:
        idle(sandbox, sysctls={name: value}, name="web")
    assert caught.value.message == f"container 'web' (busybox) did not start: the sysctl {name}={value} can't be set: {why}"
    assert caught.value.remedy
    assert idle(sandbox, name="web").argv == FOREVER
