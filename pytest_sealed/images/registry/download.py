"""Downloads blobs into the store: several at once, resumed where they were cut, and believed only by their digest."""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, final

from pytest_sealed.images.registry.answers import RegistryError, Unreachable
from pytest_sealed.images.registry.transport import FAILURES, reason

if TYPE_CHECKING:
    import urllib3

    from pytest_sealed.images.blobs import BlobCache
    from pytest_sealed.images.manifest import Descriptor
    from pytest_sealed.images.registry.client import Client

__all__ = ["Downloads", "fetch_blob"]

_CHUNK = 1 << 18
_PROGRESS = 1 << 16   # bytes that an attempt must bring to count as one that got on
_AT_ONCE = 4
_LOOK_UP = 0.2   # seconds; Python acts on a Ctrl-C between two waits only, where it came just before the sleep or to another thread


class _Broken(Exception):
    """A transfer ended before it was over; it can go on."""


@final
class Downloads:
    """Several blobs at once, each by a thread; `wait` for one after the other.

    Threads are daemons: a process that is interrupted needn't wait for them, and what they leave is resumed.

    Args:
        stop: is set by `close`; shared with the client, whose pauses it ends.
        tell: is called with the bytes that have come, of all blobs, whenever more have.
    """

    def __init__(self, client: Client, cache: BlobCache, blobs: Iterable[Descriptor], stop: threading.Event, *,
                 tell: Callable[[int], None], note: Callable[[str], None]) -> None:
        self._client, self._cache, self._stop, self._tell, self._note = client, cache, stop, tell, note
        self._came, self._lock = 0, threading.Lock()
        self._done = {blob.digest: threading.Event() for blob in blobs}
        self._failed: dict[str, BaseException] = {}
        self._queue: queue.SimpleQueue[Descriptor] = queue.SimpleQueue()
        for blob in {blob.digest: blob for blob in blobs}.values():
            self._queue.put(blob)
        for _ in range(min(_AT_ONCE, len(self._done))):
            threading.Thread(target=self._work, daemon=True).start()

    def wait(self, digest: str) -> None:
        """Wait until a blob is in the cache.

        Raises:
            ImageError: it can't be had.
        """
        while not self._done[digest].wait(_LOOK_UP):
            pass
        if digest in self._failed:
            raise self._failed[digest]

    def close(self) -> None:
        self._stop.set()

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                blob = self._queue.get_nowait()
            except queue.Empty:
                return
            try:
                with self._cache.lock(blob.digest, lambda: self._note("another process fetches a layer; waiting")):
                    fetch_blob(self._client, self._cache, blob, self._stop, self._more)
            except BaseException as error:
                self._failed[blob.digest] = error
            finally:
                self._done[blob.digest].set()

    def _more(self, count: int) -> None:
        with self._lock:
            self._came += count
            self._tell(self._came)


def fetch_blob(client: Client, cache: BlobCache, blob: Descriptor, stop: threading.Event, more: Callable[[int], None]) -> None:
    """Fetch a blob into the cache, unless it's there. The caller holds its lock.

    Args:
        more: is called with the bytes that have come since; a negative number takes back what was wrong.

    Raises:
        Unreachable: it was cut again and again, without getting on.
        RegistryError: it's another blob than was asked for, twice.
    """
    what = f"the layer {blob.digest} of {client.title}"
    if cache.has(blob.digest, blob.size):
        more(blob.size)
        return
    transfer = _Transfer(client, cache, blob, stop, more, what)
    for attempt in (1, 2):
        try:
            transfer.run()
            break
        except _Wrong as error:
            transfer.forget()
            if attempt == 2 or stop.is_set():
                raise RegistryError(f"{what} is wrong: {error}", remedy="the registry, or a proxy on the way, gives something else; "
                                    "nothing of it was kept") from error
    os.replace(cache.partial(blob.digest), cache.path(blob.digest))


class _Wrong(Exception):
    """All came, and it isn't what was asked for."""


@final
class _Transfer:
    """One blob on its way into its partial file."""

    def __init__(self, client: Client, cache: BlobCache, blob: Descriptor, stop: threading.Event, more: Callable[[int], None],
                 what: str) -> None:
        self._client, self._blob, self._stop, self._more, self._what = client, blob, stop, more, what
        self._path = cache.partial(blob.digest)
        self._there = 0
        self._hash = hashlib.sha256()
        self._recall()

    def _recall(self) -> None:
        """Take up what an earlier run has left."""
        with contextlib.suppress(FileNotFoundError), open(self._path, "rb") as file:
            while data := file.read(_CHUNK):
                self._hash.update(data)
                self._there += len(data)
        self._more(self._there)
        if self._there > self._blob.size:
            self.forget()

    def forget(self) -> None:
        self._path.unlink(missing_ok=True)
        self._more(-self._there)
        self._there, self._hash = 0, hashlib.sha256()

    def run(self) -> None:
        """Fetch until all is there, and check it."""
        attempt = 1
        while self._there < self._blob.size or not self._path.exists():
            before = self._there
            try:
                self._once()
            except _Broken as error:
                got_on = self._there - before >= _PROGRESS
                attempt = 1 if got_on else attempt + 1
                if attempt > self._client.patience.attempts or self._stop.is_set():
                    raise Unreachable(f"{self._what} was cut short, again and again: {error}; "
                                      f"{self._there} of {self._blob.size} bytes are kept",
                                      remedy="the same command goes on where this one stopped") from error
                self._client.pause(attempt - 1 or 1, f"{self._what[:30]}… was cut short ({error})")
        if f"sha256:{self._hash.hexdigest()}" != self._blob.digest:
            raise _Wrong(f"its digest is sha256:{self._hash.hexdigest()}, expected {self._blob.digest}")

    def _once(self) -> None:
        headers = {"Range": f"bytes={self._there}-"} if self._there else {}
        answer = self._client.request("GET", self._client.url(f"blobs/{self._blob.digest}"), headers=headers, wanted=(200, 206, 416),
                                      what=self._what)
        try:
            if self._there and not self._continues(answer):
                self.forget()
                if answer.status == 416:
                    raise _Broken("the registry can't go on in the middle")
            elif answer.status == 416:
                raise _Wrong("the registry takes our request for one of a part")
            self._receive(answer)
        finally:
            answer.close()   # not what was half read, which nobody wants

    def _continues(self, answer: urllib3.BaseHTTPResponse) -> bool:
        """Say whether an answer goes on where we stopped. A 200 begins anew."""
        match = re.match(r"bytes (\d{1,15})-", answer.headers.get("Content-Range", ""))
        return answer.status == 206 and match is not None and int(match[1]) == self._there

    def _receive(self, answer: urllib3.BaseHTTPResponse) -> None:
        patience = self._client.patience
        began, mark = time.monotonic(), self._there
        with open(self._path, "ab") as file:
            while True:
                try:
                    data = answer.read1(_CHUNK)
                except FAILURES as error:
                    raise _Broken(reason(error)) from error
                if not data:
                    break
                if self._there + len(data) > self._blob.size:
                    raise _Wrong(f"more came than its {self._blob.size} bytes")
                file.write(data)
                self._hash.update(data)
                self._there += len(data)
                self._more(len(data))
                if self._stop.is_set():
                    raise _Broken("interrupted")
                now = time.monotonic()
                if now - began > patience.window:
                    if self._there - mark < patience.slowest * (now - began):
                        raise _Broken(f"less than {patience.slowest} bytes a second came")
                    began, mark = now, self._there
            file.flush()
            os.fsync(file.fileno())
        if self._there < self._blob.size:
            raise _Broken("the connection ended")
