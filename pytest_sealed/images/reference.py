"""Names of images: `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`. See the reference grammar of the CNCF distribution project."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, final

from pytest_sealed.errors import ImageError, SpecError

__all__ = ["Reference", "blob_path", "check_digest", "digest_of", "encode", "parse_reference"]

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?")
_PART = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LONGEST = 255   # characters of a name


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A parsed name."""

    host: str = ""
    """Registry, with its port if there is one; empty: none was named."""
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """Host and path."""
        return f"{self.host}/{self.path}" if self.host else self.path

    @property
    def version(self) -> str:
        """What a registry is asked for: the digest, else the tag."""
        return self.digest or self.tag or "latest"

    def __str__(self) -> str:
        """As it is kept in the store: a digest makes the tag a comment, so it's dropped."""
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag or 'latest'}"


def parse_reference(text: str) -> Reference:
    """Return the parts of `text`.

    Raises:
        SpecError: it isn't a reference; names the part that is wrong.
    """
    rest, at, digest = text.partition("@")
    if at:
        check_digest(digest, f"the reference {text!r}", SpecError)
    host, slash, path = rest.partition("/")
    if not (slash and ("." in host or ":" in host or host == "localhost")):
        host, path = "", rest
    elif not _HOST.fullmatch(host):
        raise _wrong(text, f"{host!r} is no host")
    path, colon, tag = path.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise _wrong(text, f"{tag!r} is no tag")
    for part in path.split("/"):
        if not _PART.fullmatch(part):
            capital = " (capital letters aren't allowed)" if _PART.fullmatch(part.lower()) else ""
            raise _wrong(text, f"{part!r} is no part of a name{capital}")
    if len(host) + len(path) > _LONGEST:
        raise _wrong(text[:60] + "…", f"longer than {_LONGEST} characters")
    return Reference(host=host, path=path, tag=tag, digest=digest)


def _wrong(text: str, why: str) -> SpecError:
    return SpecError(f"{text!r} is no image reference: {why}",
                     remedy="write NAME:TAG or HOST/NAME:TAG, for example registry.example/team/web:1.2")


def check_digest(text: object, where: str, kind: type[ImageError | SpecError] = ImageError) -> str:
    """Return `text`, a digest in the one form that is trusted with a path or a URL.

    Raises:
        ImageError: it's none; `where` names what holds it.
    """
    if not isinstance(text, str) or not _DIGEST.fullmatch(text):
        raise kind(f"{where} holds {str(text)[:90]!r}, which is no sha256 digest",
                   remedy="a digest is sha256: and 64 digits of 0 to 9 and a to f")
    return text


def digest_of(data: bytes) -> str:
    """Return the sha256 digest of `data`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def blob_path(digest: str) -> str:
    """Return where an OCI layout has a blob. See the OCI image specification, image-layout.md."""
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def encode(value: dict[str, Any]) -> bytes:
    """Return JSON whose bytes depend on nothing but the value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
