"""What a registry asks for when it answers 401: RFC 9110's challenges, and the tokens of the CNCF distribution's specification."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from pytest_sealed.images.registry.credentials import Credential

__all__ = ["Challenge", "basic", "parse_challenges"]

_SCHEME = re.compile(r"\s*,?\s*([A-Za-z][A-Za-z0-9_-]*)(?=\s|$|,)\s*")
_PARAMETER = re.compile(r'\s*,?\s*([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^",\s]+))')
_LONGEST = 8192   # characters of a header


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """One way of proving who one is."""

    scheme: str
    """In small letters."""
    parameters: dict[str, str]


def parse_challenges(header: str) -> list[Challenge]:
    """Return the challenges of a WWW-Authenticate header; what can't be understood ends it."""
    found, rest = [], header[:_LONGEST]
    while match := _SCHEME.match(rest):
        scheme, rest, parameters = match[1].lower(), rest[match.end():], {}
        while parameter := _PARAMETER.match(rest):
            value = parameter[2] if parameter[2] is not None else parameter[3]
            parameters[parameter[1].lower()] = re.sub(r"\\(.)", r"\1", value)
            rest = rest[parameter.end():]
        found.append(Challenge(scheme=scheme, parameters=parameters))
    return found


def basic(credential: Credential) -> str:
    """Return the Authorization header of a name and a password. See RFC 7617."""
    return "Basic " + base64.b64encode(f"{credential.user}:{credential.password}".encode()).decode()
