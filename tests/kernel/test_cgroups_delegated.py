"""An ordinary account on cgroup v1: nothing before `sealed delegate`, its own directories after it, nobody else's ever."""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from cgroup_children import Child, become, idle

from pytest_sealed.cli import delegate as command
from pytest_sealed.errors import HostUnsupported, LimitUnavailable
from pytest_sealed.linux.mounts import MS_BIND, MS_PRIVATE, MS_RDONLY, MS_REC, MS_REMOUNT, mount
from pytest_sealed.linux.namespaces import CLONE_NEWNS, CLONE_NEWUSER, unshare
from pytest_sealed.runtime.cgroups import Group, Hierarchy, detect, leftovers, remove_session
from pytest_sealed.runtime.cgroups.delegation import delegate, undelegate
from pytest_sealed.runtime.cgroups.detection import delegate_command

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can delegate"),
    pytest.mark.skipif(detect().version != "v1", reason="v2 is delegated by systemd, not by us"),
]

CONTROLLERS = ["memory", "cpu", "cpuacct", "pids"]
MIB = 1 << 20
NUMBERS = itertools.count()


@pytest.fixture
def uid() -> int:
    """An id that no account has, and no other process uses: tests run side by side."""
    return (1 << 31) + (os.getpid() << 9) + next(NUMBERS) % 512   # a pid has at most 22 bits


@pytest.fixture
def delegated(uid: int) -> Iterator[list[str]]:
    """The account's directories, for as long as the test runs."""
    yield [line.split(":")[0] for line in delegate(uid, uid)]
    list(undelegate(uid))


def as_account(uid: int, function: Callable[[], Any]) -> Any:
    """Return what `function` returns in a process of the account."""
    def body(child: Child) -> None:
        become(uid)
        child.send(function())
    with Child(body) as child:
        return child.receive()


def refused(action: Callable[[], object]) -> str:
    """Return the name of the error that `action` raises, or an empty string."""
    try:
        action()
    except OSError as error:
        return type(error).__name__
    return ""


