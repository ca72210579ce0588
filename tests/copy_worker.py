"""Runs inside U0: copies random layers, and one with everything a file can have, and compares the copies with what overlayfs shows."""

from __future__ import annotations

import os
import random
import shutil
import stat
from typing import Any

from layer_worker import _apply, _row

from pytest_sealed.errors import ImageError
from pytest_sealed.linux import mounts
from pytest_sealed.runtime.copied import copy_layers

View = dict[str, tuple[Any, ...]]


def main(payload: dict[str, Any]) -> dict[str, Any]:
    """Return how many random stacks were compared, the differences, and what the copy of `attributes` looks like."""
    folder, single = payload["folder"], payload["ids"]["mode"] == "single"
    compared, failures = 0, []
    for seed in range(*payload["seeds"]):
        result = _try(seed, f"{folder}/{seed}", None if single else 1)
        compared += result is not None
        failures += [f"seed {seed}: {result}"] if result else []
    failures += _attributes(f"{folder}/attributes", single)
    return {"compared": compared, "failures": failures}


def _try(seed: int, folder: str, shift: int | None) -> str | None:
    chance = random.Random(seed)  # noqa: S311  (the same each time)
    lowers: list[str] = []
    os.mkdir(folder)
    try:
        for number in range(chance.randint(2, 4)):
            rows = [_row(chance) for _ in range(chance.randint(1, 9))]
            os.mkdir(f"{folder}/{number}")
            try:
                _apply(f"{folder}/{number}", lowers, rows, shift)
            except ImageError:
                return None   # a file in the way: refused, rightly
            lowers.insert(0, f"{folder}/{number}")
        copy_layers(lowers[::-1], f"{folder}/copy")
        expected, seen = _shown(folder, lowers), _look(f"{folder}/copy")
        return "" if seen == expected else f"the copy has {sorted(seen.items())}, overlayfs shows {sorted(expected.items())}"
    finally:
        shutil.rmtree(folder)


def _attributes(folder: str, single: bool) -> list[str]:
    layer = f"{folder}/layer"
    os.makedirs(f"{layer}/folder")
    with open(f"{layer}/folder/program", "wb") as file:
        file.write(b"x" * 70_000)
    with open(f"{layer}/holes", "wb") as file:
        file.truncate(64 << 20)
        file.seek(32 << 20)
        file.write(b"data")
    os.link(f"{layer}/folder/program", f"{layer}/again")
    os.symlink("/etc/shadow", f"{layer}/link")
    os.mkfifo(f"{layer}/pipe", 0o640)
    if not single:
        for name, owner in (("folder", 7), ("folder/program", 8), ("link", 9)):
            os.chown(f"{layer}/{name}", owner, owner, follow_symlinks=False)
    os.setxattr(f"{layer}/holes", "user.mark", b"kept")
    os.chmod(f"{layer}/folder/program", 0o4755)
    os.chmod(f"{layer}/folder", 0o1777)
    for name in ("folder/program", "folder", "holes", "pipe"):
        os.utime(f"{layer}/{name}", (1000, 2000))
    size = copy_layers([layer], f"{folder}/copy")
    expected, seen = _look(layer), _look(f"{folder}/copy")
    blocks = os.stat(f"{folder}/copy/holes").st_blocks * 512
    problems = [] if seen == expected else [f"the copy has {sorted(seen.items())}, the layer {sorted(expected.items())}"]
    problems += [f"the holes take {blocks} bytes"] if blocks > 1 << 20 else []
    problems += [] if 70_000 < size < 1 << 20 else [f"{size} bytes were copied"]
    shutil.rmtree(folder)
    return problems


def _shown(folder: str, lowers: list[str]) -> View:
    merged = f"{folder}/merged"
    os.mkdir(merged)
    paths = lowers if len(lowers) > 1 else [*lowers, lowers[0]]
    mounts.mount("overlay", merged, "overlay", 0, f"lowerdir={':'.join(paths)},userxattr")
    try:
        return _look(merged)
    finally:
        mounts.umount2(merged)


def _look(top: str) -> View:
    found: View = {}
    names: dict[int, str] = {}
    for at, folders, files in os.walk(top):
        for name in sorted([*folders, *files]):
            full = f"{at}/{name}"
            path, status = full[len(top) + 1:], os.lstat(full)
            content: Any = os.readlink(full) if stat.S_ISLNK(status.st_mode) else b""
            if stat.S_ISREG(status.st_mode):
                with open(full, "rb") as file:
                    content = (hash(file.read()), names.setdefault(status.st_ino, path))
                content += tuple((key, os.getxattr(full, key)) for key in os.listxattr(full) if not key.startswith("user.overlay."))
            mtime = status.st_mtime if not stat.S_ISDIR(status.st_mode) else 0
            found[path] = (stat.filemode(status.st_mode), status.st_uid, status.st_gid, mtime, content)
    return found
