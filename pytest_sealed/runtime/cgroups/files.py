"""Reading and writing the small files of a cgroup directory.

One write(2) on a descriptor each: buffered writes can hide the kernel's EINVAL.
"""

from __future__ import annotations

import os

__all__ = ["children", "read", "read_flat", "read_number", "remove_tree", "write"]

_UNLIMITED_V1 = 1 << 62   # bytes; v1 shows "no limit" as the largest multiple of the page size


def write(path: str, value: str) -> None:
    """Write `value` in one write(2). Raises `OSError` with the path."""
    # No O_TRUNC and no O_CREAT: in a cgroup, the file is there or the kernel lacks it.
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)


def read(path: str) -> str | None:
    """Return the file's text, or None if this kernel, or this directory, doesn't have it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    chunks = []
    try:
        while chunk := os.read(fd, 65536):
            chunks.append(chunk)
    except OSError as error:
        if error.errno != 19:  # ENODEV: the directory was removed after the file was opened
            raise
        return None
    finally:
        os.close(fd)
    return b"".join(chunks).decode()


def read_number(path: str) -> int | None:
    """Return the number in the file; None for "max", for v1's "no limit", and where there is no such file."""
    text = (read(path) or "max").strip()
    if text == "max":
        return None
    number = int(text)
    return None if number >= _UNLIMITED_V1 else number


def read_flat(path: str) -> dict[str, int]:
    """Return a flat keyed file (`name number` lines) as a dict; empty where there is no such file."""
    pairs = (line.split() for line in (read(path) or "").splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].lstrip("-").isdigit()}


def children(path: str) -> list[str]:
    """Return the names of the directories in `path`; empty where it doesn't exist."""
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def remove_tree(path: str) -> bool:
    """Remove a cgroup and those nested in it, deepest first; False if a process still sits in one.

    The files in a cgroup directory can't be unlinked, and needn't be: rmdir(2) takes them along. A container that may make cgroups
    can nest them deeper than a path is long, or a recursion deep: each is opened from the one above.
    """
    if _rmdir(path):   # as nearly all do
        return True
    try:
        fd = _open(path)
    except FileNotFoundError:
        return True
    above: list[tuple[str, list[str]]] = []   # name of each cgroup on the way down → what is left to remove beside it
    removed = True
    try:
        names = _folders(fd)
        while names or above:
            if not names:
                name, names = above.pop()
                fd = _instead(fd, "..")
                removed = _rmdir(name, fd) and removed   # what can go, goes
                continue
            name = names.pop()
            if not _rmdir(name, fd):
                try:
                    fd = _instead(fd, name)
                except FileNotFoundError:
                    continue
                above.append((name, names))
                names = _folders(fd)
    finally:
        os.close(fd)
    return _rmdir(path) and removed


def _folders(fd: int) -> list[str]:
    with os.scandir(fd) as entries:
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]


def _instead(fd: int, name: str) -> int:
    """Open `name` from a directory, and close that."""
    other = _open(name, fd)
    os.close(fd)
    return other


def _open(name: str, fd: int | None = None) -> int:
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)


def _rmdir(name: str, fd: int | None = None) -> bool:
    """Remove an empty cgroup; False if a process sits in it, or it has others below."""
    try:
        os.rmdir(name, dir_fd=fd)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError as error:
        if error.errno in (16, 39):   # EBUSY; ENOTEMPTY
            return False
        raise
    return True