def write(path: str, value: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def limited() -> dict[str, Any]:
    """Make a group with limits, run a child in it, kill and remove: the life of a container."""
    hierarchy = detect()
    group = Group.create(hierarchy, "s1", "db", {"memory": 64 * MIB, "cpus": 0.5, "cpu_shares": 512, "pids": 10})

    def enter(child: Child) -> None:
        for path in group.procs_paths():
            write(path, "0")
        idle(child)
    with Child(enter) as child:
        there = child.receive()
        inside = group.pids() == [child.pid]
        frozen = group.freeze(timeout=5)
        group.kill()
        ended = child.end()
    with Child(idle) as child:
        group.attach(child.pid)
        inside = inside and group.pids() == [child.pid]
    stats = group.stats()
    return {
        "kind": hierarchy.kind, "there": there, "inside": inside, "frozen": frozen, "ended": ended,
        "limit": stats["memory_limit"], "removed": group.remove(), "sessions": leftovers(hierarchy),
        "clean": remove_session(hierarchy, "s1"),
    }


LIVED = {"kind": "v1", "there": "there", "inside": True, "frozen": True, "ended": -signal.SIGKILL, "limit": 64 * MIB,
         "removed": True, "sessions": ["s1"], "clean": True}


def test_before_delegation_a_limit_is_refused_with_the_command(uid: int) -> None:
    def ask() -> tuple[str, str]:
        hierarchy = detect()
        assert hierarchy.bases == {}
        try:
            Group.create(hierarchy, "s1", "db", {"memory": 64 * MIB})
        except LimitUnavailable as error:
            return str(error), delegate_command()   # a path, where this account can see it
        return "", ""
    own = detect().bases["memory"]
    told, command = as_account(uid, ask)
    assert told == (f"memory={64 * MIB} can't be enforced: this account can't make a cgroup in {own} (Permission denied)\n"
                    f"  remedy: {command}")


def test_delegated_directories_are_found_and_work(uid: int, delegated: list[str]) -> None:
    assert as_account(uid, lambda: detect().bases) == {
        name: directory for name in CONTROLLERS for directory in delegated if f"/{name}/" in directory
    }
    assert as_account(uid, limited) == LIVED


def test_delegated_directories_work_from_inside_a_user_namespace(uid: int, delegated: list[str]) -> None:
    def inside() -> dict[str, Any]:
        found = detect()
        os_uid = os.getuid()
        unshare(CLONE_NEWUSER)
        write("/proc/self/uid_map", f"0 {os_uid} 1")
        assert os.getuid() == 0
        hierarchy = Hierarchy.from_json(found.to_json())
        group = Group.create(hierarchy, "s2", "db", {"memory": 64 * MIB, "pids": 10})
        with Child(idle) as child:
            group.attach(child.pid)
            entered = group.pids() == [child.pid]
        return {"entered": entered, "limit": group.stats()["memory_limit"], "clean": remove_session(hierarchy, "s2")}
    assert as_account(uid, inside) == {"entered": True, "limit": 64 * MIB, "clean": True}


def test_an_account_reaches_nothing_but_its_own(uid: int, delegated: list[str]) -> None:
    other = uid + 1
    theirs = [line.split(":")[0] for line in delegate(other, other)]
    roots = Group.create(detect(), f"{os.getpid()}-r", "db", {"memory": 64 * MIB})

    def attempts(stranger: int) -> dict[str, str]:
        own = detect().bases
        group = Group.create(detect(), "s1", "db", {"memory": 64 * MIB})
        results = {f"mkdir in {path}": refused(partial(os.mkdir, f"{path}/mine")) for path in theirs}
        results |= {f"enter {path}": refused(partial(write, f"{path}/cgroup.procs", "0")) for path in theirs}
        results |= {f"raise {path}": refused(partial(write, path, "1")) for path in (
            f"{own['memory']}/memory.limit_in_bytes", f"{own['cpu']}/cpu.shares", f"{own['pids']}/pids.max",
            f"{own['memory']}/cgroup.clone_children", f"{roots.directories['memory']}/memory.limit_in_bytes",
        )}
        results["leave"] = refused(lambda: write(f"{os.path.dirname(own['memory'])}/cgroup.procs", "0"))
        results["take a stranger in"] = refused(lambda: group.attach(stranger))
        assert group.remove()
        assert remove_session(detect(), "s1")
        return results
    try:
        with Child(idle) as stranger:
            results = as_account(uid, lambda: attempts(stranger.pid))
        assert dict.fromkeys(results, "PermissionError") == results
    finally:
        list(undelegate(other))
        assert roots.remove()
        assert remove_session(detect(), f"{os.getpid()}-r")


def test_undoing_waits_for_containers_and_then_leaves_nothing(uid: int) -> None:
    directories = [line.split(":")[0] for line in delegate(uid, uid)]
    assert [line.split(": ")[1] for line in delegate(uid, uid)] == [f"belongs already to uid {uid}"] * len(CONTROLLERS)

    def container(child: Child) -> None:
        become(uid)
        Group.create(detect(), "s1", "db", {"memory": 64 * MIB}).attach(0)
        idle(child)
    with Child(container) as child:
        assert child.receive() == "there"
        with pytest.raises(HostUnsupported, match=rf"containers still run in .*/memory/sealed-{uid}"):
            list(undelegate(uid))
    assert [line.split(": ")[1] for line in undelegate(uid)] == ["removed"] * len(CONTROLLERS)
    assert not any(os.path.exists(directory) for directory in directories)


def test_a_directory_of_another_owner_is_given_over(uid: int) -> None:
    list(delegate(uid + 1, uid + 1))
    directories = [line.split(":")[0] for line in delegate(uid, uid)]
    os.chown(directories[0], 0, 0)
    try:
        done = [line.split(": ")[1] for line in delegate(uid, uid)]
        assert done == [f"given to uid {uid}"] + [f"belongs already to uid {uid}"] * (len(CONTROLLERS) - 1)
        assert os.stat(directories[0]).st_uid == uid
    finally:
        list(undelegate(uid))
        list(undelegate(uid + 1))


def test_a_read_only_cgroup_file_system_names_the_outer_containers_option() -> None:
    point = detect("/sys/fs/cgroup/memory").bases["memory"].removesuffix("/")

    def look(child: Child) -> None:
        unshare(CLONE_NEWNS)
        mount(None, "/", None, MS_REC | MS_PRIVATE)
        mount(None, "/sys/fs/cgroup/memory", None, MS_BIND | MS_REMOUNT | MS_RDONLY)
        refusal = detect().refusals["memory"]
        child.send([refusal.reason, refusal.remedy])
    with Child(look) as child:
        assert child.receive() == [
            f"this account can't make a cgroup in {point} (Read-only file system)",
            "start the outer container with a writable cgroup file system (--privileged, or -v /sys/fs/cgroup:/sys/fs/cgroup:rw; one of "
            "pytest-sealed with nested=True and a range of ids)",
        ]


def test_an_ordinary_account_is_told_the_exact_sudo_command(uid: int) -> None:
    def call() -> list[object]:
        with contextlib.redirect_stderr(io.StringIO()) as text:
            return [command.run(argparse.Namespace(user="alice", undo=True)), text.getvalue(), delegate_command()]
    code, told, own = as_account(uid, call)
    assert code == 1
    assert told == f"sealed delegate: only root can give cgroups to an account\n  remedy: {own} --user alice --undo\n"
