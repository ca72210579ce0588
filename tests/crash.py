"""A busy run of pytest with two workers, of which a process or several are killed at a random instant; prints what is left.

A process of its own, run by security/test_crashes.py, for it adopts whatever its descendants leave. Arguments: an empty folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from boxes import descendants, fields

from pytest_sealed import Sandbox
from pytest_sealed.linux.process import set_child_subreaper
from pytest_sealed.runtime.cgroups import detect, leftovers

SOON = 2.0   # seconds, the promise

SUITE = r"""
import pytest
from pytest_sealed import container_fixture, image, network_fixture, tcp

back = network_fixture()

def server(**options):
    return image("busybox", command=["httpd", "-f", "-h", "/etc", "-p", "80"], wait=tcp(80), ports=[80], **options)

kept = container_fixture(server(), scope="session")
noisy = container_fixture(image("busybox", command=["sh", "-c", "while :; do dd if=/dev/zero bs=64k count=1; sleep 0.01; done"],
                                scratch="disk", network=None))
looped = container_fixture(image("busybox", command=["sh", "-c", "while :; do sleep 0.01; done"], init=True))

@container_fixture
def web(back): return server(network=back)

@pytest.mark.parametrize("number", range(24))
def test_busy(kept, web, noisy, looped, number):
    looped.pause()
    with web.connect(80): pass
    assert web.exec(["wget", "-q", "-O", "-", "http://web/hostname"]).exit_code == 0
    noisy.write_text("/file", "x" * 100_000)
    kept.exec(["true"], check=True)
"""

ROLES = {"-m pytest": "pytest", "exec(eval(sys.stdin": "a worker", "runtime/supervisor.py": "a supervisor",
         "network/service.py": "a network service", "forward/service.py": "a forwarder"}   # by a part of the command


class Process:
    """One of the processes below this one."""

    def __init__(self, pid: int) -> None:
        known = fields(pid)
        self.parent, self.ended, self.started = int(known[1]), known[0] in "ZX", known[19]
        self.command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")

    def role(self, others: dict[int, Process]) -> str:
        """Return what it is to a run of pytest; nothing for what a supervisor has forked."""
        above = others[self.parent].command if self.parent in others else ""
        return next((role for mark, role in ROLES.items() if mark in self.command and mark not in above), "")


def alive() -> dict[int, Process]:
    """Return the processes below this one, those apart that have ended."""
    found: dict[int, Process] = {}
    for pid in descendants(os.getpid()):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found[pid] = Process(pid)
    return {pid: process for pid, process in found.items() if not process.ended}


def rest_after_a_while(before: dict[int, Process]) -> list[str]:
    """Return the commands of those of `before` that still are there after the promised time."""
    deadline = time.monotonic() + SOON
    while True:
        now = alive()
        rest = [process.command for pid, process in before.items() if pid in now and now[pid].started == process.started]
        if not rest or time.monotonic() > deadline:
            return rest
        time.sleep(0.05)


def wait_for(pytest: subprocess.Popen[str]) -> None:
    """Wait until pytest and its workers have ended."""
    deadline = time.monotonic() + 60
    pytest.wait(60)
    while any("a worker" in process.role({}) for process in alive().values()):
        assert time.monotonic() < deadline, f"workers go on and on: {[process.command for process in alive().values()]}"
        time.sleep(0.1)


def folders(runs: Path) -> dict[Path, Path | None]:
    """Return each session's run directory, and its folder for writable layers on disk where that is known yet."""
    found: dict[Path, Path | None] = {}
    for path in runs.glob("*"):   # nothing, where there is no such folder
        facts = path / "session.json"
        with contextlib.suppress(FileNotFoundError):   # it ends at this moment
            found[path] = Path(json.loads(facts.read_text())["disk"]) if facts.exists() else None
    return found


def main() -> None:
    folder = Path(sys.argv[1])
    set_child_subreaper()
    (folder / "test_busy.py").write_text(SUITE)
    (folder / "run").mkdir(mode=0o700)
    os.environ["XDG_RUNTIME_DIR"] = str(folder / "run")
    runs = folder / "run/pytest-sealed"
    with open(folder / "output", "w") as output:
        pytest = subprocess.Popen([sys.executable, "-m", "pytest", "-n2", "-x", "-p", "no:cacheprovider", "-c", os.devnull,
                                   "--rootdir", folder, folder], cwd=folder, stdout=output, stderr=subprocess.STDOUT, text=True)
    draw = random.SystemRandom()
    if draw.random() > 0.1:   # the others: while it starts
        while not (runs.is_dir() and list(runs.iterdir())) and pytest.poll() is None:
            time.sleep(0.02)
    delay = draw.uniform(0, 1.5)
    time.sleep(delay)

    now = alive()
    roles: dict[str, list[int]] = {}
    for pid, process in now.items():
        roles.setdefault(process.role(now), []).append(pid)
    roles.pop("", None)
    chosen = draw.sample(sorted(roles), draw.randint(min(1, len(roles)), len(roles)))   # none: it has ended by itself
    victims = [pid for role in chosen for pid in draw.sample(roles[role], draw.randint(1, len(roles[role])))]
    draw.shuffle(victims)
    dying = now if "pytest" in chosen else victims   # with the controller all sessions end, though its workers go on for a while
    supervisors = [pid for pid in dying if now[pid].role(now) == "a supervisor"]
    doomed = {one: now[one] for pid in supervisors for one in (pid, *descendants(pid)) if one in now}
    sessions = folders(runs)
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    print(f"killed after {delay:.3f} s: {', '.join(now[pid].role(now) for pid in victims)}")

    left = [f"a process of a session that ends: {command}" for command in rest_after_a_while(doomed)]
    wait_for(pytest)
    left += [f"a process: {command}" for command in rest_after_a_while(alive())]
    sessions |= folders(runs)
    with Sandbox() as sandbox:
        sandbox.run("busybox", ["true"]).wait(30)
    left += [f"a folder: {path}" for pair in sessions.items() for path in pair if path is not None and path.exists()]
    left += [f"cgroups of {name}" for name in leftovers(detect()) if runs / name in sessions]
    left += [f"a mount: {line}" for line in Path("/proc/self/mounts").read_text().splitlines() if str(folder) in line]
    print("\n".join(left))
    if left:
        print((folder / "output").read_text())
    sys.exit(bool(left))


if __name__ == "__main__":
    main()
