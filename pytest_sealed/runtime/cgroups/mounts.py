"""The cgroup file systems that are mounted, and the caller's own cgroup in each."""

from __future__ import annotations

import os

from pytest_sealed.runtime.cgroups.files import read

__all__ = ["Mount", "find_mounts"]


class Mount:
    """One mounted hierarchy."""

    __slots__ = ("controllers", "own", "point", "version")

    def __init__(self, version: str, point: str, controllers: frozenset[str], own: str | None) -> None:
        self.version = version
        """`v1` or `v2`."""
        self.point = point
        self.controllers = controllers
        """v1: those mounted together here, such as cpu and cpuacct. v2: empty."""
        self.own = own
        """The directory of the caller's own cgroup; None if it lies outside what is mounted."""


def find_mounts(root: str, proc: str) -> list[Mount]:
    """Return the hierarchies mounted at or below `root`, the topmost mount of each first. See proc_pid_mountinfo(5)."""
    own = _own_paths(proc)
    mounts: list[Mount] = []
    for line in (read(f"{proc}/self/mountinfo") or "").splitlines():
        before, _, after = line.partition(" - ")
        left, right = before.split(), after.split()
        if len(left) < 5 or len(right) < 3 or right[0] not in ("cgroup", "cgroup2"):
            continue
        top, point = _unescape(left[3]), _unescape(left[4])
        if point != root and not point.startswith(root.rstrip("/") + "/"):
            continue
        if right[0] == "cgroup2":
            mounts.append(Mount("v2", point, frozenset(), _inside(point, top, own.get("", None))))
        else:
            controllers = frozenset(right[2].split(",")) & own.keys()
            path = next((own[name] for name in controllers), None)
            mounts.append(Mount("v1", point, controllers, _inside(point, top, path)))
    return mounts[::-1]


def _own_paths(proc: str) -> dict[str, str]:
    """Return controller → path of the caller's cgroup; the key of v2 is empty. See cgroups(7), /proc/pid/cgroup."""
    paths = {}
    for line in (read(f"{proc}/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = path
    return paths


def _inside(point: str, top: str, path: str | None) -> str | None:
    """Return where the cgroup `path` is below a mount at `point` that shows the hierarchy from `top` on."""
    if path is None or path.startswith("/.."):   # outside the cgroup namespace
        return None
    if top != "/":   # a container without a cgroup namespace sees a bind of its own directory, but the whole path
        if path != top and not path.startswith(top + "/"):
            return None
        path = path[len(top):]
    directory = (point + path).rstrip("/")
    return directory if os.path.isdir(directory) else None


def _unescape(field: str) -> str:
    """Undo the octal escapes of blanks in mountinfo."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, character)
    return field
