"""Images of what containers have changed: a layer on top of their image's, in the store."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

from pytest_sealed.errors import SpecError
from pytest_sealed.images.folders import free_space
from pytest_sealed.images.layerfile import WrittenLayer
from pytest_sealed.images.layers import Chain
from pytest_sealed.images.manifest import OCI_LAYER, Descriptor, manifest_of
from pytest_sealed.images.reference import digest_of, encode, parse_reference
from pytest_sealed.runtime.launch import run_inside

if TYPE_CHECKING:
    from pytest_sealed.images.image import Image
    from pytest_sealed.images.store import Store

__all__ = ["Snapshots", "check_name"]


@final
class Snapshots:
    """Takes the snapshots of a sandbox. Those without a name of the user's are kept by leases, and gone after `close`.

    Args:
        store: returns where they go; isn't called before.
    """

    def __init__(self, store: Callable[[], Store]) -> None:
        self._store = store
        self._leases = contextlib.ExitStack()
        self._names: list[str] = []

    @property
    def store(self) -> Store:
        """Where they go."""
        return self._store()

    def take(self, image: Image, container: str, name: str | None, folder: int, *, ours: dict[str, list[str]], copied: bool,
             single: tuple[int, int] | None) -> Image:
        """Make an image of what a container has changed.

        Args:
            image: the container's.
            container: its name, for people.
            name: as `check_name` has returned it; None: one that is made up.
            folder: descriptor of what it has changed.
            ours: paths in it that are the runtime's: {"points"}, where something is mounted, and {"files"}.
            copied: the folder is a whole copy of the image, not only what differs.
            single: the owner of everything, where containers have one id.

        Raises:
            ImageError: it is too large.
            StoreError: the store can't take it.
        """
        store = self.store
        store.folders.make()
        with store.building():
            store.forget_snapshots()
            _, _, config = store.records.documents({"manifest": image.digest})
            under = Chain.of(config)
            with store.folders.workspace() as work:
                payload: dict[str, Any] = {
                    "output": str(work / "layer.tar"), "lowers": store.layers.lowers(under), **ours, "copied": copied, "single": single,
                    "free": free_space(store.root) // 2}   # as a tar, and unpacked
                found = run_inside("pytest_sealed.images.writable", payload, fds=[folder], ids=store.folders.ids)
                written = WrittenLayer(path=payload["output"], diff_id=found["diff_id"], size=found["size"], entries=found["entries"])
                chain = store.layers.commit(Chain() if copied else under, written, work)
            return self._put(image, config, chain, container, name)

    def _put(self, image: Image, config: dict[str, Any], chain: Chain, container: str, name: str | None) -> Image:
        store = self.store
        title = f"snapshot of container {container} of {image.reference}"
        history = store.history(image) if len(chain.diff_ids) > 1 else []
        body = {key: value for key, value in config.items() if key not in ("created", "history")}
        body["rootfs"] = {"type": "layers", "diff_ids": list(chain.diff_ids)}
        body["history"] = [{"created_by": text} for text in (*history, title)]
        data = encode(body)
        manifest = manifest_of(data, [Descriptor(digest=diff_id, size=store.layers.size(one), media_type=OCI_LAYER, annotations={})
                                      for one, diff_id in zip(chain.ids, chain.diff_ids, strict=True)], title).data
        if name is None:
            name = f"snapshot-{re.sub('[^a-z0-9]+', '-', container.lower()).strip('-')}-{os.urandom(4).hex()}"
            self._leases.enter_context(store.hold(digest_of(manifest)))   # first: a name that nobody holds may be removed
            self._names.append(name)
        record = next((record for record in map(store.records.get, store.names()) if record["manifest"] == image.digest), {})
        return store.put(name, manifest, data, chain, source=str(record.get("source", image.source)), snapshot=title,
                         temporary=name in self._names)

    def close(self) -> None:
        """Let go of the snapshots without a name, and remove them, unless a build is going on: then the next removal does."""
        if not self._names:
            return
        self._leases.close()
        self.store.try_prune()
        self._names.clear()


def check_name(store: Store, name: str) -> str:
    """Return the name that a snapshot gets in the store.

    Raises:
        SpecError: it is none, holds a digest, or is a recipe's.
    """
    parsed = parse_reference(name)
    if parsed.digest:
        raise SpecError(f"a snapshot's name is NAME or NAME:TAG, and {name!r} holds a digest", remedy=f"snapshot({parsed.name!r})")
    if not parsed.tag and name in store.names():
        raise SpecError(f"{name!r} is the image of a recipe", remedy=f"give the snapshot a name of its own, such as {name + '-filled'!r}")
    return str(parsed)
