"""Credentials where Docker and Podman keep them: which file counts, which entry of it, and helpers, which are real programs here."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from pytest_sealed.errors import ImageError
from pytest_sealed.images.registry.credentials import Credential, Credentials

HOST = "registry.example"
HELPER = """#!/bin/sh
echo "$1" >> "$KEPT.log"
case $1 in
    store) cat > "$KEPT" ;;
    get) read -r host; test -e "$KEPT" || { echo "credentials not found in native keychain"; exit 1; }; cat "$KEPT" ;;
    erase) cat > /dev/null; rm "$KEPT" ;;
esac
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("KEPT", str(tmp_path / "kept"))
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return tmp_path


def auth(user: str, word: str = "secret") -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{word}".encode()).decode()}


def write(path: Path, **data: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
    return path


def helper(home: Path, text: str = HELPER, name: str = "fake") -> None:
    path = home / "bin" / f"docker-credential-{name}"
    path.write_text(text)
    path.chmod(0o755)


def user(path: str = "") -> str:
    found = Credentials().find(HOST, path)
    return found.user if found else ""


def test_podmans_files_come_before_dockers_and_one_that_is_named_alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert user() == ""
    for place in (".docker/config.json", ".config/containers/auth.json", "run/containers/auth.json"):
        write(home / place, auths={HOST: auth(place)})
        assert user() == place
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    assert user() == ".config/containers/auth.json"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "other"))
    assert user() == ".docker/config.json"
    monkeypatch.setenv("DOCKER_CONFIG", str(home / "docker"))
    assert user() == ""
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(write(home / "mine.json", auths={HOST: auth("mine")})))
    assert user() == "mine"


def test_a_file_without_an_entry_lets_the_next_one_speak(home: Path) -> None:
    write(home / "run/containers/auth.json", auths={"other.example": auth("other"), HOST: {}})
    write(home / ".docker/config.json", auths={HOST: auth("docker")})
    assert user() == "docker"


def test_the_longest_part_of_a_name_counts(home: Path) -> None:
    write(home / ".config/containers/auth.json", auths={HOST: auth("all"), f"{HOST}/team": auth("team"), f"{HOST}/team/web": auth("web")})
    assert [user(path) for path in ("", "x", "team", "team/db", "team/web", "team/web/deep", "teams/web")] == [
        "all", "all", "team", "team", "web", "web", "all"]


@pytest.mark.parametrize("key", [HOST, f"https://{HOST}", f"https://{HOST}/", f"https://{HOST}/v1/", f"http://{HOST}/v2", f"{HOST}/v1/"])
def test_keys_as_docker_once_wrote_them(home: Path, key: str) -> None:
    write(home / ".docker/config.json", auths={key: auth("old")})
    assert user() == "old"


@pytest.mark.parametrize(("row", "found"), [
    (auth("u", "a:b:c"), Credential("u", "a:b:c")), ({"username": "u", "password": "p"}, Credential("u", "p")),
    (auth("u", "p\0\0"), Credential("u", "p")),
    ({**auth("u"), "identitytoken": "t"}, Credential("", "t", refresh=True)), ({"auth": ""}, None), (7, None),
    ({"auth": auth("")["auth"]}, Credential("", "secret")),
])
def test_forms_of_an_entry(home: Path, row: Any, found: Credential | None) -> None:
    write(home / ".docker/config.json", auths={HOST: row})
    assert Credentials().find(HOST) == found


@pytest.mark.parametrize(("text", "said"), [
    ("{", "can't be understood"), ("[]", "holds no JSON object"), ("[" * 100_000, "can't be understood"),
    (json.dumps({"auths": {HOST: {"auth": "not base64!"}}}), f"has a broken entry for {HOST}"),
    (json.dumps({"auths": {HOST: {"auth": base64.b64encode(b"\xff\xfe").decode()}}}), f"has a broken entry for {HOST}"),
])
def test_a_file_that_makes_no_sense_is_named(home: Path, text: str, said: str) -> None:
    write(home / ".docker/config.json").write_text(text)
    with pytest.raises(ImageError, match=said) as caught:
        Credentials().find(HOST)
    assert str(home / ".docker/config.json") in caught.value.message
    assert caught.value.remedy


def test_tables_of_other_kinds_are_none(home: Path) -> None:
    write(home / ".docker/config.json", auths=[1], credHelpers="x", credsStore=None)
    assert user() == ""


