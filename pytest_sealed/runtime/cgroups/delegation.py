"""Giving an account its own directory in each v1 hierarchy, once per boot, as root.

v1 has no delegation of its own: an account may make cgroups in a directory that root made and gave to it.
It owns those that it makes, and may move its own processes there. The directory's own files stay root's:
a limit that root writes there holds for all that the account runs in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from pytest_sealed.errors import HostUnsupported
from pytest_sealed.runtime.cgroups.detection import absent
from pytest_sealed.runtime.cgroups.files import remove_tree
from pytest_sealed.runtime.cgroups.hierarchy import CONTROLLERS, SYSTEMD_RUN
from pytest_sealed.runtime.cgroups.mounts import find_mounts

__all__ = ["delegate", "require_v1", "undelegate"]


def delegate(uid: int, gid: int, *, root: str = "/sys/fs/cgroup", proc: str = "/proc") -> Iterator[str]:
    """Make `sealed-<uid>` in every hierarchy and give it to the account; yield what was done, a line each.

    Doing it again is harmless.

    Raises:
        HostUnsupported: no v1 hierarchy, a controller that isn't there, or not root.
    """
    points, missing = _points(root, proc)
    for point in points:
        directory = f"{point}/sealed-{uid}"
        try:
            done = "made and given" if _made(directory) else "given"
            owner = os.lstat(directory)
            if (owner.st_uid, owner.st_gid) == (uid, gid):
                done = "belongs already"
            else:
                os.chown(directory, uid, gid, follow_symlinks=False)
        except OSError as error:
            raise HostUnsupported(f"{error.filename} can't be made or given away: {error.strerror}", remedy="") from error
        yield f"{directory}: {done} to uid {uid}"
    if missing:
        raise missing[0]


def undelegate(uid: int, *, root: str = "/sys/fs/cgroup", proc: str = "/proc") -> Iterator[str]:
    """Remove the account's directories and all cgroups in them; yield what was done, a line each.

    Raises:
        HostUnsupported: processes of the account still run in them.
    """
    busy = []
    for point in _points(root, proc)[0]:
        directory = f"{point}/sealed-{uid}"
        if not os.path.isdir(directory):
            yield f"{directory}: was not there"
        elif remove_tree(directory):
            yield f"{directory}: removed"
        else:
            busy.append(directory)
    if busy:
        raise HostUnsupported(f"containers still run in {', '.join(busy)}",
                              remedy="end that account's test runs, then --undo again")


def require_v1(*, root: str = "/sys/fs/cgroup", proc: str = "/proc") -> None:
    """Raise `HostUnsupported` where there is nothing to delegate: on cgroup v2, or without cgroups."""
    points, missing = _points(root, proc)
    if points:
        return
    if any(mount.version == "v2" for mount in find_mounts(root, proc)):
        raise HostUnsupported("this host has cgroup v2, where systemd delegates: `sealed delegate` has nothing to do",
                              remedy=SYSTEMD_RUN)
    raise missing[0]


def _points(root: str, proc: str) -> tuple[list[str], list[HostUnsupported]]:
    mounts = find_mounts(root, proc)
    points, missing = [], []
    for controller in CONTROLLERS["v1"]:
        mount = next((mount for mount in mounts if mount.version == "v1" and controller.name in mount.controllers), None)
        if mount is None:
            refusal = absent(controller.name, proc)
            missing.append(HostUnsupported(f"not delegated: {refusal.reason}", remedy=refusal.remedy))
        else:
            points.append(mount.point)
    return list(dict.fromkeys(points)), missing


def _made(directory: str) -> bool:
    try:
        os.mkdir(directory)
    except FileExistsError:
        return False
    return True
