"""A pytest plugin: what a run collects and reports goes, a JSON object a line, to the file that VM_REPORTS names.

In a guest that file is the port to the host. With `--collect-only` the line has the ids of the tests, which is how the host knows them.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pytest


class Reports:
    """Of one run.

    Args:
        path: the file.
        run: tells the host which of a guest's runs it is.
    """

    def __init__(self, config: pytest.Config, path: str, run: str) -> None:
        self._config, self._run = config, run
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)

    def send(self, **fields: Any) -> None:
        data = json.dumps({"run": self._run, **fields}, default=str).encode() + b"\n"
        while data:
            data = data[os.write(self._fd, data):]

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if self._config.option.collectonly:
            self.send(collected=[item.nodeid for item in session.items])
        elif "VM_ONLY" in os.environ:
            self.send(missing=sorted(_wanted() - {item.nodeid for item in session.items}))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.send(error=f"{report.nodeid}: {report.longreprtext}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.send(report=self._config.hook.pytest_report_to_serializable(config=self._config, report=report))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.send(status=int(session.exitstatus))


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Reports(config, os.environ["VM_REPORTS"], os.environ.get("VM_RUN", "")))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests that the host asks for."""
    if "VM_ONLY" in os.environ:
        wanted = _wanted()
        items[:] = [item for item in items if item.nodeid in wanted]


def _wanted() -> set[str]:
    with open(os.environ["VM_ONLY"]) as file:
        return set(file.read().splitlines())
