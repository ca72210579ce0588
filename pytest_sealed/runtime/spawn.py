"""The child's side: from a fork of the supervisor to the container's command.

The order is that of `linux-notes`' start sequence: cgroups, network and mounts in the session's user
namespace; then the container's own, in which the mounts are locked; then identity, limits, exec. The
supervisor's side of each exchange is in `supervisor.py`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import stat
import sys
import termios

from pytest_sealed.linux import files, namespaces, process
from pytest_sealed.runtime import operations
from pytest_sealed.runtime.init import fork_under_init
from pytest_sealed.runtime.seccomp import filters
from pytest_sealed.runtime.user import Account, UnknownUser, resolve_user

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from pytest_sealed.runtime.idmap import IdMap
    from pytest_sealed.runtime.protocol import Channel

__all__ = ["forbid_imports", "run_container", "run_exec"]

_TIOCGPTPEER = 0x5441
_TIOCSPTLCK = 0x40045431
_EVERY_NAMESPACE = (
    namespaces.CLONE_NEWNS | namespaces.CLONE_NEWPID | namespaces.CLONE_NEWNET | namespaces.CLONE_NEWIPC
    | namespaces.CLONE_NEWUTS | namespaces.CLONE_NEWCGROUP | namespaces.CLONE_NEWUSER
)

open_files: tuple[int, int] | None = None
"""Limit of a command's descriptors, where the supervisor has another for itself."""

ready_filters: dict[str, bytes] = {}
"""The filters of system calls that ship for this machine. Read ahead: in a container's mount namespace they are out of reach."""

caught_signals: list[int] = []
"""Signals that the supervisor ignores or handles, some since whoever started pytest ignores them. A command gets their defaults."""


class StartFailed(Exception):
    """Why a command can't start; `kind` says what the caller makes of it."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def run_container(request: dict[str, Any], steps: list[operations.Operation], ids: IdMap, root: str, stdio: list[int],
                  sync: Channel) -> NoReturn:
    """Become the container's PID 1; never returns. Failures go to the supervisor as {"error": …} on `sync`."""
    try:
        _reset()
        context = operations.Context(ids, root)
        operations.execute(steps, context)
        account = _account(request, ids, context.root_fd)
        if request["tty"]:
            stdio = _terminal(account, ids, sync, request["window"], outer=True)
        else:
            for fd in stdio:
                _give(fd, account, ids)
        _enter_user_namespace(account, context, sync)
        _become(request, account, ids, stdio, context.root_fd)
        programs = _filters(request, account, ids)
        if request["init"]:
            fork_under_init(sync, request["tty"], programs)
        _execute(request, account, programs, sync)
    except BaseException as error:
        _fail(sync, error)
    os._exit(127)


def run_exec(request: dict[str, Any], ids: IdMap, pid: int, pidfd: int, procs: list[str], stdio: list[int],
             sync: Channel) -> NoReturn:
    """Become a command in a running container; never returns. The supervisor gets {"pid": …} of the command's process.

    Entering the PID namespace counts for children only, so the command is a child of this process; it is
    the supervisor's by the time this one has ended.
    """
    try:
        _reset()
        for path in procs:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            os.write(fd, b"0")
            os.close(fd)
        mount_ns = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        namespaces.setns(mount_ns, namespaces.CLONE_NEWNS)   # the container's root, whatever its PID 1 has done by chroot(2)
        root_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        account = _account(request, ids, root_fd)
        for fd in stdio:
            _give(fd, account, ids)
        namespaces.setns(pidfd, _EVERY_NAMESPACE)
        try:
            child = os.fork()
        except BlockingIOError:   # EAGAIN: as many processes as there may be, see fork(2)
            raise StartFailed("processes", "") from None
        if child:
            sync.send({"pid": child})
            os._exit(0)
        if not ids.single:   # so that a terminal made here is the container's
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
        if request["tty"]:
            stdio = _terminal(account, ids, sync, (0, 0), outer=False)
        _become(request, account, ids, stdio, root_fd)
        _execute(request, account, _filters(request, account, ids), sync)
    except BaseException as error:
        _fail(sync, error)
    os._exit(127)


