"""Logs in: tries credentials before they are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from pytest_sealed.errors import SpecError
from pytest_sealed.images.reference import parse_reference
from pytest_sealed.images.registry.client import Client
from pytest_sealed.images.registry.credentials import Credential, Credentials
from pytest_sealed.images.registry.settings import Endpoint, Settings

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_sealed.images.registry.transport import Patience

__all__ = ["check_host", "log_in"]


def check_host(text: str) -> str:
    """Return a registry's host, with its port if there is one.

    Raises:
        SpecError: it's none.
    """
    try:
        host = parse_reference(f"{text}/x").host
    except SpecError:
        host = ""
    if host != text:
        raise SpecError(f"{text!r} is no registry", remedy="name its host, for example registry.example or 127.0.0.1:5000")
    return host


@final
class _Given:
    """Credentials that haven't been kept yet, in the place of those that have."""

    def __init__(self, credential: Credential) -> None:
        self._credential = credential
        self.files: list[Path] = []

    def find(self, _host: str, _path: str = "") -> Credential | None:
        return self._credential


def log_in(host: str, credential: Credential, *, settings: Settings | None = None, credentials: Credentials | None = None,
           patience: Patience | None = None) -> list[str]:
    """Show credentials to a registry, and keep them; return where.

    Raises:
        Denied: it doesn't take them. Nothing is kept then.
        ImageError: it can't be reached, or they can't be kept.
    """
    endpoint = Endpoint(host=host, path="", insecure=(settings := settings or Settings()).insecure(host))
    client = Client(endpoint, settings, _Given(credential), patience)
    try:
        client.request("GET", f"{client.scheme()}://{host}/v2/", what=f"the registry {host}").close()
    finally:
        client.close()
    return (credentials or Credentials()).store(host, credential)
