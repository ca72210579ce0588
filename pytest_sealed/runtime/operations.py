"""The steps that make a container: small immutable operations that describe and execute themselves.

`plan.plan()` puts them in order; `execute` runs them in the forked child, in the session's user
namespace, before it enters the container's own. The image's files are hostile: every path below the
root is resolved by openat2(2) with RESOLVE_IN_ROOT, and mounted on by descriptor.
"""

from __future__ import annotations

import os
import stat

from pytest_sealed.linux import files, mounts, namespaces, process
from pytest_sealed.runtime.user import resolve_user

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_sealed.runtime.idmap import IdMap

__all__ = ["Context", "Operation", "StepFailed", "execute"]

_DIRECTORY = os.O_PATH | os.O_DIRECTORY
_SAFE = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC


class StepFailed(Exception):
    """An operation failed: which, and the error of the system call."""

    def __init__(self, operation: object, error: OSError) -> None:
        super().__init__(f"{operation}: {error}")
        self.errno = error.errno or 0


class Context:
    """What operations hand to later ones.

    Attributes:
        ids: the session's id map.
        root: path where the container's root is mounted, until the pivot.
        root_fd: O_PATH descriptor of the root.
        null_fd: a checked /dev/null, char 1:3, for masks.
        kept: target → detached copy of a host folder's mount, from the container's earlier run.
    """

    __slots__ = ("ids", "kept", "null_fd", "root", "root_fd")

    def __init__(self, ids: IdMap, root: str) -> None:
        self.ids, self.root, self.root_fd, self.null_fd = ids, root, -1, -1
        self.kept: dict[str, int] = {}

    def resolve(self, path: str, flags: int = os.O_PATH) -> int:
        """Open `path` as the container's root would see it; magic links are refused."""
        return files.openat2(self.root_fd, path, flags)

    def directory(self, path: str) -> int:
        """Return an O_PATH descriptor of the directory `path`; what is missing is made, owned by the container's root."""
        try:
            return self.resolve(path, _DIRECTORY)
        except FileNotFoundError:
            pass
        parent = self.directory(os.path.dirname(path))
        try:
            os.mkdir(os.path.basename(path), 0o755, dir_fd=parent)
            os.chown(os.path.basename(path), self.ids.outer(0), self.ids.outer(0), dir_fd=parent, follow_symlinks=False)
        except FileExistsError:   # a dangling symlink: nothing that a mount may follow
            raise NotADirectoryError(20, f"{path} is a link that leads nowhere", path) from None
        finally:
            os.close(parent)
        return self.resolve(path, _DIRECTORY)

    def file(self, path: str) -> int:
        """Return an O_PATH descriptor of the file `path`; made empty if it is missing or a dangling link."""
        try:
            return self.resolve(path)
        except FileNotFoundError:
            pass
        self.write(path, b"")
        return self.resolve(path)

    def write(self, path: str, data: bytes) -> None:
        """Replace the file `path` by one with `data`, owned by the container's root; a link there is replaced too."""
        parent, name = self.directory(os.path.dirname(path)), os.path.basename(path)
        try:
            beneath = f"/proc/self/fd/{parent}/{name}"
            try:
                os.unlink(beneath)
            except FileNotFoundError:
                pass
            fd = os.open(beneath, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            try:
                os.fchmod(fd, 0o644)
                os.fchown(fd, self.ids.outer(0), self.ids.outer(0))
                os.write(fd, data)
            finally:
                os.close(fd)
        finally:
            os.close(parent)

    def mount_on(self, fd: int, source: str | None, fstype: str | None, flags: int, data: str | None = None) -> None:
        """Mount on what `fd` names, and close it."""
        try:
            mounts.mount(source, f"/proc/self/fd/{fd}", fstype, flags, data)
        finally:
            os.close(fd)


class Operation:
    """One step. Subclasses list their fields in `__slots__`; equal fields make equal operations."""

    __slots__: tuple[str, ...] = ()

    def __init__(self, *values: object) -> None:
        for name, value in zip(self.__slots__, values, strict=True):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    def __hash__(self) -> int:
        return hash((type(self).__name__, *(str(getattr(self, name)) for name in self.__slots__)))

    def __str__(self) -> str:
        fields = " ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__} {fields}".rstrip()

    def apply(self, context: Context) -> None:
        raise AssertionError("an operation applies itself")


class EnterCgroup(Operation):
    """Put this process into the container's cgroups, then make those the root of what it sees."""

    __slots__ = ("paths",)
    paths: tuple[str, ...]

    def apply(self, context: Context) -> None:
        for path in self.paths:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b"0")
            finally:
                os.close(fd)
        namespaces.unshare(namespaces.CLONE_NEWCGROUP)


class JoinNetwork(Operation):
    """Enter the network namespace that the network service made."""

    __slots__ = ("fd",)
    fd: int

    def apply(self, context: Context) -> None:
        namespaces.setns(self.fd, namespaces.CLONE_NEWNET)


class LoopbackUp(Operation):
    """Bring up the loopback interface of a container without a network."""

    __slots__ = ()

    def apply(self, context: Context) -> None:
        import fcntl
        import socket
        import struct
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            # SIOCSIFFLAGS, IFF_UP | IFF_LOOPBACK | IFF_RUNNING: netdevice(7)
            fcntl.ioctl(control, 0x8914, struct.pack("16sH14x", b"lo", 0x49))


class Hostname(Operation):
    """Set the host name in the container's UTS namespace."""

    __slots__ = ("name",)
    name: str

    def apply(self, context: Context) -> None:
        process.sethostname(self.name)


