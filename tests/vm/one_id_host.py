"""An ordinary account without a range of ids: what it lacks is said word by word, and the documented remedy mends it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from told import finding, shell_block

from pytest_sealed import Sandbox, SpecError

EFFECT = ("containers run in single-id mode: the one user in each is this account on the host, and changes to another user "
          "only seem to succeed")
LACKING = "tester has no range in /etc/subuid and /etc/subgid"


@pytest.fixture(scope="module")   # a session takes long to start where the processor is emulated
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


def test_a_container_has_the_accounts_own_id(sandbox: Sandbox) -> None:
    assert sandbox.describe().mode == "single"
    container = sandbox.run("busybox", ["sleep", "1000000"])
    maps = container.exec(["cat", "/proc/self/uid_map"], check=True).stdout.split()
    assert maps == ["0", "0", "1"]   # as seen from the session's user namespace, where the account is 0


def test_another_user_is_refused(sandbox: Sandbox) -> None:
    container = sandbox.run("busybox", ["sleep", "1000000"], name="web")
    with pytest.raises(SpecError) as caught:
        container.exec(["true"], user="nobody")
    assert caught.value.message == ("exec in container 'web': in single-id mode a container has the ids of its own user only, "
                                    "and not 65534:65534")
    assert caught.value.remedy == ("start the container with that user=, or give this account a range of ids: "
                                   "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER")


def test_the_doctor_names_a_range_that_is_free() -> None:
    found = finding("ids")
    assert (found["state"], found["found"], found["effect"]) == ("degraded", LACKING, EFFECT)
    assert found["remedy"]["commands"] == ["sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 tester"]


def test_the_header_says_so_and_a_suite_that_requires_a_range_does_not_begin(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_one(sealed): pass")
    text = pytester.runpytest_subprocess("--collect-only").stdout.str()
    assert "sealed: rootless with a single id (no range in /etc/subuid), limits by cgroup v2, writable layers on disk, " in text
    result = pytester.runpytest_subprocess("--sealed-require=subuid")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert (f"  subuid: {LACKING}\n"
            "    remedy: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 tester\n") in result.stderr.str()


def test_with_the_documented_command_there_is_a_range() -> None:
    subprocess.run(["sh", "-euc", shell_block("docs/how-to/hosts/debian.md", "usermod")], check=True, stdin=subprocess.DEVNULL)
    with Sandbox() as sandbox:
        assert sandbox.describe().mode == "subids"
        container = sandbox.run("busybox", ["sleep", "1000000"])
        assert container.exec(["id", "-u"], user="nobody", check=True).stdout == "65534\n"
    done = subprocess.run([sys.executable, "-m", "pytest_sealed.cli", "doctor"], capture_output=True, text=True, check=True)
    assert "a range of 65536 ids, from 100000, mapped by newuidmap" in done.stdout
