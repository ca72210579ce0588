"""The image store: OCI images by name, their layers unpacked once for all containers."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

if sys.platform != "win32":   # where everything imports, and nothing starts
    import fcntl

from pytest_sealed.errors import ImageError, ImageNotFound
from pytest_sealed.images.blobs import BlobCache
from pytest_sealed.images.folders import Folders, default_root, explain
from pytest_sealed.images.image import Image, ImageConfig
from pytest_sealed.images.installed import InstalledWheel, unpack_wheel, wheel_for
from pytest_sealed.images.layers import Chain, Layers
from pytest_sealed.images.locks import flock
from pytest_sealed.images.manifest import OCI_LAYER, Descriptor, manifest_of
from pytest_sealed.images.oci_config import config_from_oci, config_to_oci
from pytest_sealed.images.records import Records, again
from pytest_sealed.images.reference import encode

if TYPE_CHECKING:
    from pytest_sealed.runtime.idmap import IdMap

__all__ = ["Image", "ImageConfig", "Store"]

_LEASE = "image-"   # and the digest of one: the name of its lock


@final
class Store:
    """One account's images. Reading makes nothing: a store that isn't there is an empty one.

    Args:
        root: the store's folder; by default `SEALED_STORE`, else a folder of the account's data.
        ids: the id map that the layers belong to; by default the account's.
        check: raises for images that may not be used.
    """

    def __init__(self, root: Path | str | None = None, *, ids: IdMap | None = None, check: Callable[[Image], None] | None = None) -> None:
        self.root = Path(os.path.abspath(root)) if root is not None else default_root()
        self.folders = Folders(self.root, ids)
        self.layers = Layers(self.folders)
        self.records = Records(self.folders)
        self.cache = BlobCache(self.root)
        self._check = check

    def get(self, reference: str) -> Image:
        """Return the image `reference`: of exactly that name, else with the tag `latest`, else the one whose longer name ends so.

        Where there is none, the one in an installed wheel is unpacked.

        Raises:
            ImageNotFound: it isn't there; names the nearest one and the command that makes it.
            ImageError: its record is damaged, a layer is missing, or several longer names end so.
        """
        try:
            found = self.records.lookup(reference)
        except ImageNotFound:
            wheel = wheel_for(reference)
            if wheel is None:
                raise
            return self._unpacked(wheel)
        return self._load(*found)

    def pinned(self, reference: str) -> Image:
        """Return the image that a container of `reference` gets: that of an installed wheel, which the project pins, else as `get`."""
        wheel = wheel_for(reference)
        return self.get(reference) if wheel is None else self._unpacked(wheel)

    def _unpacked(self, wheel: InstalledWheel) -> Image:
        name = wheel.reference
        with contextlib.suppress(ImageError):   # it isn't there, or damaged: unpacked then
            return self._load(name, self.records.get(name))
        unpack_wheel(self, wheel)
        return self._load(name, self.records.get(name))

    def images(self) -> list[Image]:
        """Return all images by name; those that can't be read are left out."""
        found = []
        for name in self.names():
            with contextlib.suppress(ImageError):
                found.append(self.get(name))
        return found

    def names(self) -> list[str]:
        """Return the references of all images, sorted."""
        return self.records.names()

    def recipe_key(self, reference: str) -> str:
        """Return what the image was built from, as a digest; empty: unknown, or no such image."""
        try:
            return str(self.records.get(reference).get("key", ""))
        except ImageError:
            return ""

    def inputs(self, reference: str) -> list[dict[str, Any]]:
        """Return what each layer of a recipe's image was made from, without those of its base: see `provenance`. Empty: unknown."""
        return list(self.records.get(reference).get("inputs") or ())

    def digest(self, reference: str) -> str:
        """Return the digest of the image; empty: there is none."""
        try:
            return str(self.records.get(reference).get("manifest", ""))
        except ImageError:
            return ""

    def add(self, reference: str, chain: Chain, config: ImageConfig, *, architecture: str, key: str = "",
            history: Sequence[str] = (), inputs: Sequence[dict[str, Any]] = ()) -> Image:
        """Put an image whose layers are in the store under a name, in place of one that had it.

        Args:
            history: what each layer was made by.
            inputs: see `inputs`.
        """
        sizes = [self.layers.size(one) for one in chain.ids]
        body = encode(config_to_oci(config, architecture=architecture, diff_ids=list(chain.diff_ids), history=history))
        layers = [Descriptor(digest=diff_id, size=size, media_type=OCI_LAYER, annotations={})
                  for diff_id, size in zip(chain.diff_ids, sizes, strict=True)]
        manifest = manifest_of(body, layers, reference)
        try:
            self.records.put_blob(body)
            self.records.put(reference, {"manifest": self.records.put_blob(manifest.data), "key": key, "created": time.time(),
                                         "inputs": list(inputs)})
        except OSError as error:
            raise explain(error, self.root) from error
        return self.get(reference)

    def put(self, reference: str, manifest: bytes, config: bytes, chain: Chain, *, source: str, index: str = "",
            **facts: object) -> Image:
        """Put an image from elsewhere, whose layers are in the store, under a name, in place of one that had it.

        Args:
            manifest: as it came, and checked, with `config`.
            source: where it came from, for people.
            index: digest of the index that led to it; empty: none did.
            facts: what else its record is to say. `snapshot`: what of. `temporary`: nobody needs it once no session holds it.

        Raises:
            ImageError: its config can't be understood.
        """
        size = sum(self.layers.size(one) for one in chain.ids)
        try:
            self.records.put_blob(config)
            self.records.put(reference, {"manifest": self.records.put_blob(manifest), "key": "", "created": time.time(), "size": size,
                                         "source": source, "index": index, **facts})
        except OSError as error:
            raise explain(error, self.root) from error
        return self.get(reference)

    def documents(self, reference: str) -> tuple[str, bytes, bytes]:
        """Return an image's full name, its manifest and its config, as they came or were made.

        Raises:
            ImageNotFound, ImageError: as `get`.
        """
        image = self.get(reference)
        manifest = self.records.blob(image.digest)
        return image.reference, manifest, self.records.blob(json.loads(manifest)["config"]["digest"])

    def diff_ids(self, image: Image) -> list[str]:
        """Return the digests of an image's layers, the lowest first."""
        return list(self.records.documents({"manifest": image.digest})[2]["rootfs"]["diff_ids"])

    def history(self, image: Image) -> list[str]:
        """Return what each layer of an image was made by, the lowest first; empty texts where that isn't said."""
        config = self.records.documents({"manifest": image.digest})[2]
        rows = config.get("history")
        told = [str(row.get("created_by") or "") for row in rows if isinstance(row, dict) and not row.get("empty_layer")] \
            if isinstance(rows, list) else []
        return told if len(told) == len(image.layers) else [""] * len(image.layers)   # optional, and not checked by anyone

    def tag(self, reference: str, name: str) -> Image:
        """Give the image `reference` another name as well.

        Raises:
            ImageNotFound: there is no such image.
        """
        full, record = self.records.lookup(reference)
        try:
            self.records.put(name, {**record, "key": "", "tagged": record.get("tagged") or full})
        except OSError as error:
            raise explain(error, self.root) from error
        return self.get(name)

    def remove(self, reference: str) -> int:
        """Remove a name, and the layers that no other image has; return the bytes freed.

        Raises:
            ImageNotFound: there is no such image.
            ImageError: a container uses it.
        """
        reference, record = self.records.lookup(reference)
        digest = str(record["manifest"])
        with self.building(exclusive=True):
            others = [name for name in self.names() if name != reference and self.digest(name) == digest]
            if not others and self.in_use(digest):
                raise ImageError(f"image {reference!r} is used by a running container",
                                 remedy="end the test run that `sealed ps` shows, and try again")
            os.unlink(self.records.path(reference))
            return self.prune()

    def prune(self) -> int:
        """Remove layers and blobs that no image has; return the bytes freed. The caller holds `building(exclusive=True)`."""
        self.forget_snapshots()
        used_layers: set[str] = set()
        used_blobs: set[str] = set()
        for digest in {*map(self.digest, self.names()), *self._leased()}:   # a rebuilt image's name has another digest by now
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):   # damaged
                _, manifest, config = self.records.documents({"manifest": digest})
                used_blobs |= {digest, manifest["config"]["digest"]}
                used_layers |= set(Chain.of(config).ids)
        freed, doomed = 0, []
        for path in self.folders.layers.iterdir():
            if f"sha256:{path.name}" not in used_layers:
                freed += self.layers.size(f"sha256:{path.name}")
                gone = self.folders.tmp / uuid.uuid4().hex
                os.rename(path, gone)
                doomed.append(gone)
        self.folders.discard(*doomed)
        for path in self.folders.blobs.iterdir():
            if f"sha256:{path.name}" not in used_blobs:
                path.unlink()
        for path in self.folders.steps.iterdir():
            with contextlib.suppress(OSError, ValueError, KeyError):
                if not self.layers.has(Chain(tuple(json.loads(path.read_text())["diff_ids"]))):
                    path.unlink()
        return freed + self.cache.prune()

    def try_prune(self) -> None:
        """Remove what no image has, unless somebody builds; then at least the names of snapshots that nobody holds."""
        with self._flock("store", fcntl.LOCK_EX | fcntl.LOCK_NB) as free:
            if free:
                self.prune()
            else:
                self.forget_snapshots()

    def forget_snapshots(self) -> list[str]:
        """Remove the names of temporary snapshots whose session has ended, and return them."""
        gone = []
        for name in self.names():
            with contextlib.suppress(ImageError, OSError):
                record = self.records.get(name)
                if record.get("temporary") and not self.in_use(record["manifest"]):
                    os.unlink(self.records.path(name))
                    gone.append(name)
        return gone

    @contextlib.contextmanager
    def lease(self, image: Image) -> Iterator[None]:
        """Keep an image from being removed while containers use it, and note that it was used. Ends with the process, too."""
        with self.hold(image.digest):
            yield

    @contextlib.contextmanager
    def hold(self, digest: str) -> Iterator[None]:
        """Do the same with the image of that digest, which need not be there yet."""
        name = _lease(digest)
        with self._flock(name, fcntl.LOCK_SH):
            with contextlib.suppress(OSError):   # a store that can't be written
                os.utime(self.folders.locks / name)
            yield

    def in_use(self, digest: str) -> bool:
        """Say whether a live session has a lease on the image of that digest."""
        name = _lease(digest)
        if not (self.folders.locks / name).exists():   # and must not be made: its time is that of the last use
            return False
        with self._flock(name, fcntl.LOCK_EX | fcntl.LOCK_NB) as free:
            return not free

    def used(self, image: Image) -> float:
        """Return when the image was last used or made, in seconds since the epoch."""
        try:
            return max(image.created, os.stat(self.folders.locks / _lease(image.digest)).st_mtime)
        except OSError:
            return image.created

    def _leased(self) -> list[str]:
        """Return the digests of all images that live sessions have leases on."""
        digests = [f"sha256:{path.name.removeprefix(_LEASE)}" for path in self.folders.locks.glob(f"{_LEASE}*")]
        return [digest for digest in digests if self.in_use(digest)]

    @contextlib.contextmanager
    def building(self, *, exclusive: bool = False) -> Iterator[None]:
        """Hold the store against removal of layers (shared, for builds), or against builds (exclusive, for removal)."""
        with self._flock("store", fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH):
            yield

    @contextlib.contextmanager
    def _flock(self, name: str, how: int) -> Iterator[bool]:
        """Hold `flock` on a file of the store."""
        with contextlib.ExitStack() as stack:
            try:
                free = stack.enter_context(flock(self.folders.locks / name, how))
            except OSError as error:
                if how != fcntl.LOCK_SH or error.errno != errno.EROFS:
                    raise explain(error, self.root) from error
                free = True   # nothing can be removed from there
            yield free

    def _load(self, reference: str, record: dict[str, Any]) -> Image:
        try:
            digest, manifest, config = self.records.documents(record)
            chain = Chain.of(config)
            size = int(record["size"]) if "size" in record else sum(row["size"] for row in manifest["layers"])
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise ImageError(f"image {reference!r} is damaged in the store: {error}", remedy=again(reference, record)) from error
        if not self.layers.has(chain):
            raise ImageError(f"image {reference!r} lacks a layer in the store {self.root}", remedy=again(reference, record))
        image = Image(reference=reference, digest=digest, layers=tuple(self.layers.path(one) for one in chain.ids),
                     config=config_from_oci(config, ours=not record.get("source")), size=size, created=float(record.get("created", 0)),
                     source=str(record.get("snapshot") or record.get("wheel") or record.get("source") or ""))
        if self._check is not None:
            self._check(image)
        return image


def _lease(digest: str) -> str:
    return f"{_LEASE}{digest.removeprefix('sha256:')}"
