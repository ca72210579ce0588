"""What a container's processes are and see, looked at from inside: ids, capabilities, environment, files, kernel."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest
from boxes import EITHER_IDS, FOREVER, NEEDS_ROOT, descendants, host_pid, idle, sh, status

from pytest_sealed import Sandbox, SpecError
from pytest_sealed.values import CAPABILITIES

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
ELEVEN = sum(1 << number for number in CAPABILITIES.values())
SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


# ---------------------------------------------------------------- ids and capabilities


@pytest.mark.usefixtures("several_ids")
def test_root_inside_is_the_first_of_a_range_of_ids(sandbox: Sandbox) -> None:
    container = idle(sandbox)
    assert sh(container, "id -u; id -g; id -G").split() == ["0", "0", "0"]
    assert sh(container, "cat /proc/self/uid_map; cat /proc/self/gid_map").split() == ["0", "1", "65536"] * 2


@NEEDS_ROOT
def test_root_inside_is_nobody_on_the_host(sandbox: Sandbox) -> None:
    container = idle(sandbox)
    facts = Path(f"/proc/{host_pid(container)}").stat()
    assert facts.st_uid == container._session.ids.uid_start
    assert facts.st_uid not in (0, os.getuid(), 65534)


@pytest.mark.parametrize("sandbox", ["single"], indirect=True)
@pytest.mark.parametrize("user", ["root", "70", "nobody"])
def test_in_single_id_mode_the_user_is_the_one_id_that_there_is(sandbox: Sandbox, user: str) -> None:
    container = idle(sandbox, user=user)
    uid, gid = sh(container, "id -u; id -g").split()
    rows = [line.split() for line in sh(container, "cat /proc/self/uid_map; cat /proc/self/gid_map").splitlines()]
    assert rows == [[uid, "0", "1"], [gid, "0", "1"]]
    assert status(container)["Uid"].split() == [uid] * 4


# CVE-2022-24769: with some to inherit, a program's file capabilities give an ordinary user of the container what root has there.
@EITHER_IDS
def test_root_has_at_most_eleven_capabilities_and_none_to_inherit(sandbox: Sandbox) -> None:
    container = idle(sandbox)
    for pid in (1, "self"):
        fields = status(container, pid)
        assert {name: int(fields[name], 16) for name in SETS} == {
            "CapInh": 0, "CapPrm": ELEVEN, "CapEff": ELEVEN, "CapBnd": ELEVEN, "CapAmb": 0}
        assert fields["NoNewPrivs"] == "1"


@EITHER_IDS
def test_another_user_has_none(sandbox: Sandbox) -> None:
    container = idle(sandbox, user="1000:1000")
    for pid in (1, "self"):
        fields = status(container, pid)
        assert {name: int(fields[name], 16) for name in SETS} == {"CapInh": 0, "CapPrm": 0, "CapEff": 0, "CapBnd": ELEVEN, "CapAmb": 0}


def test_fewer_capabilities_can_be_asked_for(sandbox: Sandbox) -> None:
    container = idle(sandbox, capabilities=["KILL", "CHOWN"])
    for pid in (1, "self"):
        fields = status(container, pid)
        assert {int(fields[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == {1 << 5 | 1 << 0}
    assert "Operation not permitted" in container.exec(["chroot", "/"]).stderr


@pytest.mark.usefixtures("several_ids")
def test_a_setuid_program_gives_nothing(sandbox: Sandbox) -> None:
    container = sandbox.run("python", FOREVER)
    sh(container, "cp /usr/bin/python3.11 /opt/python && chmod 4755 /opt/python")   # busybox would drop its privileges by itself
    result = container.exec(["/opt/python", "-c", "import os; print(os.getresuid())"], user="1000", check=True)
    assert result.stdout == "(1000, 1000, 1000)\n"


@EITHER_IDS
@pytest.mark.parametrize("init", [False, True])
def test_no_signal_is_blocked_or_ignored(sandbox: Sandbox, init: bool) -> None:
    container = idle(sandbox, init=init)
    for pid in (sh(container, "pidof sleep").strip(), "self"):
        fields = status(container, pid)
        assert (fields["SigBlk"], fields["SigIgn"]) == ("0" * 16, "0" * 16)


def test_a_command_leads_a_session_of_its_own(sandbox: Sandbox) -> None:
    container = idle(sandbox)
    for fields in (status(container, sh(container, "pidof sleep").strip()), status(container)):
        assert fields["Umask"] == "0022"
        assert fields["NSsid"] == fields["Pid"]   # so no terminal can be handed down: see TIOCSCTTY in ioctl_tty(2)


# ---------------------------------------------------------------- what the host would give away


@EITHER_IDS
@pytest.mark.parametrize("init", [False, True])
def test_nothing_of_the_hosts_environment_is_inside(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, init: bool) -> None:
    monkeypatch.setenv("SECRET", "of-the-host")
    container = idle(sandbox, init=init, env={"OURS": "1"})
    names = {line.partition("=")[0] for line in sh(container, "env").splitlines()}
    assert names == {"PATH", "HOME", "HOSTNAME", "OURS", "PWD", "SHLVL"}   # the last two are the shell's
    pids = [name for name in sh(container, "ls /proc").split() if name.isdigit()]
    seen = sh(container, f"for pid in {' '.join(pids)}; do tr '\\0' '\\n' < /proc/$pid/environ; done 2> /dev/null; true")
    assert {line.partition("=")[0] for line in seen.splitlines()} <= {"PATH", "HOME", "HOSTNAME", "OURS", "PWD", "SHLVL"}


def test_a_start_after_the_supervisors_sees_no_later_environment_either(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/secret")
    monkeypatch.setenv("LD_PRELOAD", "/secret.so")
    container = idle(sandbox)
    assert sh(container, "tr '\\0' '\\n' < /proc/1/environ | sort").splitlines() == [
        "HOME=/root", "HOSTNAME=busybox", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]


@NEEDS_ROOT
def test_the_runtimes_own_processes_have_nothing_of_it_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "of-the-host")
    with Sandbox(name="with a secret") as sandbox:
        container = idle(sandbox, init=True)
        ours = {sandbox.session.pid, *descendants(sandbox.session.pid)}
        assert host_pid(container) in ours
        assert len(ours) == 5   # supervisor, network service, forwarder, init, command
        for pid in ours:
            names = {row.partition("=")[0] for row in Path(f"/proc/{pid}/environ").read_text().split("\0") if row}
            assert names <= {"PATH", "LC_ALL", "HOME", "HOSTNAME"}
        assert os.listdir(f"/proc/{host_pid(container)}/fd") == []   # the init keeps no pipe open


@EITHER_IDS
@pytest.mark.parametrize("init", [False, True])
def test_no_descriptor_is_open_beyond_the_first_three(sandbox: Sandbox, init: bool) -> None:
    reader, writer = os.pipe()
    try:
        os.set_inheritable(reader, True)   # as by a careless library of the tests'
        os.set_inheritable(writer, True)
        container = idle(sandbox, init=init)
        pid = sh(container, "pidof sleep").strip()
        assert sh(container, f"ls /proc/{pid}/fd").split() == ["0", "1", "2"]
        assert container.exec(["find", "/proc/self/fd", "-type", "l"]).stdout.split() == [
            f"/proc/self/fd/{number}" for number in (0, 1, 2, 3)]   # the last is find's own, on that folder
    finally:
        os.close(reader)
        os.close(writer)


def test_standard_input_is_the_null_device(sandbox: Sandbox) -> None:
    container = idle(sandbox)
    assert sh(container, "readlink /proc/1/fd/0; cat").split() == ["/dev/null"]


@EITHER_IDS
def test_every_namespace_is_its_own(sandbox: Sandbox) -> None:
    one, other = idle(sandbox), idle(sandbox)

    def seen(script: str) -> list[str]:
        return [sh(one, script), sh(other, script), *(f"{os.readlink(f'/proc/self/ns/{name}')}\n" for name in NAMESPACES if name in script)]
    for name in NAMESPACES:
        assert len(set(seen(f"readlink /proc/self/ns/{name}"))) == 3, f"the {name} namespace is shared"
    pids = {int(name) for name in sh(one, "ls /proc").split() if name.isdigit()}
    assert len(pids) <= 4   # PID 1, a shell, ls
    assert sh(one, "cat /proc/1/cmdline").split("\0")[:-1] == FOREVER


def test_the_host_name_is_the_containers(sandbox: Sandbox) -> None:
    assert sh(idle(sandbox, name="one"), "hostname; cat /etc/hostname").split() == ["one", "one"]
    assert sh(idle(sandbox, hostname="two"), "hostname").split() == ["two"]
    assert os.uname().nodename not in ("one", "two")
    assert "Operation not permitted" in sandbox.containers[0].exec(["hostname", "evil"]).stderr


def test_host_files_are_out_of_reach(sandbox: Sandbox, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_text("of the host")
    container = idle(sandbox)
    for root in ("", "/proc/1/root", "/proc/self/cwd/../../..", "/proc/self/root/../.."):
        assert container.exec(["cat", f"{root}{canary}"]).exit_code != 0
    assert sh(container, "cat /proc/1/root/etc/hostname").split() == ["busybox"]
    assert sh(container, "ls -d /proc/1/root/../..").split() == ["/proc/1/root/../.."]


def test_no_abstract_socket_of_the_host_is_seen(sandbox: Sandbox) -> None:
    assert len(sh(idle(sandbox), "cat /proc/net/unix").splitlines()) == 1   # the heading


# ---------------------------------------------------------------- what it may do to itself, and not to others


@EITHER_IDS
@pytest.mark.parametrize("name", ["NET_ADMIN", "cap_net_raw", "NET_RAW"])
def test_a_capability_over_networks_is_refused_where_it_would_have_no_effect(sandbox: Sandbox, name: str) -> None:
    with pytest.raises(SpecError) as caught:
        idle(sandbox, capabilities=[name])
    known = name.upper().removeprefix("CAP_")
    assert caught.value.message == f"capability {known!r} would have no effect: a container's network belongs to its session"
    assert caught.value.remedy == "leave it out: any user of a container may ping, and listen at ports below 1024"


@EITHER_IDS
@pytest.mark.parametrize("command", ["ip link set eth0 down", "ip addr add 10.1.2.3/24 dev eth0", "ip route add default dev eth0",
                                     "ifconfig lo down"])
def test_roots_network_is_not_its_own(sandbox: Sandbox, command: str) -> None:
    for seccomp in ("default", "unconfined"):
        result = idle(sandbox, seccomp=seccomp).exec(["sh", "-c", command])
        assert result.exit_code != 0
        assert "not permitted" in result.stderr


@EITHER_IDS
def test_resource_limits_are_those_of_the_tests_and_roots_cannot_raise_them(sandbox: Sandbox) -> None:
    container = idle(sandbox)
    inside = [re.split(r"\s{2,}", line)[:3] for line in sh(container, "cat /proc/1/limits").splitlines()[1:]]
    outside = [re.split(r"\s{2,}", line)[:3] for line in Path("/proc/self/limits").read_text().splitlines()[1:]]
    assert inside == outside
    assert len(inside) == 16
    container = idle(sandbox, ulimits={"nofile": (32, 64), "core": 0}, seccomp="unconfined")
    for attempt in ("ulimit -Hn 65", "ulimit -Hc 1"):
        refused = container.exec(["sh", "-c", attempt])
        assert refused.exit_code != 0
        assert "not permitted" in refused.stderr
    assert sh(container, "ulimit -Sn 64; ulimit -n").split() == ["64"]


@EITHER_IDS
def test_its_badness_for_want_of_memory_is_that_of_the_tests_and_cannot_be_lowered(sandbox: Sandbox) -> None:
    own = int(Path("/proc/self/oom_score_adj").read_text())
    container = idle(sandbox, seccomp="unconfined")
    assert sh(container, "cat /proc/1/oom_score_adj /proc/self/oom_score_adj").split() == [str(own)] * 2
    for path in ("/proc/self/oom_score_adj", "/proc/1/oom_score_adj"):
        refused = container.exec(["sh", "-c", f"echo {own - 1} > {path}"])
        assert refused.exit_code != 0
        assert re.search("Permission denied|not permitted", refused.stderr)
    assert sh(container, f"echo {own + 1} > /proc/self/oom_score_adj; cat /proc/self/oom_score_adj").split() == [str(own + 1)]


@EITHER_IDS
def test_the_runtimes_own_process_inside_can_neither_be_read_nor_traced(sandbox: Sandbox) -> None:
    container = idle(sandbox, init=True, seccomp="unconfined")
    for file in ("environ", "mem", "maps", "auxv", "fd/0", "root/etc/hostname", "exe", "cwd", "ns/mnt"):
        link = file.partition("/")[0] in ("exe", "cwd", "ns")
        refused = container.exec(["readlink" if link else "cat", f"/proc/1/{file}"])
        assert refused.exit_code != 0, file
        assert refused.stdout == ""
    pid = sh(container, "pidof sleep").strip()
    assert sh(container, f"readlink /proc/{pid}/exe; cat /proc/{pid}/root/etc/hostname").split()[-1] == "busybox"   # its own can


TRACE = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace(16, 1, 0, 0)   # PTRACE_ATTACH
print(ctypes.get_errno())
"""


@pytest.mark.usefixtures("several_ids")
def test_nor_by_ptrace(sandbox: Sandbox) -> None:
    container = sandbox.run("python", FOREVER, init=True, seccomp="unconfined")
    assert container.exec(["python3", "-c", TRACE], check=True).stdout == f"{errno.EPERM}\n"
    without = sandbox.run("python", FOREVER, seccomp="unconfined")
    assert without.exec(["python3", "-c", TRACE], check=True).stdout == "0\n"   # PID 1 is the container's own command
