"""Reads .deb files without dpkg: an ar archive of two tars, the control files' and the package's own. See deb(5)."""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, final

from pytest_sealed.errors import ImageError
from pytest_sealed.images.compression import zstd

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["Deb"]

_MAGIC = b"!<arch>\n"
_HEADER = 60             # bytes of an ar member's header
_MEMBERS = 20            # more than any package has
_CONTROL = 1 << 20       # bytes of a control file
_BLOCK = 1 << 18         # bytes that tarfile reads at once
_BROKEN = (tarfile.TarError, EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, ValueError)   # not OSError: whoever writes has those


@final
class Deb:
    """An open .deb; a context manager.

    Args:
        path: of the file.

    Raises:
        ImageError: it's no .deb.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._stack = contextlib.ExitStack()
        try:
            self._file = self._stack.enter_context(open(path, "rb"))  # noqa: SIM115  (that closes it)
            with self._explained():
                self._members = dict(self._walk())
        except OSError as error:
            raise self._broken(error) from error
        except ImageError:
            self._stack.close()
            raise

    def __enter__(self) -> Deb:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def control(self) -> bytes:
        """Return the package's control file.

        Raises:
            ImageError: it's broken.
        """
        with self._explained(), self._tar("control.tar") as tar:
            for entry in tar:
                if entry.name.removeprefix("./") == "control" and entry.isreg():
                    file = tar.extractfile(entry)
                    if file is not None and entry.size <= _CONTROL:
                        return file.read()
            raise ValueError("it has no control file")

    @contextlib.contextmanager
    def data(self) -> Iterator[tarfile.TarFile]:
        """Yield the tar of the package's files, a stream; what is wrong with it while it's read is an ImageError."""
        with self._explained(), self._tar("data.tar") as tar:
            yield tar

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (*_BROKEN, zstd().ZstdError) as error:
            raise self._broken(error) from error

    def _broken(self, error: Exception) -> ImageError:
        return ImageError(f"{self._path} can't be read: {error}", remedy=f"rm {self._path}   and build again")

    def _walk(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Yield the name, the place and the size of each member."""
        if self._file.read(len(_MAGIC)) != _MAGIC:
            raise ValueError("it's no ar archive")
        for _ in range(_MEMBERS):
            header = self._file.read(_HEADER)
            if not header:
                return
            size = header[48:58].strip()
            if len(header) != _HEADER or header[58:] != b"`\n" or not size.isdigit():
                raise ValueError("a header in it is broken")
            yield header[:16].decode("ascii", "replace").rstrip(" /"), (self._file.tell(), int(size))
            self._file.seek(int(size) + int(size) % 2, io.SEEK_CUR)
        raise ValueError(f"it has more than {_MEMBERS} members")

    @contextlib.contextmanager
    def _tar(self, kind: str) -> Iterator[tarfile.TarFile]:
        name = next((name for name in self._members if name == kind or name.startswith(f"{kind}.")), "")
        if not name:
            raise ValueError(f"it has no {kind}")
        part = io.BufferedReader(_Part(self._file, *self._members[name]), _BLOCK)
        with _unpacked(part, name[len(kind):]) as stream, tarfile.open(fileobj=stream, mode="r|", bufsize=_BLOCK) as tar:
            yield tar


def _unpacked(part: IO[bytes], suffix: str) -> IO[bytes] | gzip.GzipFile:
    if suffix == ".xz":
        return lzma.LZMAFile(part)
    if suffix == ".gz":
        return gzip.open(part)
    if suffix == ".zst":
        return zstd().ZstdFile(part)  # type: ignore[no-any-return]
    if suffix:
        raise ValueError(f"its files are packed in an unknown way, {suffix!r}")
    return part


@final
class _Part(io.RawIOBase):
    """A part of a file, read from its beginning."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self._file, self._left = file, size
        file.seek(start)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        data = self._file.read(min(len(view), self._left))
        self._left -= len(data)
        view[:len(data)] = data
        return len(data)
