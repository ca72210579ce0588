"""What operations are, and what they hand to one another."""

from __future__ import annotations

import contextlib
import os

from pytest_sealed.linux import files, mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_sealed.runtime.idmap import IdMap

__all__ = ["Context", "Operation", "StepFailed", "execute"]

_DIRECTORY = os.O_PATH | os.O_DIRECTORY


class StepFailed(Exception):
    """An operation failed: which, and the error of the system call."""

    def __init__(self, operation: object, error: OSError) -> None:
        super().__init__(f"{operation}: {error}")
        self.errno = error.errno or 0


class Refused(Exception):
    """What was asked for can't be; `kind` says what it was, for the caller's choice of words."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Context:
    """What operations hand to later ones.

    Attributes:
        ids: the session's id map.
        root: path where the container's root is mounted, until the pivot.
        root_fd: O_PATH descriptor of the root.
        null_fd: a checked /dev/null, char 1:3, for masks.
        kept: descriptor of a host folder's mount in the container's earlier run → that of its detached copy.
        writable_fd: the folder that holds what the container changes: no path leads there after the pivot.
    """

    __slots__ = ("ids", "kept", "null_fd", "root", "root_fd", "writable_fd")

    def __init__(self, ids: IdMap, root: str) -> None:
        self.ids, self.root, self.root_fd, self.null_fd = ids, root, -1, -1
        self.writable_fd = -1
        self.kept: dict[int, int] = {}

    def resolve(self, path: str, flags: int = os.O_PATH) -> int:
        """Open `path` as the container's root would see it; magic links are refused."""
        return files.openat2(self.root_fd, path, flags)

    def directory(self, path: str) -> int:
        """Return an O_PATH descriptor of the directory `path`; what is missing is made, owned by the container's root."""
        missing: list[str] = []
        while True:   # no recursion: a path of an image's may have two thousand names
            try:
                fd = self.resolve(path, _DIRECTORY)
                break
            except FileNotFoundError:
                if not path:   # it was no absolute one
                    raise
                path, name = os.path.split(path)
                missing.append(name)
        for name in reversed(missing):
            path = os.path.join(path, name)
            try:
                os.mkdir(name, 0o755, dir_fd=fd)
                os.chown(name, self.ids.outer(0), self.ids.outer(0), dir_fd=fd, follow_symlinks=False)
            except FileExistsError:   # a dangling symlink: nothing that a mount may follow
                raise NotADirectoryError(20, f"{path} is a link that leads nowhere", path) from None
            finally:
                os.close(fd)
            fd = self.resolve(path, _DIRECTORY)
        return fd

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
        fd = self.create(path, 0o644)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)

    def create(self, path: str, mode: int) -> int:
        """Return the descriptor of a new, empty file `path`, owned by the container's root; a file or link there is replaced."""
        with self.vacated(path) as beneath:
            fd = os.open(beneath, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.fchown(fd, self.ids.outer(0), self.ids.outer(0))
                os.fchmod(fd, mode)
            except BaseException:
                os.close(fd)
                raise
            return fd

    @contextlib.contextmanager
    def vacated(self, path: str) -> Iterator[str]:
        """Yield a name for `path` that no link changes, after a file or link there was removed; the folders on the way are made."""
        parent = self.directory(os.path.dirname(path))
        try:
            beneath = f"/proc/self/fd/{parent}/{os.path.basename(path)}"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beneath)
            yield beneath
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
