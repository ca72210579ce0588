"""Runs inside U0: applies random layers, mounts them by overlayfs, and compares what shows with a model of the OCI rules."""

from __future__ import annotations

import io
import os
import random
import shutil
import stat
import tarfile
from typing import Any

from pytest_sealed.errors import ImageError
from pytest_sealed.images.archive import read_archive
from pytest_sealed.images.tree import Tree
from pytest_sealed.linux import mounts

Model = dict[str, tuple[str, bytes]]
NAMES = ("a", "b", "c")


def main(payload: dict[str, Any]) -> dict[str, Any]:
    """Try the seeds; return how many were compared, and the differences."""
    compared, failures = 0, []
    for seed in range(*payload["seeds"]):
        result = _try(seed, f"{payload['folder']}/{seed}", None if payload["ids"]["mode"] == "single" else 1)
        compared += result is not None
        if result:
            failures.append(f"seed {seed}: {result}")
    return {"compared": compared, "failures": failures}


def _try(seed: int, folder: str, shift: int | None) -> str | None:
    chance = random.Random(seed)  # noqa: S311  (the same each time)
    model: Model = {}
    lowers: list[str] = []
    all_rows: list[list[tuple[str, str]]] = []
    os.mkdir(folder)
    try:
        for number in range(chance.randint(2, 4)):
            rows = [_row(chance) for _ in range(chance.randint(1, 9))]
            all_rows.append(rows)
            path = f"{folder}/{number}"
            os.mkdir(path)
            try:
                _apply(path, lowers, rows, shift)
            except ImageError:
                return None   # a file in the way: refused, rightly
            model = _expected(model, rows)
            lowers.insert(0, path)
        seen = _seen(folder, lowers)
        return "" if seen == model else f"{all_rows} shows {sorted(seen.items())}, expected {sorted(model.items())}"
    finally:
        shutil.rmtree(folder)


def _row(chance: random.Random) -> tuple[str, str]:
    path = "/".join(chance.choice(NAMES) for _ in range(chance.randint(1, 3)))
    return chance.choice(("dir", "file", "file", "link", "whiteout", "whiteout", "opaque")), path


def _apply(path: str, lowers: list[str], rows: list[tuple[str, str]], shift: int | None) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number, (kind, name) in enumerate(rows):
            folder, _, last = name.rpartition("/")
            info = tarfile.TarInfo({"whiteout": f"{folder}/.wh.{last}", "opaque": f"{name}/.wh..wh..opq"}.get(kind, name))
            info.type = {"dir": tarfile.DIRTYPE, "link": tarfile.SYMTYPE}.get(kind, tarfile.REGTYPE)
            info.mode, info.linkname, data = 0o755, f"to{number}" if kind == "link" else "", b"%d" % number if kind == "file" else b""
            info.size = len(data)
            info.name = info.name.lstrip("/")
            tar.addfile(info, io.BytesIO(data))
    archive = os.memfd_create("layer")
    os.write(archive, buffer.getvalue())
    os.lseek(archive, 0, os.SEEK_SET)
    fds = [os.open(one, os.O_RDONLY | os.O_DIRECTORY) for one in (path, *lowers)]
    try:
        with Tree(fds[0], fds[1:], shift) as tree:
            for entry in read_archive(archive, highest_id=1000):
                tree.add(entry)
    finally:
        for fd in (archive, *fds):
            os.close(fd)


def _expected(below: Model, rows: list[tuple[str, str]]) -> Model:
    """What shows after a layer: it first removes from what is below, then adds its own, whatever the order of entries."""
    shown, mine = dict(below), {}  # type: Model, Model
    for kind, path in rows:
        if kind == "whiteout":
            _drop(shown, path)
        elif kind == "opaque":
            for one in [name for name in shown if name.startswith(f"{path}/")]:
                del shown[one]
    for number, (kind, path) in enumerate(rows):
        if kind == "whiteout":
            continue
        parts = path.split("/")
        for depth in range(1, len(parts)):
            above = "/".join(parts[:depth])
            mine.setdefault(above, ("dir", b""))
        if kind == "opaque":
            mine.setdefault(path, ("dir", b""))
            continue
        if kind != "dir":
            _drop(mine, path)
        elif mine.get(path, ("dir", b""))[0] != "dir":
            _drop(shown, path)   # a file had replaced what is below before
        mine[path] = (kind, b"" if kind == "dir" else b"%d" % number if kind == "file" else b"to%d" % number)
        if kind != "dir":
            _drop(shown, path)
    for path in list(mine):
        parts = path.split("/")
        for depth in range(1, len(parts)):
            mine.setdefault("/".join(parts[:depth]), ("dir", b""))
    for path, value in mine.items():
        if value[0] == "dir" and shown.get(path, ("dir", b""))[0] != "dir":
            del shown[path]
        shown[path] = value
    return shown


def _drop(model: Model, path: str) -> None:
    for one in [name for name in model if name == path or name.startswith(f"{path}/")]:
        del model[one]


def _seen(folder: str, lowers: list[str]) -> Model:
    merged = f"{folder}/merged"
    os.mkdir(merged)
    paths = [*lowers] if len(lowers) > 1 else [*lowers, lowers[0]]
    mounts.mount("overlay", merged, "overlay", 0, f"lowerdir={':'.join(paths)},userxattr")
    found: Model = {}
    try:
        for at, folders, files in os.walk(merged):
            for name in [*folders, *files]:
                full = f"{at}/{name}"
                path, mode = full[len(merged) + 1:], os.lstat(full).st_mode
                if stat.S_ISLNK(mode):
                    found[path] = ("link", os.readlink(full).encode())
                elif stat.S_ISDIR(mode):
                    found[path] = ("dir", b"")
                elif stat.S_ISREG(mode):
                    with open(full, "rb") as file:
                        found[path] = ("file", file.read())
                else:
                    found[path] = (f"mode {mode:o}", b"")
    finally:
        mounts.umount2(merged)
    return found
