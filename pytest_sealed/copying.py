"""Files between the host and a container: the client's side of `runtime.files`, and host folders as mounts."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import stat
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pytest_sealed.errors import ContainerFailed, SpecError
from pytest_sealed.receiving import MOST_DATA, Receiver, open_file, open_folder
from pytest_sealed.runtime.user import UnknownUser, resolve_user
from pytest_sealed.values import check_mode

if TYPE_CHECKING:
    from pytest_sealed.images.store import Image
    from pytest_sealed.runtime.client import Session
    from pytest_sealed.spec import ContainerSpec

__all__ = ["get", "not_its_own", "open_given", "open_mounts", "owner_of", "put", "read", "write"]

_COPY = 600.0   # seconds for a copy
_DEEPEST = 256   # folders within folders, as in `runtime.files`, which imports on Linux only
_LARGEST_TEXT = 256 << 20   # bytes that are read into memory
_PIECE = 1 << 20
_MOST_GIVEN = 256 << 20   # bytes: they wait in memory for the start


def _ask(session: Session, container: str, action: str, path: str, fds: list[int] | None = None,
         **fields: Any) -> tuple[dict[str, Any], list[int]]:
    _check(path)
    with session.open("files", fds or [], container=container, action=action, path=path, **fields) as channel:
        message, passed = session.receive(channel, _COPY)
    if "error" in message:
        raise _error(container, path, message["error"])
    return dict(message["ok"]), passed


def _check(path: str) -> None:
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
        raise SpecError(f"{path!r} is no absolute path of a container", remedy="write it as text that begins with '/'")


def _owner_fields(user: int) -> dict[str, Any]:
    if not isinstance(user, int) or isinstance(user, bool) or not 0 <= user <= 65535:
        raise SpecError(f"user={user!r} can't own a copy", remedy='give a uid of the container; exec(["id", "-u", "NAME"]) tells a name\'s')
    return {"uid": user, "gid": user}


def _error(container: str, path: str, error: dict[str, Any]) -> Exception:
    if error.get("kind") == "files":
        return _failed(container, path, error["text"])
    from pytest_sealed.runtime.client import error_from
    return error_from(error)


def _failed(container: str, path: str, why: str | None) -> ContainerFailed:
    return ContainerFailed(f"{path} in container {container.rpartition('-')[0]!r}: {why}")


@contextlib.contextmanager
def _filling(container: str, path: str) -> Iterator[None]:
    """Say which file of the container it was that could not be written."""
    try:
        yield
    except OSError as error:
        raise _failed(container, path, error.strerror) from error


def read(session: Session, container: str, path: str) -> bytes:
    """Return the content of a regular file, which may be a sparse one of any size, or grow while it is read."""
    _, (fd,) = _ask(session, container, "read", path)
    data = bytearray()
    with os.fdopen(fd, "rb") as file:
        while piece := file.read(_PIECE):
            data += piece
            if len(data) > _LARGEST_TEXT:
                raise ContainerFailed(f"{path} in container {container.rpartition('-')[0]!r}: it has more than {_LARGEST_TEXT >> 20} MiB",
                                      remedy="copy it with get(), and read the copy in pieces")
    return bytes(data)


def write(session: Session, container: str, path: str, data: bytes, mode: int, user: int) -> None:
    """Write a regular file, made with its parents if missing."""
    _, (fd,) = _ask(session, container, "write", path, mode=check_mode("mode", mode), **_owner_fields(user))
    with _filling(container, path), os.fdopen(fd, "wb") as file:
        file.write(data)


def not_its_own(session: Session, container: str) -> dict[str, list[str]]:
    """Return the paths of what isn't the container's own: {"points"}, where something is mounted, and {"files"} of the runtime's."""
    return _ask(session, container, "ours", "/")[0]


def put(session: Session, container: str, source: Path, target: str, user: int) -> None:
    """Copy a file or folder into a container."""
    try:
        folder = open_folder(source, session.shared)
    except NotADirectoryError:
        _put_file(session, container, source, target, user)
        return
    inwards, outwards = os.pipe2(os.O_CLOEXEC)
    failures: list[BaseException] = []
    packer = threading.Thread(target=_pack, args=(folder, outwards, failures), daemon=True)
    packer.start()
    try:
        _ask(session, container, "unpack", target, [inwards], **_owner_fields(user))
    finally:
        os.close(inwards)
        packer.join()
    if failures:
        raise failures[0]


