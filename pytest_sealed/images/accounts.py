"""/etc/passwd and /etc/group of an image: read without trust, written anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_sealed.images.layerfile import LayerFile
    from pytest_sealed.images.recipe import Account

__all__ = ["find_account", "write_accounts"]

_USERS = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
_GROUPS = "root:x:0:\nadm:x:4:\ntty:x:5:\nshadow:x:42:\nutmp:x:43:\nnogroup:x:65534:\n"


def write_accounts(layer: LayerFile, accounts: tuple[Account, ...], passwd: str, group: str) -> None:
    """Write passwd and group with `accounts` added to the given content (empty: root and nobody), and their homes.

    The folders above are as in the layers below.
    """
    users = _rows(passwd or _USERS, {account.name for account in accounts})
    groups = _rows(group or _GROUPS, {account.name for account in accounts})
    for account in accounts:
        users.append(f"{account.name}:x:{account.uid}:{account.gid}:{account.name}:{account.home}:{account.shell}")
        groups.append(f"{account.name}:x:{account.gid}:")
    layer.file("etc/passwd", "".join(f"{row}\n" for row in users).encode())
    layer.file("etc/group", "".join(f"{row}\n" for row in groups).encode())
    for account in accounts:
        if account.home != "/":
            layer.directory(account.home, 0o755, account.uid, account.gid)


def _rows(text: str, without: set[str]) -> list[str]:
    return [line for line in text.splitlines() if line.strip() and line.split(":")[0] not in without]


def find_account(user: str, passwd: str, group: str) -> tuple[int, int] | None:
    """Return (uid, gid) of `name`, `uid`, `name:group` or `uid:gid`; None: no such user or group."""
    name, _, group_name = user.partition(":")
    rows = [line.split(":") for line in passwd.splitlines()]
    if name.isascii() and name.isdigit():
        uid, gid = int(name), next((int(row[3]) for row in rows if len(row) > 3 and row[2] == name and row[3].isdigit()), 0)
    else:
        row = next((row for row in rows if len(row) > 3 and row[0] == name and row[2].isdigit() and row[3].isdigit()), None)
        if row is None:
            return None
        uid, gid = int(row[2]), int(row[3])
    if group_name:
        if group_name.isascii() and group_name.isdigit():
            gid = int(group_name)
        else:
            found = next((row for row in (line.split(":") for line in group.splitlines()) if len(row) > 2 and row[0] == group_name), None)
            if found is None or not found[2].isdigit():
                return None
            gid = int(found[2])
    return (uid, gid) if uid <= 65535 and gid <= 65535 else None
