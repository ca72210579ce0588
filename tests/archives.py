"""Images made by hand, as other tools write them: with whatever a test wants to be wrong in them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Made", "architecture", "digest", "docker_archive", "layer", "layout", "packed", "tar_of"]

OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker"


def architecture() -> str:
    from pytest_sealed.images.construct import architecture as found
    return found()


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def layer(files: Mapping[str, str | bytes], **attributes: Any) -> bytes:
    """Return a layer's tar: of files, folders (`name/`) and symbolic links (content `-> target`). 0755 unless said otherwise."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            data = content if isinstance(content, bytes) else content.encode()
            entry = tarfile.TarInfo(name.rstrip("/"))
            entry.mode, entry.mtime = 0o755, 1_000_000_000
            if name.endswith("/"):
                entry.type, data = tarfile.DIRTYPE, b""
            elif data.startswith(b"-> "):
                entry.type, entry.linkname, data = tarfile.SYMTYPE, data[3:].decode(), b""
            entry.size = len(data)
            for key, value in attributes.items():
                setattr(entry, key, value)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


@dataclass
class Made:
    """An image: its layers as tars, and what its config says."""

    layers: Sequence[bytes]
    config: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    """Of the outer config: architecture, os, rootfs …"""

    @property
    def body(self) -> bytes:
        return json.dumps({"architecture": architecture(), "os": "linux", "config": self.config,
                           "rootfs": {"type": "layers", "diff_ids": [digest(one) for one in self.layers]}, **self.changes}).encode()


def tar_of(path: Path, files: Mapping[str, bytes]) -> Path:
    """Write a tar of files."""
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def docker_archive(path: Path, *images: tuple[Made, Sequence[str]], **changes: Any) -> Path:
    """Write what `docker save` does; `changes` are made to each row of manifest.json."""
    files, rows = {}, []
    for image, tags in images:
        config = f"{digest(image.body).removeprefix('sha256:')}.json"
        files[config] = image.body
        for one in image.layers:
            files[f"{digest(one).removeprefix('sha256:')}/layer.tar"] = one
        rows.append({"Config": config, "RepoTags": list(tags),
                     "Layers": [f"{digest(one).removeprefix('sha256:')}/layer.tar" for one in image.layers], **changes})
    return tar_of(path, {**files, "manifest.json": json.dumps(rows).encode()})


def packed(image: Made, *, kind: str = OCI, squeeze: Any = gzip.compress, **changes: Any) -> tuple[bytes, dict[str, bytes]]:
    """Return (manifest, blobs by digest) of an image."""
    docker = kind == DOCKER
    names = ((f"{kind}.distribution.manifest.v2+json", f"{kind}.container.image.v1+json", f"{kind}.image.rootfs.diff.tar.gzip") if docker
             else (f"{kind}.manifest.v1+json", f"{kind}.config.v1+json", f"{kind}.layer.v1.tar+gzip"))
    blobs = [squeeze(one) for one in image.layers]
    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": names[0], "config": {"mediaType": names[1], "digest": digest(image.body), "size": len(image.body)},
        "layers": [{"mediaType": names[2], "digest": digest(one), "size": len(one)} for one in blobs], **changes}).encode()
    return manifest, {digest(one): one for one in (*blobs, image.body, manifest)}


def layout(folder: Path, *images: tuple[Made, dict[str, Any]], **changes: Any) -> Path:
    """Write an OCI layout; each image's dict is added to its descriptor in index.json, `changes` are made to the manifests."""
    (folder / "blobs/sha256").mkdir(parents=True)
    rows = []
    for image, more in images:
        manifest, blobs = packed(image, **changes)
        for name, data in blobs.items():
            (folder / "blobs/sha256" / name.removeprefix("sha256:")).write_bytes(data)
        rows.append({"mediaType": json.loads(manifest)["mediaType"], "digest": digest(manifest), "size": len(manifest), **more})
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": rows}))
    return folder
