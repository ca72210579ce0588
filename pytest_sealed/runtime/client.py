"""The client's end of a session: starts the supervisor, sends requests, and cleans up after both.

Works from any thread, and in any process, whatever its size: requests are single packets, each with a
channel of its own for the answers. A forked child of the client keeps out: only the process that started
the session may use or end it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import secrets
import select
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from pytest_sealed import errors
from pytest_sealed.errors import ContainerFailed, InternalError, SealedError, StoreError
from pytest_sealed.linux.process import pidfd_open
from pytest_sealed.runtime.cgroups import Hierarchy, detect, leftovers, remove_session, scope
from pytest_sealed.runtime.idmap import IdMap, find_id_map
from pytest_sealed.runtime.launch import ScopeUnavailable, start_supervisor
from pytest_sealed.runtime.protocol import Channel, pair
from pytest_sealed.runtime.room import is_full, no_room

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Session", "drop_run_root", "error_from", "remove_cgroups", "run_root", "site"]

_ANSWER = 60.0   # seconds until a request that needs no waiting counts as lost
_TOO_BUSY = "run fewer tests at once; if the machine isn't busy, this is a bug of pytest-sealed: please report it with this text"
_END = 3.0       # seconds that the supervisor gets to end


def run_root() -> Path:
    """Return the folder for the run directories of this account's sessions, made if missing.

    `$XDG_RUNTIME_DIR/pytest-sealed`, else `pytest-sealed-UID` in the folder for temporary files.

    Raises:
        StoreError: somebody else owns it, or it can't be made.
    """
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    temporary = Path(tempfile.gettempdir(), f"pytest-sealed-{os.geteuid()}")
    path = Path(base, "pytest-sealed") if base and os.access(base, os.W_OK) else temporary
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        facts = path.lstat()
    except OSError as error:
        raise StoreError(f"the run directory {path} can't be made: {error.strerror}",
                         remedy="set XDG_RUNTIME_DIR to a folder of yours") from error
    if facts.st_uid != os.geteuid() or not path.is_dir() or path.is_symlink():
        raise StoreError(f"the run directory {path} is not this account's own folder",
                         remedy=f"remove it, or set XDG_RUNTIME_DIR; see ls -ld {path}")
    return path


def drop_run_root(path: Path) -> None:
    """Remove what `run_root` has returned, unless other sessions are in there."""
    with contextlib.suppress(OSError):
        path.rmdir()


class Session:
    """One supervisor and the connection to it. A context manager; `close` is idempotent.

    Args:
        disk: folder under which writable layers on disk may live.
        watched: pids of other processes at whose end it ends too, as at this one's.

    Attributes:
        shared: (st_dev, st_ino) of the host folders that its containers may write to, or could.
    """

    def __init__(self, disk: Path, *, ids: IdMap | None = None, hierarchy: Hierarchy | None = None,
                 watched: Sequence[int] = ()) -> None:
        self.ids = ids or find_id_map()
        self.hierarchy = hierarchy or detect()
        self.warned: set[str] = set()   # what a test has been told once: images that are copied, "scratch_size"
        self.scoped = False   # whether systemd gave it a scope of its own
        self.hierarchy.enter_leaf()   # before the supervisor is forked: it belongs into the leaf too
        self.name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._watched = (os.getpid(), *watched)
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._closed = False
        self.shared: set[tuple[int, int]] = set()
        self.run_dir = run_root() / self.name
        self.disk = disk / self.name
        self._ends = contextlib.ExitStack()
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self._ends.close)
            try:
                self._start()
            except OSError as error:
                if is_full(error):
                    raise no_room(str(self.run_dir)) from error
                raise
            on_failure.pop_all()
        atexit.register(self.close)

    def _start(self) -> None:
        self._make_run_dir()
        self._ends.callback(_remove_folder, self.run_dir)
        self._ends.callback(_remove_disk, self.disk, self.ids)
        lock = FileLock(self.run_dir / "lock", is_singleton=False)
        lock.acquire(timeout=_END)   # a sweep that looks whether we live holds it for a moment
        self._ends.callback(lock.release)
        (self.run_dir / "logs").mkdir()
        self._started = time.time()
        self._tell_facts()
        self._ends.callback(lambda: _end_cgroups(self.hierarchy, self.name, self.ids))
        config = {"session": self.name, "run_dir": str(self.run_dir), "disk": str(self.disk), "ids": self.ids.to_json(),
                  "hierarchy": self.hierarchy.to_json(), "site": site()}
        with contextlib.ExitStack() as after:
            pidfds = []
            for pid in self._watched:
                pidfds.append(pidfd_open(pid))
                after.callback(os.close, pidfds[-1])
            writable = [str(self.run_dir.parent), str(self._made(self.disk.parent)), *dict.fromkeys(self.hierarchy.bases.values())]
            self._channel, self._pidfd, self.pid = self._start_supervisor(config, writable, pidfds)
        self._ends.callback(os.close, self._pidfd)
        self._ends.callback(self._end)

    def _tell_facts(self) -> None:
        """Write down what a sweep needs to know, all or nothing: this process may be killed at any instant."""
        facts = {"pid": os.getpid(), "disk": str(self.disk), "hierarchy": self.hierarchy.to_json(), "started": self._started}
        new = self.run_dir / "session.json.new"
        new.write_text(json.dumps(facts))
        new.replace(self.run_dir / "session.json")

    def _start_supervisor(self, config: dict[str, Any], writable: list[str], pidfds: list[int]) -> tuple[Channel, int, int]:
        """Start the supervisor, in a scope of systemd's where that is the way to limits."""
        manager = scope.manager_for(self.hierarchy)
        if manager is None and scope.may_help(self.hierarchy):   # the command for it would only say that there is no manager
            scope.say_how_to_get_one(self.hierarchy, booted=os.path.isdir("/run/systemd/system"))   # sd_booted(3)
            config["hierarchy"] = self.hierarchy.to_json()
        if manager is not None:
            try:
                started = start_supervisor(config, writable=list(writable), ids=self.ids, fds=pidfds, manager=manager)
            except ScopeUnavailable as error:
                self.hierarchy.refuse_all(f"systemd gave this session no scope: {error}", "sealed doctor")
                config["hierarchy"] = self.hierarchy.to_json()
            else:
                self.hierarchy, self.scoped = Hierarchy.from_json(config["hierarchy"]), True
                self._tell_facts()
                return started
        return start_supervisor(config, writable=writable, ids=self.ids, fds=pidfds)

    def _make_run_dir(self) -> None:
        while True:
            try:
                self.run_dir.mkdir(mode=0o700)
                return
            except FileNotFoundError:   # another session, the last one, has just removed the empty folder
                run_root()
            except OSError:
                drop_run_root(self.run_dir.parent)
                raise

    @staticmethod
    def _made(path: Path) -> Path:
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"the folder {path} can't be made: {error.strerror}",
                             remedy="set SEALED_STORE to a folder on a local file system that can be written") from error
        return path

    # requests

    def open(self, op: str, fds: list[int] | tuple[int, ...] = (), **fields: Any) -> Channel:
        """Send a request and return the channel of its answers; the caller closes it.

        Raises:
            InternalError: the supervisor is gone.
        """
        if os.getpid() != self._owner:
            raise SealedError("containers belong to the process that started them, and this is a forked child of it",
                              remedy="pass addresses and ports to the child, not handles")
        ours, theirs = pair()
        with theirs:
            try:
                self._channel.send({"op": op, **fields}, [theirs.fileno(), *fds])
            except OSError as error:
                ours.close()
                raise self._gone() from error
        return ours

    def request(self, op: str, fds: list[int] | tuple[int, ...] = (), *, timeout: float = _ANSWER,
                **fields: Any) -> tuple[dict[str, Any], list[int]]:
        """Send a request and return its result and descriptors.

        Raises:
            SealedError: what the supervisor answered, as the class that it named.
            InternalError: no answer within `timeout` seconds, or the supervisor is gone.
        """
        with self.open(op, fds, **fields) as channel:
            return self.answer(channel, timeout)

    def answer(self, channel: Channel, timeout: float = _ANSWER) -> tuple[dict[str, Any], list[int]]:
        """Wait for the answer of a request that `open` has sent; returns and raises as `request`."""
        message, passed = self.receive(channel, timeout)
        if "error" in message:
            raise error_from(message["error"])
        return dict(message["ok"]), passed

    def receive(self, channel: Channel, timeout: float | None) -> tuple[dict[str, Any], list[int]]:
        """Wait for the next message on a request's channel.

        Raises:
            InternalError: none within `timeout` seconds, or the supervisor is gone.
        """
        if not readable(channel.socket, timeout):
            raise InternalError(f"the supervisor gave no answer within {timeout:g} s, at a load of {os.getloadavg()[0]:.0f} on "
                                f"{os.cpu_count()} processors", remedy=_TOO_BUSY)
        received = channel.receive()
        if received is None:
            raise self._gone()
        return received

    def _gone(self) -> SealedError:
        if self._closed:
            return errors.ContainerNotStarted("this sandbox is closed, and its containers are gone",
                                              remedy="use it within its `with` block or fixture")
        if readable_fd(self._pidfd, 1.0):   # its socket closes before it is dead
            failure = self._failure()
            if failure.get("full"):
                return no_room(str(self.run_dir))
            if failure:
                return InternalError("the supervisor of this session failed, and all its containers with it\n"
                                     f"{failure.get('failed', '')}".rstrip())
            return ContainerFailed("the supervisor of this session was killed, and all its containers with it",
                                   remedy="run the tests again; if nobody killed it, look for an OOM kill in `dmesg`")
        log = self.run_dir / "supervisor.log"
        text = log.read_text(errors="replace")[-2000:] if log.exists() else ""
        return InternalError(f"the supervisor closed the connection\n{text}".rstrip())

    def _failure(self) -> dict[str, Any]:
        """Return what the supervisor left on its end, {"failed": traceback, "full"}; nothing if it was killed."""
        for _ in range(2):   # a request that it never read is a reset first, see unix(7); what it said comes afterwards
            try:
                received = self._channel.receive(peek=True) if readable(self._channel.socket, 0) else None
            except OSError:
                continue
            return received[0] if received else {}
        return {}

    @property
    def alive(self) -> bool:
        """Whether its containers can be asked anything: never in a forked child of the client."""
        return not self._closed and os.getpid() == self._owner and not readable_fd(self._pidfd, 0)

    @property
    def closed(self) -> bool:
        """Whether it was closed here: its run directory, with the logs, is gone."""
        return self._closed

    # the end

    def close(self) -> None:
        """End every container and remove what the session has on the host."""
        if os.getpid() != self._owner:
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
        atexit.unregister(self.close)
        self._ends.close()

    def _end(self) -> None:
        self._channel.close()
        if not readable_fd(self._pidfd, _END):
            with contextlib.suppress(ProcessLookupError):
                import signal

                from pytest_sealed.linux.process import pidfd_send_signal
                pidfd_send_signal(self._pidfd, signal.SIGKILL)
            readable_fd(self._pidfd, _END)

    def leftovers(self) -> list[str]:
        """Return what is still on the host after `close`, a line each; normally nothing. The next session sweeps it."""
        found = [f"folder {path}" for path in (self.run_dir, self.disk) if path.exists()]
        return found + [f"cgroups sealed-{name}" for name in leftovers(self.hierarchy) if name == self.name]

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def error_from(error: dict[str, Any]) -> SealedError:
    """Return the exception that an answer's {"kind", "text", "remedy"} describes."""
    kind = getattr(errors, error.get("kind") or "", InternalError)
    if not (isinstance(kind, type) and issubclass(kind, SealedError)):
        kind = InternalError
    return kind(error.get("text", "no reason was given"), remedy=error.get("remedy", ""))


