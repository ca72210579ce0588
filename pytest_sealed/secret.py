"""Values that a container gets as files and nobody else gets to see: no text, pickle, request or file of the host's has them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, final

from pytest_sealed.errors import SpecError
from pytest_sealed.values import is_file_name

__all__ = ["MOST", "SECRETS", "Secret", "check_secrets", "open_secrets"]

SECRETS = "/run/secrets"   # where they are in a container, as Docker and Podman have it
_EXAMPLE = 'for example secrets={"db_password": "…"}'
MOST = 1 << 20   # bytes of all together: they count in the container's memory


@final
class Secret:
    """A value that doesn't show: not by repr(), and a pickle leaves it behind.

    Args:
        value: None in what comes out of a pickle.
    """

    __slots__ = ("_value",)

    def __init__(self, value: bytes | None = None) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """Return the value.

        Raises:
            SpecError: it was left behind.
        """
        if self._value is None:
            raise SpecError("the values of this spec's secrets were left behind when it was pickled",
                            remedy="make the spec in the process that runs it")
        return self._value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "<secret>"

    def __reduce__(self) -> tuple[type[Secret], tuple[()]]:
        return Secret, ()

    def __deepcopy__(self, _memo: object) -> Secret:
        return self


def check_secrets(key: str, value: Any) -> tuple[tuple[str, Secret], ...]:
    """Return the rows of a mapping from names to text or bytes. No error shows what may be a value."""
    if not isinstance(value, Mapping):
        raise SpecError(f"{key} is no mapping but of type {type(value).__name__}", remedy=_EXAMPLE)
    rows = {}
    for name, content in value.items():
        if not isinstance(name, str):
            raise SpecError(f"{key}: a name is no text but of type {type(name).__name__}", remedy=_EXAMPLE)
        rows[_name(key, name)] = Secret(_content(f"{key}: {name!r}", content))
    size = sum(len(secret.reveal()) for secret in rows.values())
    if size > MOST:
        raise SpecError(f"{key} have more than the {MOST >> 20} MiB that they may have together",
                        remedy="give what is large and no secret by mounts= or put()")
    return tuple(sorted(rows.items(), key=lambda row: row[0]))


def _name(key: str, name: str) -> str:
    if not is_file_name(name):
        raise SpecError(f"{key}: {name[:80]!r} can't be the name of a file", remedy=f"{_EXAMPLE}, which is the file {SECRETS}/db_password")
    return name


def _content(what: str, content: Any) -> bytes:
    if isinstance(content, (bytes, bytearray)):
        return bytes(content)
    if not isinstance(content, str):
        raise SpecError(f"{what} is neither text nor bytes but of type {type(content).__name__}", remedy=_EXAMPLE)
    try:
        return content.encode()
    except UnicodeEncodeError:
        raise SpecError(f"{what} is text that has no UTF-8", remedy="give bytes") from None


def open_secrets(secrets: tuple[tuple[str, Secret], ...]) -> int:
    """Return the descriptor of a memory file that holds them, {name: hexadecimal digits}; the caller's to close. See memfd_create(2)."""
    data = memoryview(json.dumps({name: secret.reveal().hex() for name, secret in secrets}).encode())
    fd = os.memfd_create("sealed-secrets", os.MFD_CLOEXEC)
    try:
        while data:
            data = data[os.write(fd, data):]
    except BaseException:
        os.close(fd)
        raise
    return fd
