"""A session to be killed: starts containers, prints what it made as JSON, and waits. Run by test_ends.py."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from boxes import MAKE_CGROUPS, descendants

from pytest_sealed import Sandbox


def main() -> None:
    if sys.argv[1:] == ["forked"]:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with Sandbox() as sandbox:
        network = sandbox.network("backend")
        sandbox.run("busybox", ["sleep", "1000"], network=network, name="plain", memory="32M")
        disk = sandbox.run("busybox", ["sh", "-c", "dd if=/dev/zero of=/big bs=1M count=8; touch /done; sleep 1000"], scratch="disk")
        disk.wait_for_exec(["test", "-e", "/done"])
        paused = sandbox.run("busybox", ["sleep", "1000"], name="paused")
        paused.pause()
        nested = sandbox.run("busybox", ["sh", "-c", f"{MAKE_CGROUPS}; touch /done; sleep 1000"], nested=True)
        nested.wait_for_exec(["test", "-e", "/done"])
        network.listen(9000)
        helper = 0
        if sys.argv[1:] == ["forked"]:   # a child of the test's that outlives it holds copies of every descriptor
            helper = os.fork()
            if helper == 0:
                signal.pause()
        session = sandbox.session
        print(json.dumps({
            "session": session.name, "run_dir": str(session.run_dir), "disk": str(session.disk), "supervisor": session.pid,
            "processes": [session.pid, *descendants(session.pid)], "helper": helper, "ports": [disk.port(80)],
        }), flush=True)
        sys.stdin.read()
        if sys.argv[1:] == ["crash"]:
            os.abort()
        if sys.argv[1:] == ["raise"]:
            raise RuntimeError("the test's own failure")
        if sys.argv[1:] == ["exit"]:
            sys.exit(3)   # the context manager ends it
    sys.exit(0)


if __name__ == "__main__":
    main()
