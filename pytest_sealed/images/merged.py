"""Runs inside U0: says how what two images' containers see differs. See `launch.run_inside`."""

from __future__ import annotations

import os
from typing import Any

from pytest_sealed.errors import HostUnsupported
from pytest_sealed.images.compare import Comparison
from pytest_sealed.images.streams import write_rows
from pytest_sealed.linux import mounts

__all__ = ["main", "mount_layers"]


def main(payload: dict[str, Any]) -> dict[str, Any]:
    """Write a line of JSON, [letter, path, what has changed], into the first fd for each difference.

    Payload: images (two lists of layers, topmost first), work (an empty folder of the store).

    Raises:
        HostUnsupported: no overlay can be mounted.
    """
    first, second = (mount_layers(f"{payload['work']}/{number}", layers) for number, layers in enumerate(payload["images"]))
    write_rows(payload["fds"][0], Comparison(exact=False).folders(first, second))
    return {}


def mount_layers(folder: str, layers: list[str]) -> int:
    """Mount layers, topmost first, to be read only; return a descriptor of what shows. The mount ends with this process."""
    for name in ("", "/merged", "/empty"):
        os.mkdir(f"{folder}{name}")
    # an overlay without an upper wants two lowers at least. By descriptors: short, and free of ':' and ','
    fds = [os.open(path, os.O_PATH | os.O_DIRECTORY) for path in (*layers, f"{folder}/empty")]
    try:
        mounts.mount("overlay", f"{folder}/merged", "overlay", mounts.MS_RDONLY | mounts.MS_NODEV,
                     f"lowerdir={':'.join(f'/proc/self/fd/{fd}' for fd in fds)},userxattr")
    except OSError as error:
        raise HostUnsupported(f"no overlay can be mounted to see an image's files: {error}",
                              remedy="Linux 5.11 or later with overlayfs for user namespaces is needed") from error
    return os.open(f"{folder}/merged", os.O_RDONLY | os.O_DIRECTORY)
