"""Examines the images of a store: every document by its digest, every file of every layer by the tar that it came from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from pytest_sealed.errors import ImageError
from pytest_sealed.images.layers import SPLIT, Chain
from pytest_sealed.images.manifest import parse_manifest
from pytest_sealed.images.progress import Progress
from pytest_sealed.images.records import again
from pytest_sealed.images.streams import rows_of

if TYPE_CHECKING:
    from pytest_sealed.images.store import Store

__all__ = ["Verdict", "verify"]

_MOST = 20   # damages of a layer that are named


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is wrong with an image."""

    reference: str
    damages: tuple[str, ...]
    """A line each; none: it is whole."""
    remedy: str
    """The command that mends it; empty: there is nothing to mend."""


def verify(store: Store, references: Iterable[str], progress: Progress | None = None) -> list[Verdict]:
    """Return a verdict on each image. Nobody can remove one of them meanwhile.

    Raises:
        ImageNotFound: there is no such image.
        StoreError: the store's folder can't be written: a layer's folders are made again, empty, to compare with.
    """
    progress = progress or Progress()
    store.folders.make()
    with store.building():
        examination = _Examination(store, progress)
        return [examination.image(store.records.lookup(reference)[0]) for reference in references]


@final
class _Examination:
    def __init__(self, store: Store, progress: Progress) -> None:
        self._store, self._progress = store, progress
        self._layers: dict[str, list[str]] = {}

    def image(self, reference: str) -> Verdict:
        """Examine an image's documents, layers, and kept blobs."""
        self._progress.begin(reference)
        try:
            self._store.get(reference)
            _, manifest, config = self._store.documents(reference)
            layers = parse_manifest(manifest, "", f"the manifest of {reference}").layers
        except ImageError as error:
            return Verdict(reference=reference, damages=(error.message,), remedy=error.remedy)
        chain = Chain.of(json.loads(config))
        damages, bad = [], []
        for number, (one, diff_id) in enumerate(zip(chain.ids, chain.diff_ids, strict=True), 1):
            self._progress.stage(f"examining layer {number} of {len(chain.ids)}")
            found = self._layer(Chain(chain.diff_ids[:number - 1]), one, diff_id)
            layer = layers[number - 1]
            if layer.digest != diff_id and self._store.cache.path(layer.digest).exists():
                found = [*found, *self._blob(layer.digest)]
            bad += [one] * bool(found)
            damages += [f"layer {number}: {line}" for line in found]
        return Verdict(reference=reference, damages=tuple(damages), remedy=self._remedy(bad) if damages else "")

    def _layer(self, below: Chain, chain: str, diff_id: str) -> list[str]:
        if chain in self._layers:
            return self._layers[chain]
        layers = self._store.layers
        folder = layers.path(chain).parent
        if not layers.unpacked(chain):
            found = ["it was unpacked by an older version, and can't be examined"]
        else:
            with self._store.folders.workspace() as work:
                payload = {"fs": f"{folder}/fs", "split": f"{folder}/{SPLIT}", "lowers": layers.lowers(below), "diff_id": diff_id,
                           "work": str(work)}
                rows = rows_of("pytest_sealed.images.examine", payload, self._store.folders.ids)
            found = [f"{path}: {what}" if path else what for path, what in rows[:_MOST]]
            found += [f"and {len(rows) - _MOST} more"] * (len(rows) > _MOST)
            found += self._facts(chain, below, diff_id)
        self._layers[chain] = found
        return found

    def _facts(self, chain: str, below: Chain, diff_id: str) -> list[str]:
        try:
            facts = json.loads((self._store.layers.path(chain).parent / "layer.json").read_text())
            right = facts["diff_id"] == diff_id and facts["parent"] == below.top and int(facts["size"]) >= 0
        except (OSError, ValueError, KeyError, TypeError):
            right = False
        return [] if right else ["its layer.json is damaged"]

    def _blob(self, digest: str) -> list[str]:
        with self._store.cache.using():
            try:
                for _ in self._store.cache.chunks(digest):
                    pass
            except ImageError as error:   # it has been removed
                return [error.message]
        return []

    def _remedy(self, bad: list[str]) -> str:
        """Return the command that mends layers: all images that have one must go first, or it would be taken for what it was."""
        holders = {}
        for name in self._store.names():
            record = self._store.records.get(name)
            try:
                config = self._store.records.documents(record)[2]
                if not set(bad).isdisjoint(Chain.of(config).ids):
                    holders[name] = record
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return " && ".join([f"sealed rm {' '.join(holders)}", *dict.fromkeys(
            again(name, record) for name, record in holders.items() if not record.get("wheel"))])
