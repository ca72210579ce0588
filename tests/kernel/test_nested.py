"""A container with `nested=True`: pytest-sealed works inside it, with its own networks and limits, and it still can't harm the host."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from boxes import FOREVER, MAKE_CGROUPS, NEEDS_ROOT, eventually, idle, sh

import pytest_sealed
from pytest_sealed import Container, Mount, Sandbox, SpecError, Tmpfs
from pytest_sealed.images.save import save
from pytest_sealed.runtime.idmap import is_hosts_root

SITE = Path(pytest.__file__).parent.parent
SOURCE = Path(pytest_sealed.__file__).parent.parent
STORE = "/root/.local/share/pytest-sealed"

SUITE = """
    import os
    import urllib.request
    from pytest_sealed import Container, Sandbox, container_fixture, image, tcp

    web = container_fixture(image("busybox", command=["sh", "-c", "echo hello > index.html; exec httpd -f -p 80"], workdir="/tmp",
                                  wait=tcp(80)))

    def test_a_container_reaches_another_by_its_name(web: Container, sealed: Sandbox) -> None:
        client = sealed.run("busybox", ["wget", "-q", "-O", "-", "http://web/"], wait=None)
        assert (client.wait(), client.logs()) == (0, "hello\\n")

    def test_the_test_reaches_a_container(web: Container) -> None:
        assert urllib.request.urlopen(web.url(80)).read() == b"hello\\n"

    def test_what_is_written_is_gone(web: Container, sealed: Sandbox) -> None:
        assert web.exec(["ls", "/tmp"]).stdout == "index.html\\n"
        web.write_text("/tmp/new", "x")

    def test_ids_are_the_containers_own(web: Container, sealed: Sandbox) -> None:
        assert sealed.describe().mode == ("single" if os.environ.get("SEALED_IDS") else "root")
        assert web.exec(["cat", "/proc/self/uid_map"]).stdout.split()[:2] == ["0", "0" if os.environ.get("SEALED_IDS") else "1"]
"""

LIMITS = """
    import pytest
    from pytest_sealed import Sandbox

    def test_memory(sealed: Sandbox) -> None:
        hog = sealed.run("busybox", ["dd", "if=/dev/zero", "of=/dev/shm/file", "bs=1M", "count=60"], memory="16M", wait=None)
        hog.wait()
        assert hog.oom_killed

    def test_all(sealed: Sandbox) -> None:
        box = sealed.run("busybox", ["sleep", "1000"], memory="32M", cpus=0.5, cpu_shares=512, pids=20, wait=None)
        stats = box.stats()
        assert (stats.memory_limit, stats.pids) == (32 << 20, 1)
        box.pause()
        box.unpause()
        box.kill()
        box.restart()
"""

THIRD = """
    from pytest_sealed import Sandbox

    def test_it(sealed: Sandbox) -> None:
        box = sealed.run("busybox", ["sleep", "1000"], wait=None, nested=True)
        assert box.exec(["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc", "true"]).exit_code == 0
"""

GIVEN = ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads")   # files of a cgroup that its delegation gives

WRITABLE = """
import os
for top in ("/proc/sys", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/acpi", "/proc/scsi", "/proc/sysrq-trigger", "/sys"):
    for folder, _, names in [(os.path.dirname(top), [], [os.path.basename(top)])] if os.path.isfile(top) else os.walk(top):
        for name in names if not folder.startswith("/sys/fs/cgroup") else ():
            try:
                os.close(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW))
            except OSError:
                continue
            print(f"{folder}/{name}")
