"""Small looks into an image's layers from outside: its accounts, its links at the top."""

from __future__ import annotations

import os

from pytest_sealed.linux.files import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2

__all__ = ["read_text", "real_name"]

_MOST = 1 << 20   # bytes of a file that is read


def read_text(lowers: list[str], path: str) -> str:
    """Return the content of a small file as the topmost layer that has it says; empty: none has, or it is no file."""
    for lower in lowers:
        root = os.open(lower, os.O_PATH | os.O_DIRECTORY)
        try:
            # O_NONBLOCK: a FIFO of that name must not hang us
            fd = openat2(root, path, os.O_RDONLY | os.O_NONBLOCK, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS)
        except FileNotFoundError:
            continue
        except OSError:
            return ""
        finally:
            os.close(root)
        with open(fd, "rb") as file:
            return file.read(_MOST).decode("utf-8", "replace")
    return ""


def real_name(lowers: list[str], name: str) -> str:
    """Return `name` with a link at its top followed: where /bin leads to usr/bin, `bin/x` is `usr/bin/x`."""
    top, slash, rest = name.partition("/")
    if not slash:
        return name
    for lower in lowers:
        path = os.path.join(lower, top)
        if os.path.islink(path):
            target = os.readlink(path).strip("/")
            return f"{target}/{rest}" if target and ".." not in target.split("/") else name
        if os.path.lexists(path):
            return name
    return name
