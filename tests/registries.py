"""Registries on the loopback for tests: Debian's docker-registry, a token server, and a proxy before it that does what goes wrong."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from archives import digest

__all__ = ["Answer", "FaultProxy", "Quiet", "Registry", "TokenServer", "certificates", "push_by_hand", "registry", "served"]

USER, PASSWORD = "ann", "secret"
_HTPASSWD = f"{USER}:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"   # bcrypt of PASSWORD


def _openssl(*argv: str | Path, data: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *map(str, argv)], input=data, capture_output=True, check=True).stdout


@dataclass(frozen=True)
class Certificates:
    """Of an authority of the tests' own, and of a server at 127.0.0.1 and localhost."""

    authority: Path
    certificate: Path
    key: Path


def certificates(folder: Path) -> Certificates:
    ca, ca_key, key, request, cert = (folder / name for name in ("ca.crt", "ca.key", "server.key", "server.csr", "server.crt"))
    _openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", ca_key, "-out", ca, "-days", "2", "-subj", "/CN=tests")
    _openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request, "-subj", "/CN=127.0.0.1")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    _openssl("x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-out", cert, "-days", "2",
             "-extfile", folder / "names")
    return Certificates(ca, cert, key)


@dataclass(frozen=True)
class Registry:
    """A registry that runs."""

    host: str
    folder: Path
    """Where it keeps what it's given."""

    def skopeo(self, *argv: str) -> subprocess.CompletedProcess[bytes]:
        with tempfile.TemporaryDirectory() as empty:
            # Its own memory of what this registry has: from the machine's it would take the blob of another format, and then fail.
            env = {**os.environ, "_CONTAINERS_ROOTLESS_UID": "1000", "XDG_DATA_HOME": empty}
            done = subprocess.run(["skopeo", *argv], capture_output=True, check=False, env=env)
        assert done.returncode == 0, done.stderr.decode()
        return done

    def copy(self, source: str, name: str, *options: str, secret: str = "") -> str:
        """Let skopeo push an image; return the digest of what is there then."""
        login = ("--dest-creds", secret) if secret else ()
        self.skopeo("copy", "-q", "--dest-tls-verify=false", *login, *options, source, f"docker://{self.host}/{name}")
        return self.digest(name, secret=secret)

    def digest(self, name: str, *, secret: str = "") -> str:
        """Return an image's digest as skopeo sees it."""
        login = ("--creds", secret) if secret else ()
        return digest(self.skopeo("inspect", "--raw", "--tls-verify=false", *login, f"docker://{self.host}/{name}").stdout)


@contextlib.contextmanager
def registry(folder: Path, *, tls: Certificates | None = None, htpasswd: bool = False,
             token: TokenServer | None = None) -> Iterator[Registry]:
    """Run docker-registry on a free port of the loopback."""
    folder.mkdir(parents=True, exist_ok=True)
    for _ in range(3):   # somebody else may take the port meanwhile
        with socket.create_server(("127.0.0.1", 0)) as trial:
            port = trial.getsockname()[1]
        config: dict[str, Any] = {
            "version": 0.1, "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(folder / "data")}, "maintenance": {"uploadpurging": {"enabled": False}}},
            "http": {"addr": f"127.0.0.1:{port}"}}
        if tls is not None:
            config["http"]["tls"] = {"certificate": str(tls.certificate), "key": str(tls.key)}
        if htpasswd:
            (folder / "htpasswd").write_text(_HTPASSWD)
            config["auth"] = {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}
        if token is not None:
            config["auth"] = {"token": {"realm": token.realm, "service": "tests", "issuer": "tests", "rootcertbundle": str(token.bundle)}}
        (folder / "config.yml").write_text(json.dumps(config))
        with open(folder / "log", "ab") as log:
            process = subprocess.Popen(["docker-registry", "serve", str(folder / "config.yml")], stdout=log, stderr=log)
        try:
            if _listens(port, process):
                yield Registry(f"127.0.0.1:{port}", folder)
                return
        finally:
            process.kill()
            process.wait()
    raise AssertionError((folder / "log").read_text())


def _listens(port: int, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        time.sleep(0.02)
    return False


class Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients hang up, on purpose."""


@contextlib.contextmanager
def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve on a free port of the loopback; yield HOST:PORT."""
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# tokens


@dataclass
class TokenServer:
    """Gives tokens for what is asked: to everybody to pull, to USER to push."""

    folder: Path
    realm: str = ""
    asked: list[tuple[str, dict[str, list[str]], str]] = field(default_factory=list)
    """(method, parameters, Authorization) of each request."""
    refresh: str = "a-refresh-token"
    lifetime: float = 300
    faults: list[int] = field(default_factory=list)
    """Statuses to answer with first."""

    @property
    def bundle(self) -> Path:
        return self.folder / "ca.crt"

    @contextlib.contextmanager
    def running(self, bundle: Certificates) -> Iterator[TokenServer]:
        outer = self
        chain = base64.b64encode(_openssl("x509", "-in", bundle.certificate, "-outform", "DER")).decode()

        class Handler(Quiet):
            def do_GET(self) -> None:
                self.answer(parse_qs(urlsplit(self.path).query))

            def do_POST(self) -> None:
                self.answer(parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode()))

            def answer(self, query: dict[str, list[str]]) -> None:
                shown = self.headers.get("Authorization", "")
                outer.asked.append((self.command, query, shown))
                if outer.faults:
                    return self.reply(outer.faults.pop(0), {})
                known = shown == "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
                known = known or query.get("refresh_token") == [outer.refresh]
                if (shown or "refresh_token" in query) and not known:
                    return self.reply(401, {"errors": [{"code": "UNAUTHORIZED", "message": "who is that?"}]})
                access = [{"type": kind, "name": name, "actions": [action for action in actions.split(",") if known or action == "pull"]}
                          for scope in query.get("scope", []) for kind, name, actions in [scope.split(":")]]
                return self.reply(200, {"token": outer.sign(access, chain, bundle.key)})

            def reply(self, status: int, body: dict[str, Any]) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
        with served(Handler) as host:
            self.realm = f"http://{host}/token"
            yield self

    def sign(self, access: list[dict[str, Any]], chain: str, key: Path) -> str:
        now = int(time.time())
        head = {"typ": "JWT", "alg": "RS256", "x5c": [chain]}
        body = {"iss": "tests", "aud": "tests", "sub": USER, "iat": now, "nbf": now - 5, "exp": now + int(self.lifetime), "jti": "1",
                "access": access}
        text = b".".join(_b64(json.dumps(part).encode()) for part in (head, body))
        return (text + b"." + _b64(_openssl("dgst", "-sha256", "-sign", key, data=text))).decode()


