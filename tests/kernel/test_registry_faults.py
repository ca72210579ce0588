"""What goes wrong between us and a registry: done by a proxy before Debian's docker-registry. Nothing wrong ever reaches the store."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from archives import Made, digest, layer, packed
from registries import PASSWORD, USER, Answer, FaultProxy, Registry, TokenServer, certificates, push_by_hand, registry, served

from pytest_sealed import ImageError
from pytest_sealed.errors import StoreError
from pytest_sealed.images.progress import Progress
from pytest_sealed.images.registry.answers import Absent, Denied, RegistryError, Unreachable
from pytest_sealed.images.registry.credentials import Credential, Credentials
from pytest_sealed.images.registry.pull import Puller
from pytest_sealed.images.registry.push import Pusher
from pytest_sealed.images.registry.transport import Patience
from pytest_sealed.images.store import Store

pytestmark = pytest.mark.usefixtures("home")

HASTY = Patience(connect=5, read=1, attempts=3, pause=0.01, longest=0.5, window=0.3)
SIZE = 700_000


@pytest.fixture
def proxy(plain: Registry) -> Iterator[FaultProxy]:
    with FaultProxy(plain).running() as found:
        yield found


class Image:
    """One image with a layer that is worth resuming, pushed by hand."""

    def __init__(self, there: Registry, name: str) -> None:
        self.layer = layer({"big": os.urandom(SIZE)})
        self.manifest, self.blobs = packed(Made([self.layer], {"Cmd": ["/big"]}))
        push_by_hand(there.host, name, "1", self.manifest, self.blobs)
        self.blob = str(json.loads(self.manifest)["layers"][0]["digest"])
        self.config = str(json.loads(self.manifest)["config"]["digest"])
        self.digest = digest(self.manifest)


@pytest.fixture
def big(plain: Registry, request: pytest.FixtureRequest) -> Image:
    return Image(plain, "big")


class Heard(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def pull(store: Store, reference: str, patience: Patience = HASTY) -> Any:
    return Puller(store, patience=patience).pull(reference)


def assert_nothing(store: Store, *, partial: bool = False) -> None:
    """Nothing shows of an image that couldn't be pulled."""
    assert store.names() == []
    assert list(store.folders.layers.iterdir()) == []
    assert list(store.folders.tmp.iterdir()) == []
    assert os.listdir(store.root / "blobs/sha256") == []
    assert partial or os.listdir(store.root / "blobs/partial") == []


BLOB = r"GET /v2/big/blobs/{0.blob}"


def ranges(proxy: FaultProxy, image: Image) -> list[str]:
    return [headers.get("range", "") for method, path, headers in proxy.seen if path.endswith(image.blob)]


def test_a_cut_blob_goes_on_where_it_was_cut(store: Store, proxy: FaultProxy, big: Image) -> None:
    proxy.fail(BLOB.format(big), Answer(cut=100_000), Answer(cut=200_000))
    found = pull(store, f"{proxy.host}/big:1")
    assert found.digest == big.digest
    assert len((found.layers[0] / "big").read_bytes()) == SIZE
    assert ranges(proxy, big) == ["", "bytes=100000-", "bytes=300000-"]


def test_a_pull_that_got_on_each_time_is_not_given_up(store: Store, proxy: FaultProxy, big: Image) -> None:
    proxy.fail(BLOB.format(big), *[Answer(cut=80_000)] * 8)
    assert pull(store, f"{proxy.host}/big:1").digest == big.digest


def test_a_blob_that_is_cut_at_once_again_and_again_is_given_up_and_the_next_pull_goes_on(new_store: Callable[[], Store], proxy: FaultProxy,
                                                                                          big: Image) -> None:
    store = new_store()
    proxy.fail(BLOB.format(big), Answer(cut=300_000), Answer(cut=10), Answer(cut=10), Answer(cut=10))
    with pytest.raises(Unreachable, match=r"was cut short, again and again: .*; 3000[23]0 of \d+ bytes are kept") as caught:
        pull(store, f"{proxy.host}/big:1")
    assert caught.value.remedy == "the same command goes on where this one stopped"
    assert_nothing(store, partial=True)
    proxy.seen.clear()
    assert pull(store, f"{proxy.host}/big:1").digest == big.digest
    assert re.fullmatch(r"bytes=3000[23]0-", ranges(proxy, big)[0])


