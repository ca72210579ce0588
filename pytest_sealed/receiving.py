"""Places on the host what a container gives.

The container may write to the same folder, where it is mounted: so everything is done by descriptors of
folders, and no link that is found there is ever followed. See openat(2), openat2(2).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO

from pytest_sealed.errors import ContainerFailed, SpecError
from pytest_sealed.failure import format_size
from pytest_sealed.linux import files

__all__ = ["MOST_DATA", "Receiver", "Shared", "open_file", "open_folder"]

Shared = Collection[tuple[int, int]]
"""Host folders that a container may write to: (st_dev, st_ino) of each."""

MOST_DATA = 16 << 30   # bytes of a copy unless the caller says otherwise
_MOST_ENTRIES = 1_000_000
_UNSIZED = 256 << 20   # bytes of a file that says it has none, as those in /proc do
_PIECE = 1 << 20


def open_folder(path: Path, shared: Shared = (), *, make: bool = False) -> int:
    """Return a descriptor of a folder of the host; `make` makes what is missing of it.

    From one of the `shared` folders on, no link is followed: there a container may have made it, to lead the host astray.

    Raises:
        SpecError: there is such a link.
        OSError: it isn't there, or is no folder.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    path = path.absolute()
    base = _shared_parent(path, shared)
    if base is None:
        if make:
            path.mkdir(parents=True, exist_ok=True)
        return os.open(path, flags)
    fd = os.open(base, flags)
    for part in path.relative_to(base).parts:
        try:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=fd)
            within = os.open(part, flags | os.O_NOFOLLOW, dir_fd=fd)
        except OSError as error:
            if stat.S_ISLNK(_mode(fd, part)):
                raise SpecError(f"{path} leads through the link {part!r}, in the folder {base} that a container may write to",
                                remedy="name what the link leads to, if you made it yourself") from error
            raise OSError(error.errno, error.strerror, str(path)) from error
        finally:
            os.close(fd)
        fd = within
    return fd


def open_file(path: Path, shared: Shared = ()) -> BinaryIO:
    """Open a file of the host for reading, under the same rules as `open_folder`.

    Raises:
        SpecError: there is such a link, or it is neither file nor folder.
    """
    if _shared_parent(path.absolute(), shared) is None:
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")   # a FIFO would wait for its other end
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise SpecError(f"{path} is neither a file nor a folder", remedy="put() copies those; write_text() writes what a program says")
        return file
    folder = open_folder(path.parent, shared)
    try:
        if not stat.S_ISREG(_mode(folder, path.name)):
            raise SpecError(f"{path} is no file, in a folder that a container may write to",
                            remedy="copy a file or a folder; the container may have put something else there")
        return os.fdopen(os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder), "rb")
    finally:
        os.close(folder)


def _shared_parent(path: Path, shared: Shared) -> Path | None:
    """Return the first of the folders on the way to `path` that is shared."""
    for folder in (*reversed(path.parents), path) if shared else ():
        try:
            facts = os.stat(folder)
        except OSError:
            break
        if (facts.st_dev, facts.st_ino) in shared:
            return folder
    return None


