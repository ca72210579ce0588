"""The network service: hubs, veths, addresses, names. The one process that imports pyroute2."""

from __future__ import annotations

import sys

__all__ = ["import_pyroute2"]


def import_pyroute2() -> None:
    """Import it without sqlite3, for a part of it that is not ours: that is 1 MiB, and a Python that somebody has built may have none."""
    absent = "sqlite3" not in sys.modules
    if absent:
        sys.modules["sqlite3"] = type(sys)("sqlite3")
    try:
        import pyroute2  # noqa: F401
    finally:
        if absent:
            del sys.modules["sqlite3"]
