"""Layers as they travelled, by their digest: kept so that an image that came from elsewhere can be handed on bit by bit.

All id maps share them, `sealed rm --cache` removes them, and no container needs them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import final

if sys.platform != "win32":   # where everything imports, and nothing starts
    import fcntl

from pytest_sealed.errors import ImageError
from pytest_sealed.images.compression import CHUNK
from pytest_sealed.images.locks import flock, hold

__all__ = ["BlobCache"]


@final
class BlobCache:
    """The compressed layers of one store.

    Args:
        root: the store's folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._home = root / "blobs"
        self._whole, self._partial = self._home / "sha256", self._home / "partial"

    def path(self, digest: str) -> Path:
        return self._whole / digest.removeprefix("sha256:")

    def partial(self, digest: str) -> Path:
        """Where a blob lies until all of it is there. Whoever writes it holds `lock(digest)`."""
        return self._partial / digest.removeprefix("sha256:")

    def has(self, digest: str, size: int) -> bool:
        """Say whether the blob is there, by its length; whoever reads it checks its digest."""
        try:
            return self.path(digest).stat().st_size == size
        except OSError:
            return False

    def chunks(self, digest: str) -> Iterator[bytes]:
        """Yield the blob.

        Raises:
            ImageError: it has been changed; it's removed then.
        """
        found = hashlib.sha256()
        with open(self.path(digest), "rb", buffering=0) as file:
            while data := file.read(CHUNK):
                found.update(data)
                yield data
        if f"sha256:{found.hexdigest()}" != digest:
            self.path(digest).unlink(missing_ok=True)
            raise ImageError(f"the blob {digest} in {self._whole} has been changed: its digest is sha256:{found.hexdigest()}",
                             remedy="it has been removed: do that again")

    def make(self) -> None:
        """Make the folders, if they aren't there."""
        for folder in (self._whole, self._partial, self._home / "locks"):
            folder.mkdir(parents=True, exist_ok=True)

    def lock(self, digest: str, waiting: Callable[[], None] = lambda: None) -> contextlib.AbstractContextManager[None]:
        """Hold a blob's lock; call `waiting` once if another process has it."""
        return hold(self._home / "locks" / digest.removeprefix("sha256:"), waiting)

    @contextlib.contextmanager
    def using(self) -> Iterator[None]:
        """Keep what is fetched meanwhile from being removed."""
        with flock(self._home / "users", fcntl.LOCK_SH):
            yield

    def keep(self, digest: str, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield `chunks`, and keep them as this blob. Their digest is checked once they end; the caller holds `lock(digest)`.

        Raises:
            ImageError: they are another blob.
        """
        found, place = hashlib.sha256(), self.partial(digest)
        try:
            with open(place, "wb") as file:
                for chunk in chunks:
                    found.update(chunk)
                    file.write(chunk)
                    yield chunk
                file.flush()
                os.fsync(file.fileno())
            if f"sha256:{found.hexdigest()}" != digest:
                raise ImageError(f"a layer has the digest sha256:{found.hexdigest()}, expected {digest}", remedy="make or fetch it again")
            os.replace(place, self.path(digest))
        finally:
            place.unlink(missing_ok=True)

    def prune(self) -> int:
        """Remove the blobs that no image of the store has; return the bytes freed. Nothing, while somebody fetches."""
        freed = 0
        if not self._whole.is_dir():
            return 0
        with flock(self._home / "users", fcntl.LOCK_EX | fcntl.LOCK_NB) as free:
            if not free:
                return 0
            used = set(self._used())
            for path in (*self._whole.iterdir(), *self._partial.iterdir()):
                if f"sha256:{path.name}" not in used or path.parent == self._partial:
                    freed += path.stat().st_size
                    path.unlink()
            for path in (self._home / "locks").iterdir():
                path.unlink()   # nobody fetches: nobody holds one
        return freed

    def _used(self) -> Iterator[str]:
        """Yield the digests of all layers of all images, of every id map."""
        for record in self._root.glob("*/images/*.json"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                digest = str(json.loads(record.read_bytes())["manifest"]).removeprefix("sha256:")
                manifest = json.loads((record.parent.parent / "blobs" / "sha256" / digest).read_bytes())
                yield from (str(layer["digest"]) for layer in manifest["layers"])
