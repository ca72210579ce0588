"""Writes images out of the store: as `docker save` does, as an OCI layout, or as a tar of one. The same images give the same bytes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tarfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Literal, Protocol, final

from pytest_sealed.errors import ImageError, SpecError
from pytest_sealed.images.archive import forget_members
from pytest_sealed.images.layers import Chain
from pytest_sealed.images.manifest import OCI_INDEX, OCI_LAYER, REF_NAME, Descriptor, Manifest, manifest_of, parse_manifest
from pytest_sealed.images.progress import Progress
from pytest_sealed.images.reference import blob_path, digest_of, encode, parse_reference

if TYPE_CHECKING:
    from pytest_sealed.images.store import Store

__all__ = ["FORMATS", "Stored", "TarOutput", "save", "stored", "write_oci"]

FORMATS = ("docker-archive", "oci-archive", "oci")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An image with all that is needed to hand it on."""

    name: str
    manifest: Manifest
    config: bytes
    chain: Chain

    @property
    def tag(self) -> str:
        """Its name with a tag, as other tools want one; empty: it's named by its digest."""
        parsed = parse_reference(self.name)
        return "" if parsed.digest else str(parsed)


def stored(store: Store, reference: str) -> Stored:
    """Return an image of the store.

    Raises:
        ImageNotFound, ImageError: as `Store.get`.
    """
    name, manifest, config = store.documents(reference)
    return Stored(name=name, manifest=parse_manifest(manifest, "", f"the manifest of {name}"), config=config,
                  chain=Chain.of(json.loads(config)))


def layer_pieces(store: Store, image: Stored, number: int) -> Iterator[bytes] | None:
    """Return a layer as the manifest has it; None: it travelled compressed, and that form isn't kept any more."""
    layer, diff_id = image.manifest.layers[number], image.chain.diff_ids[number]
    if layer.digest == diff_id:
        return store.layers.tar(image.chain.ids[number], diff_id)
    return store.cache.chunks(layer.digest) if store.cache.has(layer.digest, layer.size) else None


def save(store: Store, references: Iterable[str], path: str, form: str = FORMATS[0], progress: Progress | None = None) -> None:
    """Write images to `path`; `-` is the standard output.

    Args:
        form: one of FORMATS. `oci` is a folder, the others are files.

    Raises:
        ImageNotFound: the store has no such image.
        ImageError: a layer is damaged, or `path` can't be written. Nothing is left there then.
    """
    progress = progress or Progress()
    images = [stored(store, reference) for reference in references]
    try:
        with store.building(), _output(path, form) as output:
            if form == "docker-archive":
                _docker(store, images, output, progress)
            else:
                write_oci(store, images, output, progress)
    except OSError as error:
        raise ImageError(f"{path} can't be written: {error.strerror or error}",
                         remedy="name a file in a folder of yours, with room for it") from error


class _Output(Protocol):
    def add(self, name: str, size: int, pieces: Iterable[bytes]) -> object:
        """Write a file; nothing if there is one of that name."""
        ...


def _docker(store: Store, images: list[Stored], output: _Output, progress: Progress) -> None:
    rows = []
    for image in images:
        progress.begin(image.name)
        config = f"{digest_of(image.config).removeprefix('sha256:')}.json"
        output.add(config, len(image.config), [image.config])
        layers = []
        for number, (chain, diff_id) in enumerate(zip(image.chain.ids, image.chain.diff_ids, strict=True), 1):
            progress.stage(f"writing layer {number} of {len(image.chain.ids)}")
            layers.append(f"{diff_id.removeprefix('sha256:')}.tar")
            output.add(layers[-1], store.layers.size(chain), store.layers.tar(chain, diff_id))
        rows.append({"Config": config, "RepoTags": [image.tag] if image.tag else None, "Layers": layers})
    body = json.dumps(rows, separators=(",", ":")).encode()
    output.add("manifest.json", len(body), [body])


def write_oci(store: Store, images: list[Stored], output: _Output, progress: Progress,
              annotations: Callable[[Stored], dict[str, str]] = lambda _image: {}) -> None:
    """Write an OCI layout into `output`, its index.json last.

    Args:
        annotations: what the index says of an image besides its name.
    """
    layout = b'{"imageLayoutVersion":"1.0.0"}'
    output.add("oci-layout", len(layout), [layout])
    rows = []
    for image in images:
        progress.begin(image.name)
        if any(layer.digest != diff_id and not store.cache.has(layer.digest, layer.size)
               for layer, diff_id in zip(image.manifest.layers, image.chain.diff_ids, strict=True)):
            progress.note(f"{image.name}: its layers aren't kept as they travelled (`sealed rm --cache` removed them): "
                          "they are written uncompressed, and the image has another digest")
            image = uncompressed(store, image)
        for number, layer in enumerate(image.manifest.layers):
            progress.stage(f"writing layer {number + 1} of {len(image.manifest.layers)}")
            output.add(blob_path(layer.digest), layer.size, layer_pieces(store, image, number) or ())
        for data in (image.config, image.manifest.data):
            output.add(blob_path(digest_of(data)), len(data), [data])
        rows.append({"mediaType": image.manifest.media_type, "digest": image.manifest.digest, "size": len(image.manifest.data),
                     "annotations": {**({REF_NAME: image.tag} if image.tag else {}), **annotations(image)}})
    body = encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": rows})
    output.add("index.json", len(body), [body])


