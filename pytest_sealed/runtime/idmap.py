"""Who is who: the maps of the session's user namespace (U0) and of the containers' below it.

U0 is `0 SELF 1` + `1 RANGE COUNT`: its uid 0 is the account itself, which owns the cgroups, the
interpreter and the run directory. A container's namespace is `0 1 COUNT` in U0: its root is the first
id of RANGE, on the host nobody at all. Every extent of a child's map must lie inside one extent of its
parent's, hence the split. See user_namespaces(7).

Without a range (single-id mode) U0 is `0 SELF 1`, and a container has one id: its user's, which is the
account's own on the host.
"""

from __future__ import annotations

import os
import shutil

from pytest_sealed.errors import HostUnsupported

__all__ = ["WANTED", "IdMap", "find_id_map", "free_subids", "has_subids", "is_hosts_root", "no_new_privs"]

WANTED = 65536   # ids in a container; images use up to 65534 (nobody)
_ROOTS_RANGE = 0x70000000   # where root takes its range: above what systemd hands out, below 2**31


class IdMap:
    """The ids of a session, as seen from the account's own user namespace.

    Attributes:
        mode: "root" (maps written by ourselves), "subids" (by newuidmap) or "single".
        uid, gid: the account's own.
        uid_start, gid_start: the first id of RANGE.
        count: ids in RANGE; 0 in single mode.
    """

    __slots__ = ("count", "gid", "gid_start", "mode", "uid", "uid_start")

    def __init__(self, mode: str, uid: int, gid: int, uid_start: int = 0, gid_start: int = 0, count: int = 0) -> None:
        self.mode, self.uid, self.gid = mode, uid, gid
        self.uid_start, self.gid_start, self.count = uid_start, gid_start, count

    @property
    def single(self) -> bool:
        return self.mode == "single"

    @property
    def users(self) -> int:
        """How many ids a user of a container may be given by: in single mode more than it has, for they all seem to be the one."""
        return 65536 if self.single else self.count

    def session_map(self, gids: bool = False) -> list[tuple[int, int, int]]:
        """Return U0's map as (inside, outside, count) rows."""
        own, start = (self.gid, self.gid_start) if gids else (self.uid, self.uid_start)
        rows = [(0, own, 1)]
        return rows if self.single else [*rows, (1, start, self.count)]

    def container_map(self, user: int) -> str:
        """Return what is written into a container's uid_map or gid_map; `user` is its user's id."""
        return f"{user} 0 1\n" if self.single else f"0 1 {self.count}\n"

    def outer(self, inside: int) -> int:
        """Return the id in U0 of the container's id `inside`.

        Raises:
            ValueError: the container has no such id.
        """
        if self.single:
            return 0
        if not 0 <= inside < self.count:
            raise ValueError(f"id {inside} is outside a container's ids, 0 to {self.count - 1}")
        return inside + 1

    def to_json(self) -> dict[str, int | str]:
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, data: dict[str, int | str]) -> IdMap:
        return cls(**data)  # type: ignore[arg-type]


def find_id_map(proc: str = "/proc", etc: str = "/etc") -> IdMap:
    """Return the best id map that this account can have. `SEALED_IDS=single` asks for single-id mode.

    Raises:
        HostUnsupported: `SEALED_IDS` has another value.
    """
    uid, gid = os.geteuid(), os.getegid()
    wish = os.environ.get("SEALED_IDS", "")
    if wish not in ("", "single"):
        raise HostUnsupported(f"SEALED_IDS={wish!r} is unknown", remedy="unset it, or set SEALED_IDS=single")
    if wish != "single":
        found = _as_root(uid, gid, proc, etc) if uid == 0 else _from_subids(uid, gid, proc, etc)
        if found is not None:
            return found
    return IdMap("single", uid, gid)


def _as_root(uid: int, gid: int, proc: str, etc: str) -> IdMap | None:
    uids, gids = _free_range(f"{proc}/self/uid_map", _subid(f"{etc}/subuid", uid)), _free_range(
        f"{proc}/self/gid_map", _subid(f"{etc}/subgid", uid))
    count = min(uids[1], gids[1])
    return IdMap("root", uid, gid, uids[0], gids[0], count) if count > 1000 else None


def _free_range(path: str, preferred: tuple[int, int] | None) -> tuple[int, int]:
    """Return (first, count) of ids that root may map, from the map of its own namespace."""
    with open(path) as file:
        extents = [(int(row[0]), int(row[2])) for row in (line.split() for line in file) if len(row) == 3]
    first, length = max(extents, key=lambda extent: extent[1], default=(0, 0))
    for start, count in ([preferred] if preferred else []) + [(_ROOTS_RANGE, WANTED), (first + length - WANTED, WANTED)]:
        if first < start and start + count <= first + length and count >= WANTED:
            return start, WANTED
    return first + 1, max(0, length - 1)   # a small map, as inside a rootless container


def _from_subids(uid: int, gid: int, proc: str, etc: str) -> IdMap | None:
    uids, gids = _subid(f"{etc}/subuid", uid), _subid(f"{etc}/subgid", uid)
    if no_new_privs(proc) or uids is None or gids is None or not shutil.which("newuidmap") or not shutil.which("newgidmap"):
        return None
    return IdMap("subids", uid, gid, uids[0], gids[0], min(uids[1], gids[1], WANTED))


def no_new_privs(proc: str = "/proc") -> bool:
    """Return whether nothing that this process starts gains privileges by setuid, not even newuidmap. See prctl(2)."""
    try:
        with open(f"{proc}/self/status") as file:
            return any(line.split() == ["NoNewPrivs:", "1"] for line in file)
    except OSError:
        return False


def is_hosts_root(uid: int, proc: str = "/proc") -> bool:
    """Return whether `uid` may be the kernel's own 0, by the map of this user namespace: inside a container of ours it is not."""
    with open(f"{proc}/self/uid_map") as file:
        rows = [[int(word) for word in line.split()] for line in file]
    return any(inside <= uid < inside + count and outside + uid - inside == 0 for inside, outside, count in rows)


def has_subids(etc: str = "/etc") -> bool:
    """Return whether the account has a range in both subuid(5) and subgid(5)."""
    uid = os.geteuid()
    return _subid(f"{etc}/subuid", uid) is not None and _subid(f"{etc}/subgid", uid) is not None


def free_subids(etc: str = "/etc") -> int:
    """Return the first id beyond every range that is handed out; at least 100000, as useradd(8) does it."""
    end = 100000
    for name in ("subuid", "subgid"):
        for row in _subid_rows(f"{etc}/{name}"):
            end = max(end, int(row[1]) + int(row[2]))
    return end


def _subid_rows(path: str) -> list[list[str]]:
    try:
        with open(path) as file:
            rows = [line.strip().split(":") for line in file]
    except OSError:
        return []
    return [row for row in rows if len(row) == 3 and row[1].isdigit() and row[2].isdigit()]


def _subid(path: str, uid: int) -> tuple[int, int] | None:
    """Return (first, count) of the account's largest range in a subuid(5) file."""
    import pwd
    try:
        names = {str(uid), pwd.getpwuid(uid).pw_name}
    except KeyError:
        names = {str(uid)}
    ranges = [(int(row[1]), int(row[2])) for row in _subid_rows(path) if row[0] in names]
    return max(ranges, key=lambda item: item[1], default=None)
