"""A kernel before 5.14: containers can't run, in words; nothing is left behind."""

from __future__ import annotations

import os

import pytest
from told import finding

from pytest_sealed import HostUnsupported, Sandbox

CALL = "[Errno 38] mount_setattr: Function not implemented: "


def test_a_session_is_refused_with_the_kernel_that_is_needed() -> None:
    with pytest.raises(HostUnsupported) as caught, Sandbox() as sandbox:
        sandbox.run("busybox", ["true"])
    assert caught.value.message == f"this host denies what a container needs, at the step 'prepare the session's mounts': {CALL}'/'"
    assert caught.value.remedy == f"Linux 5.14 or later is needed, and this is {os.uname().release}"
    assert sandbox.leftovers() == []


def test_the_doctor_says_so_of_each_thing_that_is_missing() -> None:
    calls, systems = finding("system calls"), finding("file systems")
    assert calls["found"] == f"{CALL}'' (under no seccomp filter, Linux {os.uname().release})"
    assert (calls["state"], calls["effect"], calls["remedy"]["text"]) == (
        "missing", "no container can be started", "a kernel of 5.14 or later")
    assert systems["found"].startswith("[Errno 1] mount overlay: Operation not permitted: ")
    assert (systems["state"], systems["remedy"]["commands"], systems["remedy"]["text"]) == (
        "missing", [], "Linux 5.14 or later; before 5.11, user namespaces can't mount overlayfs at all")
