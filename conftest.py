"""The leak check around the project's own test session: what is there afterwards that was not there before.

Other people's sessions may run on this machine at the same time, so only what can be traced to this run counts:
names of sessions begin with the pid of the process that made them, and this run's folders are its own.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

# Who runs the tests as a shell's background job has them ignore Ctrl-C, and all programs that they start, whose Ctrl-C is tried.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

FOLDER = "sealed-tests-"   # and the pid, and something random
GRACE = 3.0   # seconds; two are promised
SESSION = re.compile(r"(?:sealed-)?(\d+)-[0-9a-f]{8}")
LEAKS: pytest.StashKey[Leaks] = pytest.StashKey()
FOUND: pytest.StashKey[list[str]] = pytest.StashKey()


class Leaks:
    """What a test session could leave behind, looked at twice. The roots of the file systems are parameters.

    Attributes:
        folder: where this run's sessions have their run directories; None: where everybody's are.
    """

    def __init__(self, folder: Path | None, proc: Path = Path("/proc"), sysfs: Path = Path("/sys")) -> None:
        self.folder, self.proc, self.sysfs = folder, proc, sysfs
        self.tokens = [str(folder)] if folder else []
        self.pid = os.getpid()
        self.before = self.look()

    def look(self) -> dict[str, set[str]]:
        return {"mount": set(self._mounts()), "cgroup": set(self._cgroups()), "network interface": set(self._links()),
                "named network namespace": set(_names(Path("/run/netns"))), "process": set(self._processes()),
                "run directory": set(self._run_directories())}

    def found(self, grace: float = GRACE) -> list[str]:
        """Return a line for each thing that is new and is still there after `grace` seconds."""
        deadline = time.monotonic() + grace
        while True:
            now = self.look()
            new = [f"{kind}: {what}" for kind, things in now.items() for what in sorted(things - self.before[kind])]
            if not new or time.monotonic() > deadline:
                return new
            time.sleep(0.05)

    def _mounts(self) -> Iterable[str]:
        for line in _text(self.proc / "self/mounts").splitlines():
            if "sealed" in line or any(token in line for token in self.tokens):
                yield " ".join(line.split()[:3])

    def _cgroups(self) -> Iterable[str]:
        for root, folders, _ in os.walk(self.sysfs / "fs/cgroup"):
            for name in list(folders):
                if SESSION.fullmatch(name):
                    folders.remove(name)
                    if self._ours(name):
                        yield f"{root}/{name}"

    def _links(self) -> Iterable[str]:
        return _names(self.sysfs / "class/net")

    def _processes(self) -> Iterable[str]:
        """Yield processes of the runtime in this run's folders, and whatever descends from this process."""
        parents = {pid: _parent(self.proc / str(pid)) for pid in map(int, filter(str.isdigit, _names(self.proc)))}
        for pid in parents:
            command = _text(self.proc / str(pid) / "cmdline").replace("\0", " ").strip()
            descends = pid != self.pid and self.pid in _ancestors(pid, parents)
            in_our_folder = "pytest_sealed/runtime" in command and any(
                token in _text(self.proc / str(pid) / "mountinfo") for token in self.tokens)
            if descends or in_our_folder:
                yield f"{pid} {command or _text(self.proc / str(pid) / 'comm').strip() or '(ended)'}"

    def _run_directories(self) -> Iterable[str]:
        if self.folder:
            return [str(path) for path in self.folder.rglob("*") if SESSION.fullmatch(path.name)]
        roots = (Path(os.environ.get("XDG_RUNTIME_DIR", "/nonexistent"), "pytest-sealed"),
                 Path(tempfile.gettempdir(), f"pytest-sealed-{os.geteuid()}"))
        return [str(root / name) for root in roots for name in _names(root) if self._ours(name)]

    def _ours(self, session: str) -> bool:
        """Tell whether the session can be this run's: its owner is this process or has ended."""
        match = SESSION.fullmatch(session)
        return match is not None and (int(match[1]) == self.pid or not (self.proc / match[1]).exists())


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:   # a process that has ended meanwhile
        return ""


def _parent(process: Path) -> int:
    fields = _text(process / "stat").rpartition(")")[2].split()   # the name, in brackets, may hold anything
    return int(fields[1]) if len(fields) > 1 else 0


def _ancestors(pid: int, parents: dict[int, int]) -> Iterable[int]:
    while pid := parents.get(pid, 0):
        yield pid


def _is_controller(config: pytest.Config) -> bool:
    return not hasattr(config, "workerinput") and not config.getoption("collectonly", default=False)


def _own_folder() -> Path | None:
    """Make a folder for this run's sessions, unless this account's systemd is reached through the usual one."""
    usual = os.environ.get("XDG_RUNTIME_DIR", "")
    if usual and os.path.exists(os.path.join(usual, "bus")):
        return None
    _sweep_folders()
    folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-"))
    os.environ["XDG_RUNTIME_DIR"] = str(folder)   # for xdist workers and other children too
    return folder


def _sweep_folders() -> None:
    """Clean up after runs of this account that were killed: their sessions lie where nobody else sweeps."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER}*-*"):
        pid = folder.name.removeprefix(FOLDER).partition("-")[0]
        try:
            ours = folder.lstat().st_uid == os.geteuid() and folder.is_dir()
        except FileNotFoundError:   # its run has just ended
            continue
        if ours and not Path("/proc", pid).exists():
            subprocess.run([sys.executable, "-m", "pytest_sealed.cli", "sweep"], check=False, capture_output=True,
                           env={**os.environ, "XDG_RUNTIME_DIR": str(folder)})
            _remove_empty(folder)


def _remove_empty(folder: Path) -> None:
    """Remove a run's folder. Nothing recursive: what is left may have the host mounted in it."""
    for path in (folder / "pytest-sealed", folder):
        with contextlib.suppress(OSError):
            path.rmdir()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if not _is_controller(config):
        return
    usual = os.environ.get("XDG_RUNTIME_DIR")
    folder = _own_folder()
    config.stash[LEAKS] = Leaks(folder)
    if folder:
        config.add_cleanup(_undo(folder, usual))


def _undo(folder: Path, usual: str | None) -> Callable[[], None]:
    def undo() -> None:
        _remove_empty(folder)
        os.environ.pop("XDG_RUNTIME_DIR", None)
        if usual is not None:
            os.environ["XDG_RUNTIME_DIR"] = usual
    return undo


@pytest.hookimpl(trylast=True)   # once the plugin has closed its sandboxes
def pytest_sessionfinish(session: pytest.Session) -> None:
    leaks = session.config.stash.get(LEAKS, None)
    if leaks is None:
        return
    found = leaks.found()
    session.config.stash[FOUND] = found
    if found:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    found = config.stash.get(FOUND, [])
    if found:
        terminalreporter.section("left behind by this session", red=True)
        for line in found:
            terminalreporter.write_line(line)
