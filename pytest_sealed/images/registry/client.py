"""One repository of a registry, over HTTP: who we are, where it has moved to, and when to try again."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Protocol, final
from urllib.parse import urlencode, urljoin, urlsplit

from pytest_sealed.images.manifest import LARGEST
from pytest_sealed.images.registry.answers import Denied, RegistryError, Unreachable, refusal, retry_after, said
from pytest_sealed.images.registry.challenge import Challenge, basic, parse_challenges
from pytest_sealed.images.registry.settings import Endpoint, Settings, is_loopback, proxy_for
from pytest_sealed.images.registry.transport import (
    FAILURES,
    Body,
    Patience,
    Transport,
    hopeless,
    host_of,
    is_no_tls,
    nobody_there,
    origin,
    reason,
)

if TYPE_CHECKING:
    from pathlib import Path

    import urllib3

    from pytest_sealed.images.registry.credentials import Credential

__all__ = ["Client", "Finder"]

_AGAIN = (408, 429, 500, 502, 503, 504)
_MOVED = (301, 302, 303, 307, 308)
_MOST_MOVES = 5
_TOKEN = 1 << 20    # bytes of a token's answer


class Finder(Protocol):
    """Where credentials come from."""

    @property
    def files(self) -> list[Path]:
        """Where is looked, for messages."""
        ...

    def find(self, host: str, path: str = "") -> Credential | None:
        """Return the credential for a repository."""
        ...


@final
class Client:
    """Talks to one repository. Several threads may use it.

    Args:
        stop: is set when nothing is to be tried again.
        note: is told what people may wonder about.
    """

    def __init__(self, endpoint: Endpoint, settings: Settings, credentials: Finder, patience: Patience | None = None, *,
                 stop: threading.Event | None = None, note: Callable[[str], None] = lambda _text: None) -> None:
        self.endpoint, self.patience = endpoint, patience or Patience()
        self._credentials = credentials
        self.stop, self._note = stop or threading.Event(), note
        self._transport = Transport(endpoint, settings, self.patience)
        self._lock = threading.RLock()
        self._authorization = ""
        self._scheme = ""

    def close(self) -> None:
        self._transport.close()

    @property
    def title(self) -> str:
        return f"{self.endpoint.host}/{self.endpoint.path}"

    def url(self, rest: str) -> str:
        """Return the URL of something in the repository, for example `manifests/latest`."""
        return f"{self.scheme()}://{self.endpoint.host}/v2/{self.endpoint.path}/{rest}"

    # one request, and all that may have to be done for it

    def request(self, method: str, url: str, *, headers: Mapping[str, str] | None = None, body: Body = None,
                wanted: Iterable[int] = (200,), what: str = "", once: bool = False) -> urllib3.BaseHTTPResponse:
        """Return the answer, its body unread. Tries again what may go better, and shows credentials where they are asked for.

        Args:
            body: bytes, or what opens the file to send, once for each attempt.
            wanted: statuses that are answers; others are errors.
            what: what is asked for, for messages.
            once: try it once only: a second time it would be something else.

        Raises:
            Denied: 401 or 403, after the credentials that there are have been shown.
            Absent: 404.
            Unreachable: no connection, or an error of the registry's, however often it was tried.
            RegistryError: anything else.
        """
        attempt = 0
        shown = False
        while True:
            attempt += 1
            last = once or attempt >= self.patience.attempts or self.stop.is_set()
            try:
                answer = self._follow(method, url, dict(headers or {}), body)
            except FAILURES as error:
                if last or hopeless(error) or (nobody_there(error) and attempt > 1):
                    raise self._no_answer(url, error) from error
                self.pause(attempt, f"{host_of(url)}: {reason(error)}")
                continue
            if answer.status in wanted:
                return answer
            if answer.status == 401 and not shown:
                shown = True
                attempt -= 1
                self._prove(answer)
                continue
            if answer.status in _AGAIN and not last:
                wait = retry_after(answer)
                if wait <= self.patience.longest:
                    self.pause(attempt, f"{host_of(url)} answers {answer.status}", wait)
                    answer.close()
                    continue
            if answer.status == 401:
                raise self._denied(f"answers 401 to what it was shown{said(answer)}", had=self._credential() is not None)
            raise refusal(answer, what or url, self.endpoint.host)

    def small(self, answer: urllib3.BaseHTTPResponse, what: str, most: int = LARGEST) -> bytes:
        """Return a body of at most `most` bytes.

        Raises:
            Unreachable: it was cut.
            RegistryError: it's larger.
        """
        data = bytearray()
        try:
            while chunk := answer.read1(1 << 16):
                data += chunk
                if len(data) > most:
                    raise RegistryError(f"{what} is larger than {most >> 20} MiB")
        except FAILURES as error:
            raise Unreachable(f"{what} was cut short: {reason(error)}") from error
        finally:
            answer.close()
        return bytes(data)

    def pause(self, attempt: int, why: str, least: float = 0.0) -> None:
        """Wait before the next attempt."""
        seconds = min(self.patience.longest, max(least, self.patience.pause * 2 ** (attempt - 1)))
        self._note(f"{why}; trying again in {seconds:.0f} s" if seconds >= 1 else f"{why}; trying again")
        self.stop.wait(seconds)

    def _follow(self, method: str, url: str, headers: dict[str, str], body: Body) -> urllib3.BaseHTTPResponse:
        """Send a request, and follow where it leads. Credentials go to the registry itself only."""
        home = origin(url)
        for _ in range(_MOST_MOVES + 1):
            sent = dict(headers)
            if self._authorization and origin(url) == home == origin(self.url("")):
                sent["Authorization"] = self._authorization
            answer = self._transport.send(method, url, sent, body)
            if answer.status not in _MOVED or method not in ("GET", "HEAD"):
                return answer
            target = urljoin(url, answer.headers.get("Location", ""))
            answer.close()
            self.allow(url, target)
            url = target
        raise RegistryError(f"{host_of(url)} sends us on and on: {_MOST_MOVES} times were enough")

    def allow(self, url: str, target: str) -> None:
        """Refuse to be sent where nothing should lead to."""
        parts = urlsplit(target)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise RegistryError(f"{host_of(url)} sends us to {target[:200]!r}, which is no place to fetch from")
        if parts.scheme == "http" and (urlsplit(url).scheme == "https" or not (is_loopback(parts.netloc) or self.endpoint.insecure)):
            raise RegistryError(f"{host_of(url)} sends us to {parts.netloc} without TLS", remedy="ask whoever runs the registry")

    def scheme(self) -> str:
        """Return `https`; or `http`, if the registry may be without TLS and is."""
        with self._lock:
            if not self._scheme:
                self._scheme = self._find_scheme()
            return self._scheme

    def _find_scheme(self) -> str:
        if not self.endpoint.plain:
            return "https"
        try:
            self._transport.send("GET", f"https://{self.endpoint.host}/v2/", {}, None).close()
        except FAILURES as error:
            return "https" if hopeless(error) else "http"   # a certificate that can't be trusted is no reason to do without
        return "https"

    # who we are

    def _prove(self, answer: urllib3.BaseHTTPResponse) -> None:
        """Take what a 401 asks for into the next requests.

        Raises:
            Denied: it asks for something that we don't have.
        """
        challenges = [one for header in answer.headers.getlist("WWW-Authenticate") for one in parse_challenges(header)]
        answer.close()
        credential = self._credential()
        for challenge in challenges:
            if challenge.scheme == "bearer":
                self._authorization = f"Bearer {self._token(challenge, credential)}"
                return
            if challenge.scheme == "basic" and credential is not None and not credential.refresh:
                self._authorization = basic(credential)
                return
        raise self._denied("asks for credentials", had=False)

    def _credential(self) -> Credential | None:
        return self._credentials.find(self.endpoint.host, self.endpoint.path)

    def _token(self, challenge: Challenge, credential: Credential | None) -> str:
        """Get a token from where the registry says."""
        realm = challenge.parameters.get("realm", "")
        parts = urlsplit(realm)
        if parts.scheme not in ("https", "http") or not parts.hostname or parts.username is not None:
            raise RegistryError(f"{self.endpoint.host} wants a token from {realm[:200]!r}, which is no place for that")
        if parts.scheme == "http" and (self.scheme() == "https" or not (is_loopback(parts.netloc) or self.endpoint.insecure)):
            raise RegistryError(f"{self.endpoint.host} wants credentials to be sent to {parts.netloc} without TLS",
                                remedy="ask whoever runs the registry; nothing has been sent")
        asked = {key: challenge.parameters[key] for key in ("service", "scope") if challenge.parameters.get(key)}
        headers, body, method = {}, None, "GET"
        if credential is not None and credential.refresh:
            method, headers["Content-Type"] = "POST", "application/x-www-form-urlencoded"
            body = urlencode({"grant_type": "refresh_token", "client_id": "pytest-sealed", "refresh_token": credential.password,
                              **asked}).encode()
        else:
            if credential is not None:
                headers["Authorization"] = basic(credential)
            joined = urlencode(asked)
            realm += ("&" if parts.query else "?") + joined if joined else ""
        what = f"a token of {parts.netloc}"
        for attempt in range(1, self.patience.attempts + 1):
            try:
                answer = self._transport.send(method, realm, headers, body)
            except FAILURES as error:
                if attempt == self.patience.attempts or hopeless(error):
                    raise self._no_answer(realm, error) from error
                self.pause(attempt, f"{parts.netloc}: {reason(error)}")
                continue
            if answer.status not in _AGAIN or attempt == self.patience.attempts:
                break
            self.pause(attempt, f"{parts.netloc} answers {answer.status}", min(retry_after(answer), self.patience.longest))
            answer.close()
        if answer.status in (400, 401, 403):
            raise self._denied(f"gives no token: {parts.netloc} answers {answer.status}{said(answer)}", had=credential is not None)
        if answer.status != 200:
            raise Unreachable(f"{parts.netloc} gives no token: it answers {answer.status}{said(answer)}")
        try:
            data = json.loads(self.small(answer, what, _TOKEN))
            token = data.get("token") or data.get("access_token")
        except (ValueError, RecursionError, AttributeError) as error:
            raise RegistryError(f"{what} can't be understood: no JSON object") from error
        if not isinstance(token, str) or not token.isprintable():
            raise RegistryError(f"{what} can't be understood: none is in it")
        return token

    # what went wrong, in words

    def _denied(self, what: str, *, had: bool) -> Denied:
        places = ", ".join(map(str, self._credentials.files))
        return Denied(f"{self.title}: the registry {what}" + (
            "; the credentials that there are for it don't suffice" if had else f"; none were found in {places}"),
            remedy=f"sealed login {self.endpoint.host}")

    def _no_answer(self, url: str, error: Exception) -> RegistryError:
        host = host_of(url)
        if hopeless(error):
            return RegistryError(f"{host}: its certificate can't be trusted: {reason(error)}", remedy=(
                f"put the certificate of its authority into ~/.config/containers/certs.d/{host}/ca.crt, or name a bundle in SSL_CERT_FILE"))
        proxy = proxy_for(urlsplit(url).scheme, host)
        through = f" through the proxy {urlsplit(proxy).hostname}" if proxy else ""
        hint = ""
        if is_no_tls(error) and not self.endpoint.plain:
            hint = f'a registry without TLS is taken if registries.conf says so: [[registry]] location = "{host}", insecure = true'
        return Unreachable(f"{host} can't be reached{through}: {reason(error)}", remedy=hint or (
            "check its name and this machine's network" + ("" if proxy else "; a proxy is taken from HTTPS_PROXY")))
