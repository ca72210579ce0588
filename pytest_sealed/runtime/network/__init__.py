"""The network service: hubs, veths, addresses, names. The one process that imports pyroute2."""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec

__all__ = ["trim_pyroute2"]


def trim_pyroute2() -> None:
    """Let this process, which must be one of ours, import single modules of pyroute2, without what its `__init__` imports.

    That is all that it can do, from WireGuard to a database: 110 ms of CPU and 25 MiB for each session. And sqlite3, which a Python
    that somebody has built may lack.

    Raises:
        ModuleNotFoundError: there is no pyroute2.
    """
    if "pyroute2" not in sys.modules:
        spec = find_spec("pyroute2")
        if spec is None:
            raise ModuleNotFoundError("No module named 'pyroute2'", name="pyroute2")
        sys.modules["pyroute2"] = module_from_spec(spec)   # not executed