class Sysctl(Operation):
    """Set a sysctl of the container's own namespaces, through the session's /proc."""

    __slots__ = ("name", "value")
    name: str
    value: str

    def apply(self, context: Context) -> None:
        fd = os.open(f"/proc/sys/{self.name.replace('.', '/')}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, self.value.encode())
        finally:
            os.close(fd)


class MemoryScratch(Operation):
    """A tmpfs for the writable layer; its pages count in the container's memory."""

    __slots__ = ("path", "size")
    path: str
    size: int

    def apply(self, context: Context) -> None:
        mounts.mount("tmpfs", self.path, "tmpfs", mounts.MS_NODEV, f"size={self.size},mode=0700")
        _make_layers(context, self.path)


class DiskScratch(Operation):
    """A folder on disk for the writable layer."""

    __slots__ = ("path",)
    path: str

    def apply(self, context: Context) -> None:
        os.makedirs(self.path, 0o700)
        _make_layers(context, self.path)


def _make_layers(context: Context, path: str) -> None:
    for name in ("upper", "work"):
        os.mkdir(f"{path}/{name}", 0o700)
    os.chmod(f"{path}/upper", 0o755)
    os.chown(f"{path}/upper", context.ids.outer(0), context.ids.outer(0))


class Overlay(Operation):
    """Mount the image's layers, lowest first, below a fresh writable layer. See the kernel's overlayfs.rst."""

    __slots__ = ("layers", "scratch")
    layers: tuple[str, ...]
    scratch: str

    def apply(self, context: Context) -> None:
        # relative paths: the mount data must fit in a page
        base = os.path.commonpath(self.layers) if len(self.layers) > 1 else os.path.dirname(self.layers[0])
        os.chdir(base)
        lower = ":".join(_escape(os.path.relpath(layer, base)) for layer in reversed(self.layers))
        scratch = _escape(self.scratch)
        mounts.mount("overlay", context.root, "overlay", mounts.MS_NODEV,
                     f"lowerdir={lower},upperdir={scratch}/upper,workdir={scratch}/work,userxattr")
        context.root_fd = os.open(context.root, _DIRECTORY | os.O_CLOEXEC)


def _escape(path: str) -> str:
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


class KeepRoot(Operation):
    """Take over the root of the container's earlier run, out of the mount namespace that it left; `targets` too."""

    __slots__ = ("namespace_fd", "targets")
    namespace_fd: int
    targets: tuple[str, ...]

    def apply(self, context: Context) -> None:
        own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            namespaces.setns(self.namespace_fd, namespaces.CLONE_NEWNS)
            tree = mounts.open_tree("/")
            context.kept = {target: mounts.open_tree(target) for target in self.targets}
            namespaces.setns(own, namespaces.CLONE_NEWNS)
        finally:
            os.close(own)
        target = os.open(context.root, os.O_PATH | os.O_CLOEXEC)
        mounts.move_mount(tree, target)
        os.close(target)
        os.close(tree)
        context.root_fd = os.open(context.root, _DIRECTORY | os.O_CLOEXEC)


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
        account = resolve_user(self.user, root_fd=context.root_fd, count=65536 if ids.single else ids.count)
        owner = f"uid={ids.outer(account.uid)},gid={ids.outer(account.gid)}"
        context.mount_on(context.directory(self.target), "tmpfs", "tmpfs", mounts.MS_NOSUID | mounts.MS_NODEV,
                         f"size={self.size},mode={self.mode:o},{owner}")


class Bound(Operation):
    """Bind a file or directory of the session into the container."""

    __slots__ = ("read_only", "source", "target")
    read_only: bool
    source: str
    target: str

    def apply(self, context: Context) -> None:
        tree = mounts.open_tree(self.source)
        flags = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV | (mounts.MOUNT_ATTR_RDONLY if self.read_only else 0)
        mounts.mount_setattr("", set=flags, clear=0 if self.read_only else mounts.MOUNT_ATTR_RDONLY, dir_fd=tree)
        directory = os.path.isdir(self.source)
        target = context.directory(self.target) if directory else context.file(self.target)
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
        directory = stat.S_ISDIR(os.fstat(self.fd).st_mode)
        target = context.directory(self.target) if directory else context.file(self.target)
        try:
            mounts.move_mount(context.kept.get(self.target, self.fd), target)
        finally:
            os.close(target)


class Written(Operation):
    """Write a small file of the container's root."""

    __slots__ = ("data", "path")
    data: str
    path: str

    def apply(self, context: Context) -> None:
        context.write(self.path, self.data.encode())


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


class ReadOnlyRoot(Operation):
    """Make the root itself read-only; what is mounted below it keeps its own flags."""

    __slots__ = ()

    def apply(self, context: Context) -> None:
        mounts.mount_setattr(context.root, set=mounts.MOUNT_ATTR_RDONLY)


class Pivot(Operation):
    """Make the container's root the root, and let go of the host's. See pivot_root(2)."""

    __slots__ = ()

    def apply(self, context: Context) -> None:
        old = os.open("/", _DIRECTORY | os.O_CLOEXEC)
        os.chdir(context.root)
        mounts.pivot_root(".", ".")
        os.fchdir(old)
        os.close(old)
        mounts.mount(None, ".", None, mounts.MS_PRIVATE | mounts.MS_REC)
        mounts.umount2(".", mounts.MNT_DETACH)
        os.chdir("/")
        os.close(context.root_fd)
        context.root_fd = os.open("/", _DIRECTORY | os.O_CLOEXEC)
        if context.null_fd >= 0:
            os.close(context.null_fd)


def execute(operations: list[Operation], context: Context) -> None:
    """Apply the operations in order.

    Raises:
        StepFailed: names the operation that failed and why.
    """
    for operation in operations:
        try:
            operation.apply(context)
        except OSError as error:
            raise StepFailed(operation, error) from error
