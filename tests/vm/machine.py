"""One virtual machine: QEMU in software emulation, its disks never written, and the reports that come out of it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import threading
import time
from pathlib import Path
from typing import IO, Any, final

from cells import Cell, Run
from disks import CHECKOUT, GUEST, ROOT_PARTITION, Disks

__all__ = ["Machine", "pack_checkout"]

_COMMAND = """
cd /srv/pytest-sealed/{folder}
log "pytest in $PWD"
env VM_REPORTS="$(echo /dev/vport*p1)" VM_ONLY=/vm/cell/only-{number} VM_RUN={number} PYTHONPATH=/vm/cell PATH=/opt/venv/bin:$PATH \\
    {account} {command} /opt/venv/bin/python -m pytest -p vm_reports -q -p no:cacheprovider --color=no --tb=short {arguments}
"""

_ACCOUNTS = {"root": "HOME=/root USER=root", "tester": "HOME=/home/tester USER=tester setpriv --reuid=tester --regid=tester --init-groups",
             "login": "sh /vm/cell/login"}


def pack_checkout() -> bytes:
    """Return a tar of the checkout as it is now: what git knows of, or would take."""
    listed = subprocess.run(["git", "-C", str(CHECKOUT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                            check=True, capture_output=True).stdout.decode().split("\0")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in sorted(filter(None, listed)):
            if (CHECKOUT / name).exists():
                tar.add(CHECKOUT / name, arcname=name, filter=_anonymous)
    return buffer.getvalue()


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


@final
class Machine:
    """A guest that runs the tests of a cell. `run` is called in a thread; the other methods by whoever waits for reports.

    Args:
        wanted: for each of the cell's runs, the ids of its tests, as pytest names them in the guest.
        folder: for the console's log and what goes into the guest; it must exist.
    """

    def __init__(self, cell: Cell, wanted: list[tuple[Run, list[str]]], checkout: bytes, folder: Path) -> None:
        self.cell, self.wanted, self.folder = cell, wanted, folder
        self.console = folder / "console.log"
        self.seconds = 0.0
        self._checkout = checkout
        self._changed = threading.Condition()
        self._reports: dict[tuple[int, str], list[dict[str, Any]]] = {}
        self._missing: set[tuple[int, str]] = set()
        self._statuses: dict[int, int] = {}
        self._errors: list[str] = []
        self._ended = False
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def run(self) -> None:
        """Boot, take reports until the machine is off."""
        began = time.monotonic()
        try:
            self._pack()
            reading, writing = os.pipe()
            with open(reading, "rb") as reports:
                try:
                    with self._changed:
                        if self._stopped:
                            return
                        self._process = self._boot(writing)
                finally:
                    os.close(writing)
                watchdog = threading.Timer(self.cell.minutes * 60, self.stop, [f"it was not done after {self.cell.minutes} minutes"])
                watchdog.start()
                try:
                    self._read(reports)
                    self._process.wait()
                finally:
                    watchdog.cancel()
        except Exception as error:
            self._errors.append(f"{type(error).__name__}: {error}")
            raise
        finally:
            self.seconds = time.monotonic() - began
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def stop(self, why: str = "") -> None:
        """Turn it off."""
        with self._changed:
            self._stopped = True
            if why:
                self._errors.append(why)
            if self._process is not None and self._process.poll() is None:
                self._process.kill()

    def reports(self, run: int, nodeid: str) -> list[dict[str, Any]]:
        """Wait for a test's reports: setup, call, teardown. Fewer: the machine has ended before, or has no such test."""
        with self._changed:
            while not self._ended and (run, nodeid) not in self._missing and not _whole(self._reports.get((run, nodeid), [])):
                self._changed.wait(1)
            return self._reports.get((run, nodeid), [])

    def status(self, run: int) -> int | None:
        """Wait for the end of a run; return pytest's exit status, None: it has not ended."""
        with self._changed:
            while not self._ended and run not in self._statuses:
                self._changed.wait(1)
            return self._statuses.get(run)

    def failed(self, run: int) -> int:
        """Return how many tests of a run have failed so far."""
        with self._changed:
            return sum(any(report["outcome"] == "failed" for report in reports) for (of, _), reports in self._reports.items() if of == run)

    def trouble(self) -> str:
        """Return what is known of a machine that has ended too early: errors, and the end of its console."""
        tail = self.console.read_text(errors="replace").splitlines()[-60:] if self.console.exists() else []
        return "\n".join([*self._errors, f"the console's end ({self.console}):", *tail])

    def _boot(self, reports: int) -> subprocess.Popen[bytes]:
        disks = Disks.of(self.cell.kernel, self.cell.root)
        drives: list[str] = []
        for number, path in enumerate((disks.root, disks.modules, disks.stores, self.folder / "cargo.tar"), start=1):
            drives += ["-drive", f"if=none,id=d{number},file={path},format=raw,snapshot=on,cache=unsafe",
                       "-device", f"nvme-ns,drive=d{number},bus=nvme,nsid={number}"]
        with open(self.folder / "qemu.log", "wb") as log:
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max",
                 "-smp", str(self.cell.processors), "-m", str(self.cell.memory), "-display", "none", "-nodefaults", "-no-reboot",
                 "-serial", f"file:{self.console}", "-kernel", str(disks.kernel), "-device", "virtio-rng-pci",
                 "-append", "console=ttyS0 quiet rw panic=-1 no_timer_check init=/sbin/vm-start "
                            f"root=PARTUUID={ROOT_PARTITION} rootwait {self.cell.append}",
                 "-device", "nvme,id=nvme,serial=vm", *drives, "-device", "virtio-serial-pci",
                 "-chardev", f"file,id=reports,path=/dev/fd/{reports}", "-device", "virtserialport,chardev=reports,name=reports"],
                pass_fds=[reports], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)

    def _read(self, reports: IO[bytes]) -> None:
        for line in reports:
            try:
                record = json.loads(line)
                run = int(record["run"])
            except ValueError:   # cut off where the machine was
                continue
            with self._changed:
                if "report" in record:
                    self._reports.setdefault((run, record["report"]["nodeid"]), []).append(record["report"])
                elif "missing" in record:   # a test whose parameters depend on where it runs
                    self._missing.update((run, nodeid) for nodeid in record["missing"])
                    self._errors += [f"the guest has no test {nodeid}" for nodeid in record["missing"]]
                elif "status" in record:
                    self._statuses[run] = record["status"]
                elif "error" in record:
                    self._errors.append(record["error"])
                self._changed.notify_all()

    def _pack(self) -> None:
        """Write the tar that the guest unpacks: the checkout, and a folder `cell`."""
        cell = self.cell
        commands = [
            _COMMAND.format(folder=run.folder, arguments=" ".join(run.arguments), number=number, command=cell.command,
                            account=_ACCOUNTS["login" if cell.login else cell.account])
            for number, (run, ids) in enumerate(self.wanted) if ids
        ]
        files = {
            "checkout.tar": self._checkout,
            "cell/settings": f"account={cell.account}\nsystemd={'yes' * cell.systemd}\n".encode(),
            "cell/prepare": cell.prepare.encode(), "cell/run": "\n".join(commands).encode(),
            **{f"cell/only-{number}": "\n".join(ids).encode() for number, (_, ids) in enumerate(self.wanted)},
            **{f"cell/{path.name}": path.read_bytes() for path in GUEST.iterdir() if path.is_file()},
        }
        with tarfile.open(self.folder / "cargo.tar", "w") as tar:
            for name, data in files.items():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(data), 0o644
                tar.addfile(entry, io.BytesIO(data))


def _whole(reports: list[dict[str, Any]]) -> bool:
    return bool(reports) and reports[-1]["when"] == "teardown"
