"""Pulls images: from a registry, or the first of its mirrors that has them, into the store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar, final

from pytest_sealed.errors import ImageError, StoreError
from pytest_sealed.images.incoming import Incoming, check_config, take_in
from pytest_sealed.images.layers import Chain
from pytest_sealed.images.manifest import (
    ACCEPTED,
    DEEPEST,
    INDEXES,
    Descriptor,
    Manifest,
    Platform,
    choose,
    descriptors,
    parse_json,
    parse_manifest,
    verify,
)
from pytest_sealed.images.progress import Progress
from pytest_sealed.images.reference import Reference, digest_of, parse_reference
from pytest_sealed.images.registry.client import Client
from pytest_sealed.images.registry.credentials import Credentials
from pytest_sealed.images.registry.download import Downloads
from pytest_sealed.images.registry.settings import Settings

if TYPE_CHECKING:
    from pytest_sealed.images.image import Image
    from pytest_sealed.images.registry.transport import Patience
    from pytest_sealed.images.store import Store

__all__ = ["Puller"]

_MEGABYTE = 1_000_000
T = TypeVar("T")


@final
class Puller:
    """Pulls images into a store.

    Args:
        platform: of images that there are several of; empty: this machine's.
    """

    def __init__(self, store: Store, progress: Progress | None = None, *, platform: str = "", settings: Settings | None = None,
                 credentials: Credentials | None = None, patience: Patience | None = None) -> None:
        self.store = store
        self._progress = _Shared(progress or Progress())
        self._platform, self._insist = Platform.parse(platform), bool(platform)
        self._settings, self._credentials = settings or Settings(), credentials or Credentials()
        self._patience = patience

    def pull(self, reference: str, name: str = "") -> Image:
        """Fetch what the store lacks of an image, and give it its name.

        Args:
            name: instead of the reference.

        Raises:
            SpecError: it's no reference, or names no registry.
            Denied, Absent, Unreachable: subclasses of ImageError, see `answers`; of the registry itself, not of a mirror.
            ImageError: what came is wrong. Nothing shows of it then.
            StoreError: the store can't take it.
        """
        wanted = self._settings.qualified(parse_reference(reference))
        called = str(parse_reference(name)) if name else str(wanted)
        self.store.folders.make()
        self.store.cache.make()
        self._progress.begin(called)

        def work(client: Client) -> Image:
            with self.store.cache.using():
                return self._pull(client, wanted, called)
        return self._first(wanted, work)

    def look(self, reference: str) -> Incoming:
        """Return what `pull` would fetch: manifest and config, no layers. Raises as `pull`."""
        wanted = self._settings.qualified(parse_reference(reference))
        self._progress.begin(str(wanted))
        return self._first(wanted, lambda client: self._look(client, wanted, str(wanted)))

    def _first(self, wanted: Reference, work: Callable[[Client], T]) -> T:
        """Do it with the first of the mirrors, and at last the registry itself, that can."""
        endpoints = self._settings.endpoints(wanted)
        for endpoint in endpoints:
            stop = threading.Event()
            client = Client(endpoint, self._settings, self._credentials, self._patience, stop=stop, note=self._progress.note)
            try:
                return work(client)
            except StoreError:
                raise
            except ImageError as error:
                if endpoint == endpoints[-1]:
                    raise
                self._progress.note(f"the mirror {endpoint.host} doesn't do: {error.message}")
            finally:
                stop.set()
                client.close()
        raise AssertionError("there is always an endpoint")

    def _pull(self, client: Client, wanted: Reference, called: str) -> Image:
        began = time.monotonic()
        image = self._look(client, wanted, called)
        with self.store.building():   # nobody removes the layers that it has already
            downloads, total = self._start(client, image)

            def fetch(_number: int, layer: Descriptor) -> Iterator[bytes]:
                downloads.wait(layer.digest)
                return self.store.cache.chunks(layer.digest)
            [found] = take_in(self.store, image, fetch, self._progress)
        self._progress.end(called, built=bool(total), size=found.size, seconds=time.monotonic() - began, verb="pulled")
        return found

    def _look(self, client: Client, wanted: Reference, called: str) -> Incoming:
        self._progress.stage(f"asking {client.endpoint.host}")
        manifest, index = self._manifest(client, wanted)
        title = f"{client.title}:{wanted.version}" if not wanted.digest else f"{client.title}@{wanted.digest}"
        config = self._blob(client, manifest.config, f"the config of {title}")
        diff_ids, notes = check_config(config, manifest, title, self._platform, insist=self._insist)
        return Incoming(names=(called,), manifest=manifest, config=config, diff_ids=diff_ids, index=index, notes=notes,
                        source=f"sealed pull {wanted}")

    def _manifest(self, client: Client, wanted: Reference) -> tuple[Manifest, str]:
        """Return the manifest for the platform, and the digest of the index that led to it."""
        version, index = wanted.version, ""
        for _ in range(DEEPEST):
            what = f"the manifest {version} of {client.title}"
            answer = client.request("GET", client.url(f"manifests/{version}"), headers={"Accept": ", ".join(ACCEPTED)}, what=what)
            kind = answer.headers.get("Content-Type", "").partition(";")[0].strip()
            said = answer.headers.get("Docker-Content-Digest", "")
            data = client.small(answer, what)
            asked = version if version.startswith("sha256:") else said if said.startswith("sha256:") else digest_of(data)
            verify(data, asked, what)
            body = parse_json(data, what)
            if str(body.get("mediaType") or kind) not in INDEXES:
                return parse_manifest(data, kind, what), index
            index = index or digest_of(data)
            version = choose(descriptors(body, what), self._platform, f"{client.title}:{wanted.version}").digest
        raise ImageError(f"{client.title} has indexes within indexes, more than {DEEPEST} deep")

    def _blob(self, client: Client, blob: Descriptor, what: str) -> bytes:
        answer = client.request("GET", client.url(f"blobs/{blob.digest}"), what=what)
        return verify(client.small(answer, what), blob.digest, what, blob.size)

    def _start(self, client: Client, image: Incoming) -> tuple[Downloads, int]:
        """Begin to fetch the layers that the store lacks; return them and how many bytes they have."""
        chain = Chain(image.diff_ids)
        missing = {layer.digest: layer for layer, one in zip(image.manifest.layers, chain.ids, strict=True)
                   if not self.store.layers.unpacked(one)}
        total = sum(layer.size for layer in missing.values())
        if not missing:
            return Downloads(client, self.store.cache, (), client.stop, tell=lambda _: None, note=self._progress.note), 0
        self.store.folders.require(3 * total)   # itself, and about twice as much unpacked
        shown = max(1, round(total / _MEGABYTE))
        self._progress.stage(f"fetching {len(missing)} layer{'s' * (len(missing) > 1)} ({total / _MEGABYTE:.1f} MB)")

        def tell(came: int) -> None:
            self._progress.step(min(shown, round(came / _MEGABYTE)), shown, "MB")
        return Downloads(client, self.store.cache, tuple(missing.values()), client.stop, tell=tell, note=self._progress.note), total


class _Shared(Progress):
    """Hands on what several threads tell, one after the other."""

    def __init__(self, inner: Progress) -> None:
        self._inner, self._lock = inner, threading.Lock()

    def begin(self, name: str) -> None:
        with self._lock:
            self._inner.begin(name)

    def stage(self, text: str) -> None:
        with self._lock:
            self._inner.stage(text)

    def step(self, done: int, total: int, text: str) -> None:
        with self._lock:
            self._inner.step(done, total, text)

    def note(self, text: str) -> None:
        with self._lock:
            self._inner.note(text)

    def end(self, name: str, *, built: bool, size: int, seconds: float, verb: str = "built") -> None:
        with self._lock:
            self._inner.end(name, built=built, size=size, seconds=seconds, verb=verb)
