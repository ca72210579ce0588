"""Hosts that can't run containers say so, with the remedy, and leave nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import own_host
import pytest

from pytest_sealed import HostUnsupported, Sandbox

START = """
from pytest_sealed import Sandbox, SealedError
try:
    Sandbox().network()
except SealedError as error:
    print(type(error).__name__, error)
"""


def in_a_host_of_its_own(prepare: str, tmp_path: Path) -> str:
    """Run START on a host where `prepare` has run."""
    return own_host.in_a_host_of_its_own(prepare, tmp_path, "-c", START)


def test_without_user_namespaces_the_sysctl_is_named(tmp_path: Path) -> None:
    text = in_a_host_of_its_own("echo 0 > /proc/sys/user/max_user_namespaces", tmp_path)
    assert text.startswith("HostUnsupported this host lets this account make no user namespace"), text
    assert "remedy: sudo sysctl -w user.max_user_namespaces=" in text
    assert list(tmp_path.glob("pytest-sealed/*")) == []


@pytest.mark.parametrize("kind", ["net", "pid"])
def test_without_another_namespace_the_step_is_named(tmp_path: Path, kind: str) -> None:
    text = in_a_host_of_its_own(f"echo 0 > /proc/sys/user/max_{kind}_namespaces", tmp_path)
    assert text.startswith("HostUnsupported this host denies what a container needs, at the step 'make the session's namespaces'"), text
    assert f"remedy: sudo sysctl -w user.max_{kind}_namespaces=15000\n" in text
    assert list(tmp_path.glob("pytest-sealed/*")) == []


def test_where_parts_of_proc_are_masked_the_remedy_is_dockers_option(tmp_path: Path) -> None:
    text = in_a_host_of_its_own("mount --bind /dev/null /proc/meminfo", tmp_path)
    assert text.startswith("HostUnsupported this host denies a /proc of our own"), text
    assert "systempaths=unconfined" in text
    assert list(tmp_path.glob("pytest-sealed/*")) == []


@pytest.mark.parametrize(("system", "name"), [("darwin", "macOS"), ("win32", "Windows")])
def test_off_linux_one_sentence_says_the_way_out(monkeypatch: pytest.MonkeyPatch, system: str, name: str) -> None:
    monkeypatch.setattr("sys.platform", system)
    with pytest.raises(HostUnsupported) as caught:
        Sandbox().network()
    assert caught.value.message == f"containers need a Linux kernel, and this is {name}"
    assert "Linux virtual machine" in caught.value.remedy


def test_an_unknown_id_mode_is_refused() -> None:
    done = subprocess.run([sys.executable, "-c", START], env={**os.environ, "SEALED_IDS": "double"}, capture_output=True, text=True)
    assert done.stdout.startswith("HostUnsupported SEALED_IDS='double' is unknown"), done.stderr
    assert "SEALED_IDS=single" in done.stdout
