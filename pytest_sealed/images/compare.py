"""Compares two trees of files, entry by entry. Nothing in them is followed. Runs inside U0, where all of it may be read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Any, final

from pytest_sealed.runtime.whiteouts import is_whiteout

__all__ = ["Comparison"]

_PIECE = 1 << 20
_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "symbolic link", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket",
          stat.S_IFBLK: "device", stat.S_IFCHR: "device"}
_OVERLAY = "user.overlay."


@final
class Comparison:
    """What of one tree is different in another.

    Args:
        exact: as the store must have it: times, names of one file, and what overlayfs reads from attributes count, and contents don't.
    """

    def __init__(self, *, exact: bool) -> None:
        self._exact = exact
        self._links: tuple[dict[int, str], dict[int, str]] = {}, {}   # inode of a file with several names → the first of them

    def folders(self, old: int, new: int, path: str = "") -> Iterator[tuple[str, str, list[str]]]:
        """Yield ("A", "C" or "D", path, what has changed in words) for each entry that is added, changed or deleted."""
        names = set(os.listdir(old)) | set(os.listdir(new))
        for name in sorted(names, key=os.fsencode):
            below = f"{path}/{name}"
            first, second = _open(name, old), _open(name, new)
            try:
                if first is None or second is None:
                    yield from self._one(first if second is None else second, "D" if second is None else "A", below)
                else:
                    changed = self._changes(first, second, below)
                    if changed:
                        yield "C", below, changed
                    yield from self._inner(first, second, below)
            finally:
                for fd in (first, second):
                    if fd is not None:
                        os.close(fd)

    def _one(self, fd: int | None, letter: str, path: str) -> Iterator[tuple[str, str, list[str]]]:
        """Yield what only one of the trees has, and all that is in it."""
        yield letter, path, []
        if fd is None or not stat.S_ISDIR(os.fstat(fd).st_mode):
            return
        folder = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_DIRECTORY)
        try:
            for name in sorted(os.listdir(folder), key=os.fsencode):
                inner = _open(name, folder)
                try:
                    yield from self._one(inner, letter, f"{path}/{name}")
                finally:
                    if inner is not None:
                        os.close(inner)
        finally:
            os.close(folder)

    def _inner(self, first: int, second: int, path: str) -> Iterator[tuple[str, str, list[str]]]:
        kinds = [stat.S_IFMT(os.fstat(fd).st_mode) for fd in (first, second)]
        if kinds[0] == kinds[1] == stat.S_IFDIR:
            folders = [os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_DIRECTORY) for fd in (first, second)]
            try:
                yield from self.folders(folders[0], folders[1], path)
            finally:
                for fd in folders:
                    os.close(fd)
        elif stat.S_IFDIR in kinds:   # a folder has taken a file's place, or the other way round
            gone = kinds[0] == stat.S_IFDIR
            yield from list(self._one(first if gone else second, "D" if gone else "A", path))[1:]

    def _changes(self, first: int, second: int, path: str) -> list[str]:
        old, new = (self._facts(fd, links, path) for fd, links in zip((first, second), self._links, strict=True))
        changed = [f"{key} {old.get(key)} → {new.get(key)}" for key in (*old, *(key for key in new if key not in old))
                   if old.get(key) != new.get(key)]
        if not changed and not self._exact and stat.S_ISREG(os.fstat(first).st_mode) and not _same_content(first, second):
            changed.append("content")
        return changed

    def _facts(self, fd: int, links: dict[int, str], path: str) -> dict[str, Any]:
        status = os.fstat(fd)
        facts: dict[str, Any] = {"kind": "whiteout" if is_whiteout(status) else _KINDS[stat.S_IFMT(status.st_mode)]}
        if stat.S_ISLNK(status.st_mode):
            facts["target"] = os.readlink("", dir_fd=fd)
        else:
            facts["mode"] = f"{stat.S_IMODE(status.st_mode):04o}"
        facts["owner"] = f"{status.st_uid}:{status.st_gid}"
        if stat.S_ISREG(status.st_mode):
            facts["size"] = status.st_size
        for name, value in _attributes(fd).items():
            if self._exact or not name.startswith(_OVERLAY):
                facts[f"attribute {name}"] = value.hex()
        if self._exact and not is_whiteout(status):
            facts["time"] = status.st_mtime_ns
            if not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1:
                facts["name of the same file"] = links.setdefault(status.st_ino, path)
        return facts


def _open(name: str, folder: int) -> int | None:
    try:
        return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return None


def _attributes(fd: int) -> dict[str, bytes]:
    path = f"/proc/self/fd/{fd}"
    try:
        return {name: os.getxattr(path, name) for name in sorted(os.listxattr(path)) if name.startswith("user.")}
    except OSError:   # symbolic links and devices have none
        return {}


def _same_content(first: int, second: int) -> bool:
    with open(f"/proc/self/fd/{first}", "rb", buffering=0) as old, open(f"/proc/self/fd/{second}", "rb", buffering=0) as new:
        while True:
            pieces = old.read(_PIECE), new.read(_PIECE)
            if pieces[0] != pieces[1]:
                return False
            if not pieces[0]:
                return True
