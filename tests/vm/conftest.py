"""Collects the tests that run in guests as tests of this run, and passes on what the guests say of them.

A file below `cells` is a machine. Which tests there are is asked from pytest on the host, so that -k, ids and --collect-only work as ever;
a machine is told to run those that are left. Two run at once. See docs/decisions/0064-guests-report-as-workers-do.md.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cells import Cell, Run, load
from disks import CHECKOUT, GUEST, Disks, cache
from machine import Machine, pack_checkout

AT_ONCE = 2   # two cores are the least that is taken for given
MACHINES: pytest.StashKey[dict[str, Machine]] = pytest.StashKey()
POOL: pytest.StashKey[ThreadPoolExecutor] = pytest.StashKey()
COLLECTED: pytest.StashKey[dict[Run, list[str]]] = pytest.StashKey()
OTHER_MODE = re.compile(r"\bsingle\]$")
"""Tests for both id modes: in a guest they run in the one that its account has, which takes half the time."""
REMEDY = "make test-vm   (or .ci/setup vm)"


class CellFile(pytest.File):
    """A machine."""

    cell: Cell

    def collect(self) -> Iterator[pytest.Item]:
        try:
            self.cell = load(self.path)
        except ValueError as error:
            raise self.CollectError(str(error)) from error
        missing = [str(path) for path in Disks.of(self.cell.kernel, self.cell.root).missing()]
        missing += ["qemu-system-x86_64"] if shutil.which("qemu-system-x86_64") is None else []
        if missing:
            raise self.CollectError(f"{self.cell.name} needs what isn't there: {', '.join(missing)}\n  remedy: {REMEDY}")
        unused = set(self.cell.left_out)
        for number, run in enumerate(self.cell.runs):
            for nodeid in _collected(self.config, run):
                reasons = {start for start in self.cell.left_out if run.full(nodeid).startswith(start)}
                unused -= reasons
                if not reasons and not OTHER_MODE.search(nodeid):
                    yield GuestTest.from_parent(self, name=run.full(nodeid), run=number, nodeid_there=nodeid)
            yield GuestEnd.from_parent(self, name=f"pytest ends in {run.folder or 'the checkout'}", run=number)
        if unused:
            raise self.CollectError(f"{self.cell.name} leaves out what isn't there: {', '.join(sorted(unused))}")


def _collected(config: pytest.Config, run: Run) -> list[str]:
    """Return the ids of a run's tests, as another pytest tells them."""
    known = config.stash.setdefault(COLLECTED, {})
    if run not in known:
        with tempfile.NamedTemporaryFile() as answer:
            result = subprocess.run(
                [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "vm_reports", "-p", "no:cacheprovider", *run.arguments],
                cwd=CHECKOUT / run.folder, env={**os.environ, "VM_REPORTS": answer.name, "PYTHONPATH": str(GUEST)},
                capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
            records = [json.loads(line) for line in answer.read().splitlines()]
        found = [record["collected"] for record in records if "collected" in record]
        if result.returncode or not found:
            raise pytest.Collector.CollectError(f"pytest can't collect a cell's tests:\n{result.stdout}{result.stderr}")
        known[run] = found[0]
    return known[run]


class GuestItem(pytest.Item):
    """Something that a machine tells."""

    def __init__(self, *, run: int, **options: Any) -> None:
        super().__init__(**options)
        self.run = run

    @property
    def machine(self) -> Machine:
        assert isinstance(self.parent, CellFile)
        return self.config.stash[MACHINES][self.parent.cell.name]

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, f"{self.path.stem}: {self.name}"   # pytest takes the dots of a name that ends the id for those of classes

    def runtest(self) -> None:
        raise AssertionError("it runs in a guest")

    def reports(self) -> list[pytest.TestReport]:
        """Wait for the reports."""
        raise NotImplementedError

    def report(self, outcome: Any, text: str | None, when: Any = "call") -> pytest.TestReport:
        return pytest.TestReport(nodeid=self.nodeid, location=self.location, keywords={}, outcome=outcome, longrepr=text, when=when)


class GuestTest(GuestItem):
    """One test in one machine."""

    def __init__(self, *, nodeid_there: str, **options: Any) -> None:
        super().__init__(**options)
        self.nodeid_there = nodeid_there

    def reports(self) -> list[pytest.TestReport]:
        records = self.machine.reports(self.run, self.nodeid_there)
        reports = [self._here(record) for record in records]
        if not reports or reports[-1].when != "teardown":
            reports.append(self.report("failed", f"The machine has not run it, or not to its end.\n{self.machine.trouble()}"))
        return reports

    def _here(self, record: dict[str, Any]) -> pytest.TestReport:
        report = self.config.hook.pytest_report_from_serializable(config=self.config, data=record)
        assert isinstance(report, pytest.TestReport)
        report.nodeid, report.location = self.nodeid, self.location
        if report.skipped and not hasattr(report, "wasxfail"):
            assert isinstance(report.longrepr, list)   # JSON has no tuples
            report.longrepr = (*report.longrepr,)
            reason = report.longrepr[2].removeprefix("Skipped: ")
            if reason not in self.machine.cell.skips:
                report.outcome, report.longrepr = "failed", f"It skips itself for a reason that {self.path.name} does not name: {reason}"
        return report


class GuestEnd(GuestItem):
    """That one call of pytest in a machine has ended as its reports say: its session has failed by tests alone, and has left nothing."""

    def reports(self) -> list[pytest.TestReport]:
        status = self.machine.status(self.run)
        failed = self.machine.failed(self.run)
        expected = pytest.ExitCode.TESTS_FAILED if failed else pytest.ExitCode.OK
        if status == expected:
            return [self.report("passed", None)]
        said = "did not end" if status is None else f"ended with status {status}, with {failed} failed tests"
        return [self.report("failed", f"pytest {said}.\n{self.machine.trouble()}")]


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.suffix == ".toml" and file_path.parent == Path(__file__).parent / "cells":
        return CellFile.from_parent(parent, path=file_path)
    return None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the ends of what doesn't begin."""
    begun = {(item.parent, item.run) for item in items if isinstance(item, GuestTest)}
    ends = [item for item in items if isinstance(item, GuestEnd) and (item.parent, item.run) not in begun]
    if ends:
        config.hook.pytest_deselected(items=ends)
        items[:] = [item for item in items if item not in ends]


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    cells = {item.parent.cell.name: item.parent.cell for item in items if isinstance(item.parent, CellFile)}
    return [f"{cell.name} leaves out {start}: {why}" for cell in cells.values() for start, why in cell.left_out.items()]


def pytest_runtestloop(session: pytest.Session) -> None:
    """Boot the machines of what was selected; pytest's own loop then asks for the reports."""
    if session.config.option.collectonly or session.testsfailed:
        return
    wanted: dict[CellFile, dict[int, list[str]]] = {}
    for item in session.items:
        if isinstance(item, GuestTest) and isinstance(item.parent, CellFile):
            wanted.setdefault(item.parent, {}).setdefault(item.run, []).append(item.nodeid_there)
    if not wanted:
        return
    checkout, pool, machines = pack_checkout(), ThreadPoolExecutor(AT_ONCE), {}
    for file, runs in wanted.items():
        folder = cache() / "logs" / f"{file.cell.name}-{os.getpid()}"
        folder.mkdir(parents=True)
        selected = [(run, runs.get(number, [])) for number, run in enumerate(file.cell.runs)]
        machines[file.cell.name] = machine = Machine(file.cell, selected, checkout, folder)
        pool.submit(machine.run)
    session.config.stash[MACHINES], session.config.stash[POOL] = machines, pool


def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    if not isinstance(item, GuestItem):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in item.reports():
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.hookimpl(tryfirst=True)   # before the leak check looks for processes
def pytest_sessionfinish(session: pytest.Session) -> None:
    machines = session.config.stash.get(MACHINES, {})
    for machine in machines.values():
        machine.stop()
    if machines:
        session.config.stash[POOL].shutdown(cancel_futures=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    machines = config.stash.get(MACHINES, {})
    failed = {report.nodeid.partition("::")[0] for key in ("failed", "error") for report in terminalreporter.getreports(key)}
    for machine in machines.values():
        kept = any(path.endswith(f"/{machine.cell.name}.toml") for path in failed)
        terminalreporter.write_line(f"{machine.cell.name}: {machine.seconds:.0f} s" + (f", log {machine.console}" if kept else ""))
        if not kept:
            shutil.rmtree(machine.folder, ignore_errors=True)
