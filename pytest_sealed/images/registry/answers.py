"""What registries answer when they don't do what was asked for, and what that means for the user."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from pytest_sealed.errors import ImageError

if TYPE_CHECKING:
    import urllib3

__all__ = ["Absent", "Denied", "RegistryError", "Unreachable", "refusal", "retry_after", "said"]

_SAID = 2000   # bytes that are read of what a registry says about an error


class RegistryError(ImageError):
    """A registry can't or won't do what was asked for."""


class Unreachable(RegistryError):
    """No answer, or none that helps: another mirror may do."""


class Absent(RegistryError):
    """It isn't there, or not for us."""


class Denied(RegistryError):
    """Credentials are missing, or don't suffice."""


def refusal(answer: urllib3.BaseHTTPResponse, what: str, host: str) -> RegistryError:
    """Return the error that an answer means, other than 401."""
    status, words = answer.status, said(answer)
    login = f"sealed login {host}"
    if status == 403:
        return Denied(f"{what}: missing or private: {host} answers 403{words}", remedy=f"check the name; if it's right, {login}")
    if status == 404:
        return Absent(f"{what}: missing or private: {host} answers 404{words}",
                      remedy=f"check the name and the tag; if they are right, {login}")
    if status == 429:
        wait = retry_after(answer)
        until = f"; it wants us to wait for {wait:.0f} s" if wait else ""
        return Unreachable(f"{what}: {host} answers 429, too many requests{words}{until}",
                           remedy=f"try again later, or {login}: many registries allow more to those they know")
    if status >= 500:
        return Unreachable(f"{what}: {host} answers {status}{words}", remedy="try again later")
    return RegistryError(f"{what}: {host} answers {status}{words}")


def retry_after(answer: urllib3.BaseHTTPResponse) -> float:
    """Return the seconds that a registry asks us to wait: a number, or a date."""
    value = answer.headers.get("Retry-After", "")
    if value.isascii() and value.isdigit() and len(value) < 10:
        return float(value)
    from email.utils import parsedate_to_datetime
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return 0.0


def said(answer: urllib3.BaseHTTPResponse) -> str:
    """Return what a registry says about an error, ready to be appended; printable whatever it is."""
    try:
        data = answer.read1(_SAID)
        rows = json.loads(data)["errors"]
        text = "; ".join(str(row.get("message") or row.get("code")) for row in rows[:3])
    except Exception:
        return ""   # a web page, or nothing
    finally:
        answer.close()
    clean = "".join(char if char.isprintable() else " " for char in text)[:200].strip()
    return f": {clean}" if clean else ""
