"""The names of a store's images, and the small documents that they lead to: records, manifests, configs."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any, final
from urllib.parse import quote, unquote

from pytest_sealed.errors import ImageError, ImageNotFound, SpecError, nearest
from pytest_sealed.images.folders import Folders, explain
from pytest_sealed.images.reference import digest_of, encode, parse_reference

__all__ = ["Records", "again"]


@final
class Records:
    """A store's names and documents. A record is a JSON object: `manifest`, a digest, and facts for people and builds."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders

    def names(self) -> list[str]:
        """Return the references of all images, sorted."""
        try:
            entries = os.listdir(self._folders.images)
        except OSError:
            return []
        return sorted(unquote(name.removesuffix(".json")) for name in entries if name.endswith(".json"))

    def path(self, reference: str) -> Path:
        """Return where the record of that name is."""
        return self._folders.images / f"{quote(reference, safe='')}.json"

    def lookup(self, reference: str) -> tuple[str, dict[str, Any]]:
        """Return the full name that `reference` means, and its record."""
        try:
            return reference, self.get(reference)
        except ImageNotFound:
            name = self._longer(reference)
            if not name:
                raise
            return name, self.get(name)

    def get(self, reference: str) -> dict[str, Any]:
        """Return the record of exactly that name.

        Raises:
            ImageNotFound: there is none; names the nearest one and the command that makes it.
            ImageError: it's damaged.
        """
        try:
            record = json.loads(self.path(reference).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise self._not_found(reference) from None
        except OSError as error:
            raise explain(error, self._folders.root) from error
        except ValueError as error:
            raise ImageError(f"the record of image {reference!r} is damaged", remedy=f"sealed build {reference}") from error
        if not isinstance(record, dict) or not isinstance(record.get("manifest"), str):
            raise ImageError(f"the record of image {reference!r} is damaged", remedy=f"sealed build {reference}")
        return record

    def put(self, reference: str, record: dict[str, Any]) -> None:
        """Give a name to a record, in place of the one that had it."""
        self._write(self.path(reference), encode(record))

    def documents(self, record: dict[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any]]:
        """Return (digest, manifest, config).

        Raises:
            OSError, ValueError, KeyError, TypeError: they are damaged.
        """
        digest = record["manifest"]
        manifest = self._json(digest)
        return digest, manifest, self._json(manifest["config"]["digest"])

    def blob(self, digest: str) -> bytes:
        """Return a document.

        Raises:
            OSError, ValueError: it isn't there, or has been changed.
        """
        data = (self._folders.blobs / digest.removeprefix("sha256:")).read_bytes()
        if digest_of(data) != digest:
            raise ValueError(f"the blob {digest} has other content")
        return data

    def put_blob(self, data: bytes) -> str:
        """Keep a document, in place of a damaged one of that digest; return its digest."""
        digest = digest_of(data)
        try:
            self.blob(digest)
        except (OSError, ValueError):
            self._write(self._folders.blobs / digest.removeprefix("sha256:"), data)
        return digest

    def _json(self, digest: str) -> dict[str, Any]:
        value = json.loads(self.blob(digest))
        if not isinstance(value, dict):
            raise ValueError(f"the blob {digest} is no object")
        return value

    def _write(self, path: Path, data: bytes) -> None:
        """Write a file so that others see all of it or nothing."""
        with self._folders.workspace() as work:
            with open(work / "file", "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(work / "file", path)

    def _longer(self, reference: str) -> str:
        from pytest_sealed.images.finder import recipe_names  # 20 ms
        try:
            parsed = parse_reference(reference)
        except SpecError:
            return ""
        names = self.names()
        if str(parsed) in names:
            return str(parsed)
        if parsed.host or reference in recipe_names():   # a recipe's image is built, not found by chance
            return ""
        found = [name for name in names if name.endswith(f"/{parsed}")]
        if len(found) > 1:
            raise ImageError(f"{reference!r} may be any of {', '.join(found)}", remedy="write the whole name")
        return found[0] if found else ""

    def _not_found(self, reference: str) -> ImageNotFound:
        from pytest_sealed.images.finder import recipe_names
        recipes = recipe_names()
        there = f"the store {self._folders.root} has no image {reference!r}"
        if reference in recipes:
            return ImageNotFound(there, remedy=f"sealed build {reference}")
        with contextlib.suppress(SpecError):
            if parse_reference(reference).host:
                return ImageNotFound(there, remedy=f"sealed pull {reference}")
        hint = nearest(reference, [*self.names(), *recipes])
        return ImageNotFound(there + hint, remedy=(
            f"`sealed images` lists those there are; `sealed build NAME` makes one of {', '.join(recipes) or 'your own recipes'}; "
            "`sealed pull` and `sealed load` take others"))


def again(reference: str, record: dict[str, Any]) -> str:
    """Return the command that makes an image again."""
    if record.get("snapshot"):
        return f"take the {record['snapshot']} again"
    if record.get("wheel"):
        return f"sealed rm {reference}"   # the next use unpacks it again
    source, tagged = str(record.get("source", "")), str(record.get("tagged", ""))
    if tagged:
        return f"{again(tagged, {'source': source})} && sealed tag {tagged} {reference}"
    return source if source.startswith("sealed ") else f"sealed build {reference}"
