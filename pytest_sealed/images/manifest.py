"""Manifests and indexes, of OCI and of Docker's schema 2: checked for what they must hold, whoever sent them.

See the OCI image specification (manifest.md, image-index.md, config.md) and Docker's image manifest version 2, schema 2.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, final

from pytest_sealed.errors import ImageError, SpecError
from pytest_sealed.images.reference import check_digest, digest_of, encode

__all__ = [
    "ACCEPTED",
    "DEEPEST",
    "INDEXES",
    "LARGEST",
    "MANIFESTS",
    "OCI_LAYER",
    "REF_NAME",
    "Descriptor",
    "Manifest",
    "Platform",
    "choose",
    "descriptors",
    "diff_ids_of",
    "manifest_of",
    "parse_any_json",
    "parse_json",
    "parse_manifest",
    "verify",
]

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEXES = (OCI_INDEX, DOCKER_LIST)
ACCEPTED = (*MANIFESTS, *INDEXES)
LARGEST = 4 << 20        # bytes of an index, a manifest or a config
DEEPEST = 3              # indexes within indexes
REF_NAME = "org.opencontainers.image.ref.name"   # the annotation with an image's tag, or with its name
_MOST_LAYERS = 500       # what overlayfs stacks
_LAYERS = (
    OCI_LAYER, f"{OCI_LAYER}+gzip", f"{OCI_LAYER}+zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar", "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar", "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
)
_MACHINES = {"x86_64": ("amd64", ""), "aarch64": ("arm64", ""), "armv7l": ("arm", "v7"), "armv6l": ("arm", "v6"), "i686": ("386", "")}
_USUAL = {"arm64": "v8", "arm": "v7", "amd64": "v1"}   # the variant that is meant where none is said


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """What points to a blob."""

    digest: str
    size: int
    """Bytes."""
    media_type: str = ""
    platform: str = ""
    """`os/architecture[/variant]`; empty: not said."""
    annotations: dict[str, str]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A manifest that is one of a container image."""

    data: bytes
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]

    @property
    def digest(self) -> str:
        return digest_of(self.data)


