"""Credentials for registries, where Docker and Podman keep them. They are never printed.

See containers-auth.json(5), and for helpers the protocol of docker-credential-helpers.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import shutil
import subprocess
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from pytest_sealed.errors import ImageError

__all__ = ["Credential", "Credentials"]

_PATIENCE = 60        # seconds for a helper, which may ask its user something
_LARGEST = 1 << 20    # bytes of what a helper answers
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@final
@dataclass(frozen=True, slots=True)
class Credential:
    """A name and a password, or a token that others are got with."""

    user: str
    password: str = field(repr=False)
    refresh: bool = False
    """The password is an OAuth2 refresh token."""


@final
class Credentials:
    """The account's files of credentials.

    Raises:
        ImageError: one can't be understood; raised when something is looked up.
    """

    def __init__(self) -> None:
        config = os.environ.get("XDG_CONFIG_HOME", "")
        runtime = os.environ.get("XDG_RUNTIME_DIR", "")
        given = os.environ.get("REGISTRY_AUTH_FILE", "")
        home = Path(os.path.expanduser("~"))
        self._podman = [Path(given)] if given else [
            *([Path(runtime) / "containers/auth.json"] if runtime else []),
            (Path(config) if os.path.isabs(config) else home / ".config") / "containers/auth.json"]
        self._docker = Path(os.environ.get("DOCKER_CONFIG", "") or home / ".docker") / "config.json"

    @property
    def files(self) -> list[Path]:
        """Where is looked, in this order."""
        return [*self._podman, self._docker]

    def find(self, host: str, path: str = "") -> Credential | None:
        """Return the credential for a repository: of the first file that has one, the one for the longest part of its name.

        Raises:
            ImageError: a file or a helper's answer can't be understood.
        """
        parts = [host, *path.split("/")] if path else [host]
        keys = ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]
        for file in self.files:
            data = _read(file)
            helper = _table(data, "credHelpers").get(host)
            if helper:
                return _ask(str(helper), host)
            auths = {_bare(key): row for key, row in _table(data, "auths").items()}
            for key in keys:
                found = _entry(auths.get(key), file, key)
                if found is not None:
                    return found
            if data.get("credsStore") and shutil.which(f"docker-credential-{data['credsStore']}"):   # the file may be another machine's
                found = _ask(str(data["credsStore"]), host)
                if found is not None:
                    return found
        return None

    def store(self, host: str, credential: Credential) -> list[str]:
        """Keep a credential where Docker and Podman find it; return where.

        Docker's file is read by both. Podman's own come first for Podman, so the one that there is gets it too.
        """
        places = []
        for file in self._targets():
            data = _read(file)
            helper = _table(data, "credHelpers").get(host) or (data.get("credsStore") if file == self._docker else "")
            if helper:
                body = {"ServerURL": host, "Username": credential.user, "Secret": credential.password}
                _helper(str(helper), "store", json.dumps(body))
                places.append(f"docker-credential-{helper}")
                continue
            secret = base64.b64encode(f"{credential.user}:{credential.password}".encode()).decode()
            auths = {key: row for key, row in _table(data, "auths").items() if _bare(key) != host}
            _write(file, {**data, "auths": {**auths, host: {"auth": secret}}})
            places.append(str(file))
        return places

    def forget(self, host: str) -> list[str]:
        """Remove a host's credentials; return where there were any."""
        places = []
        for file in self.files:
            data = _read(file)
            helper = _table(data, "credHelpers").get(host) or data.get("credsStore")
            if helper and _ask(str(helper), host) is not None:
                _helper(str(helper), "erase", host)
                places.append(f"docker-credential-{helper}")
            auths = _table(data, "auths")
            kept = {key: row for key, row in auths.items() if _bare(key) != host}
            if len(kept) < len(auths):
                _write(file, {**data, "auths": kept})
                places.append(str(file))
        return places

    def _targets(self) -> list[Path]:
        if os.environ.get("REGISTRY_AUTH_FILE", ""):
            return self._podman
        return [*[file for file in self._podman if file.exists()][:1], self._docker]


def _bare(key: str) -> str:
    """Return a key without what Docker once wrote around a host: `https://HOST/v1/`."""
    host = re.sub(r"^https?://", "", key)
    return re.sub(r"/v[12]/?$", "", host).rstrip("/") if host != key else key.removesuffix("/v1/").removesuffix("/v2/")


def _read(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_bytes() or b"{}")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except PermissionError as error:
        raise ImageError(f"{file} can't be read: {error.strerror}", remedy=f"ls -l {file}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ImageError(f"{file} can't be understood: {error}", remedy="mend it, or remove it and log in again") from error
    if not isinstance(data, dict):
        raise ImageError(f"{file} holds no JSON object", remedy="mend it, or remove it and log in again")
    return data


def _table(data: dict[str, Any], key: str) -> dict[str, Any]:
    value = data.get(key)
    return value if isinstance(value, dict) else {}


def _entry(row: object, file: Path, key: str) -> Credential | None:
    if not isinstance(row, dict):
        return None
    if row.get("identitytoken"):
        return Credential(str(row.get("username") or ""), str(row["identitytoken"]), refresh=True)
    if row.get("auth"):
        try:
            user, colon, password = base64.b64decode(str(row["auth"]), validate=True).decode().partition(":")
        except (binascii.Error, ValueError) as error:
            raise ImageError(f"{file} has a broken entry for {key}", remedy=f"sealed login {key.partition('/')[0]}") from error
        if colon:
            return Credential(user, password.rstrip("\0"))
    if row.get("username") and row.get("password"):
        return Credential(str(row["username"]), str(row["password"]))
    return None


def _ask(helper: str, host: str) -> Credential | None:
    answer = _helper(helper, "get", host)
    if answer is None:
        return None
    try:
        data = json.loads(answer)
        user, secret = str(data["Username"]), str(data["Secret"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ImageError(f"docker-credential-{helper} gave an answer that can't be understood") from error
    return Credential("" if user == "<token>" else user, secret, refresh=user == "<token>")


def _helper(helper: str, action: str, text: str) -> str | None:
    """Return what a helper prints; None: it has nothing for this host."""
    if not _HELPER.fullmatch(helper):
        raise ImageError(f"{helper[:60]!r} can't be the name of a credential helper")
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run([program, action], input=text.encode(), capture_output=True, check=False, timeout=_PATIENCE)
    except FileNotFoundError as error:
        raise ImageError(f"the credential helper {program} isn't there", remedy="install it, or log in again without it") from error
    except subprocess.TimeoutExpired as error:
        raise ImageError(f"the credential helper {program} gave no answer within {_PATIENCE} s") from error
    if done.returncode:
        said = (done.stdout + done.stderr).decode(errors="replace").strip()
        if "not found" in said:
            return None
        raise ImageError(f"the credential helper {program} failed: {said[:200]}")
    return done.stdout[:_LARGEST].decode(errors="replace")


def _write(file: Path, data: dict[str, Any]) -> None:
    """Replace a file, readable by its owner only; through a link, that stays one."""
    target = Path(os.path.realpath(file))
    fresh = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            json.dump(data, out, indent="\t")
            out.write("\n")
        os.replace(fresh, target)
    except OSError as error:
        raise ImageError(f"{file} can't be written: {error.strerror}", remedy=f"ls -ld {target.parent}") from error
    finally:
        fresh.unlink(missing_ok=True)
