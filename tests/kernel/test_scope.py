"""A session in a systemd scope: the steps that are ours, with a `systemd-run` that starts its program and gives no scope.

A real one is in the virtual machines.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_sealed import ContainerChanges, LimitUnavailable, Sandbox
from pytest_sealed.runtime.cgroups import Hierarchy, Refusal, detect, scope
from pytest_sealed.runtime.cgroups.hierarchy import SYSTEMD_RUN
from pytest_sealed.runtime.launch import ScopeUnavailable, try_limits


@pytest.fixture
def nothing_delegated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with cgroup v2 where this account may divide nothing."""
    names = [controller.name for controller in Hierarchy("v2", {}, {}).controllers]
    refusals = {name: Refusal("not yours", SYSTEMD_RUN) for name in names}
    monkeypatch.setattr("pytest_sealed.runtime.client.detect", lambda: Hierarchy("v2", {}, refusals))
    monkeypatch.setattr(scope, "may_help", lambda hierarchy: not hierarchy.bases)


def systemd_run(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    (folder / "systemd-run").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "systemd-run").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(scope, "user_manager", lambda: {"XDG_RUNTIME_DIR": str(folder)})


EXECUTES = 'echo "$@" > "$XDG_RUNTIME_DIR/arguments"; while [ "$1" != -- ]; do shift; done; shift; exec "$@"'


@pytest.mark.usefixtures("nothing_delegated")
def test_the_supervisor_is_started_through_it_and_limits_hold_where_it_landed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systemd_run(tmp_path, monkeypatch, EXECUTES)
    with Sandbox() as sandbox:
        session = sandbox.session
        assert session.scoped
        assert session.hierarchy.bases == detect().bases   # this process's own: the program gave no scope
        limits: ContainerChanges = {"memory": "32M"} if "memory" in session.hierarchy.bases else {}
        box = sandbox.run("busybox", ["sleep", "1000"], **limits)
        assert box.exec(["true"]).exit_code == 0
    assert "--user --scope" in (tmp_path / "arguments").read_text()
    assert "Delegate=yes" in (tmp_path / "arguments").read_text()
    assert sandbox.leftovers() == []


@pytest.mark.usefixtures("nothing_delegated")
def test_what_it_says_instead_of_a_scope_is_in_the_refusal_of_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systemd_run(tmp_path, monkeypatch, "echo 'Failed to connect to bus: No medium found' >&2; exit 1")
    with Sandbox() as sandbox:
        assert not sandbox.session.scoped
        assert sandbox.run("busybox", ["true"]).wait() == 0
        with pytest.raises(LimitUnavailable) as caught:
            sandbox.run("busybox", ["true"], memory="32M")
    assert "systemd gave this session no scope: Failed to connect to bus: No medium found" in caught.value.message
    assert caught.value.remedy == "sealed doctor"
    assert sandbox.leftovers() == []


@pytest.mark.usefixtures("nothing_delegated")
@pytest.mark.parametrize(("booted", "remedy"), [(True, "sudo loginctl enable-linger $USER"),
                                                (False, "nothing here delegates cgroups: run as root, or")])
def test_without_a_user_manager_the_remedy_is_one(monkeypatch: pytest.MonkeyPatch, booted: bool, remedy: str) -> None:
    monkeypatch.setattr(scope, "user_manager", lambda: None)
    real = os.path.isdir
    monkeypatch.setattr(os.path, "isdir", lambda path: booted if path == "/run/systemd/system" else real(path))
    with Sandbox() as sandbox, pytest.raises(LimitUnavailable) as caught:
        sandbox.run("busybox", ["true"], memory="32M")
    assert "not yours" in caught.value.message
    assert caught.value.remedy.startswith(remedy)


def test_the_doctors_trial_goes_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systemd_run(tmp_path, monkeypatch, EXECUTES)
    usable = try_limits({"XDG_RUNTIME_DIR": str(tmp_path)})
    assert usable == try_limits()
    assert (tmp_path / "arguments").exists()
    systemd_run(tmp_path, monkeypatch, "echo no >&2; exit 1")
    with pytest.raises(ScopeUnavailable, match=r"^no$"):
        try_limits({"XDG_RUNTIME_DIR": str(tmp_path)})