def test_a_helper_is_asked_stored_to_and_told_to_forget(home: Path) -> None:
    helper(home)
    write(home / ".docker/config.json", credHelpers={HOST: "fake"}, auths={"other.example": auth("other")})
    credentials = Credentials()
    assert credentials.find(HOST) is None
    assert credentials.store(HOST, Credential("me", "secret")) == ["docker-credential-fake"]
    assert json.loads((home / "kept").read_text()) == {"ServerURL": HOST, "Username": "me", "Secret": "secret"}
    assert credentials.find(HOST, "team/web") == Credential("me", "secret")
    assert "secret" not in (home / ".docker/config.json").read_text()
    assert credentials.forget(HOST) == ["docker-credential-fake"]
    assert not (home / "kept").exists()
    assert credentials.forget(HOST) == []
    assert json.loads((home / ".docker/config.json").read_text())["auths"] == {"other.example": auth("other")}
    assert (home / "kept.log").read_text().split() == ["get", "store", "get", "get", "erase", "get"]


def test_a_store_of_all_credentials_is_asked_after_the_files_own(home: Path) -> None:
    write(home / ".docker/config.json", credsStore="fake", auths={HOST: {}})
    assert user() == ""   # another machine's: the program isn't here
    helper(home)
    (home / "kept").write_text(json.dumps({"Username": "<token>", "Secret": "t"}))
    assert Credentials().find(HOST) == Credential("", "t", refresh=True)
    write(home / ".docker/config.json", credsStore="fake", auths={HOST: auth("file")})
    assert user() == "file"


@pytest.mark.parametrize(("text", "said"), [
    ("#!/bin/sh\necho broken; exit 3", "docker-credential-fake failed: broken"),
    ("#!/bin/sh\necho '[]'", "gave an answer that can't be understood"),
    ("#!/bin/sh\nhead -c 3000000 /dev/zero", "gave an answer that can't be understood"),
    ("#!/bin/sh\necho '{\"Username\": 1}'", "can't be understood"),
    ("#!/bin/sh\nexec sleep 1000", r"gave no answer within 0\.2 s"), ("", "isn't there|failed|Exec format"),
])
def test_a_helper_that_fails_is_named(home: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    if text:
        helper(home, text)
    monkeypatch.setattr("pytest_sealed.images.registry.credentials._PATIENCE", 0.2 if "sleep" in text else 60)
    write(home / ".docker/config.json", credHelpers={HOST: "fake"})
    with pytest.raises(ImageError, match=said):
        Credentials().find(HOST)


@pytest.mark.parametrize("name", ["../../bin/sh", "-x", "a b", "x\n", "/bin/sh"])
def test_no_other_program_is_run_as_a_helper(home: Path, name: str) -> None:
    write(home / ".docker/config.json", credHelpers={HOST: name})
    with pytest.raises(ImageError, match="can't be the name of a credential helper"):
        Credentials().find(HOST)


def test_credentials_are_kept_for_docker_and_where_podman_has_a_file_there_too(home: Path) -> None:
    docker, podman = home / ".docker/config.json", home / ".config/containers/auth.json"
    assert Credentials().store(HOST, Credential("me", "a:b")) == [str(docker)]
    write(podman, auths={"other.example": auth("other")})
    (home / "real.json").write_text(json.dumps({"auths": {f"https://{HOST}/v1/": auth("old")}, "experimental": "enabled"}))
    docker.unlink()
    docker.symlink_to(home / "real.json")
    assert Credentials().store(HOST, Credential("me", "a:b")) == [str(podman), str(docker)]
    assert docker.is_symlink()
    assert json.loads((home / "real.json").read_text()) == {"auths": {HOST: auth("me", "a:b")}, "experimental": "enabled"}
    assert json.loads(podman.read_text())["auths"] == {"other.example": auth("other"), HOST: auth("me", "a:b")}
    assert {path.stat().st_mode & 0o777 for path in (podman, home / "real.json")} == {0o600}
    assert Credentials().forget(HOST) == [str(podman), str(docker)]
    assert user() == ""
    assert sorted(path.name for path in (home / ".docker").iterdir()) == ["config.json"]


def test_only_the_file_that_is_named_is_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(home / "mine/auth.json"))
    assert Credentials().store(HOST, Credential("me", "x")) == [str(home / "mine/auth.json")]
    assert not (home / ".docker").exists()


def test_a_password_is_never_shown() -> None:
    assert "secret" not in repr(Credential("me", "secret"))
