"""A host's cgroup file systems for the unit tests, of ordinary files: paths are the seam."""

from __future__ import annotations

import os
from pathlib import Path

from pytest_sealed.runtime.cgroups import Group, Hierarchy, detect

ALL = ["memory", "cpu", "cpuacct", "pids"]
MIB = 1 << 20


class Host:
    """A host's cgroup file systems, made of ordinary files below a temporary directory."""

    def __init__(self, path: Path) -> None:
        self.root = path / "cgroup"
        self.proc = path / "proc"
        (self.proc / "self").mkdir(parents=True)
        self.root.mkdir()
        self.mountinfo = ["22 1 8:1 / / rw - ext4 /dev/root rw", f"31 22 0:28 / {self.root} rw,relatime - tmpfs tmpfs rw"]
        self.own: list[str] = []

    def v1(self, controllers: str, path: str = "/", *, top: str = "/", point: str = "", visible: bool = True) -> Path:
        """Mount a v1 hierarchy; pytest sits in `path` of it."""
        mounted = self.root / (point or controllers)
        own = mounted / path[len(top.rstrip("/")):].strip("/")
        (own if visible else mounted).mkdir(parents=True, exist_ok=True)
        number = len(self.mountinfo) + 30
        shown = str(mounted).replace(" ", "\\040")
        self.mountinfo.append(f"{number} 31 0:{number} {top} {shown} rw,relatime shared:9 - cgroup cgroup rw,{controllers}")
        self.own.append(f"{number}:{controllers}:{path}")
        return self.written(mounted)

    def v2(self, path: str = "/", *, point: str = ".", controllers: str = "cpu memory pids", enabled: str = "",
           procs: str = "", top: bool = False) -> Path:
        """Mount the v2 hierarchy; pytest sits in `path` of it."""
        mounted = self.root / point
        own = Path(os.path.normpath(f"{mounted}/{path}"))
        own.mkdir(parents=True, exist_ok=True)
        files = {"cgroup.controllers": controllers, "cgroup.subtree_control": enabled, "cgroup.procs": procs, "cgroup.events": ""}
        files |= {} if top else {"cgroup.type": "domain"}
        for directory in (own, *own.parents):
            for name, text in files.items():
                (directory / name).write_text("" if name == "cgroup.procs" and directory != own else text)
            if directory == mounted:
                break
        self.mountinfo.append(f"90 31 0:90 / {os.path.normpath(mounted)} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate")
        self.own.append(f"0::{path}")
        return self.written(own)

    def detect(self) -> Hierarchy:
        """Return what is found here."""
        return detect(str(self.root), str(self.proc))

    def kernel(self, *disabled: str, absent: tuple[str, ...] = ()) -> None:
        rows = [f"{name}\t1\t1\t{0 if name in disabled else 1}" for name in ALL if name not in absent]
        (self.proc / "cgroups").write_text("#subsys_name\thierarchy\tnum_cgroups\tenabled\n" + "\n".join(rows) + "\n")

    def written(self, result: Path) -> Path:
        (self.proc / "self" / "mountinfo").write_text("".join(f"{line}\n" for line in self.mountinfo))
        (self.proc / "self" / "cgroup").write_text("".join(f"{line}\n" for line in self.own))
        return result


def new_group(hierarchy: Hierarchy, files: dict[str, str], name: str = "db") -> Group:
    """Return a group whose directories hold `files`, as the kernel fills a new directory."""
    group = Group(hierarchy, "s1", name)
    for directory in set(group.directories.values()):
        os.makedirs(directory)
        for file, text in files.items():
            Path(directory, file).write_text(text)
    return group


def text_of(group: Group, controller: str, file: str) -> str:
    return Path(group.directories[controller], file).read_text()


def v1_host(path: Path) -> Host:
    """Return a host with every controller in a hierarchy of its own."""
    host = Host(path)
    for name in ALL:
        host.v1(name)
    return host
