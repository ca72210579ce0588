"""The doctor's words: what is found, what it means, and the remedy on each distribution. Nothing is tried here."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_sealed.doctor import Examination, Finding, Remedy, budgets, ids, limits, namespaces, network, overlay
from pytest_sealed.doctor.host import Host, find_host
from pytest_sealed.doctor.limits import Answers
from pytest_sealed.doctor.namespaces import Tried
from pytest_sealed.errors import HostUnsupported, InternalError
from pytest_sealed.runtime import idmap, launch
from pytest_sealed.runtime.cgroups import Hierarchy, Refusal, scope
from pytest_sealed.runtime.idmap import IdMap

DEBIAN = 'ID=debian\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n'
RELEASES = {
    "apt": (DEBIAN, "sudo apt-get install -y uidmap"),
    "ubuntu": ("ID=ubuntu\nID_LIKE=debian\n", "sudo apt-get install -y uidmap"),
    "mint": ('ID=linuxmint\nID_LIKE="ubuntu debian"\n', "sudo apt-get install -y uidmap"),
    "dnf": ("ID=fedora\n", "sudo dnf install -y shadow-utils"),
    "rocky": ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "sudo dnf install -y shadow-utils"),
    "apk": ("ID=alpine\n", "sudo apk add shadow-uidmap"),
    "pacman": ("ID=arch\n", "sudo pacman -S --noconfirm shadow"),
    "zypper": ('ID="opensuse-leap"\nID_LIKE="suse opensuse"\n', "sudo zypper install -y shadow"),
}


def host(**known: Any) -> Host:
    usual: dict[str, Any] = {"name": "Debian GNU/Linux 12 (bookworm)", "manager": "apt", "kernel": "6.1.0", "account": "alice", "uid": 1000,
                             "python": "/usr/bin/python3.11", "systemd": True}
    return Host(**{**usual, **known})


def tried(**facts: Any) -> Tried:
    usual: dict[str, Any] = {"mounts": {"proc": "", "tmpfs": ""}, "overlay": "", "calls": "", "seccomp": "",
                             "uppers": {"memory": True, "disk": True}, "network": "", "netem": "", "pipes": 16, "inotify": ""}
    return Tried(facts={**usual, **facts})


def refused(message: str, remedy: str) -> Tried:
    return Tried(error=HostUnsupported(message, remedy=remedy))


# ---------------------------------------------------------------- the host


@pytest.mark.parametrize(("release", "command"), RELEASES.values(), ids=RELEASES)
def test_each_distribution_has_its_own_command(tmp_path: Path, release: str, command: str) -> None:
    (tmp_path / "os-release").write_text(release)
    found = find_host(etc=str(tmp_path), proc=str(tmp_path), run=str(tmp_path), root=str(tmp_path), environ={})
    assert replace(found, uid=1000).install("newuidmap") == command
    assert replace(found, uid=0).install("newuidmap") == command.removeprefix("sudo ")


def test_an_unknown_distribution_gets_no_command_that_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = find_host(etc=str(tmp_path), proc=str(tmp_path), run=str(tmp_path), root=str(tmp_path), environ={})
    assert (found.name, found.manager, found.install("newuidmap"), found.place) == ("an unknown Linux", "", "", "")


def test_where_it_runs_is_seen(tmp_path: Path) -> None:
    def place(**environ: str) -> str:
        return find_host(etc=str(tmp_path), proc=str(tmp_path), run=str(tmp_path), root=str(tmp_path), environ=environ).place
    assert place() == ""
    assert place(KUBERNETES_SERVICE_HOST="10.0.0.1") == "kubernetes"
    assert place(container="podman") == "container"
    (tmp_path / "sys/kernel").mkdir(parents=True)
    (tmp_path / "sys/kernel/osrelease").write_text("5.15.90.1-microsoft-standard-WSL2\n")
    assert place() == "wsl"
    (tmp_path / ".dockerenv").touch()
    assert place() == "container"


# ---------------------------------------------------------------- the forms


FINDINGS = (
    Finding(check="one", state="ok", found="works"),
    Finding(check="second", state="degraded", found="less", effect="it is slower", page="how-to/hosts.md",
            remedy=Remedy(commands=("sudo mend it", "sudo mend it more"), text="or wait")),
    Finding(check="third", state="missing", found="nothing", effect="it is refused", remedy=Remedy(commands=("sudo mend it",))),
)


def test_a_finding_is_a_line_and_what_it_means_and_the_remedy() -> None:
    assert FINDINGS[1].render(8) == [
        "degraded  second    less", "          it is slower", "          remedy: sudo mend it", "                  sudo mend it more",
        "                  or wait", "          see docs/how-to/hosts.md"]
    assert FINDINGS[0].render(8) == ["ok        one       works"]


def test_the_short_form_has_what_is_not_ok_and_the_verdict() -> None:
    short = Examination(host=host(), findings=FINDINGS).short()
    assert "works" not in short
    assert short.splitlines()[-1] == "Containers can't run here."
    assert "degraded  second  less" in short


def test_containers_can_run_where_one_did() -> None:
    ran = Finding(check="containers", state="ok", found="one was started")
    assert Examination(host=host(), findings=(ran,)).verdict == "Containers can run here, with everything."
    assert Examination(host=host(), findings=(*FINDINGS, ran)).verdict == "Containers can run here, without what is said above."
    assert Examination(host=host(), findings=(ran,)).short() == "Containers can run here, with everything."


def test_the_script_has_each_command_once_and_the_rest_as_comments() -> None:
    script = Examination(host=host(), findings=FINDINGS).script()
    assert script.splitlines() == [
        "#!/bin/sh", "# What `sealed doctor` would have done on Debian GNU/Linux 12 (bookworm) for alice.", "set -eu", "",
        "# second: less", "# or wait", "sudo mend it", "sudo mend it more", "", "# third: nothing", "# (as above: sudo mend it)"]


def test_a_script_without_commands_says_so() -> None:
    assert Examination(host=host(), findings=FINDINGS[:1]).script().endswith("# There is nothing that a command could mend.\n")


def test_a_check_that_fails_itself_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_sealed.doctor import examination
    monkeypatch.setattr("pytest_sealed.doctor.limits.check", lambda _host: 1 // 0)
    found = {finding.check: finding for finding in examination.examine().findings}
    assert found["limits"].found == "the check itself failed: ZeroDivisionError: integer division or modulo by zero"
    assert "containers" in found


# ---------------------------------------------------------------- namespaces


@pytest.mark.parametrize("step", ["make a user namespace", "write the id maps", "make the session's namespaces"])
def test_apparmors_restriction_is_answered_by_a_profile_for_this_python(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    monkeypatch.setattr(launch, "_reads", lambda path: "1" if path.endswith("apparmor_restrict_unprivileged_userns") else "")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    error = launch.translate({"step": step, "errno": 1, "text": "[Errno 1] Operation not permitted"}, "supervisor")
    assert error.remedy == ("sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0   "
                            "(or an AppArmor profile with `userns,` for this Python)")
    [found] = namespaces.check(host(), refused(error.message, error.remedy))
    assert found.state == "missing"
    assert found.page == "how-to/hosts/ubuntu.md"
    assert "profile pytest-sealed /usr/bin/python3.11 flags=(unconfined) {\\n  userns,\\n}" in found.remedy.commands[0]
    assert found.remedy.commands[1] == "sudo apparmor_parser -r /etc/apparmor.d/pytest-sealed"
    assert found.remedy.text == "or, until the next boot: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"


def test_a_range_of_ids_that_newuidmap_refuses_is_no_matter_of_apparmors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "confined", lambda: "docker-default")
    text = "the id maps could not be written: newuidmap 12 0 1000 1: uid range [0-1) -> [1000-1001) not allowed"
    assert launch.translate({"step": "write the id maps", "text": text}, "supervisor").remedy.startswith("check this account's rows")


@pytest.mark.parametrize(("label", "profile"), [
    ("unconfined", ""), ("", ""), ("chromium (unconfined)", ""), ("docker-default (enforce)", "docker-default"), ("mine", "mine")])
def test_a_profile_that_confines_this_python_is_named(monkeypatch: pytest.MonkeyPatch, label: str, profile: str) -> None:
    monkeypatch.setattr(launch, "_reads", lambda path: label if path.endswith("/current") else "")
    error = launch.translate({"step": "make a user namespace", "errno": 13, "text": "[Errno 13] unshare: Permission denied"}, "supervisor")
    [found] = namespaces.check(host(), refused(error.message, error.remedy))
    assert error.remedy.startswith(
        f"this Python runs under the AppArmor profile {profile}: `sealed doctor` prints a profile of its own for it; " if profile
        else "a seccomp or security policy forbids it: ")
    assert "--security-opt apparmor=unconfined" in error.remedy
    assert len(found.remedy.commands) == 2 * bool(profile)
    if profile:
        assert found.remedy.text == (
            f"or let the AppArmor profile {profile}, which this Python runs under, allow `userns,` and capabilities")


@pytest.mark.parametrize("setting", ["user/max_user_namespaces", "user/max_net_namespaces", "kernel/unprivileged_userns_clone"])
def test_a_setting_that_forbids_it_is_named_before_a_profile_that_may(monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    files = {f"/proc/sys/{setting}": "0", "/proc/self/attr/apparmor/current": "mine"}
    monkeypatch.setattr(launch, "_reads", lambda path: files.get(path, ""))
    error = launch.translate({"step": "make the session's namespaces", "errno": 28, "text": "No space left on device"}, "supervisor")
    if setting.startswith("kernel"):
        error = launch.translate({"step": "make a user namespace", "errno": 1, "text": "Operation not permitted"}, "supervisor")
    [found] = namespaces.check(host(), refused(error.message, error.remedy))
    assert found.remedy.commands == (f"sudo sysctl -w {setting.replace('/', '.')}={1 if setting.startswith('kernel') else 15000}",)


@pytest.mark.parametrize(("status", "remedy"), [("\nSeccomp:\t0\n", "Linux 5.14 or later is needed, and this is "),
                                                ("\nSeccomp:\t2\n", "a seccomp or security policy forbids it: ")])
def test_a_system_call_that_is_not_there_is_the_kernels_fault_where_no_filter_is(
        monkeypatch: pytest.MonkeyPatch, status: str, remedy: str) -> None:
    monkeypatch.setattr(launch, "_reads", lambda path: status if path == "/proc/self/status" else "")
    error = launch.translate({"step": "prepare the session's mounts", "errno": 38, "text": "[Errno 38] mount_setattr"}, "supervisor")
    assert error.remedy.startswith(remedy)


def test_the_pages_profile_is_the_doctors(monkeypatch: pytest.MonkeyPatch) -> None:
    from documents import ROOT
    page = (ROOT / "docs/how-to/hosts/ubuntu.md").read_text()
    for command in namespaces._apparmor(host(python="/usr/bin/python3.12")):
        assert command in page


def test_in_a_container_the_engines_options_are_the_remedy() -> None:
    [found] = namespaces.check(host(place="container"), refused("no", "a policy forbids it: --security-opt …"))
    assert found.remedy.text == f"start the outer container with {namespaces.ENGINE_FLAGS}; one of pytest-sealed with nested=True"
    [found] = namespaces.check(host(place="kubernetes"), refused("no", "a policy forbids it: --security-opt …"))
    assert "hostUsers: false" in found.remedy.text
    assert "procMount: Unmasked" in found.remedy.text


def test_a_python_without_ctypes_is_answered_by_the_package() -> None:
    [found] = namespaces.check(host(), Tried(error=InternalError("the worker failed: No module named 'ctypes'")))
    assert found.remedy.commands == ("sudo apt-get install -y python3",)


def test_a_kind_of_file_system_that_is_missing_is_named() -> None:
    found = list(namespaces.check(host(), tried(overlay="[Errno 19] mount overlay: No such device")))
    assert [finding.state for finding in found] == ["ok", "missing", "ok", "ok"]
    assert found[1].remedy.commands == ("sudo modprobe overlay",)
    denied = list(namespaces.check(host(), tried(overlay="[Errno 1] mount overlay: Operation not permitted")))[1]
    assert denied.remedy.text.startswith("Linux 5.14 or later; ")


def test_a_system_call_that_is_refused_names_the_filter_or_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = tried(calls="[Errno 38] mount_setattr: Function not implemented")
    monkeypatch.setattr(namespaces, "_status_field", lambda _name: "0")
    assert list(namespaces.check(host(), failed))[2].remedy.text == "a kernel of 5.14 or later"
    monkeypatch.setattr(namespaces, "_status_field", lambda _name: "2")
    calls = list(namespaces.check(host(place="container"), failed))[2]
    assert "under a seccomp filter" in calls.found
    assert "seccomp=unconfined" in calls.remedy.text


def test_a_filter_that_cannot_be_set_is_told_with_what_is_left() -> None:
    *_, found = namespaces.check(host(), tried(seccomp="FilterRefused: no filter of system calls ships for this machine"))
    assert (found.check, found.state) == ("seccomp", "missing")
    assert found.effect == 'containers start with seccomp="unconfined" only'
    assert found.remedy.text == "a kernel with CONFIG_SECCOMP_FILTER, on x86_64 or aarch64"


# ---------------------------------------------------------------- ids


@pytest.fixture
def alice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An ordinary account, and its /etc."""
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    monkeypatch.setattr(os, "getegid", lambda: 54321)
    monkeypatch.delenv("SEALED_IDS", raising=False)
    return tmp_path


