"""`sealed ps`: the live sandboxes of this account and their containers."""

from __future__ import annotations

import argparse
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from pytest_sealed.runtime.client import readable
from pytest_sealed.runtime.protocol import Channel, pair
from pytest_sealed.runtime.sweep import live_sessions

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Add `ps` to the commands."""
    parser = subparsers.add_parser("ps", help="show live sandboxes and their containers")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the containers of each live session."""
    rows = [{"session": path.name, **_facts(path), "containers": _containers(path)} for path in live_sessions()]
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    if not rows:
        print("no live sandboxes")
    for row in rows:
        age = f", {time.time() - row['started']:.0f} s" if "started" in row else ""
        print(f"session {row['session']} (pid {row.get('pid', '?')}{age})")
        for container in row["containers"]:
            addresses = " ".join(container["addresses"].values()) or "-"
            command = " ".join(container["argv"])[:60]
            print(f"  {container['name']:20} {container['image']:20} {container['state']:10} {addresses:15} {command}")
    return 0


def _facts(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads((path / "session.json").read_text())
    except (OSError, ValueError):
        return {}
    return {key: facts[key] for key in ("pid", "started") if key in facts}


def _containers(path: Path) -> list[dict[str, Any]]:
    """Ask a session's supervisor; a session that is just ending has none."""
    folder = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(f"/proc/self/fd/{folder}/control")   # a socket's path has at most 107 bytes
            ours, theirs = pair()
            with ours:
                with theirs:
                    Channel(connection).send({"op": "list"}, [theirs.fileno()])
                if not readable(ours.socket, 5.0):
                    return []
                answer = ours.receive()
    except OSError:
        return []
    finally:
        os.close(folder)
    return list(answer[0]["ok"]["containers"]) if answer and "ok" in answer[0] else []