def test_a_registry_that_can_not_go_on_begins_anew(store: Store, proxy: FaultProxy, big: Image) -> None:
    proxy.fail(BLOB.format(big), Answer(cut=100_000), Answer(whole=True))
    assert pull(store, f"{proxy.host}/big:1").digest == big.digest
    assert ranges(proxy, big) == ["", "bytes=100000-"]


def test_an_answer_that_goes_on_elsewhere_is_not_believed(store: Store, proxy: FaultProxy, big: Image) -> None:
    proxy.fail(BLOB.format(big), Answer(cut=100_000), Answer(headers={"Content-Range": "bytes 0-5/6"}))
    assert pull(store, f"{proxy.host}/big:1").digest == big.digest


def test_a_range_that_is_refused_begins_anew(store: Store, proxy: FaultProxy, big: Image) -> None:
    proxy.fail(BLOB.format(big), Answer(cut=100_000), Answer(status=416))
    assert pull(store, f"{proxy.host}/big:1").digest == big.digest
    assert ranges(proxy, big) == ["", "bytes=100000-", ""]


def test_a_slow_body_is_taken_up_anew(store: Store, proxy: FaultProxy, big: Image) -> None:
    slow = Patience(read=5, attempts=3, pause=0.01, window=0.3, slowest=100_000)
    proxy.fail(BLOB.format(big), Answer(pause=0.1))
    assert pull(store, f"{proxy.host}/big:1", slow).digest == big.digest
    assert ranges(proxy, big)[1].startswith("bytes=")


def test_a_body_that_stops_is_taken_up_anew(store: Store, proxy: FaultProxy, big: Image) -> None:
    proxy.fail(BLOB.format(big), Answer(pause=3))
    assert pull(store, f"{proxy.host}/big:1").digest == big.digest
    assert ranges(proxy, big)[1] == "bytes=1024-"


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 408])
def test_what_may_go_better_is_tried_again(store: Store, proxy: FaultProxy, big: Image, status: int) -> None:
    for what in ("manifests", big.config, big.blob):
        proxy.fail(f"GET .*{what}", Answer(status=status), Answer(status=status))
    assert pull(store, f"{proxy.host}/big:1").digest == big.digest


def test_a_registry_that_asks_us_to_wait_is_waited_for(store: Store, proxy: FaultProxy, big: Image) -> None:
    proxy.fail("GET .*manifests", Answer(status=429, headers={"Retry-After": "1"}))
    heard = Heard()
    began = time.monotonic()
    Puller(store, heard, patience=Patience(pause=0.01)).pull(f"{proxy.host}/big:1")
    assert time.monotonic() - began >= 1
    assert heard.notes == [f"{proxy.host} answers 429; trying again in 1 s"]


def test_one_that_wants_us_to_wait_for_hours_is_not(new_store: Callable[[], Store], proxy: FaultProxy, big: Image) -> None:
    proxy.fail("GET .*manifests", Answer(status=429, headers={"Retry-After": "7200"}))
    with pytest.raises(Unreachable, match=r"answers 429, too many requests; it wants us to wait for 7200 s") as caught:
        pull(new_store(), f"{proxy.host}/big:1")
    assert "many registries allow more to those they know" in caught.value.remedy


@pytest.mark.parametrize(("status", "kind", "said"), [
    (403, Denied, "missing or private: .* answers 403"), (404, Absent, "missing or private: .* answers 404"),
    (500, Unreachable, "answers 500"), (429, Unreachable, "answers 429"), (400, RegistryError, "answers 400")])
