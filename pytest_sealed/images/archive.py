"""Reads layer archives that nobody vouches for. tarfile is a parser here: nothing is extracted by it.

Everything wrong with an archive raises ImageError naming the entry; nothing has touched the target then
but the folder that is being filled, which is thrown away.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, final

from pytest_sealed.errors import ImageError
from pytest_sealed.images.headers import BROKEN, Headers, next_entry, open_tar

if TYPE_CHECKING:
    from pytest_sealed.images.tarsplit import SplitWriter

__all__ = ["CAPS", "Caps", "Entry", "read_archive"]

_CHUNK = 1 << 20
_BLOCK = 512            # bytes; see tar(5)
_LONGEST_PATH = 4095    # bytes, PATH_MAX less the NUL
_DEEPEST = 256          # folders within folders
_XATTR = "SCHILY.xattr."
_MOUNTED = ("dev", "proc", "sys")   # file systems of the container: what an image has below them is never seen


class Caps:
    """How much an archive may hold."""

    __slots__ = ("entries", "size")

    def __init__(self, *, entries: int = 1_000_000, size: int = 32 << 30) -> None:
        self.entries = entries   # files, folders, links
        self.size = size         # bytes, of the archive and of what it unpacks to


CAPS = Caps()


@final
class Entry:
    """One checked entry: a path that can't leave the root, ids within the map, a known kind."""

    __slots__ = ("_tar", "gid", "info", "kind", "path", "uid", "xattrs")

    def __init__(self, path: str, kind: str, info: tarfile.TarInfo, tar: tarfile.TarFile) -> None:
        self.path = path      # relative, normal, "" for the root
        self.kind = kind      # "dir", "file", "symlink", "link", "fifo", "whiteout", "opaque"
        self.info, self._tar = info, tar
        self.uid, self.gid = info.uid, info.gid
        attributes = ((key.removeprefix(_XATTR), value) for key, value in info.pax_headers.items() if key.startswith(_XATTR))
        # security.* and trusted.* are the host's to give, user.overlay.* would change what the layers below show
        self.xattrs = {key: value for key, value in attributes if key.startswith("user.") and not key.startswith("user.overlay.")}

    @property
    def mode(self) -> int:
        return self.info.mode & 0o7777

    @property
    def mtime(self) -> float:
        return min(max(0.0, float(self.info.mtime)), 2.0**33)   # in this order, 0 for NaN

    def chunks(self) -> Iterator[bytes]:
        """Yield the content of a file.

        Raises:
            ImageError: the archive ends within it.
        """
        try:
            source = self._tar.extractfile(self.info)
            while source is not None and (chunk := source.read(_CHUNK)):
                yield chunk
        except BROKEN as error:
            raise ImageError(f"the archive is broken within {self.path!r}: {error}") from error


class _Source:
    """A file that can only be read onwards: hashes all, and bounds it."""

    def __init__(self, fd: int, most: int, split: SplitWriter | None = None) -> None:
        self._fd, self._most, self._split = fd, most, split
        self._position = self._content_end = 0
        self.digest = hashlib.sha256()

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> int:
        if position < self._position:
            raise ImageError(f"an entry near byte {self._position} points backwards (to {position})")
        while self._position < position:
            if not self._take(min(_CHUNK, position - self._position)):
                break
        return self._position

    def read(self, size: int) -> bytes:
        parts, left = [], size
        while left and (part := self._take(left)):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def _take(self, size: int) -> bytes:
        data = os.read(self._fd, size)
        if not data and self._position % _BLOCK and self._position >= self._content_end:
            data = bytes(min(size, _BLOCK - self._position % _BLOCK))   # umoci doesn't fill the last block; no part of the digest
            self._position += len(data)
            return data
        self._position += len(data)
        if self._position > self._most:
            raise ImageError(f"the archive is larger than {self._most} bytes")
        self.digest.update(data)
        if self._split is not None:
            self._split.raw(data[max(0, self._content_end - self._position + len(data)):])
        return data

    def keep_content(self, path: str, size: int) -> None:
        """The next `size` bytes are what a file will hold: the split needs no copy of them."""
        self._content_end = self._position + size
        if self._split is not None:
            self._split.content(os.fsencode(path), size)

    def drain(self) -> None:
        while self._take(_CHUNK):
            pass


