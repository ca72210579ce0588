"""The files that a container sees and may not change: masks, read-only paths, devices, /sys, names, its own limits."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from boxes import EITHER_IDS, FOREVER, NEEDS_ROOT, idle, sh

from pytest_sealed import Container, ContainerChanges, Sandbox
from pytest_sealed.runtime.plan import MASKED, READ_ONLY

MIB = 1 << 20


def refused(container: Container, script: str, *why: str, user: str | None = None) -> None:
    """Assert that a script fails, with one of these error texts."""
    result = container.exec(["sh", "-c", script], timeout=30, user=user)
    assert result.exit_code != 0, f"{script} is allowed"
    assert any(text in result.stderr for text in why), f"{script}: {result.stderr}"


def there(container: Container, paths: tuple[str, ...]) -> list[str]:
    """Return those of the paths that this kernel has."""
    found = [path for path in paths if container.exec(["test", "-e", path]).exit_code == 0]
    assert found
    return found


# ---------------------------------------------------------------- masks


@EITHER_IDS
def test_masked_files_and_folders_are_empty(sandbox: Sandbox) -> None:
    container = idle(sandbox)
    for path in there(container, MASKED):
        assert sh(container, f"if [ -d {path} ]; then ls -A {path}; else cat {path}; fi") == "", f"{path} tells something"


@EITHER_IDS
def test_nothing_can_be_written_to_read_only_paths_and_masked_folders(sandbox: Sandbox) -> None:
    container = idle(sandbox)
    rows = [line.split() for line in sh(container, "cat /proc/self/mountinfo").splitlines()]
    flags = {row[4]: row[5].split(",") for row in rows}
    for path in there(container, (*MASKED, *READ_ONLY)):
        assert "ro" in flags[path], f"{path} is writable"
        if container.exec(["test", "-d", path]).exit_code == 0:
            refused(container, f"touch {path}/file", "Read-only file system", "Permission denied", "No such file")
        elif path in READ_ONLY:
            refused(container, f": >> {path}", "Read-only file system", "Permission denied")   # opened only: never write to sysrq-trigger


@EITHER_IDS
@pytest.mark.parametrize("path", ["/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/vm/drop_caches",
                                  "/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/shmmax", "/sys/kernel/mm/ksm/run",
                                  "/sys/kernel/profiling", "/sys/kernel/uevent_helper", "/sys/power/state", "/proc/sys/kernel/modprobe",
                                  "/proc/sys/fs/binfmt_misc/register"])
def test_settings_of_the_kernel_cannot_be_opened_for_writing(sandbox: Sandbox, path: str) -> None:
    container = idle(sandbox)
    if os.path.exists(path):
        refused(container, f": >> {path}", "Read-only file system", "Permission denied")


@EITHER_IDS
@pytest.mark.parametrize("command", [
    "umount /proc/keys", "umount /proc/sys", "umount -l /proc/timer_list", "umount /sys", "umount -l /proc", "umount -l /",
    "mount -o remount,rw /sys", "mount -o remount,rw,bind /proc/sys", "mount -t tmpfs none /mnt", "mount -t proc none /mnt",
    "mount -t sysfs none /mnt", "mount --bind /etc /mnt", "mount -t cgroup -o memory none /mnt", "mount -t cgroup2 none /mnt",
    "mount --move /proc /mnt", "mount --make-shared /", "pivot_root / /mnt", "mount -t overlay -o lowerdir=/etc:/usr none /mnt",
])
def test_no_mount_can_be_made_moved_or_undone(sandbox: Sandbox, command: str) -> None:
    for seccomp in ("default", "unconfined"):   # the filter denies mounts altogether; behind it they are locked
        refused(idle(sandbox, seccomp=seccomp), command, "Operation not permitted", "permission denied", "Permission denied")


NESTED = "unshare -U -r -m -p -i -f sh -c"


@EITHER_IDS
@pytest.mark.parametrize("command", [
    "umount /proc/keys", "umount -l /proc/keys", "umount /proc/sys", "umount /sys/firmware", "umount -l /proc", "umount /etc/hosts",
    "mount -o remount,rw /sys", "mount -o remount,rw,bind /proc/sys", "mount -t proc none /mnt", "mount -t sysfs none /mnt",
    "mount --bind /proc /mnt", "mount --rbind /proc /mnt && umount /mnt/keys", "mount -t cgroup -o memory none /mnt",
])
def test_nor_by_root_of_a_user_namespace_of_its_own(sandbox: Sandbox, command: str) -> None:
    container = idle(sandbox, seccomp="unconfined")   # the filter denies such namespaces
    assert sh(container, f"{NESTED} 'id -u; mount -t tmpfs none /mnt && touch /mnt/mine && ls /mnt'").split() == ["0", "mine"]
    refused(container, f"{NESTED} '{command}'", "Invalid argument", "permission denied", "not permitted")


# ---------------------------------------------------------------- devices


def test_dev_has_the_harmless_devices_and_no_others(sandbox: Sandbox) -> None:
    container = idle(sandbox)
    listed = sh(container, "find /dev | sort").split()
    assert listed == [
        "/dev", "/dev/fd", "/dev/full", "/dev/mqueue", "/dev/null", "/dev/ptmx", "/dev/pts", "/dev/pts/ptmx", "/dev/random", "/dev/shm",
        "/dev/stderr", "/dev/stdin", "/dev/stdout", "/dev/tty", "/dev/urandom", "/dev/zero"]


@EITHER_IDS
@pytest.mark.parametrize("user", ["root", "1000"])
def test_the_devices_work(sandbox: Sandbox, user: str) -> None:
    container = idle(sandbox, user=user)
    assert sh(container, "echo gone > /dev/null; cat /dev/null; head -c 3 /dev/zero | od -An -tx1").split() == ["00"] * 3
    assert len(sh(container, "head -c 8 /dev/urandom | od -An -tx1; head -c 8 /dev/random | od -An -tx1").split()) == 16
    refused(container, "echo full > /dev/full", "No space left on device")
    assert sh(container, "echo out > /dev/stdout; echo in | cat /dev/stdin; echo 3 | cat /dev/fd/0") == "out\nin\n3\n"
    refused(container, ": < /dev/tty", "No such device")   # there is no terminal
    assert sh(container, "echo shared > /dev/shm/file; cat /dev/shm/file") == "shared\n"


@pytest.mark.usefixtures("several_ids")
def test_a_program_can_have_a_terminal(sandbox: Sandbox) -> None:
    container = sandbox.run("python", FOREVER)
    script = "import os, pty; m, s = pty.openpty(); os.write(s, b'hello'); print(os.ttyname(s), os.read(m, 5))"
    assert container.exec(["python3", "-c", script], check=True).stdout == "/dev/pts/0 b'hello'\n"
    assert container.exec(["python3", "-c", script], user="1000", check=True).stdout == "/dev/pts/0 b'hello'\n"


@EITHER_IDS
@pytest.mark.parametrize("node", ["c 1 1", "c 1 3", "c 5 1", "b 7 0", "b 8 0", "b 254 0"])
@pytest.mark.parametrize("folder", ["/tmp", "/dev", "/dev/shm"])
def test_no_device_can_be_made(sandbox: Sandbox, node: str, folder: str) -> None:
    refused(idle(sandbox), f"mknod {folder}/node {node}", "Operation not permitted", "Permission denied")


# ---------------------------------------------------------------- /sys, names, limits


@EITHER_IDS
def test_sys_is_the_containers_own_and_read_only(sandbox: Sandbox) -> None:
    container = idle(sandbox)
    assert set(sh(container, "ls /sys/class/net").split()) == {"eth0", "lo"}
    assert "ro" in sh(container, "grep ' /sys ' /proc/mounts").split()[3].split(",")
    refused(container, ": >> /sys/class/net/eth0/mtu", "Read-only file system")


@EITHER_IDS
def test_names_come_from_hosts_and_the_networks_resolver(sandbox: Sandbox) -> None:
    one, two = idle(sandbox, name="one", aliases=["uno"], hostname="first"), idle(sandbox, name="two")
    assert [line.split() for line in one.read_text("/etc/hosts").splitlines()] == [
        ["127.0.0.1", "localhost"], ["::1", "localhost", "ip6-localhost", "ip6-loopback"],
        [one.address, "one", "uno", "first"], [two.address, "two"]]
    assert two.read_text("/etc/hosts").splitlines()[2:] == [f"{two.address}\ttwo", f"{one.address}\tone uno"]
    gateway = sandbox.network().subnet.replace(".0/24", ".1")
    assert one.read_text("/etc/resolv.conf").splitlines()[0] == f"nameserver {gateway}"
    assert one.read_text("/etc/hostname") == "first\n"
    two.remove()
    assert [line.split() for line in one.read_text("/etc/hosts").splitlines()[2:]] == [[one.address, "one", "uno", "first"]]


PING_AND_LISTEN = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as ping:
    ping.settimeout(10)
    ping.sendto(b"\\x08" + b"\\0" * 7 + b"hello", ("127.0.0.1", 0))
    print(ping.recv(100)[8:].decode())
with socket.create_server(("127.0.0.1", 80)) as listener:
    print(listener.getsockname()[1])
"""


