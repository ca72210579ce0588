"""Files that a container is given before its command starts: `files=`. They are its own, in its writable layer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_sealed.errors import SpecError
from pytest_sealed.secret import SECRETS
from pytest_sealed.values import check_target

if TYPE_CHECKING:
    from pytest_sealed.images.store import Image
    from pytest_sealed.spec import ContainerSpec

__all__ = ["check_files", "check_seen"]

_EXAMPLE = 'for example files={"/etc/app.toml": b"debug = true\\n", "/srv/pages": Path("pages")}'
_KERNELS = ("/dev", "/proc", "/sys")
_RUNTIMES = {"/etc/hosts": "aliases= and networks= name", "/etc/hostname": "hostname= says", "/etc/resolv.conf": "its networks say"}


def check_files(key: str, value: Any) -> tuple[tuple[str, bytes | Path], ...]:
    """Return the rows of a mapping from absolute paths of the container to bytes, or to a file or folder of the host."""
    if not isinstance(value, Mapping):
        raise SpecError(f"{key}={value!r} is no mapping", remedy=_EXAMPLE)
    rows: dict[str, bytes | Path] = {}
    for target, source in value.items():
        if isinstance(source, (bytes, bytearray)):
            content: bytes | Path = bytes(source)
        elif isinstance(source, os.PathLike) and isinstance(os.fspath(source), str):
            content = Path(os.path.abspath(os.path.expanduser(source)))
        else:
            raise SpecError(f"{key}: {target!r} gets {_short(source)}, which is neither bytes nor a Path",
                            remedy="give Path(…) for a file or folder of the host, or what the file says as bytes, such as text.encode()")
        path = check_target(f"{key}: the path", target)
        if path in rows:
            raise SpecError(f"{key}: {path!r} is given twice", remedy="give each path once")
        if path in _RUNTIMES:
            raise SpecError(f"{key}: {path!r} is written by the runtime", remedy=f"{_RUNTIMES[path]} what is in it")
        rows[path] = content
    return tuple(sorted(rows.items()))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def check_seen(spec: ContainerSpec[Any], image: Image) -> None:
    """Raise SpecError if something is mounted over what `spec` gives as files: nobody would see them."""
    points = [(point, "what every container has there of its own") for point in _KERNELS]
    points += [(mount.target, "a mount of this container's") for mount in spec.mounts]
    points += [(tmpfs.target, "a mount of this container's") for tmpfs in spec.tmpfs]
    points += [(SECRETS, "its secrets")] if spec.secrets else []
    points += [(item.target, f"a tmpfs of the image {image.reference}") for item in image.config.tmpfs]
    for path, _ in spec.files:
        for point, what in points:
            if f"{path}/".startswith(f"{point}/"):
                raise SpecError(f"files: {path!r} would be hidden by {what}, at {point!r}",
                                remedy="put() it there in setup=, or give it elsewhere")
