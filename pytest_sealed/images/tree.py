"""Fills one layer's folder, beneath a descriptor and without any mount, as overlayfs expects it of a lower.

Whiteouts are character devices 0:0, or extended attributes where those can't be made (a store that lies
on overlayfs). The layers below are looked at for the modes of folders that the archive doesn't mention, for
the targets of hard links, and for symbolic links in the way. See docs/decisions/0011-one-applier.md.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from pytest_sealed.errors import ImageError
from pytest_sealed.images.layerfile import epoch
from pytest_sealed.images.lowers import hide, make_opaque, visible
from pytest_sealed.linux.files import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2
from pytest_sealed.runtime.whiteouts import OPAQUE

if TYPE_CHECKING:
    from pytest_sealed.images.archive import Entry

__all__ = ["Tree"]

_SAFE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS


class Tree:
    """A layer being filled. A context manager: the layer is whole once that has been left without an error.

    Args:
        root: fd of the layer's folder.
        lowers: fds of the layers below, the topmost first.
        shift: what is added to a container's id to get this namespace's; None: one id only, owners are lost.
        contents: False makes files of their size without data, to compare all the rest with.
    """

    def __init__(self, root: int, lowers: list[int], shift: int | None, *, contents: bool = True) -> None:
        self._root, self._lowers, self._shift, self._contents = root, lowers, shift, contents
        self._folder: tuple[str, int] | None = None   # the last parent folder, kept open
        self._mtimes: dict[str, float] = {}
        self._opaque: set[str] = set()
        self._whiteouts: set[str] = set()
        self.replaced: set[str] = set()
        """Paths of files whose place a later entry has taken: their content is nowhere now."""
        self._implicit_root = True

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._forget()

    def _finish(self) -> None:
        """Hide what the layer removes, and set the folders' times, which filling them has changed."""
        self._hide_all()
        if self._implicit_root and self._lowers:
            self._attributes(self._root, os.fstat(self._lowers[0]))
        for path, mtime in reversed(self._mtimes.items()):
            try:
                fd = openat2(self._root, path or ".", os.O_RDONLY | os.O_DIRECTORY, resolve=_SAFE)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    continue   # replaced later in the archive
                raise
            os.utime(fd, (mtime, mtime))
            os.close(fd)

    def _hide_all(self) -> None:
        """Carry out the whiteouts, last and from the top down: so they spare what the layer wrote, whatever the order of entries."""
        hidden: set[str] = set()
        for path in sorted(self._whiteouts, key=lambda path: path.count("/")):
            parts = path.split("/")
            above = {"/".join(parts[:depth]) for depth in range(len(parts))}
            if not (above.isdisjoint(hidden) and above.isdisjoint(self._opaque)) or self._visible_below(path) is None:
                continue   # nothing shows there; and in an opaque folder overlayfs would list a whiteout as a file
            try:
                parent = self._parent("/".join(parts[:-1]))
            except ImageError:
                continue   # a file of this layer hides the whole folder
            mine = self._lstat(parent, parts[-1])
            if mine is None:
                hide(parent, parts[-1])
                hidden.add(path)
            elif stat.S_ISDIR(mine.st_mode):
                make_opaque(parent, parts[-1])
                self._opaque.add(path)

    def add(self, entry: Entry) -> None:
        """Carry out one entry.

        Raises:
            ImageError: a symbolic link or a file stands where the path has a folder, or a hard link has no target.
        """
        if entry.kind == "opaque":
            self._make_opaque(entry.path)
            return
        if entry.kind == "whiteout":
            self._whiteouts.add(entry.path)
            return
        if not entry.path:
            self._implicit_root = False
            self._settle(self._root, entry)
            self._mtimes[""] = entry.mtime
            return
        folder, _, name = entry.path.rpartition("/")
        parent = self._parent(folder)
        getattr(self, f"_add_{entry.kind}")(parent, name, entry)

    # one method for each kind of entry

    def _add_dir(self, parent: int, name: str, entry: Entry) -> None:
        self._make_folder(parent, name, entry.path)
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        try:
            self._settle(fd, entry)
        finally:
            os.close(fd)
        self._mtimes[entry.path] = entry.mtime

    def _make_folder(self, parent: int, name: str, path: str) -> None:
        before = self._lstat(parent, name)
        if before is not None and stat.S_ISDIR(before.st_mode):
            return
        if before is not None:
            self._unlink(parent, name, path)
        os.mkdir(name, 0o700, dir_fd=parent)
        if before is not None and self._visible_below(path) is not None:
            make_opaque(parent, name)   # this layer has replaced what lies below
            self._opaque.add(path)

    def _add_file(self, parent: int, name: str, entry: Entry) -> None:
        self._clear(parent, name, entry.path)
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=parent)
        try:
            if not self._contents:
                os.ftruncate(fd, entry.info.size)
            for chunk in entry.chunks() if self._contents else ():
                view = memoryview(chunk)
                while view:
                    view = view[os.write(fd, view):]
            self._settle(fd, entry)
            os.utime(fd, (entry.mtime, entry.mtime))
        finally:
            os.close(fd)

    def _add_symlink(self, parent: int, name: str, entry: Entry) -> None:
        self._clear(parent, name, entry.path)
        os.symlink(entry.info.linkname, name, dir_fd=parent)
        self._settle_path(parent, name, entry, chmod=False)

    def _add_fifo(self, parent: int, name: str, entry: Entry) -> None:
        self._clear(parent, name, entry.path)
        os.mkfifo(name, 0o600, dir_fd=parent)
        self._settle_path(parent, name, entry, chmod=True)

    def _add_link(self, _parent: int, name: str, entry: Entry) -> None:
        target = entry.info.linkname
        if target == entry.path:
            raise ImageError(f"{entry.path!r} is a hard link to itself")
        there = self._folder_of_target(target, entry.path)
        try:
            parent = self._parent(entry.path.rpartition("/")[0])   # again: a copy of the target may have closed it
            self._clear(parent, name, entry.path)
            os.link(target.rpartition("/")[2], name, src_dir_fd=there, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(there)

    def _folder_of_target(self, target: str, link: str) -> int:
        """Return a new fd of the folder that holds a hard link's target, copied from the layers below if need be."""
        folder, _, name = target.rpartition("/")
        try:
            fd = openat2(self._root, folder or ".", os.O_PATH | os.O_DIRECTORY, resolve=_SAFE)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise ImageError(f"the hard link {link!r} leads to {target!r} through a symbolic link") from error
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise
        else:
            found = self._lstat(fd, name)
            if found is not None and not stat.S_ISDIR(found.st_mode):
                return fd
            os.close(fd)
            if found is not None:
                raise ImageError(f"the hard link {link!r} leads to {target!r}, which is no file")
        self._copy_up(target, link)
        return os.dup(self._parent(folder))

    # folders

    def _parent(self, path: str) -> int:
        """Return an fd of the folder `path`, made like the one below where it isn't there yet. Kept until the next call."""
        if self._folder is not None and self._folder[0] == path:
            return self._folder[1]
        self._forget()
        try:
            fd = openat2(self._root, path or ".", os.O_PATH | os.O_DIRECTORY, resolve=_SAFE)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            fd = self._make_parent(path)
            self._forget()   # making it has opened those above
        self._folder = (path, fd)
        return fd

    def _make_parent(self, path: str) -> int:
        folder, _, name = path.rpartition("/")
        above = os.dup(self._parent(folder))
        try:
            if self._lstat(above, name) is not None:
                raise ImageError(f"a part of {path!r} is no folder but a symbolic link or a file")
            self._implicit(above, name, path)
            return os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
        finally:
            os.close(above)

    def _forget(self) -> None:
        if self._folder is not None:
            os.close(self._folder[1])
            self._folder = None

    def _implicit(self, above: int, name: str, path: str) -> None:
        """Make a folder that the archive doesn't mention, as it is in the layers below."""
        below = self._visible_below(path)
        if below is not None and not stat.S_ISDIR(below.st_mode):
            raise ImageError(f"{path!r} is no folder in the layers below, but a symbolic link or a file")
        os.mkdir(name, 0o700, dir_fd=above)
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
        try:
            if below is not None:
                self._attributes(fd, below)
            else:
                self._owner(fd, 0, 0)
                os.fchmod(fd, 0o755)
        finally:
            os.close(fd)
        self._mtimes.setdefault(path, below.st_mtime if below is not None else epoch())

    def _attributes(self, fd: int, like: os.stat_result) -> None:
        if self._shift is not None:
            os.fchown(fd, like.st_uid, like.st_gid)
        os.fchmod(fd, stat.S_IMODE(like.st_mode))

    def _make_opaque(self, path: str) -> None:
        self._forget()
        if not path:
            os.setxattr(self._root, OPAQUE, b"y")
            self._opaque.add("")
            return
        self._parent(path)
        folder, _, name = path.rpartition("/")
        make_opaque(self._parent(folder), name)
        self._opaque.add(path)

    # what is there

    def _lstat(self, parent: int, name: str) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _clear(self, parent: int, name: str, path: str) -> None:
        """Make room for an entry whose path an earlier one of the same layer had taken."""
        before = self._lstat(parent, name)
        if before is None:
            return
        if not stat.S_ISDIR(before.st_mode):
            self._unlink(parent, name, path)
            return
        try:
            os.rmdir(name, dir_fd=parent)
        except OSError as error:
            raise ImageError(f"a file replaces the folder {name!r}, which the same archive has filled") from error

    def _unlink(self, parent: int, name: str, path: str) -> None:
        os.unlink(name, dir_fd=parent)
        self.replaced.add(path)

    def _visible_below(self, path: str) -> os.stat_result | None:
        """Return what a container of the layers below alone would see at `path`; None: nothing."""
        return visible(self._lowers, path)[1]

    def _copy_up(self, path: str, link: str) -> None:
        fd, status = visible(self._lowers, path, keep=True)
        if status is None or not stat.S_ISREG(status.st_mode):
            raise ImageError(f"the hard link {link!r} leads to {path!r}, which " + ("isn't there" if status is None else "is no file"))
        folder, _, name = path.rpartition("/")
        parent = self._parent(folder)
        source = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
        target = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=parent)
        try:
            while os.copy_file_range(source, target, 1 << 30):
                pass
            self._attributes(target, status)
            os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))
        finally:
            for number in (fd, source, target):
                os.close(number)

    # owners and modes

    def _owner(self, fd: int, uid: int, gid: int) -> None:
        if self._shift is not None:
            os.fchown(fd, uid + self._shift, gid + self._shift)

    def _settle(self, fd: int, entry: Entry) -> None:
        self._owner(fd, entry.uid, entry.gid)   # before the mode: chown clears setuid
        os.fchmod(fd, entry.mode)
        for key, value in entry.xattrs.items():
            try:
                os.setxattr(fd, key, value.encode("utf-8", "surrogateescape"))
            except (OSError, ValueError) as error:   # ENOSPC too: ext4 has room for 4 KB of them
                raise ImageError(f"{entry.path!r} has the attribute {key[:80]!r} of {len(value)} bytes, which the store's file system "
                                 f"can't hold: {error.strerror if isinstance(error, OSError) else error}") from error

    def _settle_path(self, parent: int, name: str, entry: Entry, *, chmod: bool) -> None:
        if self._shift is not None:
            os.chown(name, entry.uid + self._shift, entry.gid + self._shift, dir_fd=parent, follow_symlinks=False)
        if chmod:
            os.chmod(name, entry.mode, dir_fd=parent)
        os.utime(name, (entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)
