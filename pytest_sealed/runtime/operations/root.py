"""The container's root: the image's layers below a writable one. See the kernel's overlayfs.rst and pivot_root(2)."""

from __future__ import annotations

import os

from pytest_sealed.linux import mounts, namespaces
from pytest_sealed.runtime.operations.base import Context, Operation

__all__ = ["Copied", "DiskScratch", "KeepRoot", "MemoryScratch", "Overlay", "Pivot", "ReadOnlyRoot"]

_DIRECTORY = os.O_PATH | os.O_DIRECTORY


class MemoryScratch(Operation):
    """A tmpfs for the writable layer; its pages count in the container's memory."""

    __slots__ = ("path", "size")
    path: str
    size: int

    def apply(self, context: Context) -> None:
        # A file without content takes some 2 KiB of the kernel's memory, which count as well: an inode a page leaves room for them.
        inodes = max(self.size // 4096, 1024)
        mounts.mount("tmpfs", self.path, "tmpfs", mounts.MS_NODEV, f"size={self.size},nr_inodes={inodes},mode=0700")
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
        context.writable_fd = os.open(f"{self.scratch}/upper", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _escape(path: str) -> str:
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


class Copied(Operation):
    """Take a folder that the layers were copied into as the root, where an overlay can have no writable layer. See `copied`."""

    __slots__ = ("path",)
    path: str

    def apply(self, context: Context) -> None:
        mounts.mount(self.path, context.root, None, mounts.MS_BIND)
        mounts.mount_setattr(context.root, set=mounts.MOUNT_ATTR_NODEV)
        context.root_fd = os.open(context.root, _DIRECTORY | os.O_CLOEXEC)
        context.writable_fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


class KeepRoot(Operation):
    """Take over the root of the container's earlier run, out of the mount namespace that it left, and host folders."""

    __slots__ = ("folder_fds", "namespace_fd")
    folder_fds: tuple[int, ...]
    namespace_fd: int

    def apply(self, context: Context) -> None:
        own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            namespaces.setns(self.namespace_fd, namespaces.CLONE_NEWNS)
            tree = mounts.open_tree("/")
            mounts.mount_setattr("", clear=mounts.MOUNT_ATTR_RDONLY, dir_fd=tree)   # until this run's files are in place too
            # by descriptor: in there, a path may have become a link, or lead to something else by now
            context.kept = {fd: mounts.open_tree("", dir_fd=fd) for fd in self.folder_fds}
            namespaces.setns(own, namespaces.CLONE_NEWNS)
        finally:
            os.close(own)
        target = os.open(context.root, os.O_PATH | os.O_CLOEXEC)
        mounts.move_mount(tree, target)
        os.close(target)
        os.close(tree)
        context.root_fd = os.open(context.root, _DIRECTORY | os.O_CLOEXEC)


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