def _reset() -> None:
    """Undo what the supervisor set for itself; no other process may look in, whatever it becomes."""
    process.set_dumpable(False)
    forbid_imports()
    signal.set_wakeup_fd(-1)
    for number in caught_signals:   # what is ignored stays so across execve
        signal.signal(number, signal.SIG_DFL)
    os.umask(0)
    try:
        process.join_session_keyring()   # so that containers share no keys
    except OSError:
        pass   # as many keys as the account may have: the session's own keyring, an empty one, has to do


def forbid_imports() -> None:
    """Import nothing from here on: in a container's mount namespace the module path leads to the container's files."""
    sys.meta_path.clear()
    sys.path.clear()


def _account(request: dict[str, Any], ids: IdMap, root_fd: int) -> Account:
    return resolve_user(request["user"], root_fd=root_fd, count=ids.users)


def _give(fd: int, account: Account, ids: IdMap) -> None:
    """Make a pipe the container user's, who may then reopen it as /dev/stdout. Anything else is the host's and stays so."""
    if fd >= 0 and not ids.single and stat.S_ISFIFO(os.fstat(fd).st_mode) and _nameless(fd):
        os.fchown(fd, ids.outer(account.uid), ids.outer(account.gid))


def _nameless(fd: int) -> bool:
    """Tell whether a pipe is one of pipe(2), and no FIFO in a folder of the host's."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        return os.fstat(fd).st_dev == os.fstat(reader).st_dev
    finally:
        os.close(reader)
        os.close(writer)


def _terminal(account: Account, ids: IdMap, sync: Channel, window: tuple[int, int], *, outer: bool) -> list[int]:
    """Open a terminal of the container's devpts; the master goes to the supervisor. See ioctl_tty(2).

    `window`: rows and columns, which programs may ask for before anybody at the other side has time to tell them.
    `outer`: whether this process still is in the session's user namespace.
    """
    master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC | os.O_NOFOLLOW)
    if os.fstat(master).st_rdev != os.makedev(5, 2):
        raise StartFailed("terminal", "the container's /dev/pts/ptmx is no terminal")
    fcntl.ioctl(master, _TIOCSPTLCK, b"\0\0\0\0")
    fcntl.ioctl(master, termios.TIOCSWINSZ, b"".join(number.to_bytes(2, sys.byteorder) for number in (*window, 0, 0)))
    slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY)
    if not ids.single:
        os.fchown(slave, ids.outer(account.uid) if outer else account.uid, ids.outer(account.gid) if outer else -1)
    sync.send({"terminal": True}, [master])
    os.close(master)
    return [slave, slave, slave]


def _enter_user_namespace(account: Account, context: operations.Context, sync: Channel) -> None:
    namespaces.unshare(namespaces.CLONE_NEWUSER)
    writable = [context.writable_fd] if context.writable_fd >= 0 else []
    sync.send({"map": [account.uid, account.gid], "writable": bool(writable)}, [*context.kept.values(), *writable])
    for fd in writable:
        os.close(fd)
    if sync.receive() is None:
        os._exit(127)   # the supervisor gave this container up


def _become(request: dict[str, Any], account: Account, ids: IdMap, stdio: list[int], root_fd: int) -> None:
    """Take on the container's identity: session, descriptors, limits, capabilities, user."""
    os.setsid()
    null = files.openat2(root_fd, "dev/null", os.O_RDWR)
    wanted = [null if fd < 0 else fd for fd in stdio]
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in wanted]
    for number, fd in enumerate(high):
        os.dup2(fd, number)
    if request["tty"]:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    keep = frozenset(request["capabilities"])
    process.drop_bounding(keep)
    process.clear_ambient()
    if ids.single:
        try:
            os.setresgid(account.gid, account.gid, account.gid)
            os.setresuid(account.uid, account.uid, account.uid)
        except OSError as error:   # a command beside the container's own, by another user
            raise StartFailed("ids", "in single-id mode a container has the ids of its own user only, and not "
                              f"{account.uid}:{account.gid}") from error
    else:
        os.setgroups(account.groups)
        os.setresgid(account.gid, account.gid, account.gid)
        process.set_keep_capabilities(True)
        os.setresuid(account.uid, account.uid, account.uid)
        process.set_keep_capabilities(False)
    held = keep if account.uid == 0 else frozenset()
    process.capset(held, held)
    process.set_no_new_privs()
    process.set_dumpable(False)
    _change_directory(request["workdir"], root_fd)


