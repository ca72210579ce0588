"""A login of an ordinary account under systemd: its cgroup isn't its to divide, and sessions get theirs from the user manager, unasked."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from told import finding

from pytest_sealed import Sandbox

USER = "/user.slice/user-1000.slice"


def scopes() -> list[str]:
    """Return the scopes of ours that the user manager has."""
    done = subprocess.run(["systemctl", "--user", "list-units", "--all", "--plain", "--no-legend", "--type=scope"], check=True,
                          capture_output=True, text=True)
    return [line.split()[0] for line in done.stdout.splitlines() if line.endswith("pytest-sealed")]


def own_cgroup() -> str:
    return Path("/proc/self/cgroup").read_text().strip().removeprefix("0::")


def test_the_cgroup_of_a_login_is_not_its_to_divide() -> None:
    assert re.fullmatch(f"{USER}/session-c?[0-9]+\\.scope", own_cgroup())
    assert not os.access(f"/sys/fs/cgroup{own_cgroup()}", os.W_OK)


def test_a_session_is_in_a_scope_of_its_own_and_pytest_stays_where_it_was() -> None:
    before = own_cgroup()
    with Sandbox() as sandbox:
        container = sandbox.run("busybox", ["sleep", "1000000"], memory="64M", cpus=0.5, pids=20, network=None)
        [scope] = scopes()
        cgroup = Path(f"/sys/fs/cgroup{USER}/user@1000.service/app.slice/{scope}")
        assert set(sandbox.session.hierarchy.bases.values()) == {str(cgroup)}
        [limit] = [found.read_text() for found in cgroup.rglob("memory.max") if found.read_text() != "max\n"]
        assert int(limit) == container.stats().memory_limit == 64 * 2**20
        assert own_cgroup() == before
    while scopes():   # systemd removes it when it hears that the last process is gone
        pass
    assert not cgroup.exists()


def test_the_header_and_the_doctor_say_so(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_one(sealed): pass")
    assert "sealed: rootless, limits by cgroup v2 in a scope of systemd's, " in pytester.runpytest_subprocess("--collect-only").stdout.str()
    found = finding("limits")
    assert found["state"] == "ok"
    assert found["found"].startswith("memory, swap, cpus, cpu_shares, pids")
    assert found["found"].endswith(" can be set (cgroup v2, in a scope that systemd gives)")
    while scopes():
        pass
