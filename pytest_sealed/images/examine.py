"""Runs inside U0: says what of a layer's files isn't as it was unpacked. See `verify` and `launch.run_inside`."""

from __future__ import annotations

import os
import struct
import threading
import zlib
from typing import Any

from pytest_sealed.errors import ImageError
from pytest_sealed.images.apply import remove
from pytest_sealed.images.archive import read_archive
from pytest_sealed.images.assemble import write_tar
from pytest_sealed.images.compare import Comparison
from pytest_sealed.images.streams import write_rows
from pytest_sealed.images.tree import Tree

__all__ = ["main"]


def main(payload: dict[str, Any]) -> dict[str, Any]:
    """Write a line of JSON, [path, what is wrong], into the first fd for each damage.

    The layer's tar is written again, which its digest judges; and it is unpacked once more, without contents, which everything
    else is compared with: names, owners, modes, times, links, attributes, whiteouts.

    Payload: fs, split, lowers (topmost first), diff_id, work (an empty folder of the store, for the second unpacking).
    """
    single = payload["ids"]["mode"] == "single"
    found: list[tuple[str, str]] = []
    again = f"{payload['work']}/fs"
    os.mkdir(again, 0o755)
    try:
        found += _unpack_again(payload, again, None if single else 1, 65535 if single else payload["ids"]["count"] - 1)
        opened = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (again, payload["fs"])]
        try:
            told = {path for path, _ in found}
            for letter, path, changed in Comparison(exact=True).folders(opened[0], opened[1]):
                if path not in told:
                    found.append((path, {"D": "is missing", "A": "doesn't belong there"}.get(letter, "; ".join(changed))))
        finally:
            for fd in opened:
                os.close(fd)
    except (ImageError, EOFError, struct.error, zlib.error, OSError) as error:
        found.append(("", str(error)))
    finally:
        remove(again)
    write_rows(payload["fds"][0], found)
    return {}


def _unpack_again(payload: dict[str, Any], target: str, shift: int | None, highest: int) -> list[tuple[str, str]]:
    """Unpack the layer's tar without contents; return what was wrong with its files."""
    found: list[tuple[str, str]] = []
    failed: list[BaseException] = []
    ours, theirs = os.pipe()

    def write() -> None:
        try:
            write_tar(payload["fs"], payload["split"], theirs, lambda path, why: found.append((f"/{path}", why)))
        except BrokenPipeError:
            pass   # the reader says why
        except BaseException as error:
            failed.append(error)
        finally:
            os.close(theirs)
    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    root = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    if shift:
        os.fchown(root, shift, shift)
    lowers = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in payload["lowers"]]
    try:
        with Tree(root, lowers, shift, contents=False) as tree:
            try:
                for entry in read_archive(ours, highest_id=highest, diff_id=payload["diff_id"]):
                    tree.add(entry)
            except ImageError as error:
                if not (found or failed):   # else its digest can only be wrong
                    found.append(("", error.message))
    finally:
        os.close(ours)
        writer.join()
        for fd in (root, *lowers):
            os.close(fd)
    return found + [("", f"what its tar is written again from is damaged: {error}") for error in failed]
