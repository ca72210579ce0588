"""Carries a store's images to another machine and back in one file, as CI caches do: only what the other side lacks is written.

The file is an OCI layout in a tar, which other tools read as well. Notes of ours in its index keep what they don't: the
exact names, where images are from, and which steps of recipes made which layers, so that nothing is built again: see `origin`.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tarfile
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, final

if sys.platform != "win32":   # where everything imports, and nothing starts
    import fcntl

from pytest_sealed.errors import ImageError
from pytest_sealed.images.archive import forget_members
from pytest_sealed.images.load import Loader
from pytest_sealed.images.origin import Origin
from pytest_sealed.images.progress import Progress
from pytest_sealed.images.reference import blob_path, digest_of
from pytest_sealed.images.save import Stored, TarOutput, stored, write_oci

if TYPE_CHECKING:
    from pytest_sealed.images.image import Image
    from pytest_sealed.images.store import Store

__all__ = ["Exported", "export_images", "import_images"]

_INDEX = "index.json"
_BLOCK = 512             # bytes; see tar(5)
_END = bytes(2 * _BLOCK)
_LARGEST_INDEX = 4 << 20


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an export did."""

    images: int
    written: int
    """Bytes."""
    size: int
    """Bytes of the whole file."""


def export_images(store: Store, references: Iterable[str], path: str, progress: Progress | None = None) -> Exported:
    """Make the file hold exactly these images. What it has of them already stays where it is, and isn't written again.

    Raises:
        ImageNotFound: the store has no such image.
        ImageError: a layer is damaged, or the file is something else or can't be written; then it is as it was.
    """
    images = [stored(store, reference) for reference in references]
    try:
        with store.building(), open(path, "a+b") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)   # another export into it
            present = _Present(file, path)
            if present.waste(images) * 2 > present.end:
                return _afresh(store, images, path, progress or Progress())
            return _append(store, images, path, present, progress or Progress())
    except OSError as error:
        raise ImageError(f"{path} can't be written: {error.strerror or error}",
                         remedy="name a file in a folder of yours, with room for it") from error


def _afresh(store: Store, images: list[Stored], path: str, progress: Progress) -> Exported:
    """Write the file anew: more than half of the old one is of no use."""
    fresh = f"{path}.{uuid.uuid4().hex[:8]}"
    try:
        with open(fresh, "x+b") as file:
            done = _append(store, images, fresh, _Present(file, fresh), progress)
        os.replace(fresh, path)
        return done
    finally:
        with contextlib.suppress(OSError):
            os.unlink(fresh)


def _append(store: Store, images: list[Stored], path: str, present: _Present, progress: Progress) -> Exported:
    with open(path, "r+b") as file:
        file.seek(present.end)
        tar = TarOutput(file, stream=False, present=present.entries)
        output = _Output(tar, present)
        try:
            write_oci(store, images, output, progress, lambda image: Origin.find(store, image.name, image.chain).annotations())
            if output.added or present.cut:
                tar.close()
                file.truncate()
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            file.seek(present.end)   # it's what it was, with the index that it had
            file.write(_END)
            file.truncate()
            if not present.end:
                os.unlink(path)
            raise
        size = os.fstat(file.fileno()).st_size
        return Exported(images=len(images), written=size - present.end if output.added else 0, size=size)


@final
class _Output:
    """Adds to a tar; an index that is there already isn't written again."""

    def __init__(self, tar: TarOutput, present: _Present) -> None:
        self._tar, self._present, self.added = tar, present, False

    def add(self, name: str, size: int, pieces: Iterable[bytes]) -> None:
        if name != _INDEX:
            self.added = self._tar.add(name, size, pieces) or self.added
        elif (data := b"".join(pieces)) != self._present.index or self.added:
            self._tar.replace(name, data)
            self.added = True


@final
class _Present:
    """What an archive of ours holds, and where the next file goes. What a killed export has left at its end is written over."""

    def __init__(self, file: IO[bytes], path: str) -> None:
        self.entries: dict[str, int] = {}
        """Name → bytes."""
        self.end, self.index, self.cut = 0, b"", False
        length = file.seek(0, os.SEEK_END)
        if not length:
            return
        file.seek(0)
        try:
            tar = tarfile.TarFile(fileobj=file, mode="r", errorlevel=2)
            while (info := tar.next()) is not None:
                forget_members(tar)
                end = info.offset_data + -(-info.size // _BLOCK) * _BLOCK
                if info.size < 0 or end > length:
                    break
                self._take(file, info)
                self.end = end
        except (tarfile.TarError, ValueError, OverflowError, EOFError, RecursionError, IndexError, KeyError):
            pass   # a cut header
        if next(iter(self.entries), "") != "oci-layout":
            raise ImageError(f"{path} is no file of `sealed export`", remedy="name another file, or remove it")
        file.seek(self.end)
        self.cut = file.read(len(_END)) != _END

    def _take(self, file: IO[bytes], info: tarfile.TarInfo) -> None:
        if info.isreg():
            self.entries[info.name] = info.size
        if info.name == _INDEX and info.size <= _LARGEST_INDEX:
            self.index = os.pread(file.fileno(), info.size, info.offset_data)

    def waste(self, images: list[Stored]) -> int:
        """Return the bytes that these images don't need."""
        needed = {"oci-layout", _INDEX}
        for image in images:
            needed |= {blob_path(digest_of(image.config)), blob_path(image.manifest.digest)}
            needed |= {blob_path(layer.digest) for layer in image.manifest.layers}
            needed |= {blob_path(diff_id) for diff_id in image.chain.diff_ids}
        return sum(size for name, size in self.entries.items() if name not in needed)


def import_images(store: Store, path: str, progress: Progress | None = None) -> list[Image]:
    """Take all images of a file that `export_images` wrote; layers that the store has aren't unpacked again.

    Raises:
        ImageError: it is no such file, or wrong somewhere: names the place. Images before it have been taken.
    """
    return Loader(store, progress, exported=True).load(path)
