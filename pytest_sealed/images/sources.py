"""Folders and tars that hold images: their files by name, and nothing unpacked. What they hold is anybody's."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol, final

from pytest_sealed.errors import ImageError
from pytest_sealed.images.archive import check_path, forget_members
from pytest_sealed.images.compression import CHUNK, decompressed, packing
from pytest_sealed.images.headers import BROKEN, Headers, next_entry, open_tar
from pytest_sealed.linux.files import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2

__all__ = ["FolderSource", "Source", "TarSource", "open_source", "read_small"]

_MOST = 100_000          # files in an archive of images
_NAMES = 16 << 20        # bytes of their names
_LARGEST = 64 << 30      # bytes of an archive that comes compressed
_DEEPEST = 8             # links to links


class Source(Protocol):
    """Files by name."""

    title: str
    """For messages."""

    def has(self, name: str) -> bool:
        """Say whether there is such a file."""
        ...

    def size(self, name: str) -> int:
        """Return the bytes of a file.

        Raises:
            ImageError: it isn't there.
        """
        ...

    def chunks(self, name: str, size: int = -1) -> Iterator[bytes]:
        """Yield the content of a file; `size`: what it must have, in bytes.

        Raises:
            ImageError: it isn't there, is no file, or has another size.
        """
        ...


def read_small(source: Source, name: str, most: int) -> bytes:
    """Return the content of a file of at most `most` bytes.

    Raises:
        ImageError: it's larger, or can't be read.
    """
    data = b""
    for chunk in source.chunks(name):
        data += chunk
        if len(data) > most:
            raise ImageError(f"{name} in {source.title} is larger than {most >> 20} MiB")
    return data


@final
class FolderSource:
    """A folder. Links in it aren't followed, on the way to a file neither."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.title = folder, str(folder)

    def has(self, name: str) -> bool:
        return os.path.lexists(self._folder / _name(name, self.title))

    def size(self, name: str) -> int:
        with self._open(name) as file:
            return os.fstat(file.fileno()).st_size

    def chunks(self, name: str, size: int = -1) -> Iterator[bytes]:
        with self._open(name) as file:
            yield from _exactly(file, os.fstat(file.fileno()).st_size, size, f"{self.title}/{name}")

    def _open(self, name: str) -> IO[bytes]:
        name = _name(name, self.title)
        try:
            root = os.open(self._folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fd = openat2(root, name, os.O_RDONLY | os.O_NONBLOCK, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
            finally:
                os.close(root)
        except OSError as error:
            why = "it is a link, or behind one" if error.errno == errno.ELOOP else error.strerror
            raise ImageError(f"{self.title}/{name} can't be read: {why}") from error
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise ImageError(f"{self.title}/{name} is no file")
        return open(fd, "rb", buffering=0)


@final
class TarSource:
    """A tar in a file that can be read from any place."""

    def __init__(self, file: IO[bytes], title: str) -> None:
        self._file, self.title = file, title
        self._places: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        self._list()

    def _list(self) -> None:
        end = self._file.seek(0, os.SEEK_END)
        self._file.seek(0)
        headers = Headers(self._file, self.title)
        try:
            tar = open_tar(headers)
            count = length = 0
            while (info := next_entry(tar, headers)) is not None:
                forget_members(tar)
                count, length = count + 1, length + len(info.name) + len(info.linkname)
                if count > _MOST or length > _NAMES:
                    raise ImageError(f"{self.title} holds more than {_MOST} files, or {_NAMES >> 20} MiB of names")
                name = check_path(info.name, f"the entry of {self.title},")
                if info.isreg() and info.sparse is None:
                    if info.offset_data + info.size > end:
                        raise ImageError(f"{self.title} is cut short within {name!r}", remedy="make or fetch it again")
                    self._places[name] = (info.offset_data, info.size)
                elif info.issym():   # `docker save` has those from one layer's file to another's
                    self._links[name] = os.path.normpath(f"{os.path.dirname(name)}/{info.linkname}".lstrip("/"))
                elif info.islnk():
                    self._links[name] = info.linkname
        except BROKEN as error:
            raise ImageError(f"{self.title} is no tar, or a broken one: {error}") from error

    def _place(self, name: str) -> tuple[int, int] | None:
        name = _name(name, self.title)
        for _ in range(_DEEPEST):
            if name in self._places:
                return self._places[name]
            if name not in self._links:
                break
            name = self._links[name]
        return None

    def has(self, name: str) -> bool:
        return self._place(name) is not None

    def size(self, name: str) -> int:
        return self._there(name)[1]

    def _there(self, name: str) -> tuple[int, int]:
        place = self._place(name)
        if place is None:
            raise ImageError(f"{self.title} has no file {name!r}")
        return place

    def chunks(self, name: str, size: int = -1) -> Iterator[bytes]:
        offset, there = self._there(name)
        position = offset

        class Part:
            """Reads on from where it was, whoever else has read meanwhile."""

            def read(self, most: int, file: IO[bytes] = self._file) -> bytes:
                nonlocal position
                data = os.pread(file.fileno(), min(most, offset + there - position), position)
                position += len(data)
                return data
        yield from _exactly(Part(), there, size, f"{name} in {self.title}")


def _name(name: str, title: str) -> str:
    if not name.isprintable():   # what errors would write to a terminal
        raise ImageError(f"{title} names the file {name[:200]!r}")
    return check_path(name, f"a name in {title},")


class _Reader(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _exactly(file: _Reader, there: int, size: int, what: str) -> Iterator[bytes]:
    if size >= 0 and there != size:
        raise ImageError(f"{what} has {there} bytes, expected {size}")
    left = there
    while left:
        data = file.read(min(CHUNK, left))
        if not data:
            raise ImageError(f"{what} has been cut while it was read")
        left -= len(data)
        yield data


@contextlib.contextmanager
def open_source(path: str, scratch: Path) -> Iterator[Source]:
    """Yield the folder or tar at `path`; `-` is the standard input. What is compressed, or no file, is unpacked into `scratch` first.

    Raises:
        ImageError: it isn't there, can't be read, or is neither.
        OSError: there is no room to unpack it.
    """
    if path != "-" and os.path.isdir(path):
        yield FolderSource(Path(path))
        return
    title = "the standard input" if path == "-" else path
    with contextlib.ExitStack() as stack:
        try:
            file: IO[bytes] = stack.enter_context(open(0 if path == "-" else path, "rb", closefd=path != "-"))
            start = file.peek(4)[:4] if hasattr(file, "peek") else b""
        except OSError as error:
            raise ImageError(f"{title} can't be read: {error.strerror}",
                             remedy="name an archive that `docker save`, `podman save` or skopeo wrote, or an OCI layout") from error
        if packing(start) or not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            plain = stack.enter_context(open(scratch / "archive.tar", "x+b"))
            size = 0
            for chunk in decompressed(iter(lambda: file.read(CHUNK), b""), title):
                size += plain.write(chunk)
                if size > _LARGEST:
                    raise ImageError(f"{title} is larger than {_LARGEST >> 30} GiB")
            plain.flush()
            file = plain
        yield TarSource(file, title)
