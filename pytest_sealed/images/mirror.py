"""Fetches .debs that a lock names: by digest, from any mirror that has them, without apt and dpkg."""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import os
import ssl
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote, urlsplit

from filelock import FileLock

from pytest_sealed.errors import ImageError
from pytest_sealed.images.apt import Package, deb_name, matches
from pytest_sealed.images.apt_sources import mirrors_for

__all__ = ["fetch_debs"]

_AT_ONCE = 4
_ATTEMPTS = 3
_PAUSE = 1.0     # seconds before the second attempt; twice as long before the third
_TIMEOUT = 30    # seconds without a byte
_DEBIAN = {"arm": "armhf", "386": "i386", "ppc64le": "ppc64el"}   # where Debian's name isn't OCI's


class _Wrong(Exception):
    """What came isn't what was asked for, or nothing came; and whether it's worth another try."""

    def __init__(self, why: str, *, again: bool) -> None:
        super().__init__(why)
        self.again = again


def fetch_debs(packages: Sequence[Package], suite: str, architecture: str, cache: Path,
               say: Callable[[str], None] = lambda _text: None) -> list[Package]:
    """Return `packages` with their files: those that are kept already, of earlier builds too, and the others fetched.

    Args:
        suite: the Debian release, by its code name.
        architecture: in OCI's words.
        cache: where the store keeps packages.

    Raises:
        ImageError: no mirror has one of them; names it.
    """
    root = cache / f"{suite}-{_DEBIAN.get(architecture, architecture)}"
    archives = root / "archives"
    archives.mkdir(parents=True, exist_ok=True)
    with FileLock(root / "lock"):
        rows = [dataclasses.replace(one, file=str(archives / deb_name(one.name, one.version, one.architecture))) for one in packages]
        missing = [one for one in rows if not matches(one.file, one)]
        if missing:
            say(f"fetching {len(missing)} of {len(rows)} packages ({sum(one.size for one in missing) / 1e6:.1f} MB)")
            bases = mirrors_for(suite)
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                for _ in pool.map(lambda one: _fetch(one, bases), missing):
                    pass
    return rows


def _fetch(package: Package, bases: Iterable[str]) -> None:
    reasons = []
    for url in _places(package.path, bases):
        for attempt in range(_ATTEMPTS):
            try:
                _download(url, package)
                return
            except _Wrong as error:
                if error.again and attempt + 1 < _ATTEMPTS:
                    time.sleep(_PAUSE * 2 ** attempt)
                    continue
                reasons.append(f"{_shown(url)}: {error}")
                break
    told = "".join(f"\n    {row}" for row in reasons)
    raise ImageError(f"the package {package.name} {package.version} of the lock can't be fetched{told}",
                     remedy="SEALED_DEBIAN_MIRROR names another mirror; what no mirror has any more, `sealed lock --upgrade` replaces")


def _places(path: str, bases: Iterable[str]) -> Iterator[str]:
    """Yield where a package may be. Security updates are in an archive of their own, and later in the main one."""
    updates = path.removeprefix("pool/updates/")
    for base in bases:
        yield f"{base}/{quote(path)}"
        if base.startswith("file:"):   # a folder of packages, perhaps
            yield f"{base}/{quote(os.path.basename(path))}"
        if updates != path:
            if not base.endswith("-security"):
                yield f"{base}-security/{quote(path)}"
            yield f"{base}/pool/{quote(updates)}"


def _download(url: str, package: Package) -> None:
    fresh = f"{package.file}.{uuid.uuid4().hex}"
    try:
        digest, left = hashlib.sha256(), package.size
        with _open(url) as answer, open(fresh, "xb") as file:
            while data := answer.read(min(1 << 20, left + 1)):
                left -= len(data)
                if left < 0:
                    raise _Wrong(f"it has more than {package.size} bytes", again=False)
                digest.update(data)
                file.write(data)
        if left:
            raise _Wrong(f"it ends after {package.size - left} of {package.size} bytes", again=True)
        if digest.hexdigest() != package.sha256:
            raise _Wrong(f"its SHA256 is {digest.hexdigest()}, expected {package.sha256}", again=False)
        os.replace(fresh, package.file)
    except urllib.error.HTTPError as error:
        raise _Wrong(f"answers {error.code}", again=error.code in (408, 429, 500, 502, 503, 504)) from error
    except urllib.error.URLError as error:
        raise _Wrong(f"can't be reached: {error.reason}", again=not isinstance(error.reason, (FileNotFoundError, ssl.SSLError))) from error
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise _Wrong(f"was cut: {error!r}", again=True) from error
    finally:
        if os.path.exists(fresh):
            os.unlink(fresh)


def _open(url: str) -> http.client.HTTPResponse:
    if urlsplit(url).scheme not in ("http", "https", "file"):
        raise _Wrong("only http, https and file are known here", again=False)
    return urllib.request.urlopen(url, timeout=_TIMEOUT)  # type: ignore[no-any-return]  # noqa: S310  (checked above)


def _shown(url: str) -> str:
    """Return a URL without what may be a password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
