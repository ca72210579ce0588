"""`sealed doctor` on hosts where something is missing for real, and on this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from documents import ROOT
from own_host import in_a_host_of_its_own

from pytest_sealed import Sandbox
from pytest_sealed.doctor import examine
from pytest_sealed.plugin import rungs
from pytest_sealed.runtime.cgroups import detect
from pytest_sealed.runtime.cgroups.mounts import find_mounts

MODULE = ["-m", "pytest_sealed.cli", "doctor"]


def doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *MODULE, *arguments], capture_output=True, text=True, env={**os.environ, **environment})


def examined(prepare: str, folder: Path) -> dict[str, dict[str, Any]]:
    """Return check → finding, of a host where `prepare` has run; under "" the whole."""
    text = in_a_host_of_its_own(prepare, folder, *MODULE, "--json")
    try:
        answer = json.loads(text)
    except ValueError:
        raise AssertionError(text) from None
    assert answer["can_run"] is (answer["findings"][-1]["state"] == "ok")
    assert list(folder.glob("pytest-sealed*")) == []
    return {**{finding["check"]: finding for finding in answer["findings"]}, "": answer}


# ---------------------------------------------------------------- this host


def test_here_containers_can_run_and_nothing_is_left(tmp_path: Path) -> None:
    store = tmp_path / "store"   # its own: other tests' doctors come and go in the account's
    store.mkdir()
    done = doctor(SEALED_STORE=str(store))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1].startswith("Containers can run here")
    for check in ("namespaces", "file systems", "system calls", "seccomp", "networks", "containers"):
        assert any(line.startswith(f"ok        {check} ") for line in lines), done.stdout
    assert any(line.startswith(("ok        writable layers ", "degraded  writable layers ")) for line in lines), done.stdout
    assert done.stderr == ""
    assert os.listdir(store) == ["scratch"]   # as any session's


def test_its_json_is_as_documented(tmp_path: Path) -> None:
    (tmp_path / "answer.json").write_text(doctor("--json").stdout)
    schema = ROOT / "docs/reference/doctor.schema.json"
    done = subprocess.run([sys.executable, "-m", "check_jsonschema", "--schemafile", str(schema), str(tmp_path / "answer.json")],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_limits_are_those_that_a_session_has(sandbox: Sandbox) -> None:
    found = {finding.check: finding for finding in examine().findings}
    usable = {"memory", "cpu", "pids"} <= set(sandbox.session.hierarchy.bases)
    assert found["limits"].ok == usable
    assert ("limits by" in rungs.limits()) == usable
    assert rungs.limits_of(detect(), scoped=False).startswith("limits by" if usable and not sandbox.session.scoped else "")


def test_the_header_foresees_where_writable_layers_are(sandbox: Sandbox) -> None:
    works, _ = sandbox.session.request("upper")
    expected = "writable layers in memory" if works["memory"] else "writable layers on disk" if works["disk"] else "images copied"
    assert rungs.upper(sandbox.store.root).startswith(expected)


def test_fix_is_a_script_that_a_shell_takes_and_that_runs_nothing(tmp_path: Path) -> None:
    script = in_a_host_of_its_own("echo 0 > /proc/sys/user/max_user_namespaces", tmp_path, *MODULE, "--fix")
    assert script.startswith("#!/bin/sh\n")
    assert "\nsysctl -w user.max_user_namespaces=15000\n" in script
    subprocess.run(["sh", "-n"], input=script, text=True, check=True)
    assert in_a_host_of_its_own("true", tmp_path, *MODULE).splitlines()[-1].startswith("Containers can run here")


# ---------------------------------------------------------------- hosts that lack something


def test_without_user_namespaces_the_sysctl_is_the_remedy_and_the_status_says_no(tmp_path: Path) -> None:
    found = examined("echo 0 > /proc/sys/user/max_user_namespaces", tmp_path)
    assert found["namespaces"]["state"] == "missing"
    assert found["namespaces"]["remedy"]["commands"] == ["sysctl -w user.max_user_namespaces=15000"]
    assert found["containers"]["state"] == "missing"
    assert "networks" not in found   # could not be tried
    status = in_a_host_of_its_own("echo 0 > /proc/sys/user/max_user_namespaces", tmp_path, "-c",
                                  f"import subprocess, sys; print(subprocess.run([sys.executable, *{MODULE!r}]).returncode)")
    assert status.splitlines()[-1] == "1"


def test_where_proc_is_masked_the_engines_option_is_the_remedy(tmp_path: Path) -> None:
    found = examined("mount --bind /dev/null /proc/meminfo", tmp_path)
    assert found["namespaces"]["state"] == "missing"
    assert "a /proc of our own" in found["namespaces"]["found"]
    assert "systempaths=unconfined" in found["namespaces"]["remedy"]["text"]


@pytest.mark.parametrize("kind", ["net", "pid"])
def test_without_a_kind_of_namespace_the_step_is_named(tmp_path: Path, kind: str) -> None:
    found = examined(f"echo 0 > /proc/sys/user/max_{kind}_namespaces", tmp_path)
    assert "at the step 'make the session's namespaces'" in found["namespaces"]["found"]
    assert found["containers"]["remedy"]["text"] == "as above"


def test_without_ipc_namespaces_there_are_none_for_containers(tmp_path: Path) -> None:
    found = examined("echo 0 > /proc/sys/user/max_ipc_namespaces", tmp_path)
    assert not found[""]["can_run"]
    assert "mqueue" not in found["file systems"]["found"] or found["file systems"]["state"] == "missing"


def test_with_one_id_the_mode_and_its_effect_are_named(tmp_path: Path) -> None:
    found = examined("true", tmp_path)
    assert found["ids"]["state"] == "degraded"
    assert "single-id mode" in found["ids"]["effect"]
    assert found[""]["can_run"]


def test_without_cgroups_limits_are_missing_and_containers_run(tmp_path: Path) -> None:
    found = examined("mount -t tmpfs none /sys/fs/cgroup", tmp_path)
    assert found["limits"]["state"] == "missing"
    assert "pytest's own cgroup isn't visible below /sys/fs/cgroup" in found["limits"]["found"]
    assert "memory= is refused" in found["limits"]["effect"]
    assert found[""]["can_run"]


def test_a_read_only_cgroup_file_system_names_the_outer_containers_option(tmp_path: Path) -> None:
    points = [mount.point for mount in find_mounts("/sys/fs/cgroup", "/proc")]
    found = examined(" && ".join(f"mount -o remount,bind,ro {point}" for point in points), tmp_path)
    assert found["limits"]["state"] == "missing"
    assert "Read-only file system" in found["limits"]["found"]
    assert "/sys/fs/cgroup:rw" in found["limits"]["remedy"]["text"]
    assert found[""]["can_run"]


def test_few_inotify_instances_are_said(tmp_path: Path) -> None:
    found = examined("echo 2 > /proc/sys/user/max_inotify_instances", tmp_path)
    assert found["inotify"]["state"] == "degraded"
    assert found["inotify"]["remedy"]["commands"] == ["sysctl -w fs.inotify.max_user_instances=1024"]


def test_a_store_on_overlayfs_can_have_no_writable_layers(tmp_path: Path) -> None:
    made = f"{tmp_path}/all"
    found = examined(f"mkdir {made} && mount -t tmpfs none {made} && mkdir {made}/lower {made}/upper {made}/work {tmp_path}/store && "
                     f"mount -t overlay -o lowerdir={made}/lower,upperdir={made}/upper,workdir={made}/work,userxattr none {tmp_path}/store",
                     tmp_path)
    assert found["writable layers"]["state"] != "ok"
    assert "not on the store's disk (overlay)" in found["writable layers"]["found"] or "neither" in found["writable layers"]["found"]
    assert "set SEALED_STORE to a folder on ext4, xfs or btrfs" in found["writable layers"]["remedy"]["text"]


def test_a_read_only_store_is_said(tmp_path: Path) -> None:
    store = f"{tmp_path}/store"
    found = examined(f"mkdir {store} && mount -t tmpfs -o ro none {store}", tmp_path)
    assert found["image store"]["state"] == "degraded"
    assert "can't be written: Read-only file system" in found["image store"]["found"]
    assert found["image store"]["effect"] == "images can't be built"


def test_a_full_store_is_said_with_what_is_free(tmp_path: Path) -> None:
    store = f"{tmp_path}/store"
    found = examined(f"mkdir {store} && mount -t tmpfs -o size=16k none {store} && head -c 16384 /dev/zero > {store}/fill", tmp_path)
    assert "is full (0 MiB free)" in found["image store"]["found"]


def test_a_store_with_little_room_is_degraded(tmp_path: Path) -> None:
    store = f"{tmp_path}/store"
    found = examined(f"mkdir {store} && mount -t tmpfs -o size=64m none {store}", tmp_path)
    assert found["image store"]["state"] == "degraded"
    assert "64 MiB free" in found["image store"]["found"] or "63 MiB free" in found["image store"]["found"]


def test_a_run_directory_of_somebody_else_is_said(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "pytest-sealed").symlink_to(tmp_path / "elsewhere")
    found = json.loads(in_a_host_of_its_own("true", tmp_path, *MODULE, "--json"))
    [run] = [finding for finding in found["findings"] if finding["check"] == "run directory"]
    assert run["state"] == "missing"
    assert "is not this account's own folder" in run["found"]
    assert not found["can_run"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become an account without a range of ids")
def test_an_account_without_a_range_is_told_how_to_get_one() -> None:
    code = ("import os, runpy, sys; os.setgroups([]); os.setgid(54321); os.setuid(54321); "
            "sys.argv = ['sealed', 'doctor', '--json']; runpy.run_module('pytest_sealed.cli', run_name='__main__')")
    with tempfile.TemporaryDirectory() as folder:   # not tmp_path, which is closed to other accounts
        os.chmod(folder, 0o777)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", env={
            **os.environ, "XDG_RUNTIME_DIR": folder, "SEALED_STORE": f"{folder}/store", "PATH": "/usr/bin:/bin:/usr/sbin"})
    answer = json.loads(done.stdout)
    found = {finding["check"]: finding for finding in answer["findings"]}
    assert answer["can_run"], done.stdout
    assert done.returncode == 0
    assert found["ids"]["state"] == "degraded"
    assert "54321 has no range in /etc/subuid and /etc/subgid" in found["ids"]["found"]
    command = found["ids"]["remedy"]["commands"][-1]
    assert command.startswith("sudo usermod --add-subuids ")
    assert command.endswith(" 54321")
    if detect().version == "v1":
        assert found["limits"]["state"] == "missing"
        assert found["limits"]["remedy"]["commands"][0].endswith("sealed delegate")
