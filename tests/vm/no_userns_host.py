"""A host whose settings let an ordinary account make no user namespace: the refusal word by word, then the documented remedy."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from told import finding, shell_block

from pytest_sealed import HostUnsupported, Sandbox

PAGE = "docs/how-to/hosts/debian.md"


@dataclass(frozen=True)
class Setting:
    """A sysctl that turns user namespaces off, and what is said of it."""

    name: str
    message: str
    remedy: str


SETTINGS = [
    Setting("user.max_user_namespaces",
            "this host lets this account make no user namespace: [Errno 28] unshare: No space left on device",
            "sudo sysctl -w user.max_user_namespaces=15000"),
    Setting("kernel.unprivileged_userns_clone",
            "this host lets this account make no user namespace: [Errno 1] unshare: Operation not permitted",
            "sudo sysctl -w kernel.unprivileged_userns_clone=1"),
]


@pytest.fixture(params=SETTINGS, ids=lambda setting: setting.name, scope="module")
def off(request: pytest.FixtureRequest) -> Iterator[Setting]:
    """The setting, which is off until the documented command; the next one is for a host where that is on again."""
    setting: Setting = request.param
    before = Path("/proc/sys", setting.name.replace(".", "/")).read_text().strip()
    subprocess.run(["sudo", "sysctl", "-w", f"{setting.name}=0"], check=True)
    yield setting
    subprocess.run(["sudo", "sysctl", "-w", f"{setting.name}={before}"], check=True)


def test_no_container_starts_and_the_setting_is_named(off: Setting) -> None:
    with Sandbox() as sandbox, pytest.raises(HostUnsupported) as caught:
        sandbox.run("busybox", ["true"])
    assert (caught.value.message, caught.value.remedy) == (off.message, off.remedy)


def test_the_doctor_names_it_too(off: Setting) -> None:
    found = finding("namespaces")
    assert (found["state"], found["found"], found["effect"]) == ("missing", off.message, "no container can be started")
    assert found["remedy"]["commands"] == [off.remedy]


def test_a_suite_fails_once_with_the_remedy_and_what_needs_no_container_passes(off: Setting, pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_one(sealed): sealed.run('busybox')\ndef test_two(): pass")
    result = pytester.runpytest_subprocess()
    assert result.parseoutcomes()["passed"] == 1
    text = result.stdout.str()
    assert off.message in text
    assert f"remedy: {off.remedy}" in text
    assert "Containers can't run here." in text   # the doctor's verdict, in the first failure


def test_with_the_documented_command_containers_run(off: Setting) -> None:
    subprocess.run(["sh", "-euc", shell_block(PAGE, off.name)], check=True, stdin=subprocess.DEVNULL)
    with Sandbox() as sandbox:
        assert sandbox.run("busybox", ["true"], memory="64M", network=None).wait() == 0
