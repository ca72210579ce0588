"""The plugin's tests: each writes a suite as a user would, runs it with pytester, and reads what pytest says."""

from __future__ import annotations

import pytest

# Imported here, so that runs within this process share one copy of each module: pytester forgets what they import.
import pytest_sealed.plugin.fixtures
import pytest_sealed.plugin.markers
import pytest_sealed.plugin.report
import pytest_sealed.sandbox
import pytest_sealed.services  # noqa: F401
from pytest_sealed.images.folders import default_root

STORE = default_root()   # pytester moves HOME


@pytest.fixture(autouse=True)
def _this_accounts_store_and_few_plugins(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALED_STORE", str(STORE))
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest -p no:anyio -p no:repeat")   # they cost most of the time
