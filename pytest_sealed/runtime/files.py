"""Copies into and out of a container: every path resolved beneath its root, no program of the image ever run.

Runs in a forked child of the supervisor that has joined the container's mount namespace but none of its
others, and keeps the session's ids: it can reach what the container's users can't, and they can't reach it.
"""

from __future__ import annotations

import errno
import os
import stat

from pytest_sealed.linux import files, namespaces, process
from pytest_sealed.runtime.spawn import forbid_imports

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_sealed.runtime.idmap import IdMap
    from pytest_sealed.runtime.protocol import Channel

__all__ = ["serve_files"]

_DEEPEST = 256   # folders within folders, as in images

_MODULES: dict[str, Any] = {}
"""What copies of folders need: too much for the supervisor, and not to be imported in a container."""


def serve_files(request: dict[str, Any], mount_ns: int, ids: IdMap, reply: Channel, fds: list[int]) -> None:
    """Answer one request on `reply`: {"ok": …} with a descriptor, or {"error": …}; for "give", messages come first."""
    process.set_dumpable(False)
    if request["action"] == "unpack":
        import shutil
        import tarfile
        _MODULES.update(shutil=shutil, tarfile=tarfile)
    forbid_imports()
    try:
        proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        namespaces.setns(mount_ns, namespaces.CLONE_NEWNS)
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if request["action"] == "give":
            reply.socket.setblocking(True)   # for whoever reads slowly, because it writes
            _give(root, request["path"], reply)
            reply.send({"ok": {}})
            return
        if request["action"] == "ours":
            reply.send({"ok": _ours(root, proc)})
            return
        work = {"read": _read, "write": _write, "unpack": _unpack}[request["action"]]
        result, passed = work(root, request, ids, fds)
        reply.send({"ok": result}, passed)
    except OSError as error:
        text = (error.strerror or str(error)).removeprefix("openat2: ")
        reply.send({"error": {"kind": "files", "errno": error.errno or 0, "text": text}})
    except BaseException as error:
        reply.send({"error": {"kind": "files", "errno": 0, "text": f"{type(error).__name__}: {error}"}})


