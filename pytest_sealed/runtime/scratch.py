"""Where writable layers live: whether memory can hold them, and how folders of foreign ids are removed."""

from __future__ import annotations

import os
import stat

from pytest_sealed.linux import files, mounts, namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SmallFolders", "memory_upper_works", "remove_tree", "upper_works"]

_SMALL = 256 << 10   # bytes: a hosts file of some 5,000 rows


class SmallFolders:
    """Folders in memory that hold little, for files of ours that a container may write: what it fills up is its own.

    They are used again, since each unmount waits for an RCU grace period: some milliseconds on a busy machine.
    """

    def __init__(self, base: str) -> None:
        self._base, self._made = base, 0
        self._free: list[str] = []

    def take(self) -> str:
        """Return the path of an empty folder."""
        if self._free:
            return self._free.pop()
        self._made += 1
        path = f"{self._base}/{self._made}"
        os.mkdir(path, 0o755)
        mounts.mount("tmpfs", path, "tmpfs", mounts.MS_NOSUID | mounts.MS_NODEV, f"size={_SMALL},mode=0755")
        return path

    def give(self, path: str) -> None:
        """Empty a folder of `take` for the next one. Never raises."""
        try:
            for name in os.listdir(path):
                os.truncate(f"{path}/{name}", 0)   # frees the memory at once, whoever still has it mounted
                os.unlink(f"{path}/{name}")
        except OSError:
            return
        self._free.append(path)


def memory_upper_works(root: str, scratch: str) -> bool:
    """Tell whether an overlay's upper layer works on tmpfs here; `scratch` is an empty folder, `root` another.

    Older kernels' tmpfs has no `user.*` attributes: there the overlay mounts, and `upper_works` meets EIO.
    """
    def work() -> None:
        mounts.mount("tmpfs", scratch, "tmpfs", 0, "size=1m")
        _try_upper(root, scratch)
    return _in_child(work)


def upper_works(root: str, scratch: str) -> bool:
    """Tell whether an overlay's upper layer works on the file system of `scratch`, an empty folder, which is empty afterwards.

    overlayfs itself, NFS and others can't hold one.
    """
    try:
        return _in_child(lambda: _try_upper(root, scratch))
    finally:
        for name in ("lower", "upper", "work"):
            remove_tree(f"{scratch}/{name}")


def _try_upper(root: str, scratch: str) -> None:
    """Remove a lower directory and make it again, and put something into it."""
    for name in ("lower/a", "upper", "work"):
        os.makedirs(f"{scratch}/{name}")
    mounts.mount("overlay", root, "overlay", 0,
                 f"lowerdir={scratch}/lower,upperdir={scratch}/upper,workdir={scratch}/work,userxattr")
    os.rmdir(f"{root}/a")
    os.mkdir(f"{root}/a")
    os.mkdir(f"{root}/a/b")


def _in_child(work: Callable[[], object]) -> bool:
    """Do the work in a child with a mount namespace of its own; tell whether no call failed."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    try:
        namespaces.unshare(namespaces.CLONE_NEWNS)
        work()
        os._exit(0)
    except OSError:
        os._exit(1)
    finally:
        os._exit(2)


def remove_tree(path: str) -> None:
    """Remove a folder and all below it, following no link, crossing no mount, and ignoring what is gone. Never raises."""
    try:
        parent = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        _remove(os.path.basename(path), parent)
    finally:
        os.close(parent)


def _remove(name: str, parent: int) -> None:
    try:
        if not stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
            os.unlink(name, dir_fd=parent)
            return
        # Crossing no mount: whatever is mounted in there is not ours to empty.
        fd = files.openat2(parent, name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW,
                           resolve=files.RESOLVE_BENEATH | files.RESOLVE_NO_XDEV | files.RESOLVE_NO_SYMLINKS)
    except OSError:
        return
    try:
        for entry in os.listdir(fd):
            _remove(entry, fd)
    finally:
        os.close(fd)
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError:
        pass   # a mount point, or not ours: the sweep says so