@pytest.mark.parametrize("options", [{}, {"network": None}])
@pytest.mark.parametrize("user", ["0", "1000"])
@pytest.mark.usefixtures("several_ids")
def test_any_user_may_ping_and_listen_below_1024(sandbox: Sandbox, options: ContainerChanges, user: str) -> None:
    container = sandbox.run("python", FOREVER, **options)
    assert container.exec(["python3", "-c", PING_AND_LISTEN], user=user, check=True).stdout == "hello\n80\n"


@EITHER_IDS
def test_without_a_network_there_is_only_the_loopback(sandbox: Sandbox) -> None:
    container = idle(sandbox, network=None)
    assert sh(container, "ls /sys/class/net").split() == ["lo"]
    assert sh(container, "ip route; cat /etc/resolv.conf") == ""
    assert sh(container, "(nc -l -p 80 -e echo hello &); until nc localhost 80 2> /dev/null; do :; done") == "hello\n"


@EITHER_IDS
def test_it_sees_its_own_limits_and_can_neither_raise_them_nor_see_others(sandbox: Sandbox) -> None:
    report = sandbox.describe()
    assert "memory" in report.limits
    idle(sandbox, memory="96M")
    container = idle(sandbox, memory="64M", cpus=0.5, pids=100)
    files = {"v1": ("memory/memory.limit_in_bytes", "pids/pids.max", "cpu/cpu.cfs_quota_us"),
             "v2": ("memory.max", "pids.max", "cpu.max")}[report.cgroup]
    shown = [sh(container, f"cat /sys/fs/cgroup/{file}").split()[0] for file in files]
    assert shown == [str(64 * MIB), "100", "50000"]
    for file in files:
        refused(container, f": >> /sys/fs/cgroup/{file}", "Read-only file system", "Permission denied")
    assert sh(container, "find /sys/fs/cgroup -name 'sealed*' -o -name '*busybox*'") == ""
    assert {line.split(":", 2)[2] for line in sh(container, "cat /proc/self/cgroup").split() if "name=" not in line} == {"/"}
    refused(container, "mkdir /sys/fs/cgroup/new /sys/fs/cgroup/memory/new", "Read-only", "denied", "not permitted")


# ---------------------------------------------------------------- the supervisor


@NEEDS_ROOT
@EITHER_IDS
def test_the_supervisor_sees_the_host_read_only(sandbox: Sandbox, tmp_path: Path) -> None:
    idle(sandbox)
    session = sandbox.session
    writable = {str(session.run_dir.parent), str(session.disk.parent), *session.hierarchy.bases.values()}
    own = {"/proc", f"{session.run_dir}/etc"}   # made by itself
    rows = [line.split() for line in Path(f"/proc/{session.pid}/mountinfo").read_text().splitlines()]
    assert {row[4] for row in rows if "rw" in row[5].split(",") and not row[4].startswith(f"{session.run_dir}/etc/")} <= writable | own
    assert {row[4] for row in rows if "nosuid" not in row[5].split(",")} <= writable
    assert not [row for row in rows if row[6].startswith("shared:")], "its mounts could reach the host"