def _ours(root: int, proc: int) -> dict[str, list[str]]:
    """Return the paths of what isn't the container's own: {"points"}, where something is mounted, and {"files"} that the runtime writes.

    `proc` is the session's: its `self` is this process, which sees the container's mounts by now.
    """
    with os.fdopen(os.open("self/mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc), "rb") as file:
        points = [_unescaped(line.split(b" ")[4]) for line in file]
    try:
        etc = files.openat2(root, "/etc", os.O_PATH | os.O_DIRECTORY)
    except OSError:   # it has put something else there: these are no files of ours
        return {"points": points, "files": []}
    where = os.readlink(f"self/fd/{etc}", dir_fd=proc)
    return {"points": points, "files": [f"{where}/{name}" for name in ("hostname", "hosts", "resolv.conf")]}


def _unescaped(field: bytes) -> str:
    """Return a path of mountinfo, in which space, tab, newline and backslash are octal. See proc_pid_mountinfo(5)."""
    first, *rest = field.split(b"\\")
    return os.fsdecode(first + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in rest))


def _read(root: int, request: dict[str, Any], ids: IdMap, fds: list[int]) -> tuple[dict[str, Any], list[int]]:
    """Open a regular file for reading."""
    fd = files.openat2(root, request["path"], os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    facts = os.fstat(fd)
    if stat.S_ISDIR(facts.st_mode):
        raise IsADirectoryError(21, "Is a directory")
    if not stat.S_ISREG(facts.st_mode):
        raise OSError(22, "not a regular file")
    return {"mode": stat.S_IMODE(facts.st_mode), "size": facts.st_size}, [fd]


def _write(root: int, request: dict[str, Any], ids: IdMap, fds: list[int]) -> tuple[dict[str, Any], list[int]]:
    """Open a regular file for writing, made with its parents if missing; of a folder, the file `name` in it."""
    path = request["path"]
    if path.endswith("/") or _is_folder(root, path):
        if "name" not in request:
            raise IsADirectoryError(21, "Is a directory")
        path = f"{path.rstrip('/')}/{request['name']}"
    parent = _directory(root, os.path.dirname(path), ids, _owner(request, ids))
    flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY
    os.umask(0)
    # beneath the root again, so that a final link is followed only within it
    name = os.path.basename(path)
    try:
        fd = files.openat2(parent, name, flags | os.O_EXCL | os.O_NOFOLLOW, mode=request["mode"],
                           resolve=files.RESOLVE_BENEATH | files.RESOLVE_NO_SYMLINKS)
        os.fchown(fd, *_owner(request, ids))
    except FileExistsError:
        fd = files.openat2(root, path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(22, "not a regular file") from None
        os.ftruncate(fd, 0)
    return {}, [fd]


def _is_folder(root: int, path: str) -> bool:
    try:
        os.close(files.openat2(root, path, os.O_PATH | os.O_DIRECTORY))
    except OSError:
        return False
    return True


def _owner(request: dict[str, Any], ids: IdMap) -> tuple[int, int]:
    return ids.outer(request["uid"]), ids.outer(request["gid"])


def _directory(root: int, path: str, ids: IdMap, owner: tuple[int, int]) -> int:
    """Return a descriptor of the directory `path`; what is missing is made."""
    try:
        return files.openat2(root, path or "/", os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        pass
    parent = _directory(root, os.path.dirname(path), ids, owner)
    name = os.path.basename(path)
    os.mkdir(name, 0o755, dir_fd=parent)
    os.chown(name, *owner, dir_fd=parent, follow_symlinks=False)
    return files.openat2(parent, name, os.O_RDONLY | os.O_DIRECTORY, resolve=files.RESOLVE_BENEATH | files.RESOLVE_NO_SYMLINKS)


def _give(root: int, path: str, reply: Channel) -> None:
    """Send the file or folder `path` as messages, with a descriptor for each file:

    {"folder", "mode"} enters one, {"leave"} leaves it; {"file", "mode", "size", "several"?}; {"link", "leads"}. The names are those
    below the folder. `several` is the same for all names of one file.
    """
    top = files.openat2(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    facts = os.fstat(top)
    if stat.S_ISDIR(facts.st_mode):
        reply.send({"folder": "", "mode": stat.S_IMODE(facts.st_mode)})
        _give_folder(top, reply, 0)
    elif stat.S_ISREG(facts.st_mode):
        reply.send({"file": "", "mode": stat.S_IMODE(facts.st_mode), "size": facts.st_size}, [top])
    else:
        raise OSError(22, "not a regular file")


def _give_folder(folder: int, reply: Channel, depth: int) -> None:
    if depth > _DEEPEST:
        raise OSError(errno.ENAMETOOLONG, f"more than {_DEEPEST} folders within each other")
    for name in sorted(os.listdir(folder)):
        mode = os.lstat(name, dir_fd=folder).st_mode
        if stat.S_ISLNK(mode):
            reply.send({"link": name, "leads": os.readlink(name, dir_fd=folder)})
        elif stat.S_ISDIR(mode):
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            reply.send({"folder": name, "mode": stat.S_IMODE(mode)})
            _give_folder(fd, reply, depth + 1)
            reply.send({"leave": True})
            os.close(fd)
        elif stat.S_ISREG(mode):
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
            facts = os.fstat(fd)
            if stat.S_ISREG(facts.st_mode):   # it may have been swapped
                several = {"several": f"{facts.st_dev}:{facts.st_ino}"} if facts.st_nlink > 1 else {}
                reply.send({"file": name, "mode": stat.S_IMODE(facts.st_mode), "size": facts.st_size, **several}, [fd])
            os.close(fd)


def _unpack(root: int, request: dict[str, Any], ids: IdMap, fds: list[int]) -> tuple[dict[str, Any], list[int]]:
    """Read a tar stream of ours from the descriptor into the folder `path`."""
    shutil, tarfile = _MODULES["shutil"], _MODULES["tarfile"]
    os.umask(0)
    owner = _owner(request, ids)
    top = _directory(root, request["path"], ids, owner)
    beneath = files.RESOLVE_BENEATH | files.RESOLVE_NO_SYMLINKS
    with os.fdopen(fds[0], "rb") as source, tarfile.open(fileobj=source, mode="r|") as archive:
        for member in archive:
            parent, name = os.path.split(member.name)
            folder = files.openat2(top, parent or ".", os.O_RDONLY | os.O_DIRECTORY, resolve=beneath)
            try:
                if member.isdir():
                    try:
                        os.mkdir(name, member.mode, dir_fd=folder)
                    except FileExistsError:
                        continue
                elif member.issym():
                    _replace(name, folder)
                    os.symlink(member.linkname, name, dir_fd=folder)
                else:
                    _replace(name, folder)
                    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, member.mode, dir_fd=folder)
                    data = archive.extractfile(member)
                    with os.fdopen(fd, "wb") as file:
                        if data is not None:
                            shutil.copyfileobj(data, file)
                os.chown(name, *owner, dir_fd=folder, follow_symlinks=False)
            finally:
                os.close(folder)
    return {}, []


def _replace(name: str, folder: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        pass
