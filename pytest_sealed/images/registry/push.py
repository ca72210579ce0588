"""Pushes images: what came from elsewhere goes on as it came, with the same digest; layers of ours are compressed on their way."""

from __future__ import annotations

import hashlib
import io
import os
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, final
from urllib.parse import urljoin, urlsplit

from pytest_sealed.images.manifest import OCI_LAYER, Descriptor, manifest_of
from pytest_sealed.images.progress import Progress
from pytest_sealed.images.reference import Reference, digest_of, parse_reference
from pytest_sealed.images.registry.answers import Absent, RegistryError, Unreachable
from pytest_sealed.images.registry.client import Client
from pytest_sealed.images.registry.credentials import Credentials
from pytest_sealed.images.registry.settings import Settings
from pytest_sealed.images.registry.transport import host_of
from pytest_sealed.images.save import Stored, layer_pieces, stored

if TYPE_CHECKING:
    from pytest_sealed.images.manifest import Manifest
    from pytest_sealed.images.registry.transport import Patience
    from pytest_sealed.images.store import Store

__all__ = ["Pusher"]

_MEGABYTE = 1_000_000
_LEVEL = 6   # of gzip: what others use, too


@final
class Pusher:
    """Pushes images of a store."""

    def __init__(self, store: Store, progress: Progress | None = None, *, settings: Settings | None = None,
                 credentials: Credentials | None = None, patience: Patience | None = None) -> None:
        self.store, self._progress = store, progress or Progress()
        self._settings, self._credentials = settings or Settings(), credentials or Credentials()
        self._patience = patience

    def push(self, reference: str, target: str = "") -> str:
        """Push an image; return the digest of its manifest there.

        Args:
            target: where to; by default its own name.

        Raises:
            ImageNotFound: the store has no such image.
            SpecError: no registry is named.
            ImageError: a layer is damaged, or the registry doesn't take it: see `answers`.
        """
        image = stored(self.store, reference)
        wanted = self._settings.qualified(parse_reference(target or image.name))
        [endpoint] = self._settings.endpoints(wanted, mirrors=False)
        began = time.monotonic()
        self._progress.begin(str(wanted))
        client = Client(endpoint, self._settings, self._credentials, self._patience, note=self._progress.note)
        try:
            with self.store.building(), self.store.folders.workspace() as work:
                manifest = self._layers(client, image, work)
                self._upload(client, Descriptor(digest=digest_of(image.config), size=len(image.config), annotations={}), image.config)
                digest = self._manifest(client, manifest, wanted)
        finally:
            client.close()
        size = sum(layer.size for layer in manifest.layers)
        self._progress.end(str(wanted), built=True, size=size, seconds=time.monotonic() - began, verb="pushed")
        return digest

    def _layers(self, client: Client, image: Stored, work: Path) -> Manifest:
        """Push the layers that the registry lacks; return the manifest that they are for."""
        made: list[Descriptor] = []
        changed = False
        for number, layer in enumerate(image.manifest.layers):
            self._progress.stage(f"layer {number + 1} of {len(image.manifest.layers)}")
            diff_id = image.chain.diff_ids[number]
            pieces = layer_pieces(self.store, image, number) if layer.digest != diff_id else None
            if pieces is not None:   # as it came
                made.append(layer)
                if not self._has(client, layer):
                    self._upload(client, layer, self.store.cache.path(layer.digest))
                continue
            if layer.digest != diff_id and not changed:
                changed = True
                self._progress.note(f"{image.name}: its layers aren't all kept as they travelled: "
                                    "they are compressed anew, and the image gets another digest")
            path = work / "layer.tar.gz"
            path.unlink(missing_ok=True)
            packed = compress(self.store.layers.tar(image.chain.ids[number], diff_id), path)
            made.append(packed)
            if not self._has(client, packed):
                self._upload(client, packed, path)
        if made == list(image.manifest.layers):
            return image.manifest
        return manifest_of(image.config, made, image.name)

    def _has(self, client: Client, blob: Descriptor) -> bool:
        answer = client.request("HEAD", client.url(f"blobs/{blob.digest}"), wanted=(200, 404), what=f"a layer of {client.title}")
        answer.close()
        return answer.status == 200

    def _upload(self, client: Client, blob: Descriptor, content: bytes | Path) -> None:
        """Send a blob in one go; begin anew if it's cut, as often as patience has it."""
        for attempt in range(1, client.patience.attempts + 1):
            try:
                self._send(client, blob, content)
                return
            except (Absent, Unreachable) as error:   # Absent: the registry has forgotten the upload
                if attempt == client.patience.attempts:
                    raise
                client.pause(attempt, error.message)

    def _send(self, client: Client, blob: Descriptor, content: bytes | Path) -> None:
        what, uploads = f"a blob of {client.title}", client.url("blobs/uploads/")
        answer = client.request("POST", uploads, headers={"Content-Length": "0"}, wanted=(201, 202), what=what)
        answer.close()
        place = urljoin(uploads, answer.headers.get("Location", ""))
        client.allow(uploads, place)
        place += ("&" if urlsplit(place).query else "?") + f"digest={blob.digest}"
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(blob.size)}
        answer = client.request("PUT", place, headers=headers, wanted=(201, 204), what=what, once=True,
                                body=content if isinstance(content, bytes) else lambda: _Counted(content, self._progress))
        answer.close()
        found = answer.headers.get("Docker-Content-Digest", blob.digest)
        if found != blob.digest:
            raise RegistryError(f"{host_of(place)} took {blob.digest} for {found[:80]}")

    def _manifest(self, client: Client, manifest: Manifest, wanted: Reference) -> str:
        what = f"the manifest {wanted.version} of {client.title}"
        if wanted.digest and wanted.digest != manifest.digest:
            raise RegistryError(f"{client.title}: the image has the digest {manifest.digest}, not {wanted.digest}",
                                remedy=f"sealed push … {wanted.name}:TAG")
        answer = client.request("PUT", client.url(f"manifests/{wanted.version}"), headers={"Content-Type": manifest.media_type},
                                body=manifest.data, wanted=(200, 201, 202), what=what)
        answer.close()
        found = answer.headers.get("Docker-Content-Digest", manifest.digest)
        if found != manifest.digest:
            raise RegistryError(f"{what}: the registry took {manifest.digest} for {found[:80]}")
        return manifest.digest


def compress(pieces: Iterable[bytes], path: Path) -> Descriptor:
    """Write pieces as a gzip file, the same bytes for the same pieces; return its descriptor."""
    digest, size = hashlib.sha256(), 0
    with open(path, "xb") as file:
        for data in _gzip(pieces):
            digest.update(data)
            size += file.write(data)
    return Descriptor(digest=f"sha256:{digest.hexdigest()}", size=size, media_type=f"{OCI_LAYER}+gzip", annotations={})


def _gzip(pieces: Iterable[bytes]) -> Iterator[bytes]:
    machine = zlib.compressobj(_LEVEL, wbits=31)   # zlib writes no time and no name
    for piece in pieces:
        yield machine.compress(piece)
    yield machine.flush()


@final
class _Counted(io.FileIO):
    """A file that tells how much of it has been read."""

    def __init__(self, path: Path, progress: Progress) -> None:
        super().__init__(path)
        self._progress, self._total, self._sent = progress, os.fstat(self.fileno()).st_size, 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(-1 if size is None else size)
        self._sent += len(data or b"")
        total = max(1, round(self._total / _MEGABYTE))
        self._progress.step(min(total, round(self._sent / _MEGABYTE)), total, "MB")
        return data or b""
