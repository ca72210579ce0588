"""`sealed delegate`, without the right to change owners."""

from __future__ import annotations

import argparse
import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cgroup_host import ALL, Host

from pytest_sealed.cli import delegate as command
from pytest_sealed.errors import HostUnsupported, SpecError
from pytest_sealed.runtime.cgroups.delegation import delegate, undelegate

if TYPE_CHECKING:
    from pytest_sealed.runtime.cgroups import Hierarchy


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def v1(host: Host) -> Hierarchy:
    for name in ALL:
        host.v1(name)
    return host.detect()


def given(host: Host, uid: int, *names: str) -> None:
    """Make the account's directories."""
    for name in names or ALL:
        (host.root / name / f"sealed-{uid}").mkdir()


def run_command(host: Host, *arguments: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["delegate", *arguments])
    assert args.run is command.run
    return int(command.run(args, root=str(host.root), proc=str(host.proc)))


def test_delegating_again_changes_nothing_and_undoing_twice_neither(v1: Hierarchy, host: Host) -> None:
    uid, gid = os.getuid(), os.getgid()
    paths = {"root": str(host.root), "proc": str(host.proc)}
    given(host, uid)
    assert list(delegate(uid, gid, **paths)) == [f"{host.root}/{name}/sealed-{uid}: belongs already to uid {uid}" for name in ALL]
    assert list(undelegate(uid, **paths)) == [f"{host.root}/{name}/sealed-{uid}: removed" for name in ALL]
    assert list(undelegate(uid, **paths)) == [f"{host.root}/{name}/sealed-{uid}: was not there" for name in ALL]


def test_undoing_under_running_containers_says_where(v1: Hierarchy, host: Host) -> None:
    uid = os.getuid()
    given(host, uid)
    for name in ALL:    # a file keeps rmdir off here, as processes do in a cgroup
        (host.root / name / f"sealed-{uid}" / "file").write_text("")
    with pytest.raises(HostUnsupported, match=rf"still run in {host.root}/memory/sealed-{uid}, .*\n.*then --undo again"):
        list(undelegate(uid, root=str(host.root), proc=str(host.proc)))


def test_a_missing_controller_does_not_keep_the_others_from_being_delegated(host: Host) -> None:
    host.v1("memory")
    host.kernel("cpu")
    uid = os.getuid()
    given(host, uid, "memory")
    lines = delegate(uid, os.getgid(), root=str(host.root), proc=str(host.proc))
    assert next(lines) == f"{host.root}/memory/sealed-{uid}: belongs already to uid {uid}"
    with pytest.raises(HostUnsupported, match=r"not delegated: the cpu controller is disabled\n.*cgroup_enable=cpu"):
        next(lines)


def test_on_v2_the_command_says_what_to_do_instead(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.v2("/")
    assert run_command(host) == 1
    assert capsys.readouterr().err == (
        "sealed delegate: this host has cgroup v2, where systemd delegates: `sealed delegate` has nothing to do\n"
        "  remedy: systemd-run --user --scope -p Delegate=yes pytest …\n"
    )


def test_without_cgroups_the_command_says_what_is_missing(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.written(host.root)
    assert run_command(host) == 1
    assert "this kernel has no memory controller" in capsys.readouterr().err


@pytest.mark.parametrize(("user", "environ", "message"), [
    (None, {}, "which account? sudo didn't say\n  remedy: sealed delegate --user NAME"),
    ("nobdy", {}, "there is no account 'nobdy'\n  remedy: give one of `getent passwd`"),
    ("4000000", {}, "there is no account '4000000'\n  remedy: give one of `getent passwd`"),
    (None, {"SUDO_UID": "0"}, "root needs no delegation: its test runs may make cgroups as it is"),
    ("root", {"SUDO_UID": "1000"}, "root needs no delegation: its test runs may make cgroups as it is"),
])
def test_an_account_that_will_not_do_is_refused(user: str | None, environ: dict[str, str], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        command.account_for(user, environ)
    assert str(caught.value) == message


def test_the_account_is_sudos_caller_unless_named() -> None:
    assert command.account_for(None, {"SUDO_UID": str(pwd.getpwnam("nobody").pw_uid)}).pw_name == "nobody"
    assert command.account_for("nobody", {"SUDO_UID": "0"}).pw_name == "nobody"