def _put_file(session: Session, container: str, source: Path, target: str, user: int) -> None:
    with open_file(source, session.shared) as file:
        mode = os.fstat(file.fileno()).st_mode & 0o777
        _, (fd,) = _ask(session, container, "write", target, mode=mode, name=source.name, **_owner_fields(user))
        with _filling(container, target), os.fdopen(fd, "wb") as out:
            shutil.copyfileobj(file, out)


def _pack(folder: int, fd: int, failures: list[BaseException]) -> None:
    try:
        with os.fdopen(fd, "wb") as out, tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as archive:
            _add(archive, folder)
    except BrokenPipeError:
        pass   # the container's side failed, and says why
    except BaseException as error:
        failures.append(error)


def _add(archive: tarfile.TarFile, folder: int) -> None:
    for name, facts, content in _entries(folder):
        member = tarfile.TarInfo(name)
        member.mode, member.mtime = stat.S_IMODE(facts.st_mode), int(facts.st_mtime)
        if isinstance(content, str):
            member.type, member.linkname = tarfile.SYMTYPE, content
            archive.addfile(member)
        elif content is None:
            member.type = tarfile.DIRTYPE
            archive.addfile(member)
        else:
            member.size = facts.st_size
            archive.addfile(member, content)


def _entries(folder: int, prefix: str = "") -> Iterator[tuple[str, os.stat_result, BinaryIO | str | None]]:
    """Yield what is in a folder, and close it: path below, facts, and a file, what a link leads to, or None for a folder.

    By descriptors: a link that a container puts in the place of a file meanwhile is not followed.
    """
    try:
        if prefix.count("/") > _DEEPEST:
            raise OSError(errno.ENAMETOOLONG, f"more than {_DEEPEST} folders within each other", prefix)
        for name in sorted(os.listdir(folder)):
            facts = os.lstat(name, dir_fd=folder)
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            if stat.S_ISLNK(facts.st_mode):
                yield prefix + name, facts, os.readlink(name, dir_fd=folder)
            elif stat.S_ISDIR(facts.st_mode):
                within = os.open(name, flags | os.O_DIRECTORY, dir_fd=folder)
                yield prefix + name, facts, None
                yield from _entries(within, f"{prefix}{name}/")
            elif stat.S_ISREG(facts.st_mode):
                with os.fdopen(os.open(name, flags | os.O_NONBLOCK, dir_fd=folder), "rb") as file:
                    yield prefix + name, os.fstat(file.fileno()), file
    finally:
        os.close(folder)


def open_given(session: Session, files: tuple[tuple[str, bytes | Path], ...]) -> int:
    """Return the descriptor of a memory file with what a container is given, for `runtime.operations.Given`; the caller's to close.

    It has a line of JSON for each file, {"path", "mode", "size"}, folder, {"path", "mode"}, and link, {"path", "leads"}; what a file
    says follows its line. See memfd_create(2).

    Raises:
        SpecError: there is no such file or folder on the host, it can't be read, or all are too large together.
    """
    fd = os.memfd_create("sealed-files", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(fd), "wb") as out:
            for target, source in files:
                try:
                    for row, content in _rows(session, target, source):
                        if out.tell() + row.get("size", 0) > _MOST_GIVEN:
                            raise SpecError(f"files: they have more than the {_MOST_GIVEN >> 20} MiB that they may have together, with "
                                            f"that of {row['path']}", remedy="give what is large by mounts= or in an image")
                        out.write(f"{json.dumps(row)}\n".encode())
                        if content is not None:
                            _copy(content, out, row["size"])
                except OSError as error:
                    raise SpecError(f"files: {target!r} can't be read from {source!s}: {error.strerror}",
                                    remedy="give what is there and can be read by this account") from error
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _rows(session: Session, target: str, source: bytes | Path) -> Iterator[tuple[dict[str, Any], BinaryIO | None]]:
    if isinstance(source, bytes):
        yield {"path": target, "mode": 0o644, "size": len(source)}, io.BytesIO(source)
        return
    try:
        folder = open_folder(source, session.shared)
    except NotADirectoryError:
        with open_file(source, session.shared) as file:
            facts = os.fstat(file.fileno())
            yield {**_row(target, facts), "size": facts.st_size}, file
        return
    yield _row(target, os.fstat(folder)), None
    for name, facts, content in _entries(folder):
        path = f"{target}/{name}"
        if isinstance(content, str):
            yield {"path": path, "leads": content}, None
        elif content is None:
            yield _row(path, facts), None
        else:
            yield {**_row(path, facts), "size": facts.st_size}, content


