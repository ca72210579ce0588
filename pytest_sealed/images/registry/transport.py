"""Connections to registries and to where they lead: TLS, proxies, patience. One request, one answer, whatever it is."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import IO, Any, final
from urllib.parse import urlsplit

import urllib3

from pytest_sealed.images.registry.settings import Endpoint, Settings, proxy_for, tls_context

__all__ = ["FAILURES", "Body", "Patience", "Transport", "hopeless", "host_of", "is_no_tls", "nobody_there", "origin", "reason"]

FAILURES = (urllib3.exceptions.HTTPError, OSError)   # what a connection may end in
Body = bytes | Callable[[], IO[bytes]] | None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long and how often."""

    connect: float = 10.0
    """Seconds until a connection stands."""
    read: float = 30.0
    """Seconds without a byte."""
    attempts: int = 5
    """In a row, without any progress."""
    pause: float = 1.0
    """Seconds before the second attempt; doubles each time."""
    longest: float = 60.0
    """Seconds of a pause, whatever the registry asks for."""
    slowest: int = 1024
    """Bytes a second that a transfer must have, over `window`."""
    window: float = 60.0
    """Seconds."""


@final
class Transport:
    """Connections, kept open for the next request. Several threads may use it."""

    def __init__(self, endpoint: Endpoint, settings: Settings, patience: Patience) -> None:
        self._endpoint, self._settings, self._patience = endpoint, settings, patience
        self._pools: dict[tuple[str, str], urllib3.PoolManager] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        for pool in self._pools.values():
            pool.clear()

    def send(self, method: str, url: str, headers: Mapping[str, str], body: Body) -> urllib3.BaseHTTPResponse:
        """Return the answer to one request; redirects are answers too.

        Args:
            body: bytes, or what opens the file to send.

        Raises:
            urllib3.exceptions.HTTPError, OSError: there is none.
        """
        parts = urlsplit(url)
        pool = self._pool(parts.scheme, parts.netloc)
        patience = urllib3.Timeout(connect=self._patience.connect, read=self._patience.read)
        stream: IO[bytes] | None = None
        try:
            content: bytes | IO[bytes] | None
            if callable(body):
                content = stream = body()
            else:
                content = body
            return pool.request(method, url, headers={"User-Agent": "pytest-sealed", **headers}, body=content, timeout=patience,
                                retries=False, redirect=False, preload_content=False, decode_content=False)
        finally:
            if stream is not None:
                stream.close()

    def _pool(self, scheme: str, host: str) -> urllib3.PoolManager:
        with self._lock:
            found = self._pools.get((scheme, host))
            if found is None:
                ours = host == self._endpoint.host
                options: dict[str, Any] = {"num_pools": 2, "maxsize": 8, "block": False}
                if scheme == "https":
                    options["ssl_context"] = tls_context(self._settings, host, insecure=ours and self._endpoint.insecure)
                    if ours and self._endpoint.insecure:
                        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)   # the user has configured it so
                proxy = proxy_for(scheme, host)
                if proxy:
                    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
                    secret = f"{parts.username or ''}:{parts.password or ''}" if parts.username is not None else None
                    address = f"{parts.scheme}://{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
                    found = urllib3.ProxyManager(
                        address, proxy_headers=urllib3.make_headers(proxy_basic_auth=secret) if secret else None, **options)
                else:
                    found = urllib3.PoolManager(**options)
                self._pools[scheme, host] = found
            return found


def origin(url: str) -> tuple[str, str, int]:
    """Return what decides whether credentials may go along."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def host_of(url: str) -> str:
    """Return a URL's host, with its port if there is one."""
    return urlsplit(url).netloc


def _causes(error: BaseException | None) -> Iterable[BaseException]:
    while error is not None:
        yield error
        reason = getattr(error, "reason", None) or getattr(error, "original_error", None)
        error = reason if isinstance(reason, BaseException) else error.__cause__ or error.__context__


def hopeless(error: Exception) -> bool:
    """Say whether another attempt would fare the same: a certificate doesn't mend itself."""
    return any(isinstance(one, ssl.SSLCertVerificationError) for one in _causes(error))


def nobody_there(error: Exception) -> bool:
    """Say whether no such host is known, or nothing listens there: often a mistyped name, seldom better in a minute."""
    return any(isinstance(one, (ConnectionRefusedError, socket.gaierror)) for one in _causes(error))


def is_no_tls(error: Exception) -> bool:
    """Say whether the other side doesn't speak TLS."""
    return any(isinstance(one, ssl.SSLError) and not isinstance(one, ssl.SSLCertVerificationError) for one in _causes(error))


def reason(error: BaseException) -> str:
    """Return the innermost reason, in the system's words."""
    found = list(_causes(error))
    for one in reversed(found):
        if isinstance(one, ssl.SSLCertVerificationError):
            return str(one.verify_message)
        if isinstance(one, ssl.SSLError):
            return f"it doesn't speak TLS ({one.reason or one})"
        if isinstance(one, OSError) and one.strerror:
            return one.strerror
    text = str(found[-1]) or type(found[-1]).__name__
    return text.split("object at 0x")[-1].partition(": ")[2] if "object at 0x" in text else text
