"""Images pulled from Debian's docker-registry and pushed to it, with skopeo on the other side: digests are the same both ways."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from archives import DOCKER, OCI, Made, architecture, digest, layer, packed
from registries import PASSWORD, USER, Certificates, Registry, TokenServer, certificates, push_by_hand, registry

from pytest_sealed import ImageError, Sandbox, image
from pytest_sealed.images.compression import zstd
from pytest_sealed.images.registry.answers import Absent, Denied, RegistryError, Unreachable
from pytest_sealed.images.registry.credentials import Credential, Credentials
from pytest_sealed.images.registry.login import log_in
from pytest_sealed.images.registry.pull import Puller
from pytest_sealed.images.registry.push import Pusher
from pytest_sealed.images.registry.transport import Patience
from pytest_sealed.images.save import save
from pytest_sealed.images.store import Store

pytestmark = pytest.mark.usefixtures("home")

HASTY = Patience(connect=5, read=5, attempts=3, pause=0.01, longest=0.5, window=0.5)
OF_USER = f"{USER}:{PASSWORD}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def archive(busybox: Store, tmp_path_factory: pytest.TempPathFactory) -> str:
    """busybox, as skopeo takes it."""
    path = tmp_path_factory.mktemp("archive") / "busybox.tar"
    save(busybox, ["busybox"], str(path))
    return f"docker-archive:{path}"


def pull(store: Store, reference: str, **options: Any) -> Any:
    return Puller(store, patience=HASTY, **options).pull(reference)


def push(store: Store, reference: str, target: str = "") -> str:
    return Pusher(store, patience=HASTY).push(reference, target)


FORMS = [("--format", "v2s2"), ("--format", "oci"), ("--format", "oci", "--dest-compress-format", "zstd")]


@pytest.mark.parametrize("form", FORMS, ids=["docker", "oci", "zstd"])
def test_what_skopeo_pushes_is_pulled_with_the_same_digest_and_runs(
        new_store: Callable[[], Store], plain: Registry, archive: str, form: tuple[str, ...]) -> None:
    wanted = plain.copy(archive, f"team/web:{form[-1]}", *form)
    store = new_store()
    found = pull(store, f"{plain.host}/team/web:{form[-1]}")
    assert found.digest == wanted
    with Sandbox(store=store) as sandbox:
        container = sandbox.run(image(f"web:{form[-1]}", wait=None), ["sh", "-c", "echo pulled"])
        assert container.wait(60) == 0
        assert container.logs() == "pulled\n"


@pytest.mark.parametrize("form", FORMS, ids=["docker", "oci", "zstd"])
def test_what_was_pulled_is_pushed_with_the_same_digest(new_store: Callable[[], Store], plain: Registry, archive: str,
                                                        form: tuple[str, ...]) -> None:
    wanted = plain.copy(archive, f"team/web:{form[-1]}", *form)
    store = new_store()
    pull(store, f"{plain.host}/team/web:{form[-1]}")
    assert push(store, f"web:{form[-1]}", f"{plain.host}/mirrored/{form[-1]}:1") == wanted
    assert plain.digest(f"mirrored/{form[-1]}:1") == wanted


def test_what_was_built_here_is_pushed_compressed_and_pulled_with_that_digest(store: Store, new_store: Callable[[], Store], plain: Registry,
                                                                              tmp_path: Path) -> None:
    pushed = push(store, "busybox", f"{plain.host}/built/busybox:1")
    assert plain.digest("built/busybox:1") == pushed
    plain.skopeo("copy", "-q", "--src-tls-verify=false", f"docker://{plain.host}/built/busybox:1", f"dir:{tmp_path}/whole")
    found = pull(new_store(), f"{plain.host}/built/busybox:1")
    assert found.digest == pushed
    assert [path.parent.name for path in found.layers] == [path.parent.name for path in store.get("busybox").layers]
    assert found.config == store.get("busybox").config
    assert push(store, "busybox", f"{plain.host}/built/busybox:again") == pushed


def test_by_digest_and_only_that_digest(new_store: Callable[[], Store], plain: Registry, archive: str) -> None:
    wanted = plain.copy(archive, "team/pinned:1")
    store = new_store()
    assert pull(store, f"{plain.host}/team/pinned:1@{wanted}").reference == f"{plain.host}/team/pinned@{wanted}"
    assert store.get(f"pinned@{wanted}").digest == wanted
    with pytest.raises(Absent, match="missing or private"):
        pull(store, f"{plain.host}/team/pinned@sha256:{'0' * 64}")


def many(plain: Registry, archive: str, name: str, kind: str) -> tuple[str, dict[str, str]]:
    """Push an index of two platforms, and what is no platform at all; return its digest and those of the manifests."""
    docker = kind == DOCKER
    digests, rows = {}, []
    for one in ("s390x", architecture()):
        manifest, blobs = packed(Made([layer({"which": one})], {"Cmd": ["/which"]}, {"architecture": one}), kind=kind)
        push_by_hand(plain.host, name, one, manifest, blobs)
        digests[one] = digest(manifest)
        rows.append({"mediaType": json.loads(manifest)["mediaType"], "digest": digest(manifest), "size": len(manifest),
                     "platform": {"architecture": one, "os": "linux"}})
    if not docker:
        rows.insert(0, {**rows[0], "platform": {"architecture": "unknown", "os": "unknown"}})
    index = json.dumps({"schemaVersion": 2, "manifests": rows, "mediaType": (
        f"{DOCKER}.distribution.manifest.list.v2+json" if docker else f"{OCI}.index.v1+json")}).encode()
    push_by_hand(plain.host, name, "many", index, {})
    return digest(index), digests


@pytest.mark.parametrize("kind", [OCI, DOCKER])
def test_an_index_gives_this_machines_image_or_the_one_that_is_asked_for(store: Store, plain: Registry, archive: str, kind: str) -> None:
    name = f"index-{'oci' if kind == OCI else 'docker'}"
    index, digests = many(plain, archive, name, kind)
    assert pull(store, f"{plain.host}/{name}:many").digest == digests[architecture()]
    assert store.records.get(f"{plain.host}/{name}:many")["index"] == index
    other = pull(store, f"{plain.host}/{name}@{index}", platform="linux/s390x")
    assert other.digest == digests["s390x"]
    assert (other.layers[-1] / "which").read_text() == "s390x"
    with pytest.raises(ImageError, match=rf"has no image for linux/riscv64: there are linux/{architecture()}, linux/s390x") as caught:
        pull(store, f"{plain.host}/{name}:many", platform="linux/riscv64")
    assert "--platform linux/" in caught.value.remedy


def test_an_image_of_another_platform_is_taken_only_if_it_is_asked_for(store: Store, plain: Registry) -> None:
    manifest, blobs = packed(Made([layer({"a": "b"})], changes={"architecture": "s390x"}))
    push_by_hand(plain.host, "other", "1", manifest, blobs)
    with pytest.raises(ImageError, match="is for linux/s390x, and this machine is linux/") as caught:
        pull(store, f"{plain.host}/other:1")
    assert caught.value.remedy == "--platform linux/s390x takes it all the same"
    assert pull(store, f"{plain.host}/other:1", platform="linux/s390x").digest == digest(manifest)


def test_a_second_image_fetches_only_the_layers_that_are_new(store: Store, plain: Registry) -> None:
    shared = [layer({f"shared{number}": "x"}) for number in range(4)]
    for tag, last in (("1", "one"), ("2", "two")):
        manifest, blobs = packed(Made([*shared, layer({"last": last})]))
        push_by_hand(plain.host, "shares", tag, manifest, blobs)
    pull(store, f"{plain.host}/shares:1")
    before = set(os.listdir(store.root / "blobs/sha256"))
    pull(store, f"{plain.host}/shares:2")
    assert len(set(os.listdir(store.root / "blobs/sha256")) - before) == 1


def test_what_is_there_is_not_fetched_again(store: Store, plain: Registry, archive: str) -> None:
    plain.copy(archive, "team/same:1")
    pull(store, f"{plain.host}/team/same:1")
    (store.root / "blobs/sha256").rename(store.root / "blobs/elsewhere")   # nothing of it is needed
    try:
        pull(store, f"{plain.host}/team/same:1")
        assert os.listdir(store.root / "blobs/sha256") == []
    finally:
        (store.root / "blobs/sha256").rmdir()
        (store.root / "blobs/elsewhere").rename(store.root / "blobs/sha256")


def sealed(store: Store, *argv: str, data: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pytest_sealed.cli", *argv], input=data, capture_output=True, text=True, check=False,
                          env={**os.environ, "SEALED_STORE": str(store.root)})


def test_the_command_line_pulls_runs_pushes_and_says_so(new_store: Callable[[], Store], plain: Registry, archive: str) -> None:
    wanted, store = plain.copy(archive, "team/cli:1"), new_store()
    done = sealed(store, "pull", f"{plain.host}/team/cli:1", "--name", "cli:1")
    assert (done.returncode, done.stdout) == (0, "cli:1\n"), done.stderr
    assert "fetching 2 layers" in done.stderr
    assert sealed(store, "run", "cli:1", "echo", "hi").stdout == "hi\n"
    done = sealed(store, "push", "cli:1", f"{plain.host}/team/cli:2")
    assert (done.returncode, done.stdout) == (0, f"{wanted}\n"), done.stderr
    done = sealed(store, "pull", f"{plain.host}/team/nope", f"{plain.host}/team/cli:2")
    assert (done.returncode, done.stdout) == (1, f"{plain.host}/team/cli:2\n")
    assert f"sealed: the manifest latest of {plain.host}/team/nope: missing or private" in done.stderr


def test_a_name_without_a_registry_needs_one_that_is_configured(store: Store, plain: Registry, archive: str, home: Path) -> None:
    plain.copy(archive, "team/short:1")
    done = sealed(store, "pull", "team/short:1")
    assert "'team/short:1' names no registry" in done.stderr
    (home / ".config/containers").mkdir(parents=True)
    (home / ".config/containers/registries.conf").write_text(f'unqualified-search-registries = ["{plain.host}"]\n')
    assert sealed(store, "pull", "team/short:1").stdout == f"{plain.host}/team/short:1\n"


def test_ten_processes_that_want_the_same_image_fetch_it_once(new_store: Callable[[], Store], plain: Registry, tmp_path: Path) -> None:
    big = Made([layer({"big": os.urandom(2_000_000)}), layer({"small": "x"})])
    manifest, blobs = packed(big)
    push_by_hand(plain.host, "once", "1", manifest, blobs)
    store = new_store()
    from registries import FaultProxy
    with FaultProxy(plain).running() as proxy:
        running = [subprocess.Popen([sys.executable, "-m", "pytest_sealed.cli", "pull", f"{proxy.host}/once:1"], stdout=subprocess.PIPE,
                                    stderr=subprocess.PIPE, env={**os.environ, "SEALED_STORE": str(store.root)}) for _ in range(10)]
        said = [process.communicate()[1] for process in running]
        assert [process.returncode for process in running] == [0] * 10, said
        for one in json.loads(manifest)["layers"]:
            assert proxy.count(f"GET .*{one['digest']}") == 1


# who we are


def test_htpasswd_tls_and_an_authority_of_ones_own(new_store: Callable[[], Store], made: Certificates, archive: str, home: Path,
                                                   tmp_path: Path) -> None:
    with registry(tmp_path / "registry", tls=made, htpasswd=True) as there:
        wanted, store = there.copy(archive, "secret/web:1", secret=OF_USER), new_store()
        with pytest.raises(RegistryError, match="its certificate can't be trusted: unable to get local issuer certificate") as caught:
            pull(store, f"{there.host}/secret/web:1")
        folder = home / f".config/containers/certs.d/{there.host}"
        assert caught.value.remedy.startswith(f"put the certificate of its authority into ~/.config/containers/certs.d/{there.host}/ca.crt")
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_bytes(made.authority.read_bytes())
        with pytest.raises(Denied, match=r"asks for credentials; none were found in .*config\.json") as denied:
            pull(store, f"{there.host}/secret/web:1")
        assert denied.value.remedy == f"sealed login {there.host}"
        with pytest.raises(Denied, match="answers 401 to what it was shown"):
            log_in(there.host, Credential(USER, "wrong"), patience=HASTY)
        assert not (home / ".docker").exists()
        done = sealed(store, "login", "-u", USER, "--password-stdin", there.host, data=f"{PASSWORD}\n")
        assert done.stdout == f"{there.host}: logged in as {USER}; kept in {home}/.docker/config.json\n", done.stderr
        assert (home / ".docker/config.json").stat().st_mode & 0o777 == 0o600
        assert pull(store, f"{there.host}/secret/web:1").digest == wanted
        assert push(store, f"{there.host}/secret/web:1", f"{there.host}/secret/web:2") == wanted
        there.skopeo("inspect", "--tls-verify=false", f"docker://{there.host}/secret/web:2")   # it finds what `sealed login` has kept
        assert sealed(store, "logout", there.host).stdout == f"{there.host}: removed from {home}/.docker/config.json\n"
        assert json.loads((home / ".docker/config.json").read_text()) == {"auths": {}}
        assert sealed(store, "logout", there.host).stdout == f"{there.host}: there were none\n"


def test_ssl_cert_file_names_authorities_too(new_store: Callable[[], Store], made: Certificates, archive: str, tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    with registry(tmp_path / "registry", tls=made) as there:
        wanted = there.copy(archive, "web:1")
        monkeypatch.setenv("SSL_CERT_FILE", str(made.authority))
        assert pull(new_store(), f"{there.host}/web:1").digest == wanted


def test_a_registry_that_is_configured_as_insecure_needs_no_authority(new_store: Callable[[], Store], made: Certificates, archive: str,
                                                                      home: Path, tmp_path: Path) -> None:
    with registry(tmp_path / "registry", tls=made) as there:
        wanted = there.copy(archive, "web:1")
        (home / ".config/containers").mkdir(parents=True)
        (home / ".config/containers/registries.conf").write_text(f'[[registry]]\nlocation = "{there.host}"\ninsecure = true\n')
        assert pull(new_store(), f"{there.host}/web:1").digest == wanted


@pytest.fixture
def tokens(made: Certificates, tmp_path: Path) -> Iterator[TokenServer]:
    with TokenServer(made.authority.parent).running(made) as found:
        yield found


def test_tokens_to_pull_for_everybody_and_to_push_for_some(new_store: Callable[[], Store], tokens: TokenServer, archive: str, home: Path,
                                                           tmp_path: Path) -> None:
    with registry(tmp_path / "registry", token=tokens) as there:
        wanted, store = there.copy(archive, "web:1", secret=OF_USER), new_store()
        tokens.asked.clear()
        assert pull(store, f"{there.host}/web:1").digest == wanted
        assert tokens.asked[0] == ("GET", {"service": ["tests"], "scope": ["repository:web:pull"]}, "")
        with pytest.raises(Denied, match="answers 401 to what it was shown"):
            push(store, "web:1", f"{there.host}/web:2")
        assert log_in(there.host, Credential(USER, PASSWORD), patience=HASTY) == [str(home / ".docker/config.json")]
        assert push(store, f"{there.host}/web:1", f"{there.host}/web:2") == wanted


def test_an_identity_token_is_exchanged(new_store: Callable[[], Store], tokens: TokenServer, archive: str, home: Path,
                                        tmp_path: Path) -> None:
    with registry(tmp_path / "registry", token=tokens) as there:
        wanted = there.copy(archive, "web:1", secret=OF_USER)
        (home / ".docker").mkdir(parents=True)
        (home / ".docker/config.json").write_text(json.dumps({"auths": {there.host: {"identitytoken": tokens.refresh}}}))
        tokens.asked.clear()
        assert pull(new_store(), f"{there.host}/web:1").digest == wanted
        method, asked, shown = tokens.asked[0]
        assert (method, shown, asked["grant_type"], asked["refresh_token"]) == ("POST", "", ["refresh_token"], [tokens.refresh])


def test_wrong_credentials_at_the_token_server_are_said_to_be_so(new_store: Callable[[], Store], tokens: TokenServer, archive: str,
                                                                tmp_path: Path) -> None:
    with registry(tmp_path / "registry", token=tokens) as there:
        there.copy(archive, "web:1", secret=OF_USER)
        Credentials().store(there.host, Credential(USER, "wrong"))
        with pytest.raises(Denied, match=r"gives no token: .* answers 401: who is that\?; the credentials .* don't suffice") as caught:
            pull(new_store(), f"{there.host}/web:1")
        assert "wrong" not in str(caught.value)


def test_a_token_server_that_is_busy_is_asked_again(new_store: Callable[[], Store], tokens: TokenServer, archive: str,
                                                   tmp_path: Path) -> None:
    with registry(tmp_path / "registry", token=tokens) as there:
        wanted = there.copy(archive, "web:1", secret=OF_USER)
        tokens.faults += [503, 429]
        assert pull(new_store(), f"{there.host}/web:1").digest == wanted
        tokens.faults += [500] * 3
        with pytest.raises(Unreachable, match="gives no token: it answers 500"):
            pull(new_store(), f"{there.host}/web:1")


def test_a_token_that_has_expired_is_got_anew(new_store: Callable[[], Store], tokens: TokenServer, archive: str, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    with registry(tmp_path / "registry", token=tokens) as there:
        wanted = there.copy(archive, "web:1", secret=OF_USER)
        tokens.asked.clear()
        tokens.lifetime = -70   # the registry allows for clocks that differ by a minute
        with pytest.raises(Denied, match="answers 401 to what it was shown"):
            pull(new_store(), f"{there.host}/web:1")
        assert len(tokens.asked) == 1
        real = TokenServer.sign

        def better(self: TokenServer, *args: Any) -> str:
            self.lifetime = -70 if len(self.asked) == 2 else 300
            return real(self, *args)
        monkeypatch.setattr(TokenServer, "sign", better)
        puller = Puller(new_store(), patience=HASTY)
        with pytest.raises(Denied):
            puller.pull(f"{there.host}/web:1")
        assert puller.pull(f"{there.host}/web:1").digest == wanted


# images that aren't


def artifact(plain: Registry, name: str, **changes: Any) -> str:
    manifest, blobs = packed(Made([layer({"a": "b"})]), **changes)
    push_by_hand(plain.host, name, "1", manifest, blobs)
    return f"{plain.host}/{name}:1"


def test_an_artifact_is_refused_by_what_it_is(store: Store, plain: Registry) -> None:
    body = Made([layer({"a": "b"})]).body
    reference = artifact(plain, "chart", config={"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": digest(body),
                                                 "size": len(body)})
    with pytest.raises(ImageError, match=r"no container image: its config is 'application/vnd\.cncf\.helm"):
        pull(store, reference)


def test_layers_of_several_gzip_members_and_zstd_frames(store: Store, plain: Registry) -> None:
    def halves(press: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
        return lambda data: press(data[:700]) + press(data[700:])
    for name, press in (("gzip", gzip.compress), ("zstd", zstd().compress)):
        manifest, blobs = packed(Made([layer({"a": name * 1000})]), squeeze=halves(press))
        push_by_hand(plain.host, f"members-{name}", "1", manifest, blobs)
        assert (pull(store, f"{plain.host}/members-{name}:1").layers[0] / "a").read_text() == name * 1000


def test_threads_end_with_the_pull(store: Store, plain: Registry, archive: str) -> None:
    plain.copy(archive, "team/threads:1", "--dest-compress-level", "1", "--dest-compress-format", "gzip")
    before = threading.active_count()
    pull(store, f"{plain.host}/team/threads:1")
    assert threading.active_count() == before


# what a terminal shows


def in_a_terminal(store: Store, *argv: str) -> tuple[int, str, str]:
    """Run a command whose errors go to a terminal; return its status, its output, and all that the terminal was sent."""
    ours, theirs = os.openpty()
    shown = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):   # EIO: the other side is closed
            while data := os.read(ours, 65536):
                shown.extend(data)
    reader = threading.Thread(target=read)
    reader.start()
    try:
        done = subprocess.run([sys.executable, "-m", "pytest_sealed.cli", *argv], stdout=subprocess.PIPE, stderr=theirs, text=True,
                              check=False, env={**os.environ, "SEALED_STORE": str(store.root), "COLUMNS": "120"})
    finally:
        os.close(theirs)
        reader.join()
        os.close(ours)
    return done.returncode, done.stdout, shown.decode()


def lines_of(shown: str) -> list[str]:
    """What stays on the screen."""
    return [line.rstrip("\r").rsplit("\r", 1)[-1].rstrip() for line in shown.split("\n")]


def test_a_terminal_shows_a_bar_while_bytes_come_and_go_and_a_line_in_the_end(store: Store, new_store: Callable[[], Store], plain: Registry,
                                                                              archive: str, tmp_path: Path) -> None:
    plain.copy(archive, "team/bar:1", "--dest-compress-level", "9", "--dest-compress-format", "gzip")
    status, out, shown = in_a_terminal(new_store(), "pull", f"{plain.host}/team/bar:1")
    assert (status, out) == (0, f"{plain.host}/team/bar:1\n")
    assert re.search(rf"team/bar:1: fetching \d layers.* \[{'█' * 24}\] (\d+)/\1 ", shown), shown
    assert re.fullmatch(rf"{re.escape(plain.host)}/team/bar:1: pulled, \d+ MB in [\d.]+ s", lines_of(shown)[0])
    assert lines_of(shown)[1:] == [""]
    pushed = f"team/{tmp_path.name}:1"   # where nothing is yet, however often this runs
    built, out, shown = in_a_terminal(store, "push", "busybox", f"{plain.host}/{pushed}")
    assert (built, out) == (0, f"{plain.digest(pushed)}\n")
    assert re.search(rf" \[{'█' * 24}\] (\d+)/\1 ", shown), shown
    assert re.search(rf"{pushed}: pushed, \d+ MB in [\d.]+ s", lines_of(shown)[0]), shown
    assert lines_of(shown)[1:] == [""]
    status, out, shown = in_a_terminal(store, "pull", f"{plain.host}/team/nothing:1")
    assert (status, out) == (1, "")
    assert lines_of(shown)[0].startswith("sealed: the manifest 1 of"), shown


def test_a_helper_keeps_what_login_is_given_and_pulls_and_pushes_use_it(new_store: Callable[[], Store], archive: str, home: Path,
                                                                        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = new_store()
    kept, program = tmp_path / "kept", tmp_path / "bin/docker-credential-tests"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ncase $1 in\nstore) cat > {kept};;\nerase) rm {kept};;\n"
                       f"get) cat {kept} 2> /dev/null || {{ echo credentials not found; exit 1; }};;\nesac\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    (home / ".docker").mkdir(parents=True)
    (home / ".docker/config.json").write_text('{"credsStore": "tests"}')
    with registry(tmp_path / "registry", htpasswd=True) as there:
        wanted = there.copy(archive, "secret/web:1", secret=OF_USER)
        with pytest.raises(Denied, match="none were found in"):
            pull(store, f"{there.host}/secret/web:1")
        done = sealed(store, "login", "-u", USER, "--password-stdin", there.host, data=f"{PASSWORD}\n")
        assert done.stdout == f"{there.host}: logged in as {USER}; kept in docker-credential-tests\n", done.stderr
        assert json.loads(kept.read_text()) == {"ServerURL": there.host, "Username": USER, "Secret": PASSWORD}
        assert (home / ".docker/config.json").read_text() == '{"credsStore": "tests"}'
        assert pull(store, f"{there.host}/secret/web:1").digest == wanted
        assert push(store, f"{there.host}/secret/web:1", f"{there.host}/secret/web:2") == wanted
        assert sealed(store, "logout", there.host).stdout == f"{there.host}: removed from docker-credential-tests\n"
        assert not kept.exists()


def test_what_podman_keeps_for_a_part_of_a_registry_is_used_there(store: Store, archive: str, home: Path, tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    with registry(tmp_path / "registry", htpasswd=True) as there:
        wanted = there.copy(archive, "secret/web:1", secret=OF_USER)
        there.copy(archive, "other/web:1", secret=OF_USER)
        path = tmp_path / "run/containers/auth.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"auths": {f"{there.host}/secret": {"auth": base64.b64encode(OF_USER.encode()).decode()}}}))
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
        assert pull(store, f"{there.host}/secret/web:1").digest == wanted
        with pytest.raises(Denied, match="none were found in"):
            pull(store, f"{there.host}/other/web:1")
