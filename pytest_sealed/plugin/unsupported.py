"""What becomes of tests that need containers where there is no Linux kernel: they fail, or are skipped where the suite says so."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pytest_sealed.errors import no_linux
from pytest_sealed.plugin import options

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["in_ci", "require_linux"]


def require_linux(config: pytest.Config) -> None:
    """Do nothing on Linux. Elsewhere fail the test that is being set up, or skip it.

    Raises:
        HostUnsupported: one sentence with the way out.
    """
    __tracebackhide__ = True
    error = no_linux()
    if error is None:
        return
    if options.unsupported(config) == "skip" and not in_ci(os.environ):
        pytest.skip(error.message)
    raise error


def in_ci(environ: Mapping[str, str]) -> bool:
    """Return whether a CI service runs this: there, a suite that skips itself would look like one that passes."""
    return environ.get("CI", "").lower() not in ("", "0", "false")
