"""Writes a layer as a tar: the same content gives the same bytes, whoever builds and when."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from dataclasses import dataclass
from typing import IO, final

__all__ = ["LayerFile", "WrittenLayer", "epoch"]

_CHUNK = 1 << 20


def epoch() -> int:
    """Return the time that new files get: SOURCE_DATE_EPOCH (seconds), else the first of January 2020."""
    value = os.environ.get("SOURCE_DATE_EPOCH", "")
    return int(value) if value.isdigit() else 1_577_836_800


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenLayer:
    """A layer that lies as a tar in a file."""

    path: str
    diff_id: str
    """`sha256:` and the digest of the tar."""
    size: int
    """Bytes of the tar."""
    entries: int


class _Hashing:
    """A file for tarfile to write to: counts and hashes what passes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.digest, self.count = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self._file.write(data)
        self.digest.update(data)
        self.count += len(data)
        return len(data)

    def tell(self) -> int:
        return self.count


@final
class LayerFile:
    """A tar being written; a context manager. A path is written once: the first entry stays.

    Args:
        times: keep the times of what is written, so that the bytes depend on them; by default none is later than `epoch()`.
    """

    def __init__(self, path: str, *, times: bool = False) -> None:
        self._path, self._times = path, times
        self._raw = open(path, "xb", buffering=_CHUNK)  # noqa: SIM115  (closed in __exit__)
        self._hashing = _Hashing(self._raw)
        self._tar = tarfile.open(fileobj=self._hashing, mode="w", format=tarfile.PAX_FORMAT)  # type: ignore[call-overload]  # noqa: SIM115
        self.seen: dict[str, str] = {}
        self._epoch = epoch()

    def __enter__(self) -> LayerFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._tar.close()
        self._raw.close()

    def add(self, entry: tarfile.TarInfo, content: IO[bytes] | None = None) -> bool:
        """Write an entry; return False if its path has been written before."""
        name = entry.name.strip("/")
        if name in self.seen:
            return False
        self.seen[name] = "dir" if entry.isdir() else "other"
        clean = tarfile.TarInfo(name)
        clean.type, clean.size, clean.mode, clean.linkname = entry.type, entry.size, entry.mode & 0o7777, entry.linkname
        clean.uid, clean.gid = entry.uid, entry.gid
        latest = entry.mtime if self._times else self._epoch
        clean.mtime = int(min(entry.mtime, latest)) if entry.mtime > 0 else self._epoch
        kept = {key: value for key, value in entry.pax_headers.items() if key.startswith("SCHILY.xattr.")}
        clean.pax_headers = dict(sorted(kept.items()))
        self._tar.addfile(clean, content)
        self._tar.members = []   # tarfile would keep every entry
        return True

    def directory(self, name: str, mode: int = 0o755, uid: int = 0, gid: int = 0) -> None:
        """Write a folder, if it isn't there yet."""
        self.add(_entry(name, tarfile.DIRTYPE, mode, uid, gid))

    def parents(self, name: str) -> None:
        """Write the folders above `name` that haven't been written."""
        parts = name.strip("/").split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            self.directory("/".join(parts[:depth]))

    def symlink(self, name: str, target: str) -> None:
        entry = _entry(name, tarfile.SYMTYPE, 0o777, 0, 0)
        entry.linkname = target
        self.add(entry)

    def file(self, name: str, data: bytes, mode: int = 0o644, uid: int = 0, gid: int = 0) -> None:
        entry = _entry(name, tarfile.REGTYPE, mode, uid, gid)
        entry.size = len(data)
        self.add(entry, io.BytesIO(data))

    def finish(self) -> WrittenLayer:
        """End the tar and return what was written."""
        self._tar.close()
        self._raw.close()
        return WrittenLayer(path=self._path, diff_id=f"sha256:{self._hashing.digest.hexdigest()}", size=self._hashing.count,
                            entries=len(self.seen))


def _entry(name: str, kind: bytes, mode: int, uid: int, gid: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.uid, entry.gid = kind, mode, uid, gid
    return entry
