"""What is mounted and written below the root, and what is hidden there."""

from __future__ import annotations

import errno
import json
import os
import stat

from pytest_sealed.linux import files, mounts
from pytest_sealed.runtime.operations.base import Context, Operation, Refused
from pytest_sealed.runtime.user import resolve_user

__all__ = ["Attached", "Bound", "Devices", "Given", "Kernel", "Masked", "Mounted", "ReadOnly", "Secrets", "Tmpfs", "Volume",
           "WorkingDirectory", "Written"]

_DIRECTORY = os.O_PATH | os.O_DIRECTORY
_PIECE = 1 << 20
_SAFE = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC


class Kernel(Operation):
    """Mount a kernel file system on a top directory that is really one: `/proc`, `/sys` or `/dev`, no link."""

    __slots__ = ("data", "flags", "fstype", "target")
    data: str
    flags: int
    fstype: str
    target: str

    def apply(self, context: Context) -> None:
        name = self.target.strip("/")
        try:
            fd = files.openat2(context.root_fd, name, _DIRECTORY | os.O_NOFOLLOW,
                               resolve=files.RESOLVE_IN_ROOT | files.RESOLVE_NO_SYMLINKS)
        except FileNotFoundError:
            fd = context.directory(self.target)
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            raise Refused("image", f"the image's {self.target} is no folder") from error
        context.mount_on(fd, self.fstype, self.fstype, self.flags, self.data or None)


class Devices(Operation):
    """Fill /dev: the host's harmless nodes by bind mounts, and the customary links."""

    __slots__ = ()

    def apply(self, context: Context) -> None:
        context.null_fd = os.open("/dev/null", os.O_PATH | os.O_CLOEXEC)
        facts = os.fstat(context.null_fd)
        if not stat.S_ISCHR(facts.st_mode) or facts.st_rdev != os.makedev(1, 3):
            raise OSError(22, "the host's /dev/null is not the null device")
        dev = context.resolve("/dev", _DIRECTORY)
        try:
            below = f"/proc/self/fd/{dev}"
            for node in ("null", "zero", "full", "random", "urandom", "tty"):
                os.close(os.open(f"{below}/{node}", os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666))
                mounts.mount(f"/dev/{node}", f"{below}/{node}", None, mounts.MS_BIND)
            for link, leads in (("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"),
                                ("stderr", "/proc/self/fd/2"), ("ptmx", "pts/ptmx")):
                os.symlink(leads, f"{below}/{link}")
            for folder in ("pts", "shm", "mqueue"):
                os.mkdir(f"{below}/{folder}", 0o755)
        finally:
            os.close(dev)


class Mounted(Operation):
    """Mount a file system on a directory of the container, made if missing."""

    __slots__ = ("data", "flags", "fstype", "target")
    data: str
    flags: int
    fstype: str
    target: str

    def apply(self, context: Context) -> None:
        context.mount_on(context.directory(self.target), self.fstype, self.fstype, self.flags, self.data or None)


class Tmpfs(Operation):
    """An empty file system in memory, owned by a user of the container."""

    __slots__ = ("mode", "size", "target", "user")
    mode: int
    size: int
    target: str
    user: str

    def apply(self, context: Context) -> None:
        ids = context.ids
        account = resolve_user(self.user, root_fd=context.root_fd, count=ids.users)
        owner = f"uid={ids.outer(account.uid)},gid={ids.outer(account.gid)}"
        context.mount_on(_target(context, "a tmpfs", self.target, folder=True), "tmpfs", "tmpfs", mounts.MS_NOSUID | mounts.MS_NODEV,
                         f"size={self.size},mode={self.mode:o},{owner}")