def _row(path: str, facts: os.stat_result) -> dict[str, Any]:
    return {"path": path, "mode": facts.st_mode & 0o1777}


def _copy(source: BinaryIO, out: BinaryIO, size: int) -> None:
    """Copy `size` bytes; what a file lacks of them, because it became shorter meanwhile, is zeros, as in a tar."""
    while size:
        data = source.read(min(size, _PIECE)) or bytes(min(size, _PIECE))
        size -= len(data)
        out.write(data)


def get(session: Session, container: str, source: str, target: Path, most: int = MOST_DATA) -> None:
    """Copy a file or folder out of a container, at most `most` bytes of data."""
    _check(source)
    with session.open("files", container=container, action="give", path=source) as channel, \
            Receiver(target, source, most, session.shared) as receiver:
        while True:
            message, passed = session.receive(channel, _COPY)
            if "ok" in message:
                return
            if "error" in message:
                raise _error(container, source, message["error"])
            receiver.take(message, passed)


def open_mounts(session: Session, spec: ContainerSpec[Any], image: Image,
                passed: contextlib.ExitStack) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the rows of host folders for the request, and a detached mount for each that is passed.

    Root makes an idmapped mount, in which the account's own files belong to the container's user and
    keep their owner on the host (mount_setattr(2)). Other accounts' folders are bound as they are.
    """
    rows: list[dict[str, Any]] = []
    fds: list[int] = []
    owner = owner_of(session, image, image.config.user if spec.user is None else spec.user) if spec.mounts else (0, 0)
    for mount in spec.mounts:
        mount.check_source()
        if not mount.read_only:
            facts = os.stat(mount.source)
            session.shared.add((facts.st_dev, facts.st_ino))
        as_root = session.ids.mode == "root"
        rows.append({"source": mount.source, "target": mount.target, "read_only": mount.read_only, "passed": as_root})
        if as_root:
            fds.append(_idmapped(session, mount.source, mount.read_only, owner))
            passed.callback(os.close, fds[-1])
        elif session.ids.mode == "subids" and not mount.read_only:
            raise SpecError(f"the folder {mount.source} can't be mounted writable: this account can't map its own id into a container",
                            remedy="mount it read-only, copy with put() and get(), or run with SEALED_IDS=single")
    return rows, fds


def owner_of(session: Session, image: Image, user: str) -> tuple[int, int]:
    """Return the uid and gid that the image's files give the container's user; an unknown one is refused at the start."""
    with contextlib.ExitStack() as opened:
        layers = [os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for layer in reversed(image.layers)]
        for fd in layers:
            opened.callback(os.close, fd)
        try:
            account = resolve_user(user, root_fd=layers[0], below=tuple(layers[1:]), count=session.ids.count)
        except UnknownUser:
            return 0, 0
    return account.uid, account.gid


def _idmapped(session: Session, source: str, read_only: bool, owner: tuple[int, int]) -> int:
    from pytest_sealed.linux import mounts
    _, (namespace,) = session.request("idmap", uid=owner[0], gid=owner[1])
    try:
        tree = mounts.open_tree(source)
        flags = mounts.MOUNT_ATTR_IDMAP | mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV
        try:
            mounts.mount_setattr("", set=flags | (mounts.MOUNT_ATTR_RDONLY if read_only else 0), dir_fd=tree, userns_fd=namespace)
        except OSError as error:
            os.close(tree)
            raise SpecError(f"the folder {source} can't be mounted with its owner kept: {error.strerror} (its file system has no "
                            "idmapped mounts)", remedy="use a folder on ext4, xfs, btrfs or tmpfs, or copy with put()") from error
        return tree
    finally:
        os.close(namespace)
