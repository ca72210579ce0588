"""Loads images from archives: those of `docker save` and `podman save`, OCI layouts, and tars of such layouts.

See the OCI image specification, image-layout.md. Docker's own form is a tar with a manifest.json that
names configs and layers by their files.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, final

from pytest_sealed.errors import ImageError
from pytest_sealed.images.folders import explain
from pytest_sealed.images.incoming import Incoming, check_config, take_in
from pytest_sealed.images.layers import Chain
from pytest_sealed.images.manifest import (
    DEEPEST,
    INDEXES,
    LARGEST,
    OCI_LAYER,
    REF_NAME,
    Descriptor,
    Manifest,
    Platform,
    choose,
    descriptors,
    diff_ids_of,
    manifest_of,
    parse_any_json,
    parse_json,
    parse_manifest,
    verify,
)
from pytest_sealed.images.origin import Origin
from pytest_sealed.images.progress import Progress
from pytest_sealed.images.reference import blob_path, parse_reference
from pytest_sealed.images.sources import Source, open_source, read_small

if TYPE_CHECKING:
    from pytest_sealed.images.image import Image
    from pytest_sealed.images.store import Store

__all__ = ["Loader"]

_FULL_NAME = "io.containerd.image.name"   # which Docker and containerd write besides: the other one is only a tag there
_MOST = 1000      # images of an archive


@final
class Loader:
    """Loads archives into a store.

    Args:
        platform: of images that there are several of; empty: this machine's.
        name: what the image is to be called; empty: as the archive says.
        exported: it's one of `sealed export`, whose names and notes count.
        keep: False keeps no compressed layers: they stay where they are.
    """

    def __init__(self, store: Store, progress: Progress | None = None, *, platform: str = "", name: str = "",
                 exported: bool = False, keep: bool = True) -> None:
        self._exported, self._keep = exported, keep
        self.store = store
        self._progress = progress or Progress()
        self._platform, self._insist = Platform.parse(platform), bool(platform)
        self._name = str(parse_reference(name)) if name else ""

    def load(self, path: str) -> list[Image]:
        """Take all images of an archive; return them, one for each name.

        Args:
            path: a tar, which may be compressed, a folder, or `-` for the standard input.

        Raises:
            ImageError: the archive is no such thing, or wrong somewhere: names the place. Images before it have been taken.
            StoreError: the store has no room.
        """
        try:
            return self._load(path)
        except OSError as error:
            raise explain(error, self.store.folders.root) from error

    def _load(self, path: str) -> list[Image]:
        self.store.folders.make()
        self.store.cache.make()
        with self.store.cache.using(), self.store.folders.workspace() as work, open_source(path, work) as source:
            if source.has("manifest.json"):
                found = self._of_docker(source)
            elif source.has("index.json"):
                found = self._of_oci(source, os.path.basename(os.path.abspath(path)) if path != "-" else "")
            else:
                raise ImageError(f"{source.title} holds no image: it has neither a manifest.json nor an index.json",
                                 remedy="name an archive that `docker save`, `podman save` or skopeo wrote, or an OCI layout")
            return [image for incoming, files in found for image in self._take(source, incoming, files)]

    def _take(self, source: Source, image: Incoming, files: list[str]) -> list[Image]:
        began = time.monotonic()
        self._progress.begin(image.names[0])

        def fetch(number: int, layer: Descriptor) -> Iterator[bytes]:
            pieces = source.chunks(files[number], layer.size)
            if layer.digest == image.diff_ids[number]:
                return pieces   # what is unpacked is checked
            return self._kept(layer, pieces) if self._keep else _checked(layer, pieces)
        chain = Chain(image.diff_ids)
        for number, layer in enumerate(image.manifest.layers if self._keep else ()):   # what is unpacked already won't be fetched below
            if layer.digest != image.diff_ids[number] and self.store.layers.unpacked(chain.ids[number]) and \
                    not self.store.cache.has(layer.digest, layer.size):
                for _ in fetch(number, layer):
                    pass
        images = take_in(self.store, image, fetch, self._progress)
        for one in images:
            self._progress.end(one.reference, built=True, size=one.size, seconds=time.monotonic() - began, verb="loaded")
        return images

    def _kept(self, layer: Descriptor, pieces: Iterator[bytes]) -> Iterator[bytes]:
        with self.store.cache.lock(layer.digest):
            if self.store.cache.has(layer.digest, layer.size):
                yield from self.store.cache.chunks(layer.digest)
            else:
                yield from self.store.cache.keep(layer.digest, pieces)

    # Docker's form

    def _of_docker(self, source: Source) -> Iterator[tuple[Incoming, list[str]]]:
        what = f"manifest.json in {source.title}"
        rows = parse_any_json(read_small(source, "manifest.json", LARGEST), what)
        if not isinstance(rows, list) or not rows or len(rows) > _MOST:
            raise ImageError(f"{what} lists no images")
        for row in rows:
            yield self._docker_image(source, row, what, alone=len(rows) == 1)

    def _docker_image(self, source: Source, row: Any, what: str, *, alone: bool) -> tuple[Incoming, list[str]]:
        try:
            path, layers = str(row["Config"]), [str(name) for name in row["Layers"]]
            tags = [str(name) for name in row.get("RepoTags") or ()]
        except (KeyError, TypeError, AttributeError) as error:
            raise ImageError(f"{what} has no Config and Layers") from error
        if len(tags) > _MOST:
            raise ImageError(f"{what} gives an image {len(tags)} names; at most {_MOST} are taken")
        config = read_small(source, path, LARGEST)
        named = re.fullmatch(r"(?:blobs/sha256/)?([0-9a-f]{64})(?:\.json)?", path)
        if named:
            verify(config, f"sha256:{named[1]}", f"{path} in {source.title}")
        names = self._names(tags, alone=alone, what=what)
        body = parse_json(config, f"the config of {names[0]}")
        manifest = manifest_of(config, [
            Descriptor(digest=diff_id, size=source.size(file), media_type=OCI_LAYER, annotations={})
            for diff_id, file in zip(diff_ids_of(body, len(layers), f"the config of {names[0]}"), layers, strict=True)], names[0])
        return self._incoming(names, manifest, config, source), layers

    # OCI's form

    def _of_oci(self, source: Source, base: str) -> Iterator[tuple[Incoming, list[str]]]:
        what = f"index.json in {source.title}"
        rows = descriptors(parse_json(read_small(source, "index.json", LARGEST), what), what)
        if not rows or len(rows) > _MOST:
            raise ImageError(f"{what} lists {len(rows)} images")
        named = [row for row in rows if REF_NAME in row.annotations or _FULL_NAME in row.annotations]
        if not named:   # one image, perhaps of several platforms
            rows = [choose(rows, self._platform, source.title) if len(rows) > 1 else rows[0]]
        elif self._name and len(named) > 1:
            raise ImageError(f"{source.title} holds {len(named)} images, and --name is one name", remedy="load it without --name")
        else:
            rows = named
        for row in rows:
            origin = Origin.parse(row.annotations) if self._exported else None
            if origin is not None:
                yield self._oci_image(source, row, origin.name, origin)
                continue
            if self._exported:
                raise ImageError(f"{source.title} is no file of `sealed export`", remedy=f"sealed load {source.title}")
            name = row.annotations.get(_FULL_NAME) or _with_base(row.annotations.get(REF_NAME, ""), base)
            [name] = self._names([name] if name else [], alone=True, what=what)
            yield self._oci_image(source, row, name)

    def _oci_image(self, source: Source, row: Descriptor, name: str, origin: Origin | None = None) -> tuple[Incoming, list[str]]:
        index = ""
        for _ in range(DEEPEST):
            data = self._blob(source, row)
            body = parse_json(data, f"the manifest of {name}")
            if "manifests" not in body and row.media_type not in INDEXES:
                break
            index = index or row.digest
            row = choose(descriptors(body, f"the index of {name}"), self._platform, name)
        else:
            raise ImageError(f"{name} has indexes within indexes, more than {DEEPEST} deep")
        manifest = parse_manifest(data, row.media_type, f"the manifest of {name}")
        config = self._blob(source, manifest.config)
        return self._incoming((name,), manifest, config, source, index, origin), [blob_path(layer.digest) for layer in manifest.layers]

    def _blob(self, source: Source, row: Descriptor) -> bytes:
        path = blob_path(row.digest)
        return verify(read_small(source, path, LARGEST), row.digest, f"{path} in {source.title}", row.size)

    # both

    def _incoming(self, names: tuple[str, ...], manifest: Manifest, config: bytes, source: Source, index: str = "",
                  origin: Origin | None = None) -> Incoming:
        diff_ids, notes = check_config(config, manifest, names[0], self._platform, insist=self._insist)
        return Incoming(names=names, manifest=manifest, config=config, diff_ids=diff_ids, index=index, notes=notes, origin=origin,
                        source=f"sealed load {source.title}")

    def _names(self, names: list[str], *, alone: bool, what: str) -> tuple[str, ...]:
        if self._name:
            if not alone:
                raise ImageError(f"{what} lists several images, and --name is one name", remedy="load it without --name")
            return (self._name,)
        if not names:
            raise ImageError(f"{what} gives an image no name", remedy="sealed load --name NAME:TAG FILE")
        return tuple(dict.fromkeys(str(parse_reference(name)) for name in names))


def _checked(layer: Descriptor, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the pieces of a layer; its digest is checked at their end."""
    found = hashlib.sha256()
    for piece in pieces:
        found.update(piece)
        yield piece
    if f"sha256:{found.hexdigest()}" != layer.digest:
        raise ImageError(f"a layer has the digest sha256:{found.hexdigest()}, expected {layer.digest}")


def _with_base(name: str, base: str) -> str:
    """Return a name: the specification takes it for a tag, and some tools write a whole one."""
    if not name or ":" in name or "/" in name:
        return name
    stem = re.sub(r"(\.oci)?(\.tar)?(\.(gz|tgz|zst))?$", "", base.lower())
    stem = re.sub(r"[^a-z0-9]+", "-", stem).strip("-")
    return f"{stem or 'image'}:{name}"