@final
@dataclass(frozen=True, slots=True)
class Platform:
    """An operating system and an architecture."""

    architecture: str
    variant: str = ""
    os: str = "linux"

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Return the platform that `os/architecture[/variant]` or `architecture` names; empty: this machine's.

        Raises:
            SpecError: it names none.
        """
        if not text:
            machine = os.uname().machine
            return cls(*_MACHINES.get(machine, (machine, "")))
        parts = text.split("/")
        if len(parts) == 1:
            return cls(parts[0])
        if len(parts) > 3 or not all(part.isalnum() for part in parts):
            raise SpecError(f"{text!r} is no platform", remedy="write OS/ARCHITECTURE[/VARIANT], for example linux/arm64")
        return cls(parts[1], parts[2] if len(parts) > 2 else "", parts[0])

    def __str__(self) -> str:
        return f"{self.os}/{self.architecture}" + (f"/{self.variant}" if self.variant else "")

    def matches(self, other: Platform) -> bool:
        """Say whether `other`, of an image, is this one."""
        usual = _USUAL.get(self.architecture, "")
        return (self.os, self.architecture, self.variant or usual) == (other.os, other.architecture, other.variant or usual)


def verify(data: bytes, digest: str, what: str, size: int = -1) -> bytes:
    """Return `data` if it's what was asked for.

    Raises:
        ImageError: another size (where one is given) or digest.
    """
    if size >= 0 and len(data) != size:
        raise ImageError(f"{what} has {len(data)} bytes, expected {size}")
    if digest_of(data) != digest:
        raise ImageError(f"{what} has the digest {digest_of(data)}, expected {digest}")
    return data


def parse_json(data: bytes, what: str) -> dict[str, Any]:
    """Return the JSON object that `data` is.

    Raises:
        ImageError: too large, too deep, no JSON, no object; a web page is called one.
    """
    value = parse_any_json(data, what)
    if not isinstance(value, dict):
        raise ImageError(f"{what} is no JSON object")
    return value


def parse_any_json(data: bytes, what: str) -> Any:
    """Return what JSON stands in `data`. Raises as `parse_json`."""
    if len(data) > LARGEST:
        raise ImageError(f"{what} is larger than {LARGEST >> 20} MiB")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        if data.lstrip()[:1] == b"<":
            raise ImageError(f"{what} is a web page, no JSON: a login page, perhaps",
                             remedy="check the registry's name, and the proxy in HTTPS_PROXY") from error
        raise ImageError(f"{what} is no JSON: {'nested too deeply' if isinstance(error, RecursionError) else error}") from error


def descriptors(index: dict[str, Any], what: str) -> list[Descriptor]:
    """Return what an index lists.

    Raises:
        ImageError: it isn't in the form of an index.
    """
    return [_descriptor(row, f"{what}, manifest {number}") for number, row in enumerate(_list(index, "manifests", what), 1)]


def choose(found: list[Descriptor], wanted: Platform, what: str) -> Descriptor:
    """Return the first descriptor for a platform.

    Raises:
        ImageError: there is none; lists those there are.
    """
    there = [one for one in found if one.platform and not one.platform.startswith("unknown/")]   # those are attestations
    for one in there:
        if wanted.matches(Platform.parse(one.platform)):
            return one
    if len(found) == 1 and not found[0].platform:
        return found[0]
    names = sorted({one.platform for one in there})
    raise ImageError(f"{what} has no image for {wanted}: there are {', '.join(names) or 'none at all'}",
                     remedy=f"--platform {names[0]} takes that one" if names else "")


def parse_manifest(data: bytes, media_type: str, what: str) -> Manifest:
    """Return the manifest that `data` is.

    Raises:
        ImageError: it's of the old schema 1, an artifact that is no image, or not in the form of a manifest.
    """
    body = parse_json(data, what)
    kind = str(body.get("mediaType") or media_type or OCI_MANIFEST)
    if body.get("schemaVersion") == 1 or "distribution.manifest.v1" in kind:
        raise ImageError(f"{what} is of Docker's schema 1, which has no digests to rely on",
                         remedy="push the image again with a current tool")
    if kind not in MANIFESTS or body.get("schemaVersion") != 2:
        raise ImageError(f"{what} is no manifest of an image but {kind[:100]!r}")
    config = _descriptor(body.get("config"), f"{what}, config")
    if config.media_type not in (OCI_CONFIG, DOCKER_CONFIG, ""):
        raise ImageError(f"{what} is no container image: its config is {config.media_type[:100]!r}")
    layers = [_descriptor(row, f"{what}, layer {number}") for number, row in enumerate(_list(body, "layers", what), 1)]
    for number, layer in enumerate(layers, 1):
        if layer.media_type not in _LAYERS:
            raise ImageError(f"{what}, layer {number} is {layer.media_type[:100]!r}, which is no layer that can be unpacked")
    return Manifest(data=data, media_type=kind, config=config, layers=tuple(layers))


def manifest_of(config: bytes, layers: Iterable[Descriptor], name: str) -> Manifest:
    """Return an OCI manifest of a config and layers."""
    body = encode({"schemaVersion": 2, "mediaType": OCI_MANIFEST,
                   "config": {"mediaType": OCI_CONFIG, "digest": digest_of(config), "size": len(config)},
                   "layers": [{"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size} for layer in layers]})
    return parse_manifest(body, OCI_MANIFEST, f"the manifest of {name}")


def diff_ids_of(config: dict[str, Any], count: int, what: str) -> tuple[str, ...]:
    """Return the diff ids of a config, one for each of `count` layers.

    Raises:
        ImageError: another number of them, or one is no digest.
    """
    rootfs = config.get("rootfs")
    rows = _list(rootfs if isinstance(rootfs, dict) else {}, "diff_ids", what)
    if len(rows) != count:
        raise ImageError(f"{what} has {len(rows)} diff ids for {count} layers")
    if not rows:
        raise ImageError(f"{what} has no layers")
    if len(rows) > _MOST_LAYERS:
        raise ImageError(f"{what} has {len(rows)} layers; at most {_MOST_LAYERS} can be stacked")
    return tuple(check_digest(row, f"{what}, diff id {number}") for number, row in enumerate(rows, 1))


def _list(body: dict[str, Any], key: str, what: str) -> list[Any]:
    rows = body.get(key)
    if not isinstance(rows, list):
        raise ImageError(f"{what} has no list of {key}")
    return rows


def _descriptor(row: object, what: str) -> Descriptor:
    if not isinstance(row, dict):
        raise ImageError(f"{what} is no descriptor")
    size = row.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ImageError(f"{what} has the size {str(size)[:40]!r}")
    platform = row.get("platform")
    annotations = row.get("annotations")
    return Descriptor(
        digest=check_digest(row.get("digest"), what), size=size, media_type=str(row.get("mediaType") or ""),
        platform=_platform(platform) if isinstance(platform, dict) else "",
        annotations={str(key): str(value) for key, value in annotations.items()} if isinstance(annotations, dict) else {},
    )


def _platform(row: dict[str, Any]) -> str:
    words = [str(row.get(key) or "") for key in ("os", "architecture", "variant")]
    return "/".join(word for word in words if word.isalnum()) if words[0].isalnum() and words[1].isalnum() else "unknown/unknown"
