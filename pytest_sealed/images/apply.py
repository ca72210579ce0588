"""Runs inside U0: unpacks one layer from a tar into a folder of the store. See `launch.run_inside`."""

from __future__ import annotations

import errno
import os
import subprocess
from typing import Any

from pytest_sealed.errors import ImageError, StoreError
from pytest_sealed.images.archive import Caps, read_archive
from pytest_sealed.images.tarsplit import SplitWriter
from pytest_sealed.images.tree import Tree
from pytest_sealed.linux.files import syncfs
from pytest_sealed.runtime.room import is_full

__all__ = ["explained", "main", "remove"]


def main(payload: dict[str, Any]) -> dict[str, Any]:
    """Fill `target`, a folder that isn't there yet, from the tar in the first fd, and the file `split` with what else there is.

    Payload: target, split, lowers (topmost first), diff_id, replaced (a file, see below), and perhaps most_entries and most_bytes.

    Returns:
        {"again": True} if the tar has a path twice: the split lacks what the first entry held then. The paths are in the file `replaced`,
        with which the same call does all anew; else {"again": False}.

    Raises:
        ImageError: the archive is wrong, see `archive`; `target` is removed.
        StoreError: the store's file system is full.
    """
    target, ids = payload["target"], payload["ids"]
    single = ids["mode"] == "single"
    caps = Caps(entries=payload.get("most_entries", 1_000_000), size=payload.get("most_bytes", 32 << 30))
    whole = _take(payload["replaced"])
    if whole:
        remove(target)
    os.mkdir(target, 0o755)
    os.chmod(target, 0o755)
    if not single:
        os.chown(target, 1, 1)
    lowers = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in payload["lowers"]]
    root = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        highest = 65535 if single else ids["count"] - 1
        with SplitWriter(payload["split"]) as split, Tree(root, lowers, None if single else 1) as tree:
            for entry in read_archive(payload["fds"][0], highest_id=highest, diff_id=payload["diff_id"], caps=caps, split=split,
                                      whole=whole):
                tree.add(entry)
        if not tree.replaced <= whole:
            with open(payload["replaced"], "wb") as file:
                file.writelines(os.fsencode(path) + b"\0" for path in tree.replaced)
            return {"again": True}
        syncfs(root)   # a rename after this never shows files that a power loss has emptied
    except BaseException as error:
        remove(target)
        if isinstance(error, OSError):
            raise explained(error, os.path.dirname(target)) from error
        raise
    return {"again": False}


def _take(path: str) -> frozenset[str]:
    """Return the paths in a file, and remove it."""
    try:
        with open(path, "rb") as file:
            names = file.read().split(b"\0")
    except FileNotFoundError:
        return frozenset()
    os.unlink(path)
    return frozenset(os.fsdecode(name) for name in names if name)


def remove(path: str) -> None:
    """Remove a tree of any depth and any owner."""
    subprocess.run(["rm", "-rf", "--one-file-system", "--", path], check=True)


def explained(error: OSError, folder: str) -> Exception:
    """Return what a failure of the file system that holds `folder` means for the user; itself where it means nothing."""
    if is_full(error):
        return StoreError(f"the store's file system is full ({folder})",
                          remedy="`sealed images` and `sealed rm NAME` free space; or set SEALED_STORE to another folder")
    if error.errno in (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL):
        return ImageError(f"the store's file system can't hold an entry: {error}",
                          remedy="set SEALED_STORE to a folder on ext4, xfs or btrfs")
    return error
