"""AppArmor's restriction of user namespaces: the refusal word by word, the documented remedy, then a green suite.

Ubuntu's kernel puts whatever has no profile, when it makes a user namespace, into one that has no capability. Debian's has no such setting,
so here programs are started under a profile that says the same, and that lets a program change to a profile of its own, as there. See
guest/apparmor-policy, and docs/decisions/0063-hosts-that-cannot-be-had-are-imitated.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from documents import ROOT
from told import shell_block

from pytest_sealed.runtime.launch import interpreter

START = """
from pytest_sealed import Sandbox, SealedError
with Sandbox() as sandbox:
    try:
        print(sandbox.run("busybox", ["true"], memory="64M", network=None).wait())
    except SealedError as error:
        print(error.message, error.remedy, sep="\\n")
"""

REFUSED = {
    "no-capabilities": "ids could not be mapped into a user namespace: [Errno 1] Operation not permitted",
    "no-user-namespaces": "this host lets this account make no user namespace: [Errno 13] unshare: Permission denied",
}


def confined(profile: str, *arguments: str, folder: str = ".") -> subprocess.CompletedProcess[str]:
    """Run Python under a profile."""
    return subprocess.run(["aa-exec", "-p", profile, "--", sys.executable, *arguments], cwd=ROOT / folder, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL)


def namespaces(profile: str) -> dict[str, Any]:
    """Return what the doctor finds."""
    done = confined(profile, "-m", "pytest_sealed.cli", "doctor", "--json")
    return next(found for found in json.loads(done.stdout)["findings"] if found["check"] == "namespaces")


@pytest.mark.parametrize(("profile", "message"), REFUSED.items())
def test_no_container_starts_and_apparmor_is_named(profile: str, message: str) -> None:
    done = confined(profile, "-c", START)
    assert done.stdout.splitlines() == [
        message,
        f"this Python runs under the AppArmor profile {profile}: `sealed doctor` prints a profile of its own for it; inside Docker or "
        "Podman run with --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined"], done


@pytest.mark.parametrize(("profile", "message"), REFUSED.items())
def test_the_doctor_has_the_pages_profile_for_this_python(profile: str, message: str) -> None:
    found = namespaces(profile)
    assert (found["state"], found["found"], found["page"]) == ("missing", message, "how-to/hosts/ubuntu.md")
    page = shell_block("docs/how-to/hosts/ubuntu.md", "apparmor_parser").replace("/usr/bin/python3.12", interpreter())
    assert found["remedy"]["commands"] == page.splitlines()
    assert found["remedy"]["text"] == (
        f"or let the AppArmor profile {profile}, which this Python runs under, allow `userns,` and capabilities")


@pytest.fixture(scope="module")
def documented_profile() -> None:
    """Load it as the page says; what confines the rest of the host is as before."""
    page = shell_block("docs/how-to/hosts/ubuntu.md", "apparmor_parser").replace("/usr/bin/python3.12", interpreter())
    subprocess.run(["sh", "-euc", page], check=True, stdin=subprocess.DEVNULL)


@pytest.mark.usefixtures("documented_profile")
@pytest.mark.parametrize("profile", REFUSED)
def test_with_the_documented_profile_containers_run_under_either(profile: str) -> None:
    assert confined(profile, "-c", START).stdout == "0\n"
    assert namespaces(profile)["state"] == "ok"


@pytest.mark.usefixtures("documented_profile")
def test_with_the_documented_profile_the_examples_suite_is_green() -> None:
    done = confined("no-capabilities", "-m", "pytest", "-q", "-p", "no:cacheprovider", folder="docs/examples/shop")
    assert done.returncode == 0, done.stdout + done.stderr