def uncompressed(store: Store, image: Stored) -> Stored:
    """Return the same image with a manifest of uncompressed layers."""
    layers = [Descriptor(digest=diff_id, size=store.layers.size(chain), media_type=OCI_LAYER, annotations={})
              for chain, diff_id in zip(image.chain.ids, image.chain.diff_ids, strict=True)]
    return Stored(name=image.name, manifest=manifest_of(image.config, layers, image.name), config=image.config, chain=image.chain)


# outputs


@contextlib.contextmanager
def _output(path: str, form: str) -> Iterator[_Output]:
    if form == "oci":
        yield from _folder(path)
    elif path == "-":
        if sys.stdout.isatty():
            raise SpecError("an archive isn't for a terminal", remedy="sealed save IMAGE FILE, or sealed save IMAGE - | …")
        with TarOutput(sys.stdout.buffer) as tar:
            yield tar
        sys.stdout.buffer.flush()
    else:
        fresh = f"{path}.{uuid.uuid4().hex[:8]}"
        try:
            with open(fresh, "xb") as file:
                with TarOutput(file) as tar:
                    yield tar
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, path)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(fresh)


def _folder(path: str) -> Iterator[_Output]:
    with contextlib.suppress(FileNotFoundError):
        if os.listdir(path):
            raise SpecError(f"the folder {path} isn't empty", remedy="name a new one")
    import shutil
    made = not os.path.isdir(path)
    os.makedirs(os.path.join(path, "blobs", "sha256"))
    try:
        yield _Folder(path)
    except BaseException:
        for name in os.listdir(path):
            whole = os.path.join(path, name)
            shutil.rmtree(whole) if os.path.isdir(whole) else os.unlink(whole)
        if made:
            os.rmdir(path)
        raise


@final
class _Folder:
    def __init__(self, path: str) -> None:
        self._path = path

    def add(self, name: str, size: int, pieces: Iterable[bytes]) -> None:
        path = os.path.join(self._path, name)
        if os.path.exists(path):
            return
        with open(path, "xb") as file:
            if sum(map(file.write, pieces)) != size:
                raise ImageError(f"{name} has another size than it should", remedy="remove the image, and make or fetch it again")


@final
class TarOutput:
    """A tar of files and of their folders, whose headers say nothing but names, sizes, and who may unpack it.

    skopeo gives what it unpacks to the owners in the headers, and folders without one to root: an ordinary account couldn't.

    Args:
        stream: `file` may be a pipe.
        present: the sizes of files that are there already, by name.
    """

    def __init__(self, file: IO[bytes], *, stream: bool = True, present: Mapping[str, int] | None = None) -> None:
        mode: Literal["w|", "w"] = "w|" if stream else "w"
        self._tar = tarfile.open(fileobj=file, mode=mode, format=tarfile.PAX_FORMAT)  # noqa: SIM115  (closed in __exit__)
        self._seen: set[str] = set()
        self._present = dict(present or {})

    def __enter__(self) -> TarOutput:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()

    def close(self) -> None:
        """Write the end of the tar."""
        self._tar.close()

    def add(self, name: str, size: int, pieces: Iterable[bytes]) -> bool:
        """Write a file; return False if there is one of that name and size."""
        if name in self._seen or self._present.get(name) == size:
            return False
        parent = os.path.dirname(name)
        if parent:
            self._folder(parent)
        self._seen.add(name)
        entry = tarfile.TarInfo(name)
        entry.size = size
        self._put(entry, _Pieces(pieces))
        return True

    def replace(self, name: str, data: bytes) -> None:
        """Write a file in place of one of that name: the last one counts."""
        self._present.pop(name, None)
        self.add(name, len(data), [data])

    def _folder(self, name: str) -> None:
        if name in self._seen:
            return
        if os.path.dirname(name):
            self._folder(os.path.dirname(name))
        self._seen.add(name)
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
        self._put(entry, None)

    def _put(self, entry: tarfile.TarInfo, content: _Pieces | None) -> None:
        entry.uid, entry.gid = os.geteuid(), os.getegid()
        self._tar.addfile(entry, content)
        forget_members(self._tar)


@final
class _Pieces(io.RawIOBase):
    """Pieces as a file."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces, self._left = iter(pieces), b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        parts, need = [], size
        while need > 0:
            if not self._left:
                self._left = next(self._pieces, b"")
                if not self._left:
                    break
            parts.append(self._left[:need])
            self._left = self._left[need:]
            need -= len(parts[-1])
        return b"".join(parts)
