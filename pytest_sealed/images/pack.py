"""Packs an image as a Python wheel: an OCI layout that pip, uv and every package index can carry, pin and check.

See the specification of binary distributions (wheels), of core metadata 2.4, and PEP 770 for the bill of materials.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime
import hashlib
import json
import re
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, final

from pytest_sealed.errors import ImageError, SpecError
from pytest_sealed.images.apt import deb_name
from pytest_sealed.images.compression import zstd
from pytest_sealed.images.installed import GROUP
from pytest_sealed.images.layerfile import epoch
from pytest_sealed.images.manifest import OCI_INDEX, OCI_LAYER, Descriptor, Manifest, manifest_of
from pytest_sealed.images.origin import Origin
from pytest_sealed.images.progress import Progress
from pytest_sealed.images.reference import blob_path, digest_of, encode, parse_reference
from pytest_sealed.images.save import Stored, stored
from pytest_sealed.images.sbom import Package, bill_of_materials, list_of_sources
from pytest_sealed.images.streams import rows_of

if TYPE_CHECKING:
    from pytest_sealed.images.store import Store

__all__ = ["LIMIT", "pack_wheel"]

LIMIT = 100_000_000       # bytes of a file, on the usual index
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64", "arm": "armv7l", "386": "i686"}
_VERSION = re.compile(r"\d+(?:\.\d+)*(?:(?:a|b|rc)\d+)?(?:\.post\d+)?(?:\.dev\d+)?")   # of PEP 440, the usual ones
_LEVEL = 19               # of zstd: packed once, fetched often


def pack_wheel(store: Store, reference: str, folder: Path, *, version: str = "", limit: int = LIMIT, level: int = _LEVEL,
               progress: Progress | None = None) -> Path:
    """Write the wheel of an image into `folder`; return its path. The same image gives the same bytes.

    Args:
        version: of the wheel; empty: the image's tag if it is one, else the day on which the image was made.
        limit: bytes that it may have.
        level: how hard to compress, 1 to 22.

    Raises:
        ImageNotFound: the store has no such image.
        SpecError: the version is none.
        ImageError: the wheel would be larger than `limit`, a layer is damaged, or the folder can't be written.
    """
    image = stored(store, reference)
    wheel = _Wheel(store, image, version, progress or Progress())
    with store.building(), store.folders.workspace() as work:
        wheel.compress(work, level)
        fresh = work / f"{uuid.uuid4().hex}.whl"
        with open(fresh, "xb") as file:
            wheel.write(file, work)
        size = fresh.stat().st_size
        if size > limit:
            raise ImageError(f"the wheel of {image.name} has {size / 1e6:.1f} MB, and an index takes {limit / 1e6:g} MB a file", remedy=(
                "leave out what the image doesn't need (`exclude` of its recipe; `sealed history` shows what is large); or --limit, for an "
                "index of your own"))
        target = folder / wheel.file
        try:
            folder.mkdir(parents=True, exist_ok=True)
            part = folder / f".{wheel.file}.{uuid.uuid4().hex[:8]}"
            try:
                part.write_bytes(fresh.read_bytes())
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)
        except OSError as error:
            raise ImageError(f"{target} can't be written: {error.strerror}", remedy="sealed pack --wheel IMAGE -o FOLDER") from error
        return target


@final
class _Wheel:
    """The wheel of one image."""

    def __init__(self, store: Store, image: Stored, version: str, progress: Progress) -> None:
        self._store, self._image, self._progress = store, image, progress
        record = store.records.get(image.name)
        parsed = parse_reference(image.name)
        self._made = datetime.datetime.fromtimestamp(float(record.get("created", 0)), datetime.timezone.utc)
        if version and not _VERSION.fullmatch(version):
            raise SpecError(f"{version!r} is no version of a wheel", remedy="write numbers with dots, such as 15.6 or 2024.11.5.post1")
        self.version = version or (parsed.tag if _VERSION.fullmatch(parsed.tag) else f"{self._made:%Y.%-m.%-d}")
        self._name = parsed.name if not parsed.tag or parsed.tag == "latest" or parsed.digest else image.name
        self.distribution = "sealed-image-" + re.sub(r"[^a-z0-9]+", "-", parsed.path.lower()).strip("-")
        self._package = self.distribution.replace("-", "_")
        body = json.loads(image.config)
        machine = str(body.get("architecture") or "")
        machine = _MACHINES.get(machine, re.sub(r"[^a-z0-9_]", "_", machine.lower()))
        # nothing in it is run by the host's libraries, so it suits any: indexes take no plain linux_*
        self._tag = f"py3-none-manylinux_2_17_{machine}.musllinux_1_1_{machine}"
        self.file = f"{self._package}-{self.version}-{self._tag}.whl"
        self._info = f"{self._package}-{self.version}.dist-info"
        self._record: list[str] = []
        self._manifest: Manifest = image.manifest
        self._blobs: list[tuple[str, Path]] = []

    def compress(self, work: Path, level: int) -> None:
        """Write each layer compressed, or as it travelled if that is kept for all: then the image keeps its digest."""
        image, cache = self._image, self._store.cache
        pairs = list(zip(image.manifest.layers, image.chain.diff_ids, strict=True))
        if all(layer.digest != diff_id and cache.has(layer.digest, layer.size) for layer, diff_id in pairs):
            for layer, _ in pairs:
                for _ in cache.chunks(layer.digest):   # which checks it
                    pass
            self._blobs = [(layer.digest, cache.path(layer.digest)) for layer, _ in pairs]
            return
        rows = []
        for number, (chain, diff_id) in enumerate(zip(image.chain.ids, image.chain.diff_ids, strict=True), 1):
            self._progress.stage(f"compressing layer {number} of {len(pairs)} ({self._store.layers.size(chain) / 1e6:.0f} MB)")
            path = work / f"layer-{number}"
            digest, size = _compress(self._store.layers.tar(chain, diff_id), path, level)
            rows.append(Descriptor(digest=digest, size=size, media_type=f"{OCI_LAYER}+zstd", annotations={}))
            self._blobs.append((digest, path))
        self._manifest = manifest_of(image.config, rows, image.name)

    def write(self, file: IO[bytes], work: Path) -> None:
        """Write the wheel's zip."""
        packages, system = self._packages(work)
        reference = f"{parse_reference(self._name).name}@{self._manifest.digest}"
        facts = {"source": "", "wheel": f"wheel {self.distribution} {self.version}", "created": self._made.timestamp()}
        index = encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [{
            "mediaType": self._manifest.media_type, "digest": self._manifest.digest, "size": len(self._manifest.data),
            "annotations": Origin(name=reference, facts=facts, steps={}).annotations()}]})
        self._progress.stage("writing the wheel")
        with zipfile.ZipFile(file, "w") as archive:
            self._put(archive, f"{self._package}/__init__.py", f'"""The container image {self._name}, for pytest-sealed."""\n'.encode())
            self._put(archive, f"{self._package}/SOURCES.txt", list_of_sources(packages).encode())
            self._put(archive, f"{self._package}/oci/oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
            self._put(archive, f"{self._package}/oci/index.json", index)
            for data in (self._image.config, self._manifest.data):
                self._put(archive, f"{self._package}/oci/{blob_path(digest_of(data))}", data)
            for digest, path in dict(self._blobs).items():
                self._copy(archive, f"{self._package}/oci/{blob_path(digest)}", path)
            licences = {f"{package.name}/{name}": text for package in packages for name, text in package.licences.items()}
            for name, text in sorted(licences.items()):
                self._put(archive, f"{self._info}/licenses/{name}", text.encode())
            bill = bill_of_materials(self._name, self.version, self._manifest.digest, packages, system["id"], system["version"])
            self._put(archive, f"{self._info}/sboms/image.cdx.json", bill)
            self._put(archive, f"{self._info}/METADATA", self._metadata(packages, sorted(licences)).encode())
            self._put(archive, f"{self._info}/WHEEL", self._wheel().encode())
            self._put(archive, f"{self._info}/entry_points.txt", f"[{GROUP}]\n{self._name} = {self._package}\n".encode())
            self._record.append(f"{self._info}/RECORD,,\n")
            archive.writestr(_entry(f"{self._info}/RECORD"), "".join(self._record))

    def _packages(self, work: Path) -> tuple[list[Package], dict[str, str]]:
        """Return the image's packages, with the licences of those that the image leaves out, as far as they are at hand."""
        payload = {"layers": self._store.layers.lowers(self._image.chain), "work": str(work)}
        system, *rows = rows_of("pytest_sealed.images.contents", payload, self._store.folders.ids)
        packages = [self._with_licence(Package(**row)) for row in rows]
        without = [package.name for package in packages if not package.licences]
        if not packages:
            self._progress.note(f"{self._image.name}: it has no package database that is known (dpkg, apk, Python): nothing can be said of "
                                "its licences and sources")
        elif without:
            self._progress.note(f"{self._image.name}: no licence was found of {', '.join(without[:8])}"
                                + f" and {len(without) - 8} more" * (len(without) > 8))
        return packages, system

    def _with_licence(self, package: Package) -> Package:
        """Look into the fetched .deb, if the image lacks the package's copyright file."""
        if package.kind != "deb" or package.licences:
            return package
        from pytest_sealed.images.deb import Deb
        for path in sorted((self._store.folders.cache / "debian").rglob(deb_name(package.name, package.version, "*"))):
            with contextlib.suppress(ImageError), Deb(str(path)) as deb, deb.data() as tar:
                for entry in tar:
                    if entry.name.removeprefix("./") == f"usr/share/doc/{package.name}/copyright" and entry.isreg():
                        text = tar.extractfile(entry)
                        if text is not None:
                            return dataclasses.replace(package, licences={"copyright": text.read().decode("utf-8", "replace")})
        return package

    def _metadata(self, packages: list[Package], licences: list[str]) -> str:
        lines = ["Metadata-Version: 2.4", f"Name: {self.distribution}", f"Version: {self.version}",
                 f"Summary: The container image {self._name}, for pytest-sealed", "Requires-Python: >=3.10",
                 *(f"License-File: {name}" for name in licences), "Description-Content-Type: text/plain", "",
                 f"The container image {self._name}, made on {self._made:%Y-%m-%d}.", f"Digest: {self._manifest.digest}",
                 f"Its {len(packages)} packages have licences of their own: see the folder licenses, SOURCES.txt for what they were built "
                 "from, and sboms/image.cdx.json.", ""]
        return "\n".join(lines)

    def _wheel(self) -> str:
        python, abi, platforms = self._tag.split("-")
        tags = "".join(f"Tag: {python}-{abi}-{platform}\n" for platform in platforms.split("."))
        return f"Wheel-Version: 1.0\nGenerator: pytest-sealed\nRoot-Is-Purelib: false\n{tags}"

    def _put(self, archive: zipfile.ZipFile, name: str, data: bytes) -> None:
        archive.writestr(_entry(name), data, zipfile.ZIP_DEFLATED)
        self._note(name, hashlib.sha256(data).digest(), len(data))

    def _copy(self, archive: zipfile.ZipFile, name: str, path: Path) -> None:
        """Add a compressed layer as it is."""
        found, size = hashlib.sha256(), 0
        with archive.open(_entry(name), "w", force_zip64=True) as target, open(path, "rb") as source:
            while data := source.read(1 << 20):
                target.write(data)
                found.update(data)
                size += len(data)
        self._note(name, found.digest(), size)

    def _note(self, name: str, digest: bytes, size: int) -> None:
        quoted = f'"{name}"' if "," in name else name
        self._record.append(f"{quoted},sha256={base64.urlsafe_b64encode(digest).rstrip(b'=').decode()},{size}\n")


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, datetime.datetime.fromtimestamp(epoch(), datetime.timezone.utc).timetuple()[:6])
    entry.external_attr = 0o100644 << 16
    return entry


def _compress(pieces: Iterator[bytes], path: Path, level: int) -> tuple[str, int]:
    """Write pieces as one zstd frame; return its digest and size."""
    machine, found, size = zstd().ZstdCompressor(level=level), hashlib.sha256(), 0
    with open(path, "xb") as file:
        for piece in pieces:
            data = machine.compress(piece)
            found.update(data)
            size += file.write(data)
        data = machine.flush()
        found.update(data)
        size += file.write(data)
    return f"sha256:{found.hexdigest()}", size