def _filters(request: dict[str, Any], account: Account, ids: IdMap) -> list[bytes]:
    return filters.chosen(request, ready_filters, single_root=ids.single and account.uid == 0)


def _limit(name: str, soft: int, hard: int) -> None:
    number = getattr(resource, f"RLIMIT_{name.upper()}")
    infinite = resource.RLIM_INFINITY
    try:
        resource.setrlimit(number, (infinite if soft < 0 else soft, infinite if hard < 0 else hard))
    except (ValueError, OSError) as error:
        raise StartFailed("ulimit", f"ulimit {name}={soft}:{hard} can't be set: {error}") from error


def _change_directory(path: str, root_fd: int) -> None:
    try:
        fd = files.openat2(root_fd, path, os.O_PATH | os.O_DIRECTORY)
        os.fchdir(fd)
        os.close(fd)
        os.getcwd()   # ENOENT here means that the directory is outside the root
    except OSError as error:
        raise StartFailed("workdir", f"the working directory {path!r} can't be entered: {os.strerror(error.errno or 0)}") from error


def _execute(request: dict[str, Any], account: Account, programs: list[bytes], sync: Channel) -> NoReturn:
    sync.send({"exec": True})   # the end of the channel without an error after it is the exec's
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": account.home,
                   "HOSTNAME": request["hostname"], **({"TERM": "xterm"} if request["tty"] else {}), **request["env"]}
    argv = request["argv"]
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.umask(0o022)
    _close_all_but(sync.fileno())
    # Last: while the supervisor's descriptors are open, they would count.
    if open_files is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, open_files)
    for name, soft, hard in request["rlimits"]:
        _limit(name, soft, hard)
    filters.set_filters(programs)   # a filter of the user's may deny what is needed until here
    program, denied = argv[0], False
    if not program:
        raise StartFailed("missing", f"the first word of the command {argv!r} is empty")
    places = [program] if "/" in program else [f"{place or '.'}/{program}" for place in environment["PATH"].split(":")]
    for place in places:
        try:
            os.execve(place, argv, environment)  # noqa: S606
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR) and not os.path.lexists(place):
                continue
            if error.errno == errno.ENOENT:
                raise StartFailed("command", f"{place}: its interpreter (the #! line or the dynamic loader) is not in the image") from None
            if error.errno == errno.EACCES:
                denied = True
                continue
            raise StartFailed("command", f"{place} can't be executed: {error.strerror}") from None
    if denied:
        raise StartFailed("command", f"{program} is not executable for the user {account.name or account.uid} (permission denied)")
    where = "" if "/" in program else f" in PATH={environment['PATH']}"
    raise StartFailed("missing", f"there is no {program!r} in the image{where}")


def _close_all_but(kept: int) -> None:
    """Close what lies beyond the standard streams before the exec, and `kept` by it.

    In the middle of an execve this process is the container's already, and its other descriptors still are open: for a moment
    its root could list them, and with CAP_SYS_PTRACE use them.
    """
    process.close_range(kept, kept, cloexec=True)
    if kept > 3:
        process.close_range(3, kept - 1)
    process.close_range(kept + 1)


def _fail(sync: Channel, error: BaseException) -> None:
    kind = getattr(error, "kind", None) or ("user" if isinstance(error, UnknownUser) else "")
    try:
        sync.send({"error": {"kind": kind, "errno": getattr(error, "errno", None) or 0,
                             "text": str(error) if kind or isinstance(error, operations.StepFailed) else repr(error)}})
    except OSError:
        pass   # the supervisor is gone, and so is this process soon
