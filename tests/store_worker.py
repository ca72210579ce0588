"""Runs inside U0: changes a layer's files, as damage does."""

from __future__ import annotations

import os
from typing import Any


def main(payload: dict[str, Any]) -> dict[str, Any]:
    """Run the Python `script`, which finds the layer's folder as `fs`, and the times of /bin/tool as `times`."""
    fs = payload["fs"]
    tool = f"{fs}/bin/tool"
    times = (os.stat(tool).st_atime_ns, os.stat(tool).st_mtime_ns) if os.path.exists(tool) else (0, 0)
    exec(payload["script"], {"fs": fs, "times": times, "os": os})  # noqa: S102
    return {}