"""


@pytest.fixture
def outer(sandbox: Sandbox, tmp_path: Path) -> Container:
    return made(sandbox, tmp_path)


def made(sandbox: Sandbox, tmp_path: Path, seccomp: str = "default") -> Container:
    """Return a container with this Python package, pytest, and an archive of busybox."""
    container = sandbox.run(
        "python", FOREVER, nested=True, seccomp=seccomp, wait=None, env={"PYTHONPATH": "/source:/site"},
        tmpfs=[Tmpfs(target=STORE, mode=0o700)],
        mounts=[Mount(source=str(SOURCE), target="/source"), Mount(source=str(SITE), target="/site")])
    save(sandbox.store, ["busybox"], str(tmp_path / "busybox.tar"))
    container.put(tmp_path / "busybox.tar", "/busybox.tar")
    return container


def inside(outer: Container, *command: str, **env: str) -> str:
    """Run a module of this Python; return what it wrote, whatever its end."""
    done = outer.exec(["python3", "-m", *command], env=env, timeout=300)
    return f"{done.stdout}{done.stderr}"


def run_suite(outer: Container, text: str, *options: str, **env: str) -> str:
    print(inside(outer, "pytest_sealed.cli", "load", "/busybox.tar", **env))
    outer.write_text("/suite/test_it.py", "\n".join(line.removeprefix("    ") for line in text.splitlines()))
    written = inside(outer, "pytest", "-p", "no:cacheprovider", "/suite", *options, **env)
    print(written)
    return written


def divides(sandbox: Sandbox) -> bool:
    """Whether a nested container of this sandbox may make cgroups."""
    return sandbox.describe().mode != "single" and {"memory", "cpu", "pids"} <= set(sandbox.session.hierarchy.bases)


@pytest.mark.parametrize("ids", ["range", "single"])
def test_a_suite_of_containers_runs_in_a_container(outer: Container, sandbox: Sandbox, ids: str) -> None:
    if sandbox.describe().mode == "single":
        ids = "single"
    written = run_suite(outer, SUITE, **{"SEALED_IDS": "single"} if ids == "single" else {})
    assert " 4 passed" in written


def test_limits_hold_inside_or_are_refused_with_the_remedy(outer: Container, sandbox: Sandbox) -> None:
    written = run_suite(outer, LIMITS)
    if divides(sandbox):
        assert " 2 passed" in written
    else:
        assert " 2 failed" in written
        assert "did not start: memory=33554432 can't be enforced: " in written
        assert "remedy: " in written


def test_the_doctor_inside_tells_the_truth(outer: Container, sandbox: Sandbox) -> None:
    report: dict[str, Any] = json.loads(inside(outer, "pytest_sealed.cli", "doctor", "--json"))
    states = {finding["check"]: finding["state"] for finding in report["findings"]}
    assert report["can_run"]
    assert report["host"]["place"] == "container"
    assert states["ids"] == ("degraded" if sandbox.describe().mode == "single" else "ok")
    missing = [check for check, state in states.items() if check.startswith("limit") and state == "missing"]
    assert missing == ([] if divides(sandbox) else ["limits"])
    assert {states[check] for check in ("namespaces", "file systems", "system calls", "networks", "containers")} == {"ok"}


@pytest.mark.parametrize("call", ["pivot_root", "sethostname", "mount_setattr"])
def test_what_a_filter_outside_denies_is_no_bug_of_ours_and_the_doctor_names_it(sandbox: Sandbox, tmp_path: Path, call: str) -> None:
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [call], "action": "SCMP_ACT_ERRNO"}]}
    (tmp_path / "profile.json").write_text(json.dumps(profile))
    outer = made(sandbox, tmp_path, seccomp=str(tmp_path / "profile.json"))
    written = run_suite(outer, THIRD.replace(", nested=True", ""))
    assert "pytest_sealed.errors.HostUnsupported: " in written
    assert "this host denies " in written
    assert f"{call}: Operation not permitted" in written
    report: dict[str, Any] = json.loads(inside(outer, "pytest_sealed.cli", "doctor", "--json"))
    assert not report["can_run"]
    named = [finding for finding in report["findings"] if f"{call}: Operation not permitted" in finding["found"]]
    assert any("nested=True" in finding["remedy"]["text"] for finding in named if finding["state"] == "missing")


def test_a_container_in_a_container_in_a_container_starts(outer: Container, sandbox: Sandbox) -> None:
    written = run_suite(outer, THIRD)
    if sandbox.describe().mode == "single":   # by its map, the one id could be the host's root
        assert "nested=True is refused" in written
    else:
        assert " 1 passed" in written


def test_nothing_of_the_kernels_can_be_written_from_inside(outer: Container) -> None:
    outer.write_text("/writable.py", WRITABLE)
    opened = outer.exec(["python3", "/writable.py"], check=True, timeout=120).stdout.split()
    # Settings of its own IPC and PID namespace, which single-id mode leaves open.
    own = re.compile(r"/proc/sys/(fs/mqueue/|kernel/(auto_msg|msg|shm|sem|pid_max)).*")
    assert [path for path in opened if not own.fullmatch(path)] == ["/proc/sys/kernel/ns_last_pid"]   # a write asks for a capability
    assert outer.exec(["sh", "-c", "echo 77 > /proc/sys/kernel/ns_last_pid"]).exit_code == 1


def test_it_can_not_lift_its_own_limits(sandbox: Sandbox) -> None:
    box = idle(sandbox, nested=True, pids=100, memory="64M", cpus=0.5) if divides(sandbox) else idle(sandbox, nested=True)
    script = """for file in $(find /sys/fs/cgroup -maxdepth 2 -type f); do
        (echo max > $file || echo -1 > $file) 2> /dev/null && echo "$file"; done; true"""
    written = sh(box, script).split()
    assert [name for name in written if os.path.basename(name) not in GIVEN] == []
    if divides(sandbox):
        assert box.stats().memory_limit == 64 << 20


@NEEDS_ROOT
def test_in_single_id_mode_root_is_refused(single_root_sandbox: Sandbox) -> None:
    assert is_hosts_root(0)
    with Sandbox(parent=single_root_sandbox) as sandbox, pytest.raises(SpecError) as caught:
        idle(sandbox, nested=True, name="box")
    assert caught.value.message == ("nested=True is refused for container 'box' in single-id mode as root: its root could be the host's, "
                                    "to whom /proc/sys is open")
    assert caught.value.remedy == "unset SEALED_IDS, or run the tests as an ordinary account"


def test_commands_start_beside_a_session_that_has_divided_the_cgroup(outer: Container, sandbox: Sandbox) -> None:
    if divides(sandbox):
        assert " 2 passed" in run_suite(outer, LIMITS)
    assert outer.exec(["true"]).exit_code == 0
    outer.kill()
    outer.restart()
    assert outer.exec(["true"]).exit_code == 0


def test_the_cgroups_that_it_made_go_with_it(sandbox: Sandbox) -> None:
    box = idle(sandbox, nested=True)
    mine = [Path(base, f"sealed-{sandbox.session.name}", box.id) for base in sandbox.session.hierarchy.bases.values()]
    if divides(sandbox):
        assert sh(box, f"{MAKE_CGROUPS}; echo $made").strip()
    box.remove()
    eventually(lambda: not any(path.exists() for path in mine), "its cgroups are gone")