def _b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


# what goes wrong


@dataclass
class Answer:
    """What the proxy answers instead of the registry, or makes of the registry's answer."""

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    change: Callable[[bytes], bytes] | None = None
    """Applied to the registry's body; its length is announced as before."""
    cut: int | None = None
    """Bytes of the body after which the connection is reset."""
    pause: float = 0.0
    """Seconds between two KiB of the body."""
    whole: bool = False
    """A Range isn't passed on."""


class FaultProxy:
    """Passes requests on to a registry, but for those that a rule is for."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.rules: list[tuple[re.Pattern[str], list[Answer]]] = []
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        """(method, path, headers in small letters) of each request."""
        self.host = ""

    def fail(self, pattern: str, *answers: Answer) -> None:
        """Answer the next requests that match `METHOD path` so, one after the other."""
        self.rules.append((re.compile(pattern), list(answers)))

    def count(self, pattern: str) -> int:
        return sum(bool(re.search(pattern, f"{method} {path}")) for method, path, _ in self.seen)

    def _rule(self, line: str) -> Answer | None:
        for pattern, answers in self.rules:
            if answers and pattern.search(line):
                return answers.pop(0)
        return None

    @contextlib.contextmanager
    def running(self) -> Iterator[FaultProxy]:
        outer = self

        class Handler(Quiet):
            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.seen.append((self.command, self.path, {key.lower(): value for key, value in self.headers.items()}))
                answer = outer._rule(f"{self.command} {self.path}") or Answer()
                if answer.status is not None and answer.body is None and answer.change is None:
                    answer.body = b""
                if answer.body is None:
                    status, headers, data = self.passed_on(body, answer)
                else:
                    status, headers, data = answer.status or 200, {}, answer.body
                self.reply(answer.status or status, {**headers, **answer.headers}, data, answer)

            do_GET = do_HEAD = do_POST = do_PUT = handle_any  # noqa: N815  (http.server looks for these)

            def passed_on(self, body: bytes, answer: Answer) -> tuple[int, dict[str, str], bytes]:
                connection = http.client.HTTPConnection(outer.registry.host, timeout=30)
                kept = {key: value for key, value in self.headers.items() if not (answer.whole and key.lower() == "range")}
                connection.request(self.command, self.path, body=body or None, headers=kept)
                found = connection.getresponse()
                data = found.read()
                left_out = ("transfer-encoding", "date", "connection")
                headers = {key: value for key, value in found.getheaders() if key.lower() not in left_out}
                connection.close()
                return found.status, headers, data

            def reply(self, status: int, headers: dict[str, str], data: bytes, answer: Answer) -> None:
                length = headers.get("Content-Length") if self.command == "HEAD" else str(len(data))
                if answer.change is not None:
                    data = answer.change(data)
                    length = str(len(data))
                self.send_response(status)
                for key, value in headers.items():
                    if key.lower() != "content-length":
                        self.send_header(key, value)
                self.send_header("Content-Length", length or "0")
                self.end_headers()
                if self.command == "HEAD":
                    return
                if answer.cut is not None:
                    self.wfile.write(data[:answer.cut])
                    self.wfile.flush()
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                for start in range(0, len(data), 1024) if answer.pause else ():
                    self.wfile.write(data[start:start + 1024])
                    self.wfile.flush()
                    time.sleep(answer.pause)
                if not answer.pause:
                    self.wfile.write(data)
        with served(Handler) as self.host:
            yield self


def push_by_hand(host: str, name: str, tag: str, manifest: bytes, blobs: Mapping[str, bytes], kind: str = "") -> None:
    """Push what a test made by hand."""
    connection = http.client.HTTPConnection(host, timeout=30)
    for one, data in blobs.items():
        if data is manifest:
            continue
        connection.request("POST", f"/v2/{name}/blobs/uploads/")
        place = urlsplit(_read(connection, 202)["Location"])
        connection.request("PUT", f"{place.path}?{place.query}&digest={one}", body=data)
        _read(connection, 201)
    connection.request("PUT", f"/v2/{name}/manifests/{tag}", body=manifest,
                       headers={"Content-Type": kind or json.loads(manifest)["mediaType"]})
    _read(connection, 201)
    connection.close()


def _read(connection: http.client.HTTPConnection, status: int) -> dict[str, str]:
    answer = connection.getresponse()
    said = answer.read()
    assert answer.status == status, said
    return dict(answer.getheaders())