def readable(connection: socket.socket, timeout: float | None) -> bool:
    """Wait until a socket can be read; `timeout` in seconds, None for ever."""
    return readable_fd(connection.fileno(), timeout)


def readable_fd(fd: int, timeout: float | None) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(milliseconds(timeout)))


def milliseconds(seconds: float | None) -> float | None:
    """Return a time as poll(2) takes it; infinity too is one."""
    return None if seconds is None else min(max(0.0, seconds * 1000), (1 << 31) - 1)


def site() -> str:
    """Return the folder that pyroute2 is imported from, for the network service."""
    from importlib.util import find_spec
    spec = find_spec("pyroute2")
    if spec is None or not spec.submodule_search_locations:
        raise InternalError("pyroute2 is not installed", remedy="pip install pyroute2")
    return os.path.dirname(next(iter(spec.submodule_search_locations)))


def _end_cgroups(hierarchy: Hierarchy, session: str, ids: IdMap) -> None:
    """Remove the session's cgroups, once the kernel has ended what was in them."""
    deadline = time.monotonic() + _END
    while not remove_cgroups(hierarchy, session, ids=ids) and time.monotonic() < deadline:
        time.sleep(0.005)


def remove_cgroups(hierarchy: Hierarchy, session: str, *, kill: bool = True, ids: IdMap | None = None) -> bool:
    """Do what `remove_session` does, also to cgroups that nested sessions made: those belong to containers' ids."""
    try:
        return remove_session(hierarchy, session, kill=kill)
    except PermissionError:
        from pytest_sealed.runtime.launch import run_inside
        asked = {"paths": [], "cgroups": [hierarchy.to_json(), session, kill]}
        return bool(run_inside("pytest_sealed.runtime.sweep_worker", asked, ids=ids)["removed"])


def _remove_disk(path: Path, ids: IdMap) -> None:
    """Remove the writable layers on disk of a session whose supervisor was killed; their files belong to containers' ids."""
    if path.exists():
        from pytest_sealed.runtime.launch import run_inside
        run_inside("pytest_sealed.runtime.sweep_worker", {"paths": [str(path)]}, ids=ids)


def _remove_folder(path: Path) -> None:
    from pytest_sealed.runtime.scratch import remove_tree
    remove_tree(str(path))
    drop_run_root(path.parent)
