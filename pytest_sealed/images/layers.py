"""The store's layers, each under its ChainID: the digest of itself and of all below it.

A layer is made in tmp, verified, synced and renamed into place: whoever looks sees a whole layer or none.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from pytest_sealed.errors import ImageError
from pytest_sealed.images.folders import Folders, explain
from pytest_sealed.images.locks import hold
from pytest_sealed.images.streams import feeding, reading
from pytest_sealed.runtime.launch import run_inside

if TYPE_CHECKING:
    from pytest_sealed.images.layerfile import WrittenLayer

    _Archive = Callable[[], contextlib.AbstractContextManager[tuple[int, Callable[[], int]]]]

__all__ = ["SPLIT", "Chain", "Layers", "chain_id"]

SPLIT = "split.gz"   # what of a layer's tar is in none of its files: see `tarsplit`


def chain_id(parent: str, diff_id: str) -> str:
    """Return the ChainID of a layer above `parent` (empty: none). See the OCI image specification, config.md."""
    return diff_id if not parent else "sha256:" + hashlib.sha256(f"{parent} {diff_id}".encode()).hexdigest()


@final
@dataclass(frozen=True, slots=True)
class Chain:
    """Layers one above the other, as diff ids, the lowest first."""

    diff_ids: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: dict[str, Any]) -> Chain:
        """Return those of an image, by its config. Raises `KeyError` or `TypeError`: it names none."""
        return cls(tuple(config["rootfs"]["diff_ids"]))

    @property
    def top(self) -> str:
        """The ChainID of the topmost layer; empty: none."""
        return self.ids[-1] if self.diff_ids else ""

    @property
    def ids(self) -> tuple[str, ...]:
        """The ChainID of each layer, the lowest first."""
        found: list[str] = []
        for diff_id in self.diff_ids:
            found.append(chain_id(found[-1] if found else "", diff_id))
        return tuple(found)

    def plus(self, diff_id: str) -> Chain:
        return Chain((*self.diff_ids, diff_id))


@final
class Layers:
    """The layers of one store."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders

    def path(self, chain: str) -> Path:
        """Return the folder to mount of the layer with this ChainID."""
        return self._folders.layers / chain.removeprefix("sha256:") / "fs"

    def has(self, chain: Chain) -> bool:
        """Say whether every layer is there."""
        return all(self.path(one).is_dir() for one in chain.ids)

    def lowers(self, chain: Chain) -> list[str]:
        """Return the folders of `chain`, topmost first."""
        return [str(self.path(one)) for one in reversed(chain.ids)]

    def size(self, chain: str) -> int:
        """Return the bytes of a layer's tar; 0 if it isn't there."""
        try:
            return int(json.loads((self.path(chain).parent / "layer.json").read_text())["size"])
        except (OSError, ValueError, KeyError):
            return 0

    def unpacked(self, chain: str) -> bool:
        """Say whether the layer with this ChainID is here, with what its tar is written again from."""
        return (self.path(chain).parent / SPLIT).exists()

    def lock(self, name: str, waiting: Callable[[], None] = lambda: None) -> contextlib.AbstractContextManager[None]:
        """Hold the store's lock of that name; call `waiting` once if another process has it."""
        return hold(self._folders.locks / name.replace("sha256:", ""), waiting)

    def commit(self, below: Chain, layer: WrittenLayer, work: Path, **caps: int) -> Chain:
        """Unpack a layer above `below` and put it into the store; return the new chain. Does nothing if it is there.

        Args:
            work: a workspace of the same store.

        Raises:
            ImageError: the archive is wrong, or its digest isn't the layer's.
            StoreError: the store is full.
        """
        @contextlib.contextmanager
        def archive() -> Iterator[tuple[int, Callable[[], int]]]:
            with open(layer.path, "rb", buffering=0) as file:
                yield file.fileno(), lambda: layer.size
        return self._put(below, layer.diff_id, archive, work, layer.size + (layer.size >> 3), lambda: None, **caps)

    def receive(self, below: Chain, diff_id: str, tar: Callable[[], Iterator[bytes]], work: Path, *, estimate: int,
                waiting: Callable[[], None] = lambda: None) -> Chain:
        """Do the same with a layer that comes as the pieces of its uncompressed tar.

        Args:
            tar: is called if the layer isn't there, once nobody else unpacks it.
            estimate: bytes that it will take.
            waiting: is called if another process unpacks it.
        """
        @contextlib.contextmanager
        def archive() -> Iterator[tuple[int, Callable[[], int]]]:
            with feeding(tar()) as (fd, feeder):
                yield fd, lambda: feeder.count
        return self._put(below, diff_id, archive, work, estimate, waiting)

    def _put(self, below: Chain, diff_id: str, archive: _Archive, work: Path, needs: int, waiting: Callable[[], None],
             **caps: int) -> Chain:
        chain = below.plus(diff_id)
        target = self.path(chain.top).parent
        with self.lock(chain.top, waiting):
            if self.unpacked(chain.top):
                return chain
            self._folders.require(needs)
            made = work / "layer"
            made.mkdir()
            try:
                payload = {"target": f"{made}/fs", "split": f"{made}/{SPLIT}", "lowers": self.lowers(below), "diff_id": diff_id,
                           "replaced": f"{made}/replaced", **caps}
                size = self._unpack(archive, payload)
                (made / "layer.json").write_text(json.dumps({"diff_id": diff_id, "parent": below.top, "size": size}))
                if target.is_dir():   # of a version that wrote no splits
                    os.replace(made / SPLIT, target / SPLIT)
                else:
                    _rename(made, target)
            except OSError as error:
                raise explain(error, self._folders.root) from error
            finally:
                self._folders.discard(made)
        return chain

    def _unpack(self, archive: _Archive, payload: dict[str, Any]) -> int:
        """Return the bytes of the tar."""
        with archive() as (fd, size):
            again = run_inside("pytest_sealed.images.apply", payload, fds=[fd], ids=self._folders.ids)["again"]
        return self._unpack(archive, payload) if again else size()

    def tar(self, chain: str, diff_id: str) -> Iterator[bytes]:
        """Yield the uncompressed tar of the layer with this ChainID, as it was when it was unpacked.

        Raises:
            ImageError: the layer isn't what it was, or comes from a version that couldn't write it again.
        """
        folder = self.path(chain).parent
        if not self.unpacked(chain):
            raise ImageError(f"the layer {diff_id} was unpacked by an older version, which kept nothing to write it again from",
                             remedy="sealed build --fresh NAME, or pull or load the image again")
        payload = {"fs": f"{folder}/fs", "split": f"{folder}/{SPLIT}"}
        digest = hashlib.sha256()
        for data in reading(lambda fd: run_inside("pytest_sealed.images.assemble", payload, fds=[fd], ids=self._folders.ids)):
            digest.update(data)
            yield data
        if f"sha256:{digest.hexdigest()}" != diff_id:
            raise ImageError(f"the layer {diff_id} is damaged in the store: its files make up sha256:{digest.hexdigest()}",
                             remedy="sealed rm the images that have it, and make or fetch them again")


def _rename(made: Path, target: Path) -> None:
    for path in (made / "layer.json", made / SPLIT, made):
        _sync(path)
    try:
        os.rename(made, target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):   # another one won: the same content by its name
            raise
    _sync(target.parent)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
