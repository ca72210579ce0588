"""What is handed into a container stays whose it is, unless it was made for the container."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_sealed import Sandbox
from pytest_sealed.cli import main


def test_a_command_leaves_the_hosts_null_device_alone() -> None:
    before = os.stat("/dev/null")
    with Sandbox() as sealed:
        box = sealed.run("busybox", ["sleep", "100"])
        assert box.exec(["cat"]).stdout == ""
        assert box.exec(["cat"], stdin="fed").stdout == "fed"
    after = os.stat("/dev/null")
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)


def test_sealed_run_leaves_files_that_it_is_redirected_to_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.stat("/dev/null")
    with open(tmp_path / "out", "w") as out:
        saved = os.dup(1)
        os.dup2(out.fileno(), 1)
        try:
            assert main(["run", "busybox", "echo", "hello"]) == 0
        finally:
            os.dup2(saved, 1)
            os.close(saved)
    assert (tmp_path / "out").read_text() == "hello\n"
    assert (tmp_path / "out").stat().st_uid == os.geteuid()
    assert os.stat("/dev/null").st_uid == before.st_uid


def test_the_containers_user_may_reopen_its_standard_streams() -> None:
    with Sandbox() as sealed:
        box = sealed.run("busybox", ["sh", "-c", "echo one > /dev/stdout; echo two > /dev/stderr"], user="1000:1000")
        assert box.wait(timeout=10) == 0
        assert box.logs(stream="stdout") == "one\n"
        assert box.logs(stream="stderr") == "two\n"
        other = sealed.run("busybox", ["sleep", "100"])
        assert other.exec(["sh", "-c", "echo three > /dev/stdout"], user=1000).stdout == "three\n"


def test_a_fifo_of_the_hosts_keeps_its_owner(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    fifo = os.open(tmp_path / "fifo", os.O_RDWR)
    try:
        with Sandbox() as sealed:
            box = sealed.run("busybox", ["echo", "hello"], start=False)
            box.launch(stdio=[fifo] * 3)
            assert box.wait(timeout=10) == 0
        assert os.read(fifo, 100) == b"hello\n"
    finally:
        os.close(fifo)
    assert (tmp_path / "fifo").stat().st_uid == os.geteuid()
