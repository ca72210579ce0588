"""Runs inside U0: mmdebstrap as root of a container's ids, never as the account or the host's root. See `launch.run_inside`.

Its own rootless mode takes the ids from /etc/subuid, where root often has no row, and its root mode would
run maintainer scripts as the host's root. In a child namespace with the map of a container both are one way.
"""

from __future__ import annotations

import os
import signal
from typing import Any, NoReturn

from pytest_sealed.errors import ImageError
from pytest_sealed.linux import mounts, namespaces, process
from pytest_sealed.runtime.idmap import IdMap

__all__ = ["main"]

_SHARED = "/mnt"   # mmdebstrap's root can't reach the store, which is the account's alone


def main(payload: dict[str, Any]) -> dict[str, Any]:
    """Write the tar of a configured root file system to the first fd.

    Payload: argv (what follows mmdebstrap), work (a folder of the store, ours alone), archives (folder of .debs), sources (text), log.

    Raises:
        ImageError: mmdebstrap isn't there, or failed; with its last lines.
    """
    ids = IdMap.from_json(payload["ids"])
    mounts.mount("tmpfs", _SHARED, "tmpfs", mounts.MS_NOSUID, "mode=0755")
    for name, source in (("debs", payload["archives"]), ("tmp", payload["work"])):
        os.mkdir(f"{_SHARED}/{name}", 0o755)
        mounts.mount(source, f"{_SHARED}/{name}", None, mounts.MS_BIND)
    os.chown(f"{_SHARED}/tmp", 1, 1)
    os.chmod(f"{_SHARED}/tmp", 0o755)
    with open(f"{_SHARED}/debian.sources", "w", encoding="utf-8") as file:
        file.write(payload["sources"])
    os.chmod(f"{_SHARED}/debian.sources", 0o644)
    log = os.open(payload["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    ready, go = os.pipe()
    child = namespaces.fork_into(namespaces.CLONE_NEWUSER | namespaces.CLONE_NEWNS | namespaces.CLONE_NEWPID)
    if child == 0:
        os.close(go)
        _become(payload["argv"], payload["fds"][0], log, ready)
    os.close(ready)
    for file_name in ("gid_map", "uid_map"):
        fd = os.open(f"/proc/{child}/{file_name}", os.O_WRONLY)
        os.write(fd, ids.container_map(0).encode())
        os.close(fd)
    os.write(go, b"x")
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        with open(payload["log"], "rb") as text:
            lines = text.read().decode("utf-8", "replace").splitlines()[-12:]
        raise ImageError("mmdebstrap failed" + "".join(f"\n    {line}" for line in lines),
                         remedy="sudo apt install mmdebstrap" if status == 127 else "")
    return {}


def _become(argv: list[str], out: int, log: int, ready: int) -> NoReturn:
    try:
        if os.read(ready, 1) != b"x":
            os._exit(125)
        process.set_parent_death_signal(signal.SIGKILL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)   # the worker ignores it
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        os.setgroups([])
        mounts.mount(None, "/", None, mounts.MS_SLAVE | mounts.MS_REC)
        mounts.mount("proc", "/proc", "proc", mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC)
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(log, 2)
        process.close_range(3)
        os.umask(0o022)
        os.chdir("/")
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": f"{_SHARED}/tmp", "LC_ALL": "C.UTF-8", "HOME": "/",
                       "SOURCE_DATE_EPOCH": os.environ.get("SOURCE_DATE_EPOCH", "1577836800"), "DEBIAN_FRONTEND": "noninteractive"}
        os.execvpe("mmdebstrap", ["mmdebstrap", *argv], environment)  # noqa: S606
    except OSError as error:
        os.write(2, f"mmdebstrap: {error}\n".encode())
    os._exit(127)
