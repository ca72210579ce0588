"""Takes images into the store that come from elsewhere: checked, unpacked layer by layer, and kept under their own digests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from pytest_sealed.errors import ImageError
from pytest_sealed.images.compression import decompressed
from pytest_sealed.images.layers import Chain
from pytest_sealed.images.manifest import Descriptor, Manifest, Platform, diff_ids_of, parse_json
from pytest_sealed.images.oci_config import config_from_oci, config_notes

if TYPE_CHECKING:
    from pytest_sealed.images.image import Image
    from pytest_sealed.images.origin import Origin
    from pytest_sealed.images.progress import Progress
    from pytest_sealed.images.store import Store

__all__ = ["Incoming", "check_config", "take_in"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """An image whose manifest and config have been read and verified."""

    names: tuple[str, ...]
    """What it will be called."""
    manifest: Manifest
    config: bytes
    diff_ids: tuple[str, ...]
    source: str
    """The command that fetches it again, or where it came from."""
    index: str = ""
    """Digest of the index that led to it."""
    notes: tuple[str, ...] = ()
    origin: Origin | None = None
    """What an export says of it."""


def check_config(config: bytes, manifest: Manifest, what: str, wanted: Platform, *,
                 insist: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (diff ids, notes for people) of an image's config.

    Args:
        wanted: the platform that it must be for.
        insist: `wanted` was asked for by the user, who knows that it may not run here.

    Raises:
        ImageError: it's no config, or one of another platform.
    """
    body = parse_json(config, f"the config of {what}")
    config_from_oci(body, ours=False)
    there = Platform(str(body.get("architecture") or wanted.architecture), str(body.get("variant") or ""), str(body.get("os") or "linux"))
    if not wanted.matches(there):
        raise ImageError(f"{what} is for {there}, " + ("not for " if insist else "and this machine is ") + str(wanted),
                         remedy="" if there.os != "linux" else f"--platform {there} takes it all the same")
    return diff_ids_of(body, len(manifest.layers), f"the config of {what}"), tuple(config_notes(body))


def take_in(store: Store, image: Incoming, fetch: Callable[[int, Descriptor], Iterator[bytes]], progress: Progress) -> list[Image]:
    """Unpack the layers that the store lacks, and give the image its names.

    Args:
        fetch: returns the pieces of a layer as it travels, by its number from 0 and its descriptor. It checks the digest, at the latest
            when the pieces end.

    Raises:
        ImageError: a layer is wrong. Nothing shows then of the image.
        StoreError: the store can't take it.
    """
    title = image.names[0]
    chain = Chain()
    with store.building():
        store.folders.sweep()
        for number, (layer, diff_id) in enumerate(zip(image.manifest.layers, image.diff_ids, strict=True)):
            what = f"layer {number + 1} of {title}"

            def tar(number: int = number, layer: Descriptor = layer, what: str = what) -> Iterator[bytes]:
                progress.stage(f"unpacking layer {number + 1} of {len(image.diff_ids)}")
                return decompressed(fetch(number, layer), what)
            with store.folders.workspace() as work:
                packed = layer.digest != diff_id
                chain = store.layers.receive(
                    chain, diff_id, tar, work, estimate=layer.size * (2 if packed else 1),
                    waiting=lambda what=what: progress.note(f"{what}: another process unpacks it; waiting"))  # type: ignore[misc]
        for note in image.notes:
            progress.note(f"{title}: {note}")
        images = [store.put(name, image.manifest.data, image.config, chain, source=image.source, index=image.index) for name in image.names]
        if image.origin is None:
            return images
        image.origin.keep(store, chain)
        return [store.get(image.origin.name)]
