"""Who a command runs as: a user string resolved in the container's own passwd(5) and group(5).

Runs in the container, after the pivot. The files are hostile: they may be links, FIFOs, huge or full
of nonsense; nothing of that may hang, lead out, or turn a name into another's id.
"""

from __future__ import annotations

import os
import stat

from pytest_sealed.linux import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Account", "UnknownUser", "resolve_user"]

_LARGEST = 1 << 20   # bytes read of passwd and group


class UnknownUser(Exception):
    """The user string names nobody in the container."""


class Account:
    """Ids and home of a user in the container."""

    __slots__ = ("gid", "groups", "home", "name", "uid")

    def __init__(self, uid: int, gid: int, groups: list[int], home: str, name: str) -> None:
        self.uid, self.gid, self.groups, self.home, self.name = uid, gid, groups, home, name


def resolve_user(text: str, *, root_fd: int, count: int, below: tuple[int, ...] = ()) -> Account:
    """Return the account that `name`, `uid`, `name:group` or `uid:gid` names; an empty string is root.

    Args:
        root_fd: O_PATH descriptor of the container's root.
        count: how many ids the container has.
        below: roots to look into for a file that is missing: an image's lower layers.

    Raises:
        UnknownUser: no such name, no number, or an id that the container doesn't have.
    """
    user, colon, group = text.partition(":")
    if colon and (not group or ":" in group):
        raise UnknownUser(f"user {text!r} is not NAME, UID, NAME:GROUP or UID:GID")
    user = user or "0"
    rows = list(_rows("etc/passwd", (root_fd, *below), 6))
    wanted = _number(user, count)
    row = next((row for row in rows if (row[2] == str(wanted) if wanted is not None else row[0] == user)), None)
    if row is not None:
        uid, gid, home, name = _id(row[2], count, text), _id(row[3], count, text), row[5] or "/", row[0]
    elif wanted is not None:
        uid, gid, home, name = wanted, 0, "/", ""
    else:
        raise UnknownUser(f"the container's /etc/passwd has no user {user!r}")
    groups = list(_rows("etc/group", (root_fd, *below), 3))
    if group:
        gid = _group(group, groups, count, text)
        extra: list[int] = []
    else:
        extra = [_id(row[2], count, text) for row in groups if name and len(row) > 3 and name in row[3].split(",")
                 and row[2].isascii() and row[2].isdigit()]
    return Account(uid, gid, sorted({gid, *extra}), home, name)


def _group(group: str, rows: list[list[str]], count: int, text: str) -> int:
    number = _number(group, count)
    if number is not None:
        return number
    row = next((row for row in rows if row[0] == group), None)
    if row is None:
        raise UnknownUser(f"the container's /etc/group has no group {group!r}")
    return _id(row[2], count, text)


def _number(word: str, count: int) -> int | None:
    """Return the id that a word of digits is; None for a name."""
    digits = word.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        return None
    # the length first: Python refuses to count thousands of digits
    if len(word) > 10 or word != str(int(word)) or not 0 <= int(word) < count:
        raise UnknownUser(f"id {word if len(word) <= 20 else word[:20] + '…'} is none of the container's, 0 to {count - 1}")
    return int(word)


def _id(word: str, count: int, text: str) -> int:
    number = _number(word, count)
    if number is None:
        raise UnknownUser(f"user {text!r}: the container's files give the id {word!r}, which is no number")
    return number


def _rows(path: str, roots: tuple[int, ...], columns: int) -> Iterator[list[str]]:
    fd = -1
    for root in roots:
        try:
            fd = files.openat2(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except FileNotFoundError:
            continue
        except OSError:
            return
        break
    if fd < 0:
        return
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return
        data = os.pread(fd, _LARGEST, 0)
    finally:
        os.close(fd)
    for line in data.decode("utf-8", "replace").split("\n"):
        row = line.rstrip("\r").split(":")
        if len(row) >= columns and row[0]:
            yield row
