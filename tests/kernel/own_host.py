"""A host of a test's own: a user and mount namespace in which things are taken away for real."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pytest_sealed.linux import namespaces

__all__ = ["in_a_host_of_its_own"]


def in_a_host_of_its_own(prepare: str, folder: Path, *command: str) -> str:
    """Run Python with `command` in a user and mount namespace in which `prepare` (a shell line) has run; return its output.

    The limits in /proc/sys/user are each namespace's own, see namespaces(7).

    Args:
        folder: its run directory is there, and its image store in `store`.
    """
    ready_read, ready_write = os.pipe()
    mapped_read, mapped_write = os.pipe()
    out_read, out_write = os.pipe()
    child = os.fork()
    if child == 0:
        namespaces.unshare(namespaces.CLONE_NEWUSER | namespaces.CLONE_NEWNS)
        os.write(ready_write, b"x")
        os.read(mapped_read, 1)
        os.dup2(out_write, 1)
        os.dup2(out_write, 2)
        environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder), "SEALED_STORE": str(folder / "store")}
        os.execve("/bin/sh", ["sh", "-c", f'{prepare} && exec "$0" "$@"', sys.executable, *command], environment)  # noqa: S606
    os.read(ready_read, 1)
    Path(f"/proc/{child}/setgroups").write_text("deny")
    for name, own in (("uid_map", os.getuid()), ("gid_map", os.getgid())):
        Path(f"/proc/{child}/{name}").write_text(f"0 {own} 1")
    os.write(mapped_write, b"x")
    os.close(out_write)
    with os.fdopen(out_read) as out:
        text = out.read()
    os.waitpid(child, 0)
    for fd in (ready_read, ready_write, mapped_read, mapped_write):
        os.close(fd)
    return text