def read_archive(fd: int, *, highest_id: int, diff_id: str = "", caps: Caps = CAPS, split: SplitWriter | None = None,
                 whole: Collection[str] = ()) -> Iterator[Entry]:
    """Yield the entries of the uncompressed tar that `fd` reads; then check its digest, if `diff_id` is given.

    Args:
        highest_id: the largest uid and gid that a container has.
        split: is given what the files won't hold.
        whole: paths of files whose content the split is given, too.

    Raises:
        ImageError: names the entry and what is wrong with it.
    """
    source = _Source(fd, caps.size, split)
    count = total = 0
    name = ""
    try:
        headers = Headers(source, "the archive")
        tar = open_tar(headers)
        while (info := next_entry(tar, headers)) is not None:
            forget_members(tar)
            name, count, total = info.name, count + 1, total + info.size
            if count > caps.entries:
                raise ImageError(f"the archive holds more than {caps.entries} entries")
            if total > caps.size:
                raise ImageError(f"the archive unpacks to more than {caps.size} bytes")
            entry = _checked(info, tar, highest_id)
            if entry is not None:
                if entry.kind == "file" and info.sparse is None and entry.path not in whole:
                    source.keep_content(entry.path, info.size)
                yield entry
        source.drain()
    except BROKEN as error:
        raise ImageError(f"the archive is broken after {name[:200]!r}: {error}") from error
    digest = f"sha256:{source.digest.hexdigest()}"
    if diff_id and digest != diff_id:
        raise ImageError(f"the layer's digest is {digest}, expected {diff_id}", remedy="build or fetch the image again")


def _checked(info: tarfile.TarInfo, tar: tarfile.TarFile, highest_id: int) -> Entry | None:
    """Return the entry, or None if it is left out (devices, what lies below /dev, /proc and /sys)."""
    path = check_path(info.name, "the entry")
    top, _, below = path.partition("/")
    if top in _MOUNTED:
        if below:
            return None
        if not info.isdir():
            raise ImageError(f"/{top} is no folder in the archive")
    if not path and not info.isdir():
        raise ImageError("the root of the archive is no folder")
    folder, _, name = path.rpartition("/")
    if name.startswith(".wh."):
        return _whiteout(folder, name, info, tar)
    for what, value in (("uid", info.uid), ("gid", info.gid)):
        if not 0 <= value <= highest_id:
            raise ImageError(f"{path!r} has {what} {value}: this account's containers have ids 0 to {highest_id}",
                             remedy="give the account a larger range in /etc/subuid and /etc/subgid")
    if info.issym():
        if len(os.fsencode(info.linkname)) > _LONGEST_PATH or not info.linkname or "\0" in info.linkname:
            raise ImageError(f"{path!r} is a symbolic link to {info.linkname[:80]!r}")
        return Entry(path, "symlink", info, tar)
    if info.islnk():
        info.linkname = check_path(info.linkname, f"the hard link {path!r}, whose target")
        return Entry(path, "link", info, tar)
    if info.ischr() or info.isblk():
        return None
    for kind, test in (("dir", info.isdir()), ("file", info.isreg()), ("fifo", info.isfifo())):
        if test:
            return Entry(path, kind, info, tar)
    raise ImageError(f"{path!r} is of the unknown type {info.type!r}")


def _whiteout(folder: str, name: str, info: tarfile.TarInfo, tar: tarfile.TarFile) -> Entry | None:
    if name == ".wh..wh..opq":
        return Entry(folder, "opaque", info, tar)
    hidden = name.removeprefix(".wh.")
    if hidden in ("", ".", ".."):
        raise ImageError(f"{name!r} in {folder or '/'!r} hides no file of that folder")
    if hidden.startswith(".wh."):
        return None   # bookkeeping of an older overlay file system (aufs)
    return Entry(f"{folder}/{hidden}" if folder else hidden, "whiteout", info, tar)


def check_path(name: str, what: str) -> str:
    """Return `name` as a normal relative path, "" for the root.

    Raises:
        ImageError: absolute, leaving the root, or too long; `what` names it.
    """
    if name.startswith("/"):
        raise ImageError(f"{what} {name[:200]!r} is absolute")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ImageError(f"{what} {name[:200]!r} leads out of the image")
    path = "/".join(parts)
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError as error:
        raise ImageError(f"{what} {name[:200]!r} can't be a file name") from error
    if len(encoded) > _LONGEST_PATH or len(parts) > _DEEPEST or any(len(os.fsencode(part)) > 255 for part in parts) or b"\0" in encoded:
        raise ImageError(f"{what} {name[:80]!r}… is too long or too deep ({len(encoded)} bytes, {len(parts)} folders)")
    return path


def forget_members(tar: tarfile.TarFile) -> None:
    """Free the entries that have been read or written: tarfile would keep every one."""
    tar.members = []  # type: ignore[attr-defined]  # not in typeshed