class Secrets(Operation):
    """Files of a read-only tmpfs that the command's user alone may read. `fd` has the values, so that no text of this shows them.

    Args:
        place: an empty directory of the session's: they are written before anybody else who may write at the target can look.
    """

    __slots__ = ("fd", "names", "place", "target", "user")
    fd: int
    names: tuple[str, ...]
    place: str
    target: str
    user: str

    def apply(self, context: Context) -> None:
        ids = context.ids
        account = resolve_user(self.user, root_fd=context.root_fd, count=ids.users)
        data = json.loads(os.pread(self.fd, os.fstat(self.fd).st_size, 0))
        size = sum(len(data[name]) // 2 + 65536 for name in self.names)   # the largest page, for what is begun of one
        mounts.mount("tmpfs", self.place, "tmpfs", _SAFE, f"size={size},mode=0755,uid={ids.outer(0)},gid={ids.outer(0)}")
        for name in self.names:
            file = os.open(f"{self.place}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
            try:
                os.fchown(file, ids.outer(account.uid), ids.outer(account.gid))
                os.write(file, bytes.fromhex(data[name]))
            finally:
                os.close(file)
        mounts.mount_setattr(self.place, set=mounts.MOUNT_ATTR_RDONLY)
        tree = mounts.open_tree(self.place)
        mounts.umount2(self.place, mounts.MNT_DETACH)
        try:
            target = _target(context, "secrets=", self.target, folder=True)
        except Refused as error:
            raise Refused("secrets", str(error)) from error
        try:
            mounts.move_mount(tree, target)
        finally:
            os.close(target)
            os.close(tree)


class WorkingDirectory(Operation):
    """Make the directory that the command starts in, where it is missing."""

    __slots__ = ("path",)
    path: str

    def apply(self, context: Context) -> None:
        os.close(_made(context, "workdir", f"the working directory {self.path!r}", self.path))


class Volume(Operation):
    """Make a directory that the image keeps data in, where it is missing. With its content it is the container's own like all the rest.

    Args:
        apart: it stays writable where the root won't be.
    """

    __slots__ = ("apart", "path")
    path: str
    apart: bool

    def apply(self, context: Context) -> None:
        fd = _made(context, "image", f"the image's volume {self.path!r}", self.path)
        try:
            if self.apart:
                tree = mounts.open_tree("", dir_fd=fd)
                mounts.move_mount(tree, fd)
                os.close(tree)
        finally:
            os.close(fd)


def _made(context: Context, kind: str, what: str, path: str) -> int:
    """Return an O_PATH descriptor of a directory, made if it is missing."""
    try:
        return context.directory(path)
    except OSError as error:
        why = _why(error)
        if error.errno == errno.EOVERFLOW:   # its ids are mapped for the container's processes alone
            why = "it is in a host folder, and missing there"
        raise Refused(kind, f"{what} can't be made: {why}") from error


def _in_the_way(error: NotADirectoryError) -> str:
    return f"{error.filename} is a link that leads nowhere" if "nowhere" in str(error) else "there is a file in the way"


def _target(context: Context, what: str, target: str, *, folder: bool) -> int:
    """Return an O_PATH descriptor of what is mounted on; made if it is missing."""
    try:
        fd = context.directory(target) if folder else context.file(target)
    except NotADirectoryError as error:
        raise Refused("mount", f"{what} can't be mounted at {target}: {_in_the_way(error)}") from error
    except OSError as error:
        raise Refused("mount", f"{what} can't be mounted at {target}: {os.strerror(error.errno or 0)}") from error
    if not folder and stat.S_ISDIR(os.fstat(fd).st_mode):
        os.close(fd)
        raise Refused("mount", f"{what} can't be mounted at {target}: it is a file, and there is a folder")
    return fd


class Bound(Operation):
    """Bind a file or directory of the session into the container.

    What the host has mounted below it comes along only where it must: in a user namespace it is locked to what it hides. See
    mount_namespaces(7).
    """

    __slots__ = ("read_only", "source", "target")
    read_only: bool
    source: str
    target: str

    def apply(self, context: Context) -> None:
        try:
            tree, whole = mounts.open_tree(self.source), False
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            tree, whole = mounts.open_tree(self.source, recursive=True), True
        flags = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV | (mounts.MOUNT_ATTR_RDONLY if self.read_only else 0)
        try:
            mounts.mount_setattr("", set=flags, clear=0 if self.read_only else mounts.MOUNT_ATTR_RDONLY, dir_fd=tree, recursive=whole)
        except PermissionError as error:
            if self.read_only:
                raise
            raise Refused("writable", f"{self.source} can't be mounted writable: it, or what is mounted below it, is read-only") from error
        target = _target(context, self.source, self.target, folder=os.path.isdir(self.source))
        try:
            mounts.move_mount(tree, target)
        finally:
            os.close(target)
            os.close(tree)


class Attached(Operation):
    """Attach a detached mount that was handed in as a descriptor: a host folder, its ids mapped."""

    __slots__ = ("fd", "source", "target")
    fd: int
    source: str
    target: str

    def apply(self, context: Context) -> None:
        target = _target(context, self.source, self.target, folder=stat.S_ISDIR(os.fstat(self.fd).st_mode))
        try:
            mounts.move_mount(context.kept.get(self.fd, self.fd), target)
        finally:
            os.close(target)


class Written(Operation):
    """Write a small file of the container's root."""

    __slots__ = ("data", "path")
    data: str
    path: str

    def apply(self, context: Context) -> None:
        try:
            context.write(self.path, self.data.encode())
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise Refused("scratch", f"its writable layer is too small for {self.path}") from error
            raise Refused("image", f"the image's {self.path} can't be written: {os.strerror(error.errno or 0)}") from error


class Given(Operation):
    """Write the files, folders and links that a container is given into its root. `fd` has them, as `copying.open_given` writes them."""

    __slots__ = ("fd",)
    fd: int

    def apply(self, context: Context) -> None:
        owner = context.ids.outer(0)
        with os.fdopen(os.dup(self.fd), "rb") as given:
            while line := given.readline():
                row = json.loads(line)
                path = row["path"]
                try:
                    if "leads" in row:
                        with context.vacated(path) as beneath:
                            os.symlink(row["leads"], beneath)
                            os.lchown(beneath, owner, owner)
                    elif "size" not in row:
                        _folder(context, path, row["mode"])
                    else:
                        with os.fdopen(context.create(path, row["mode"]), "wb") as file:
                            left = row["size"]
                            while left:
                                left -= file.write(given.read(min(left, _PIECE)))
                except OSError as error:
                    if error.errno in (errno.ENOSPC, errno.EDQUOT):
                        raise Refused("scratch", f"its writable layer is too small for {path}") from error
                    raise Refused("files", f"{path} can't be written: {_why(error)}") from error


def _folder(context: Context, path: str, mode: int) -> None:
    """Make a folder with a mode; one that is there stays as it is."""
    try:
        os.close(context.resolve(path, _DIRECTORY))
    except FileNotFoundError:
        fd = context.directory(path)
        try:
            os.chmod(f"/proc/self/fd/{fd}", mode)
        finally:
            os.close(fd)


def _why(error: OSError) -> str:
    if isinstance(error, NotADirectoryError):
        return _in_the_way(error)
    return "there is a folder" if isinstance(error, IsADirectoryError) else os.strerror(error.errno or 0)


class Masked(Operation):
    """Hide a path that tells or does too much: files behind /dev/null, directories behind an empty one."""

    __slots__ = ("path",)
    path: str

    def apply(self, context: Context) -> None:
        try:
            fd = context.resolve(self.path)
        except FileNotFoundError:
            return   # not in every kernel
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            context.mount_on(fd, "tmpfs", "tmpfs", _SAFE | mounts.MS_RDONLY, "size=0,nr_inodes=1")
        else:
            context.mount_on(fd, f"/proc/self/fd/{context.null_fd}", None, mounts.MS_BIND)


class ReadOnly(Operation):
    """Bind a path onto itself, read-only."""

    __slots__ = ("path",)
    path: str

    def apply(self, context: Context) -> None:
        try:
            fd = context.resolve(self.path)
        except FileNotFoundError:
            return
        try:
            tree = mounts.open_tree("", dir_fd=fd, recursive=True)
            mounts.mount_setattr("", set=mounts.MOUNT_ATTR_RDONLY, dir_fd=tree, recursive=True)
            mounts.move_mount(tree, fd)
            os.close(tree)
        finally:
            os.close(fd)