def programs(folder: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    (folder / "bin").mkdir()
    for name in names:
        (folder / "bin" / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(folder / "bin"))


def test_without_newuidmap_and_range_both_are_remedied_in_order(alice: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(alice, monkeypatch, "usermod")
    (alice / "subuid").write_text("bob:100000:65536\ncarol:231072:65536\nnonsense\n")
    [found] = ids.check(host(), tried(), etc=str(alice))
    assert found.state == "degraded"
    assert found.remedy.commands == ("sudo apt-get install -y uidmap",
                                     "sudo usermod --add-subuids 296608-362143 --add-subgids 296608-362143 alice")
    assert "single-id mode" in found.effect


def test_where_usermod_is_missing_it_is_installed_first(alice: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(alice, monkeypatch, "newuidmap", "newgidmap")
    [found] = ids.check(host(manager="apk"), tried(), etc=str(alice))
    assert found.remedy.commands == ("sudo apk add shadow", "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 alice")


def test_a_range_is_ok_and_a_small_one_degraded(alice: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(alice, monkeypatch, "newuidmap", "newgidmap", "usermod")
    for name in ("subuid", "subgid"):
        (alice / name).write_text("54321:100000:65536\n")
    assert next(ids.check(host(), tried(), etc=str(alice))).found == "a range of 65536 ids, from 100000, mapped by newuidmap"
    (alice / "subuid").write_text("54321:100000:1000\n")
    assert next(ids.check(host(), tried(), etc=str(alice))).state == "degraded"


@pytest.mark.parametrize(("count", "state"), [(65535, "ok"), (65534, "degraded")])
def test_the_ids_that_root_of_a_container_can_give_are_enough_with_nobody_among_them(monkeypatch: pytest.MonkeyPatch, count: int,
                                                                                     state: str) -> None:
    monkeypatch.setattr(ids, "find_id_map", lambda **_: IdMap("root", 0, 0, 1, 1, count))
    assert next(ids.check(host(), tried())).state == state


def test_where_newuidmap_can_gain_no_privileges_that_is_said(alice: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(alice, monkeypatch, "newuidmap", "newgidmap", "usermod")
    for name in ("subuid", "subgid"):
        (alice / name).write_text("54321:100000:65536\n")
    for module in (ids, idmap):
        monkeypatch.setattr(module, "no_new_privs", lambda *_: True)
    [found] = ids.check(host(), tried(), etc=str(alice))
    assert (found.state, found.found) == ("degraded", "newuidmap can't gain the privileges that it needs (no_new_privs is set)")
    assert found.remedy.text == "start whatever this runs in without no_new_privs, or run as root in a container"


def test_a_wish_for_one_id_is_named(alice: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALED_IDS", "single")
    assert next(ids.check(host(), tried(), etc=str(alice))).remedy.commands == ("unset SEALED_IDS",)


# ---------------------------------------------------------------- writable layers, networks, budgets


@pytest.mark.parametrize(("memory", "disk", "state", "words"), [
    (True, True, "ok", "they work in memory, and on the store's disk"),
    (True, False, "degraded", "they work in memory, but not on the store's disk"),
    (False, True, "degraded", "not in memory: the tmpfs of Linux 6.1.0 has no user attributes"),
    (False, False, "degraded", "they work neither in memory nor on the store's disk"),
])
def test_each_rung_of_writable_layers_is_named(tmp_path: Path, memory: bool, disk: bool, state: str, words: str) -> None:
    facts = tried(uppers={"memory": memory, "disk": disk})
    [found] = overlay.check(host(), facts, tmp_path)
    assert found.state == state
    assert words in found.found
    assert bool(list(overlay.check_memory(host(), facts, tmp_path))) is not memory
    assert bool(list(overlay.check_no_copies(host(), facts, tmp_path))) is not (memory or disk)


def test_copies_are_said_to_cost(tmp_path: Path) -> None:
    [found] = overlay.check(host(), tried(uppers={"memory": False, "disk": False}), tmp_path)
    assert "gets a copy of its image: that costs" in found.effect


def test_without_netem_the_package_is_named() -> None:
    failed = tried(netem="[Errno 2] No such file or directory")
    assert next(network.check_faults(host(manager="dnf"), failed)).remedy.commands == (
        "sudo dnf install -y kernel-modules-extra", "sudo modprobe sch_netem")
    assert next(network.check_faults(host(ubuntu=True), failed)).remedy.commands[0] == (
        'sudo apt-get install -y "linux-modules-extra-$(uname -r)"')


def test_a_spent_budget_is_degraded(tmp_path: Path) -> None:
    (tmp_path / "key-users").write_text("    0:     5 4/4 2/1000000 4/25000000\n 1000:    180 180/180 190/200 3000/20000\n")
    spent = tried(pipes=3, inotify="[Errno 24] inotify_init1")
    found = {finding.check: finding for finding in budgets.check(host(), spent, proc=str(tmp_path))}
    assert found["pipes"].state == found["inotify"].state == found["keyrings"].state == "degraded"
    assert found["keyrings"].found == "190 of 200 keys of this account are taken"
    assert found["pipes"].remedy.commands == ("sudo sysctl -w fs.pipe-user-pages-soft=65536",)


# ---------------------------------------------------------------- limits


def answers(kind: str, refusals: dict[str, tuple[str, str]], **known: Any) -> Answers:
    bases = known.pop("bases", {})
    return Answers(refused=refusals, hierarchy=Hierarchy(kind, bases, {}), **known)


def every(reason: str, remedy: str) -> dict[str, tuple[str, str]]:
    return {name: (f"{name}=1 can't be enforced: {reason}", remedy) for name in limits._EFFECTS}


def test_on_v1_an_ordinary_account_delegates() -> None:
    [found] = answers("v1", every("Permission denied", "sudo /venv/bin/sealed delegate")).findings(host(), limits._EFFECTS)
    assert (found.check, found.state, found.found) == ("limits", "missing", "Permission denied")
    assert found.remedy.commands == ("sudo /venv/bin/sealed delegate",)
    assert found.page == "how-to/hosts/cgroup-v1.md"


def test_on_v2_without_a_user_manager_one_is_kept_running(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_USER_BUS", ("/nowhere",))
    [found] = answers("v2", every("Permission denied", "systemd-run --user …")).findings(host(), limits._EFFECTS)
    assert found.remedy.commands == ("sudo apt-get install -y dbus-user-session", "sudo loginctl enable-linger alice")
    assert "by themselves" in found.remedy.text
    [found] = answers("v2", every("Permission denied", "systemd-run --user …")).findings(host(systemd=False), limits._EFFECTS)
    assert found.remedy.commands == ()


def test_what_systemd_said_instead_of_a_scope_is_told() -> None:
    [found] = answers("v2", every("Permission denied", ""), scope_failed="Failed to connect to bus").findings(host(), ["memory"])
    assert found.found == "systemd gave no scope: Failed to connect to bus; Permission denied"


def test_a_controller_that_is_not_handed_on_is_told_apart() -> None:
    refusals = {"cpus": ("the cpu controller isn't delegated to /x", "sudo mkdir -p /etc … ; then log in anew")}
    [found] = answers("v2", refusals, bases={"memory": "/x"}, scoped=True).findings(host(), limits._EFFECTS)
    assert (found.check, found.effect) == ("limit cpus", "cpus= is refused")
    assert found.remedy.text.endswith("then log in anew")


def test_swap_alone_is_a_slight_loss() -> None:
    [found] = answers("v1", {"swap": ("this kernel has no such file", "boot with swapaccount=1")}).findings(host(), limits._EFFECTS)
    assert found.state == "degraded"


# ---------------------------------------------------------------- systemd's scopes


def test_a_user_manager_is_found_by_its_socket_whatever_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(tmp_path, monkeypatch, "systemd-run")
    own = tmp_path / "run" / str(os.geteuid())
    (own / "systemd").mkdir(parents=True)
    assert scope.user_manager({}, str(tmp_path / "run")) is None
    (own / "systemd/private").touch()
    expected = {"XDG_RUNTIME_DIR": str(own), "DBUS_SESSION_BUS_ADDRESS": f"unix:path={own}/bus"}
    assert scope.user_manager({}, str(tmp_path / "run")) == expected
    assert scope.user_manager({"XDG_RUNTIME_DIR": "/run/user/another"}, str(tmp_path / "run")) == expected
    monkeypatch.setenv("PATH", "/nowhere")
    assert scope.user_manager({}, str(tmp_path / "run")) is None


@pytest.mark.parametrize(("kind", "bases", "uid", "helps"), [
    ("v2", {}, 1000, True), ("v2", {"memory": "/x"}, 1000, False), ("v2", {}, 0, False), ("v1", {}, 1000, False),
    ("none", {}, 1000, False)])
def test_a_scope_is_tried_where_nothing_else_is_there(
        monkeypatch: pytest.MonkeyPatch, kind: str, bases: dict[str, str], uid: int, helps: bool) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert scope.may_help(Hierarchy(kind, bases, {})) is helps


def test_reasons_and_other_remedies_stay_where_one_remedy_is_said_anew() -> None:
    hierarchy = Hierarchy("v2", {}, {"memory": Refusal("not yours", "old"), "cpu": Refusal("not there", "another")})
    hierarchy.replace_remedy("old", "new")
    assert {name: (refusal.reason, refusal.remedy) for name, refusal in hierarchy.refusals.items()} == {
        "memory": ("not yours", "new"), "cpu": ("not there", "another")}
    hierarchy.refuse_all("gone", "newer")
    assert {refusal.reason for refusal in hierarchy.refusals.values()} == {"gone"}