@pytest.mark.parametrize("what", ["manifests", "config", "blob"])
def test_a_refusal_is_said_in_words_and_leaves_nothing(new_store: Callable[[], Store], proxy: FaultProxy, big: Image, status: int,
                                                       kind: type[ImageError], said: str, what: str) -> None:
    store = new_store()
    body = b'{"errors": [{"code": "NO", "message": "not \\u001b[31m today"}]}'
    proxy.fail(f"GET .*{getattr(big, what, what)}", *[Answer(status=status, body=body)] * 3)
    with pytest.raises(kind, match=rf"{said}.*: not  ?\[31m today"):
        pull(store, f"{proxy.host}/big:1")
    assert_nothing(store)


def test_401_without_credentials_says_where_they_were_looked_for(new_store: Callable[[], Store], proxy: FaultProxy, big: Image,
                                                                 home: Path) -> None:
    store = new_store()
    proxy.fail("GET .*manifests", Answer(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'}))
    with pytest.raises(Denied, match=r"asks for credentials; none were found in .*auth\.json, .*config\.json") as caught:
        pull(store, f"{proxy.host}/big:1")
    assert caught.value.remedy == f"sealed login {proxy.host}"
    assert_nothing(store)


# other bytes than were asked for


def flipped(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def test_a_blob_with_another_digest_is_fetched_once_more_and_then_refused(new_store: Callable[[], Store], proxy: FaultProxy,
                                                                          big: Image) -> None:
    store = new_store()
    proxy.fail(BLOB.format(big), Answer(change=flipped))
    assert pull(store, f"{proxy.host}/big:1").digest == big.digest
    store.remove(f"{proxy.host}/big:1")
    proxy.fail(BLOB.format(big), *[Answer(change=flipped)] * 2)
    with pytest.raises(RegistryError, match=rf"is wrong: its digest is sha256:\w{{64}}, expected {big.blob}") as caught:
        pull(store, f"{proxy.host}/big:1")
    assert "nothing of it was kept" in caught.value.remedy
    assert_nothing(store)


def test_a_partial_blob_that_was_changed_meanwhile_is_fetched_anew(new_store: Callable[[], Store], proxy: FaultProxy, big: Image) -> None:
    store = new_store()
    store.cache.make()
    store.cache.partial(big.blob).write_bytes(b"x" * 1000)
    assert pull(store, f"{proxy.host}/big:1").digest == big.digest
    assert ranges(proxy, big) == ["bytes=1000-", ""]


def test_more_bytes_than_announced_end_the_transfer(new_store: Callable[[], Store], proxy: FaultProxy, big: Image) -> None:
    store = new_store()
    proxy.fail(BLOB.format(big), *[Answer(change=lambda data: data + b"x" * 5_000_000)] * 2)
    with pytest.raises(RegistryError, match=r"more came than its \d+ bytes"):
        pull(store, f"{proxy.host}/big:1")
    assert_nothing(store)


def test_fewer_bytes_are_asked_for_again(store: Store, proxy: FaultProxy, big: Image) -> None:
    proxy.fail(BLOB.format(big), Answer(change=lambda data: data[:-1000]))
    assert pull(store, f"{proxy.host}/big:1").digest == big.digest


@pytest.mark.parametrize(("change", "said"), [
    (flipped, r"has the digest sha256:\w{64}, expected sha256:"),
    (lambda _: b"<html>Please log in</html>", r"has the digest sha256:\w{64}, expected sha256:"),
])
def test_a_manifest_with_another_digest_is_refused(new_store: Callable[[], Store], proxy: FaultProxy, big: Image,
                                                   change: Callable[[bytes], bytes], said: str) -> None:
    store = new_store()
    for reference in (f"{proxy.host}/big:1", f"{proxy.host}/big@{big.digest}"):
        proxy.fail("GET .*manifests", Answer(change=change))
        with pytest.raises(ImageError, match=said):
            pull(store, reference)
        assert_nothing(store)


def test_a_config_with_another_digest_is_refused(new_store: Callable[[], Store], proxy: FaultProxy, big: Image) -> None:
    store = new_store()
    proxy.fail(f"GET .*{big.config}", Answer(change=flipped))
    with pytest.raises(ImageError, match=rf"the config of .* has the digest sha256:\w{{64}}, expected {big.config}"):
        pull(store, f"{proxy.host}/big:1")
    assert_nothing(store)


@pytest.mark.parametrize(("body", "said"), [
    (b"<!doctype html><title>Sign in</title>", "is a web page, no JSON: a login page, perhaps"),
    (b"nonsense", "is no JSON"),
    (b"[]", "is no JSON object"),
    (b"[" * 100_000, "nested too deeply"),
    (b'{"schemaVersion": 1, "fsLayers": []}', "Docker's schema 1"),
    (b'{"schemaVersion": 2}', "has no list of layers|config is no descriptor"),
    (b'{"schemaVersion": 2, "config": {"digest": "sha256:../../../etc/passwd", "size": 1}, "layers": []}', "which is no sha256 digest"),
    (b'{"schemaVersion": 2, "config": {"digest": "sha256:' + b"a" * 64 + b'", "size": -1}, "layers": []}', "has the size '-1'"),
    (b'{"schemaVersion": 2, "config": {"digest": "sha256:' + b"a" * 64 + b'", "size": 1}, "layers": [{"digest": "md5:1"}]}',
     "layer 1 has the size"),
    (b'{"mediaType": "application/vnd.oci.image.index.v1+json", "manifests": 7}', "has no list of manifests"),
    (b'{"mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}', "has no image for .*: there are none at all"),
    (b'"' + b"x" * (5 << 20) + b'"', "is larger than 4 MiB"),
])
def test_what_is_no_manifest_is_called_so(new_store: Callable[[], Store], proxy: FaultProxy, body: bytes, said: str) -> None:
    store = new_store()
    proxy.fail("GET .*manifests", Answer(body=body))
    with pytest.raises(ImageError, match=said):
        pull(store, f"{proxy.host}/big:1")
    assert_nothing(store)


def test_a_layer_that_is_no_tar_or_another_leaves_nothing(new_store: Callable[[], Store], plain: Registry) -> None:
    for content, said in ((b"no tar at all" * 1000, "broken|header"), (layer({"other": "x"}), "the layer's digest is sha256:")):
        image = Made([layer({"a": "b"})])
        manifest, blobs = packed(image, squeeze=lambda _data, content=content: content)
        push_by_hand(plain.host, "wrong", "1", manifest, blobs)
        store = new_store()
        with pytest.raises(ImageError, match=said):
            pull(store, f"{plain.host}/wrong:1")
        assert store.names() == []
        assert list(store.folders.layers.iterdir()) == []
        assert list(store.folders.tmp.iterdir()) == []


# redirects


def test_credentials_do_not_follow_to_another_host(store: Store, plain: Registry, proxy: FaultProxy, big: Image) -> None:
    Credentials().store(proxy.host, Credential(USER, PASSWORD))
    proxy.fail("GET .*manifests", Answer(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'}))
    with FaultProxy(plain).running() as other:
        proxy.fail(f"GET .*{big.blob}", Answer(status=307, headers={"Location": f"http://{other.host}/v2/big/blobs/{big.blob}?sig=1"}))
        assert pull(store, f"{proxy.host}/big:1").digest == big.digest
        assert [headers.get("authorization") for _, _, headers in other.seen] == [None]
        assert any(headers.get("authorization", "").startswith("Basic ") for _, path, headers in proxy.seen if path.endswith(big.blob))


def test_they_come_along_within_the_registry(store: Store, proxy: FaultProxy, big: Image) -> None:
    Credentials().store(proxy.host, Credential(USER, PASSWORD))
    proxy.fail("GET .*manifests", Answer(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'}))
    proxy.fail(f"GET .*{big.blob}", Answer(status=302, headers={"Location": f"/v2/big/blobs/{big.blob}?again"}))
    assert pull(store, f"{proxy.host}/big:1").digest == big.digest
    assert all("authorization" in headers for _, path, headers in proxy.seen if big.blob in path)


@pytest.mark.parametrize(("location", "said"), [
    ("http://registry.example/x", "sends us to registry.example without TLS"),
    ("file:///etc/passwd", "which is no place to fetch from"),
    ("http://ann:secret@127.0.0.1/x", "which is no place to fetch from"),
    ("", "sends us on and on"),
])
def test_a_redirect_that_leads_astray_is_not_followed(new_store: Callable[[], Store], proxy: FaultProxy, big: Image, location: str,
                                                      said: str) -> None:
    store = new_store()
    proxy.fail(f"GET .*{big.blob}", *[Answer(status=307, headers={"Location": location})] * 20)
    with pytest.raises(RegistryError, match=said):
        pull(store, f"{proxy.host}/big:1")
    assert_nothing(store)


@pytest.mark.parametrize(("realm", "said"), [
    ("http://registry.example/token", "wants credentials to be sent to registry.example without TLS"),
    ("file:///etc/passwd", "which is no place for that"), ("", "which is no place for that"),
])
def test_a_realm_that_leads_astray_gets_no_credentials(new_store: Callable[[], Store], proxy: FaultProxy, big: Image, realm: str,
                                                       said: str) -> None:
    Credentials().store(proxy.host, Credential(USER, PASSWORD))
    proxy.fail("GET .*manifests", Answer(status=401, headers={"WWW-Authenticate": f'Bearer realm="{realm}",service="x"'}))
    with pytest.raises(RegistryError, match=said) as caught:
        pull(new_store(), f"{proxy.host}/big:1")
    assert PASSWORD not in str(caught.value)


def test_a_registry_with_tls_never_leads_to_http(new_store: Callable[[], Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                 plain: Registry, big: Image) -> None:
    """Not to the loopback either, which is otherwise reached without TLS: neither by a redirect nor for a token."""
    made = certificates(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(made.authority))
    with TokenServer(tmp_path).running(made) as tokens, registry(tmp_path / "tls", tls=made, token=tokens) as there:
        Credentials().store(there.host, Credential(USER, PASSWORD))
        with pytest.raises(RegistryError, match=r"wants credentials to be sent to 127\.0\.0\.1:\d+ without TLS"):
            pull(new_store(), f"{there.host}/big:1")
        assert tokens.asked == []


# mirrors


def configure(home: Path, text: str) -> None:
    (home / ".config/containers").mkdir(parents=True)
    (home / ".config/containers/registries.conf").write_text(text)


def test_the_first_mirror_that_has_it_is_taken_and_the_registry_itself_last(new_store: Callable[[], Store], plain: Registry, big: Image,
                                                                            home: Path) -> None:
    with FaultProxy(plain).running() as one, FaultProxy(plain).running() as two, FaultProxy(plain).running() as itself:
        configure(home, f'[[registry]]\nprefix = "registry.example/team"\nlocation = "{itself.host}"\n'
                  f'[[registry.mirror]]\nlocation = "{one.host}"\n[[registry.mirror]]\nlocation = "{two.host}"\n')
        one.fail("GET .*manifests", *[Answer(status=404)] * 9)
        store = new_store()
        found = pull(store, "registry.example/team/big:1")
        assert (found.reference, found.digest) == ("registry.example/team/big:1", big.digest)
        assert two.count("GET .*blobs")
        assert not itself.seen
        two.fail("GET .*manifests", *[Answer(change=flipped)] * 9)
        store = new_store()
        assert pull(store, "registry.example/team/big:1").digest == big.digest
        assert itself.count("GET .*blobs")


def test_a_mirror_that_fails_half_way_is_gone_on_with_elsewhere(store: Store, plain: Registry, big: Image, home: Path) -> None:
    with FaultProxy(plain).running() as mirror, FaultProxy(plain).running() as itself:
        configure(home, f'[[registry]]\nlocation = "{itself.host}"\n[[registry.mirror]]\nlocation = "{mirror.host}"\n')
        mirror.fail(f"GET .*{big.blob}", Answer(cut=200_000), *[Answer(status=500)] * 9)
        assert pull(store, f"{itself.host}/big:1").digest == big.digest
        assert ranges(itself, big) == ["bytes=200000-"]


def test_a_blocked_registry_is_not_asked(new_store: Callable[[], Store], proxy: FaultProxy, home: Path) -> None:
    configure(home, f'[[registry]]\nlocation = "{proxy.host}"\nblocked = true\n')
    with pytest.raises(ImageError, match=f"registries.conf blocks {proxy.host}"):
        pull(new_store(), f"{proxy.host}/big:1")
    assert proxy.seen == []


# proxies


def test_a_proxy_is_taken_from_the_environment_and_not_for_the_loopback(new_store: Callable[[], Store], plain: Registry, big: Image,
                                                                        home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []
    from registries import Quiet

    class Handler(Quiet):
        def do_CONNECT(self) -> None:  # noqa: N802  (http.server looks for these)
            asked.append((self.path, self.headers.get("Proxy-Authorization", "")))
            self.send_error(503, "no")

        def do_GET(self) -> None:  # noqa: N802
            asked.append((self.path, self.headers.get("Proxy-Authorization", "")))
            self.send_error(404, "no")
    with served(Handler) as host:
        monkeypatch.setenv("HTTPS_PROXY", f"http://ann:secret@{host}")
        monkeypatch.setenv("HTTP_PROXY", f"http://{host}")
        assert pull(new_store(), f"{plain.host}/big:1").digest == big.digest
        assert asked == []
        with pytest.raises(Unreachable, match=r"registry\.example can't be reached through the proxy 127\.0\.0\.1: .*503") as caught:
            pull(new_store(), "registry.example/big:1")
        assert set(asked) == {("registry.example:443", "Basic YW5uOnNlY3JldA==")}
        assert "secret" not in str(caught.value)
        asked.clear()
        configure(home, '[[registry]]\nlocation = "registry.example"\ninsecure = true\n')
        with pytest.raises(Absent):
            pull(new_store(), "registry.example/big:1")
        assert asked[-1] == ("http://registry.example/v2/big/manifests/1", "")
        monkeypatch.setenv("NO_PROXY", "registry.example")
        asked.clear()
        with pytest.raises(Unreachable):
            pull(new_store(), "registry.example/big:1")
        assert asked == []


def test_a_host_without_tls_is_not_spoken_to_unless_it_is_configured(new_store: Callable[[], Store], plain: Registry, big: Image,
                                                                     monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """registry.example is made to be the registry on the loopback, which speaks http."""
    import socket
    real, port = socket.getaddrinfo, plain.host.rpartition(":")[2]
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: real(
        "127.0.0.1" if host == "registry.example" else host, *rest, **more))
    monkeypatch.setenv("NO_PROXY", "*")
    with pytest.raises(Unreachable, match="it doesn't speak TLS") as caught:
        pull(new_store(), f"registry.example:{port}/big:1")
    assert caught.value.remedy == (f'a registry without TLS is taken if registries.conf says so: [[registry]] location = '
                                   f'"registry.example:{port}", insecure = true')
    configure(home, f'[[registry]]\nlocation = "registry.example:{port}"\ninsecure = true\n')
    assert pull(new_store(), f"registry.example:{port}/big:1").digest == big.digest


# interrupted, killed, full


# An interrupt that comes to another thread than the main one, which isn't woken by it.
ELSEWHERE = """
import signal, sys
from pytest_sealed.cli import main
from pytest_sealed.images.registry.download import Downloads

wait = Downloads.wait

def deaf(*args):
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    wait(*args)

Downloads.wait = deaf
sys.exit(main())
"""


def running(store: Store, *argv: str, program: tuple[str, ...] = ("-m", "pytest_sealed.cli")) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, *program, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, "SEALED_STORE": str(store.root)}, start_new_session=True)


@pytest.mark.parametrize(("how", "program"), [(signal.SIGINT, ("-m", "pytest_sealed.cli")), (signal.SIGINT, ("-c", ELSEWHERE)),
                                              (signal.SIGKILL, ("-m", "pytest_sealed.cli"))], ids=["Ctrl-C", "Ctrl-C elsewhere", "kill"])
def test_a_pull_that_is_ended_leaves_nothing_but_what_the_next_goes_on_with(new_store: Callable[[], Store], proxy: FaultProxy, big: Image,
                                                                            how: int, program: tuple[str, ...]) -> None:
    store = new_store()
    proxy.fail(BLOB.format(big), Answer(pause=0.02))
    process = running(store, "pull", f"{proxy.host}/big:1", program=program)
    partial, deadline = store.root / "blobs/partial" / big.blob.removeprefix("sha256:"), time.monotonic() + 30
    while not (partial.exists() and partial.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    began = time.monotonic()
    os.killpg(process.pid, how)
    said = process.communicate(timeout=30)[1]
    assert time.monotonic() - began < 5
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert said.splitlines()[-1] == "sealed: interrupted"
    store.folders.sweep()
    assert_nothing(store, partial=True)
    assert pull(store, f"{proxy.host}/big:1").digest == big.digest
    assert ranges(proxy, big)[-1].startswith("bytes=")


def test_a_store_without_room_says_so_before_anything_is_fetched(new_store: Callable[[], Store], proxy: FaultProxy, big: Image,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    store = new_store()
    monkeypatch.setattr("pytest_sealed.images.folders.free_space", lambda _path: 1 << 20)
    with pytest.raises(StoreError, match=r"needs 2 MiB more and has 1 MiB free"):
        pull(store, f"{proxy.host}/big:1")
    assert not proxy.count(big.blob)


# pushes


def test_a_push_that_is_cut_or_refused_for_now_is_done_again(store: Store, plain: Registry, proxy: FaultProxy) -> None:
    proxy.fail("POST .*uploads", Answer(status=503), Answer(cut=0))
    proxy.fail("PUT .*uploads", Answer(status=500), Answer(cut=0), Answer(status=404))
    pushed = Pusher(store, patience=Patience(pause=0.01, read=5)).push("busybox", f"{proxy.host}/pushed:1")
    assert plain.digest("pushed:1") == pushed


def test_a_registry_that_takes_something_else_than_was_pushed_is_not_believed(store: Store, proxy: FaultProxy) -> None:
    proxy.fail("PUT .*manifests", Answer(headers={"Docker-Content-Digest": f"sha256:{'0' * 64}"}))
    with pytest.raises(RegistryError, match="the registry took sha256:"):
        Pusher(store, patience=HASTY).push("busybox", f"{proxy.host}/pushed:2")


def test_credentials_do_not_follow_an_upload_to_another_host(store: Store, plain: Registry, proxy: FaultProxy) -> None:
    Credentials().store(proxy.host, Credential(USER, PASSWORD))
    proxy.fail("HEAD .*blobs", Answer(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'}))
    with FaultProxy(plain).running() as other:
        proxy.fail("POST .*uploads", Answer(status=202, headers={"Location": f"http://{other.host}/v2/x/blobs/uploads/1"}))
        other.fail("PUT", Answer(status=403))
        with pytest.raises(Denied):
            Pusher(store, patience=HASTY).push("busybox", f"{proxy.host}/pushed:3")
        assert [headers.get("authorization") for _, _, headers in other.seen] == [None]
