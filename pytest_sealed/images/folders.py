"""The store's folders: where they are, whether they can hold layers, and what a killed process has left there."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, final

from pytest_sealed.errors import StoreError
from pytest_sealed.runtime.idmap import IdMap, find_id_map
from pytest_sealed.runtime.launch import run_inside
from pytest_sealed.runtime.room import is_full

if TYPE_CHECKING:   # 15 ms: it is imported where a lock is taken, and every pytest run's header line reads default_root()
    from filelock import FileLock

__all__ = ["Folders", "default_root", "existing", "explain", "file_system", "free_space", "try_store"]

_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "fuse.sshfs", "glusterfs", "fuse.glusterfs", "ncpfs", "lustre")
_ELSEWHERE = "set SEALED_STORE to a folder on a local disk (ext4, xfs, btrfs)"


def default_root() -> Path:
    """Return the account's store: `SEALED_STORE`, else a folder of the account's data (XDG_DATA_HOME)."""
    given = os.environ.get("SEALED_STORE", "")
    if given:
        return Path(os.path.abspath(os.path.expanduser(given)))
    data = os.environ.get("XDG_DATA_HOME", "")
    return Path(data if os.path.isabs(data) else os.path.expanduser("~/.local/share")) / "pytest-sealed"


def explain(error: OSError, root: Path) -> StoreError:
    """Return what a failure of the store's file system means for the user."""
    if is_full(error):
        free = free_space(root)
        return StoreError(f"the image store {root} is full ({free >> 20} MiB free)", remedy=(
            "`sealed images` and `sealed rm NAME` free space; or " + _ELSEWHERE))
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return StoreError(f"the image store {root} can't be written: {error.strerror}", remedy=(
            f"make it writable for this account (`ls -ld {root}`), or " + _ELSEWHERE))
    return StoreError(f"the image store {root} failed: {error}", remedy=_ELSEWHERE)


def file_system(path: Path, mountinfo: str = "/proc/self/mountinfo") -> str:
    """Return the type of the file system that holds `path`, by the longest mount point above it; empty: unknown."""
    real, best, kind = os.path.realpath(path), "", ""
    try:
        with open(mountinfo) as file:
            for line in file:
                before, _, after = line.partition(" - ")
                point = before.split()[4].encode().decode("unicode_escape")
                if (real == point or real.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
                    best, kind = point, after.split()[0]
    except (OSError, IndexError):
        return ""
    return kind


def try_store(root: Path, mountinfo: str = "/proc/self/mountinfo") -> None:
    """Write a file where the store is, or would be made; leaves nothing.

    Raises:
        StoreError: read-only, full, somebody else's, or on a network file system.
    """
    kind = file_system(root, mountinfo)
    if kind in _REMOTE:
        raise _on_remote(root, kind)
    trial = existing(root) / f".sealed-trial.{uuid.uuid4().hex}"
    try:
        with open(trial, "xb", buffering=0) as file:
            file.write(b"x" * 4096)
            os.fsync(file.fileno())
    except OSError as error:
        raise explain(error, root) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(trial)


def _on_remote(root: Path, kind: str) -> StoreError:
    return StoreError(f"the image store {root} is on {kind}, which can't hold layers: "
                      "foreign owners, locks and attributes fail there", remedy=_ELSEWHERE)


def existing(path: Path) -> Path:
    """Return `path`, or the nearest folder above it that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def free_space(path: Path) -> int:
    """Return the bytes that are free where `path` is, or would be made."""
    status = os.statvfs(existing(path))
    return status.f_bavail * status.f_frsize


@final
class Folders:
    """Paths of one store. Layers belong to the ids of one id map, so each map has a part of its own.

    Args:
        root: the store.
        ids: the id map; by default the account's.
        mountinfo: for tests.
    """

    def __init__(self, root: Path, ids: IdMap | None = None, mountinfo: str = "/proc/self/mountinfo") -> None:
        self.root, self.ids = root, ids or find_id_map()
        part = "single" if self.ids.single else f"ids-{self.ids.uid_start}-{self.ids.gid_start}"
        self.home = root / part
        self.cache = root / "cache"
        self.layers, self.images, self.blobs = self.home / "layers", self.home / "images", self.home / "blobs" / "sha256"
        self.steps, self.tmp, self.locks = self.home / "steps", self.home / "tmp", self.home / "locks"
        self._mountinfo = mountinfo

    def make(self) -> None:
        """Make the folders, if they aren't there.

        Raises:
            StoreError: read-only, full, or on a network file system; says so before any work.
        """
        kind = file_system(self.root, self._mountinfo)
        if kind in _REMOTE:
            raise _on_remote(self.root, kind)
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self.root.stat().st_uid == os.geteuid():
                os.chmod(self.root, 0o700)   # layers hold setuid programs of ids that another account might become
            for folder in (self.layers, self.images, self.blobs, self.steps, self.tmp, self.locks, self.cache):
                folder.mkdir(parents=True, exist_ok=True)
            if not os.access(self.tmp, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise explain(error, self.root) from error

    def require(self, size: int) -> None:
        """Raise StoreError if the file system has less than `size` bytes free."""
        free = free_space(self.home)
        if free < size:
            raise StoreError(f"the image store {self.root} needs {size >> 20} MiB more and has {free >> 20} MiB free", remedy=(
                "`sealed images` and `sealed rm NAME` free space; or " + _ELSEWHERE))

    @contextlib.contextmanager
    def workspace(self) -> Iterator[Path]:
        """Yield a fresh folder below tmp. It is removed at the end, or by the next `sweep` if this process is killed."""
        folder = self.tmp / uuid.uuid4().hex
        from filelock import FileLock
        lock = FileLock(f"{folder}.lock", is_singleton=False)
        with self._tmp_lock():   # a sweep sees a folder with its lock held, or neither
            lock.acquire()
            folder.mkdir()
        try:
            yield folder
        finally:
            self.discard(folder)
            with contextlib.suppress(OSError):
                os.unlink(f"{folder}.lock")
            lock.release()

    def discard(self, *folders: Path) -> None:
        """Remove folders of the store, whoever owns what is in them."""
        for folder in folders:
            with contextlib.suppress(OSError):
                os.rmdir(folder)   # often enough there is nothing in it
        present = [str(folder) for folder in folders if os.path.lexists(folder)]
        if present:
            run_inside("pytest_sealed.images.remove", {"paths": present}, ids=self.ids)

    def sweep(self) -> list[str]:
        """Remove what killed processes have left below tmp; return the names."""
        from filelock import FileLock, Timeout
        swept = []
        with self._tmp_lock():
            for name in sorted({path.name.removesuffix(".lock") for path in self.tmp.iterdir()}):
                lock = FileLock(str(self.tmp / f"{name}.lock"), is_singleton=False)
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    continue
                try:
                    self.discard(self.tmp / name)
                    with contextlib.suppress(OSError):
                        os.unlink(self.tmp / f"{name}.lock")
                    swept.append(name)
                finally:
                    lock.release()
        return swept

    def _tmp_lock(self) -> FileLock:
        from filelock import FileLock
        return FileLock(str(self.locks / "tmp"), is_singleton=False)
