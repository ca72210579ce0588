"""A run directory without room: sessions and containers are refused in words, and what runs says what it lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from boxes import NEEDS_ROOT

from pytest_sealed import Sandbox

pytestmark = NEEDS_ROOT   # who may mount

START = """
with Sandbox() as sandbox:
    try:
        sandbox.network()
        sandbox.run("busybox", ["sleep", "1000000"])
    except StoreError as error:
        print(error)
    print("left", sandbox.containers and sandbox.session.request("list")[0]["containers"])
print(sandbox.leftovers(), os.listdir(folder))
"""


def run(folder: Path, options: str, script: str, store: Path) -> str:
    """Run a script in a mount namespace of its own, with a tmpfs for run directories at `folder`; return what it prints."""
    code = f"import os; from pytest_sealed import *; folder = {str(folder)!r}; fill = folder + '/fill'\n{script}"
    mount = f'mount -t tmpfs -o {options} tmpfs {folder} && exec "$0" -c "$1"'
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder), "SEALED_STORE": str(store)}
    done = subprocess.run(["unshare", "--mount", "sh", "-c", mount, sys.executable, code], capture_output=True, text=True, env=environment,
                          timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def store(root_sandbox: Sandbox) -> Path:
    return root_sandbox.store.root


@pytest.mark.parametrize("inodes", range(1, 13))
def test_without_inodes_nothing_starts_and_nothing_is_left(tmp_path: Path, store: Path, inodes: int) -> None:
    """At each number of them, another step of the start fails; with 12 none does."""
    said = run(tmp_path, f"size=1m,nr_inodes={inodes}", START, store).splitlines()
    assert said[-1] == "[] []"
    if inodes == 12:
        assert "running" in said[-2]
    elif inodes == 1:
        assert said[0] == f"the run directory {tmp_path}/pytest-sealed can't be made: No space left on device"
    else:
        assert "is full: its file system has no space or no inodes left" in said[0]
        assert "set XDG_RUNTIME_DIR" in said[1]
        assert said[2] == "left []"


@pytest.mark.parametrize("pages", [0, 1, 5, 15])
def test_without_space_nothing_starts_and_nothing_is_left(tmp_path: Path, store: Path, pages: int) -> None:
    filled = f"""
with open(fill, "wb", buffering=0) as file:
    while True:
        try: file.write(bytes(4096))
        except OSError: break
    file.truncate(max(0, file.tell() - {pages} * 4096))
"""
    said = run(tmp_path, "size=1m", filled + START, store).splitlines()
    where = f"the run directory {tmp_path}/pytest-sealed/" if pages == 0 else "container 'busybox' (busybox) did not start: "
    assert said[0].startswith(where)
    assert "is full: its file system has no space" in said[0]
    assert said[-1] == "[] ['fill']"


def test_what_runs_goes_on_and_says_what_was_lost(tmp_path: Path, store: Path) -> None:
    script = """
import contextlib

def filled(path):
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass

with Sandbox() as sandbox:
    script = "until [ -e /go ]; do sleep 0.01; done; head -c 5000 /dev/zero; exec sleep 1000000"
    web = sandbox.run("busybox", ["sh", "-c", script], name="web")
    other = sandbox.run("busybox", ["sh", "-c", "exit 3"], name="other")
    other.wait()
    filled(fill)
    web.write_text("/go", "")
    web.wait_for_exec(["pidof", "sleep"])
    while not web.logs():
        pass
    print(repr(web.logs()), web.report().splitlines()[-1].strip())
    print(web.exec(["echo", "alive"]).stdout.strip())
    try:
        other.restart()
    except StoreError as error:
        print("is full: its file system has no space" in error.message, other.status, other.exit_code, other.wait(1))
    os.unlink(fill)
    other.restart()
    print(other.wait(30), web.status, web.logs() == web.logs() != "")
"""
    lost = "[sealed: 5000 bytes of log lost: no space left for the spool]"
    assert run(tmp_path, "size=1m", script, store).splitlines() == [
        repr(f"\n{lost}\n") + f" {lost}", "alive", "True stopped 3 3", "3 running True"]