class Receiver:
    """Takes the messages of `runtime.files`' action "give", and makes files, folders and links of them. A context manager.

    Args:
        target: where the file or folder goes; a file goes into a folder that is there.
        source: its path in the container, for its name and for messages.
        most: bytes of data, at most; holes of files don't count, they stay holes.
        shared: as in `open_folder`.
    """

    def __init__(self, target: Path, source: str, most: int, shared: Shared = ()) -> None:
        self._target, self._source, self._most, self._shared = target, source, most, shared
        self._folders: list[int] = []   # descriptors, from the target down to where the copy is now
        self._names: list[str] = []     # of all but the first
        self._several: dict[str, tuple[str, ...]] = {}   # file with several names → the first of them, from the target
        self._data = self._entries = 0

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        for folder in self._folders:
            os.close(folder)

    def take(self, message: dict[str, Any], fds: list[int]) -> None:
        """Carry out one message, and close its descriptors.

        Raises:
            ContainerFailed: the copy is beyond its bounds, or would lead out of the target.
            OSError: the host can't; with the path.
        """
        try:
            self._take(message, fds)
        except OSError as error:
            name = message.get("file") or message.get("folder") or message.get("link") or ""
            raise OSError(error.errno, error.strerror, str(self._target.joinpath(*self._names, name))) from error
        finally:
            for fd in fds:
                os.close(fd)

    def _take(self, message: dict[str, Any], fds: list[int]) -> None:
        if "leave" in message:
            os.close(self._folders.pop())
            self._names.pop()
            return
        self._entries += 1
        if self._entries > _MOST_ENTRIES:
            raise ContainerFailed(f"{self._source} has more than {_MOST_ENTRIES} files and folders",
                                  remedy="pack them there, for example by tar, and get() the archive")
        if not self._folders:
            self._begin(message, fds)
        elif "folder" in message:
            self._enter(_checked(message["folder"]), message["mode"])
        elif "link" in message:
            _make_room(self._folders[-1], _checked(message["link"]))
            os.symlink(message["leads"], message["link"], dir_fd=self._folders[-1])
        else:
            self._file(_checked(message["file"]), message, fds[0])

    def _begin(self, message: dict[str, Any], fds: list[int]) -> None:
        if "folder" in message:
            self._folders.append(open_folder(self._target, self._shared, make=True))
            return
        try:
            self._folders.append(open_folder(self._target, self._shared))
            name = os.path.basename(self._source)
        except (FileNotFoundError, NotADirectoryError):
            self._folders.append(open_folder(self._target.parent, self._shared))
            name = self._target.name
        self._file(_checked(name), {**message, "size": message["size"] or _UNSIZED}, fds[0])

    def _enter(self, name: str, mode: int) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=self._folders[-1])
            made = True
        except FileExistsError:
            made = False
            if not stat.S_ISDIR(_mode(self._folders[-1], name)):
                _make_room(self._folders[-1], name)
                os.mkdir(name, 0o700, dir_fd=self._folders[-1])
                made = True
        self._folders.append(os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folders[-1]))
        self._names.append(name)
        if made:
            os.fchmod(self._folders[-1], mode & 0o777 | 0o700)   # what is in it must get in

    def _file(self, name: str, message: dict[str, Any], source: int) -> None:
        folder = self._folders[-1]
        _make_room(folder, name)
        several = message.get("several", "")
        if several in self._several and self._linked(self._several[several], name):
            return
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
        try:
            with os.fdopen(fd, "wb", buffering=0):
                self._copy(source, fd, message["size"])
                os.fchmod(fd, message["mode"] & 0o777)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=folder)   # half a file would be taken for a whole one
            raise
        if several:
            self._several.setdefault(several, (*self._names, name))

    def _linked(self, first: tuple[str, ...], name: str) -> bool:
        """Give a file of the copy a further name: copied once for each, a small folder could fill a disk. False where that can't be."""
        try:
            folder = files.openat2(self._folders[0], "/".join(first[:-1]) or ".", os.O_PATH | os.O_DIRECTORY,
                                   resolve=files.RESOLVE_BENEATH | files.RESOLVE_NO_SYMLINKS)
            try:
                os.link(first[-1], name, src_dir_fd=folder, dst_dir_fd=self._folders[-1], follow_symlinks=False)
            finally:
                os.close(folder)
        except OSError:
            return False
        return True

    def _copy(self, source: int, out: int, size: int) -> None:
        """Copy the first `size` bytes, what is there of them; a file that grows meanwhile is copied as it was."""
        os.ftruncate(out, size)   # at once, so that a file too large for this file system takes no time
        position = 0
        while position < size:
            start, stop = _data(source, position, size)
            if start < 0:
                break
            while start < stop:
                piece = os.pread(source, min(_PIECE, stop - start), start)
                if not piece:   # it has become shorter, or is one of /proc
                    os.ftruncate(out, start)
                    return
                self._data += len(piece)
                if self._data > self._most:
                    raise ContainerFailed(f"{self._source} has more than {format_size(self._most)} of data",
                                          remedy="give get() a larger max_size=")
                while piece:
                    written = os.pwrite(out, piece, start)
                    start, piece = start + written, piece[written:]
            position = stop
        os.ftruncate(out, min(size, os.fstat(source).st_size))


def _data(source: int, start: int, size: int) -> tuple[int, int]:
    """Return where the next data from `start` on begins and ends; -1 where none follows. See lseek(2)."""
    try:
        begin = os.lseek(source, start, os.SEEK_DATA)
        return min(begin, size), min(os.lseek(source, begin, os.SEEK_HOLE), size)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return -1, -1
        return start, size   # what /proc has knows no holes


def _make_room(folder: int, name: str) -> None:
    """Remove a file or link that is in the way: written through it, the copy could end up anywhere."""
    mode = _mode(folder, name)
    if mode and not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise FileExistsError(errno.EEXIST, f"{name} is there, and is no file")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def _mode(folder: int, name: str) -> int:
    """Return the mode of what is there, and not of what it leads to; 0: nothing."""
    try:
        return os.lstat(name, dir_fd=folder).st_mode
    except OSError:
        return 0


def _checked(name: str) -> str:
    if name in ("", ".", "..") or "/" in name:
        raise ContainerFailed(f"the container gave the file name {name!r}, which leads out of the copy")
    return name
