"""A container's cgroup: one directory for each controller, made with its limits before any process is in it."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from typing import TYPE_CHECKING

from pytest_sealed.errors import HostUnsupported, InternalError, LimitUnavailable
from pytest_sealed.runtime.cgroups.files import children, read, remove_tree, write
from pytest_sealed.runtime.cgroups.freezer import Freezer
from pytest_sealed.runtime.cgroups.hierarchy import LEAF, SYSTEMD_RUN, enable
from pytest_sealed.runtime.cgroups.memory import Memory

if TYPE_CHECKING:
    from pytest_sealed.runtime.cgroups.controller import Controller, Figures, LimitValues, Setting
    from pytest_sealed.runtime.cgroups.hierarchy import Hierarchy

__all__ = ["Group", "leftovers", "remove_session"]

_PREFIX = "sealed-"
_INSIDE = ("memory", "cpu", "cpuacct", "pids")
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


class Group:
    """The cgroup of one container, in every controller that this account may use."""

    __slots__ = ("_peaks", "controllers", "delegated", "directories", "hierarchy", "leaf", "name", "session")

    def __init__(self, hierarchy: Hierarchy, session: str, name: str) -> None:
        self.hierarchy = hierarchy
        self.session = session
        self.name = name
        self.directories = {
            controller: f"{base}/{_session_name(session)}/{_checked(name)}" for controller, base in hierarchy.bases.items()
        }
        """Controller → its directory; co-mounted v1 controllers share one, and all of v2's do."""
        self.controllers = [controller for controller in hierarchy.controllers if controller.name in self.directories]
        self.delegated = False
        """Whether the container may make cgroups below."""
        self.leaf = ""
        """v2: where its processes are then; else empty."""
        self._peaks: dict[str, int | float] = {}

    @classmethod
    def create(cls, hierarchy: Hierarchy, session: str, name: str, limits: LimitValues) -> Group:
        """Make the cgroup `name` of `session`, with `limits`.

        Args:
            session: not digits only: `sealed-1000` is the directory delegated to the account with uid 1000.
            limits: see `LimitValues`; what is absent or None isn't limited.

        Raises:
            LimitUnavailable: this host can't enforce one of the limits. Nothing is left behind.
            HostUnsupported: the directory can't be made.
        """
        for controller in hierarchy.controllers:
            for what in controller.asked(limits):
                hierarchy.require(controller.name, what)
        group = cls(hierarchy, session, name)
        made: list[str] = []
        try:
            group._make(made)
            group.write_limits(limits)
        except BaseException:
            for directory in reversed(made):
                os.rmdir(directory)
            raise
        return group

    def write_limits(self, limits: LimitValues) -> None:
        """Write `limits` into the new cgroup. Raises `LimitUnavailable` where the kernel doesn't take one."""
        for controller in self.controllers:
            for setting in controller.settings(limits):
                self._apply(controller, setting)

    def _make(self, made: list[str]) -> None:
        for directory in self._distinct():
            session = os.path.dirname(directory)
            try:
                if _mkdir(session):
                    made.append(session)
                if self.hierarchy.version == "v2":
                    self._enable(os.path.dirname(session))
                    self._enable(session)
                os.mkdir(directory)
            except FileExistsError:
                raise InternalError(f"the cgroup {directory} exists already") from None
            except OSError as error:
                message = f"the cgroup {directory} can't be made: {error.strerror}"
                raise HostUnsupported(message, remedy=_mkdir_remedy(error)) from error
            made.append(directory)

    def _enable(self, directory: str) -> None:
        wanted = self.hierarchy.to_enable()
        try:
            enable(directory, wanted)
        except OSError as error:
            raise LimitUnavailable(
                f"limits can't be enforced: enabling {', '.join(wanted)} in {directory}: {error.strerror}",
                remedy=SYSTEMD_RUN,
            ) from error

    def _apply(self, controller: Controller, setting: Setting) -> None:
        path = f"{self.directories[controller.name]}/{setting.file}"
        try:
            write(path, setting.value)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not setting.limit:
                return
            other = controller.instead(setting, os.path.dirname(path)) if error.errno == errno.EINVAL else None
            if other is not None:
                self._apply(controller, other)
                return
            remedy = "boot with swapaccount=1 on the kernel's command line" if setting.limit.startswith("swap=") else ""
            why = "this kernel has no such file" if isinstance(error, FileNotFoundError) else error.strerror
            raise LimitUnavailable(
                f"{setting.limit or setting.file} can't be enforced: {why}, writing {setting.value} to {path}", remedy=remedy,
            ) from error

    def _distinct(self) -> list[str]:
        return list(dict.fromkeys(self.directories.values()))

    def delegate(self, uid: int, gid: int) -> None:
        """Let an id of the container make cgroups below. The files of the limits stay the account's: it can't lift its own.

        See "Delegation" in the kernel's cgroup-v2.rst.
        """
        self.delegated = bool(self.directories)
        given = list(self._distinct())
        if self.hierarchy.version == "v2" and given:
            self.leaf = f"{given[0]}/{LEAF}"
            os.mkdir(self.leaf)
            given.append(self.leaf)
        for directory in given:
            for path in (directory, *(f"{directory}/cgroup.{name}" for name in ("procs", "subtree_control", "threads"))):
                with contextlib.suppress(FileNotFoundError):   # v1 has procs only
                    os.chown(path, uid, gid)

    def attach(self, pid: int) -> None:
        """Move the process `pid` (0: the caller) into the cgroup, with all its threads.

        v1 lets an account other than root move only its own processes: attach before the uid changes.
        """
        for path in self.procs_paths():
            write(path, str(pid))

    def entry(self, *, beside: bool = False) -> tuple[str | None, list[str]]:
        """Return how a child gets in without a move of a whole process, which waits for an RCU grace period.

        That is a cgroup v2 directory that it is born in (`fork_into`), and v1 files to which it writes `0` while it has one thread.

        Args:
            beside: of a command beside the container's own: the container may have divided its cgroup by then.
        """
        newer = next((directory for directory in self._distinct() if os.path.exists(f"{directory}/cgroup.events")), None)
        tasks = [f"{directory}/tasks" for directory in self._distinct() if directory != newer]
        return (self.leaf if beside and self.leaf else newer), tasks

    def procs_paths(self) -> list[str]:
        """Return the files to which a process with threads writes `0` to enter by itself."""
        return [f"{directory}/cgroup.procs" for directory in self._distinct()]

    def pids(self) -> list[int]:
        """Return the processes in the cgroup, as the caller's PID namespace numbers them; others are left out."""
        found: dict[int, None] = {}
        for path in self.procs_paths():
            found.update(dict.fromkeys(int(line) for line in (read(path) or "").split()))
        return [pid for pid in found if pid]

    def stats(self) -> Figures:
        """Return its figures now; the keys of controllers that can't be used are absent, and None is "no limit" or "not counted".

        memory_current, memory_peak, memory_limit (bytes), oom_kills, cpu_seconds, periods, throttled_periods,
        throttled_seconds, pids_current, pids_peak, pids_limit.
        """
        stats: Figures = {}
        for controller in self.controllers:
            stats.update(controller.stats(self.directories[controller.name]))
        for kind in ("memory", "pids"):  # an old kernel counts no peak: then the highest that was seen here
            current, peak = stats.get(f"{kind}_current"), stats.get(f"{kind}_peak")
            if current is not None and peak is None:
                self._peaks[kind] = stats[f"{kind}_peak"] = max(current, self._peaks.get(kind, 0))
        return stats

    def oom_kills(self) -> int:
        """Return how many of its processes were ended because the memory limit was reached."""
        memory = next((controller for controller in self.controllers if isinstance(controller, Memory)), None)
        return memory.oom_kills(self.directories["memory"]) if memory else 0

    def freeze(self, timeout: float = 0.1) -> bool:
        """Stop every process in it, and wait until they have.

        Args:
            timeout: seconds; it takes below 1 ms unless a process sits in an uninterruptible wait.

        Returns:
            False if some haven't stopped by then; call it again.

        Raises:
            LimitUnavailable: no freezer.
        """
        freezer, directory = self._freezer()
        deadline, pause = time.monotonic() + timeout, 0.0001
        while True:
            freezer.freeze(directory)
            if freezer.frozen(directory):
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(pause)
            pause = min(2 * pause, 0.005)

    def thaw(self) -> None:
        """Let its processes go on. Harmless where they aren't frozen."""
        freezer, directory = self._freezer()
        freezer.thaw(directory)

    def kill(self) -> None:
        """Send SIGKILL to every process in it, and thaw it; they have not ended yet when this returns."""
        freezer, directory = self._freezer()
        freezer.kill(directory)

    def _freezer(self) -> tuple[Freezer, str]:
        freezer = next(controller for controller in self.hierarchy.controllers if isinstance(controller, Freezer))
        self.hierarchy.require(freezer.name, "pausing")
        return freezer, self.directories[freezer.name]

    def inside_binds(self) -> list[tuple[str, str]]:
        """Return (host directory, path in the container) of binds by which programs inside see their own limits, or divide them.

        v1 only: a container mounts v2's hierarchy by itself.
        """
        if self.hierarchy.version != "v1":
            return []
        binds = [(self.directories[name], f"/sys/fs/cgroup/{name}") for name in _INSIDE if name in self.directories]
        if self.delegated and self.hierarchy.kind == "hybrid":
            binds.append((self.directories["freezer"], "/sys/fs/cgroup/unified"))
        return binds

    def remove(self) -> bool:
        """Remove its directories and what the container nested in them; False if a process still sits in one: try later."""
        return _remove_all(self._distinct())


def remove_session(hierarchy: Hierarchy, session: str, *, kill: bool = True) -> bool:
    """Remove every cgroup of `session`, after killing what still runs in one; False if it hasn't ended yet: try later.

    For the end of a session, whatever its supervisor's.

    Args:
        kill: False: remove only what holds no process, where it isn't certain that the session is dead. (A live one
            that loses an empty directory makes it anew.)
    """
    tops = [f"{base}/{_session_name(session)}" for base in dict.fromkeys(hierarchy.bases.values())]
    if _remove_all(tops) or not kill:
        return not any(os.path.exists(top) for top in tops)
    freezer = next(controller for controller in hierarchy.controllers if isinstance(controller, Freezer))
    top = f"{hierarchy.bases.get(freezer.name, '')}/{_session_name(session)}"
    for name in children(top):
        try:
            freezer.kill(f"{top}/{name}")
        except FileNotFoundError:   # its supervisor, or another sweep, has removed it meanwhile
            continue
    return _remove_all(tops)


def leftovers(hierarchy: Hierarchy) -> list[str]:
    """Return the sessions that have cgroups, live ones too, sorted."""
    names = {name for base in set(hierarchy.bases.values()) for name in children(base) if name.startswith(_PREFIX)}
    sessions = (name[len(_PREFIX):] for name in names)
    return sorted(session for session in sessions if not session.isdigit())


def _session_name(session: str) -> str:
    if session.isdigit():
        raise InternalError(f"a session can't be named {session!r}: {_PREFIX}{session} is an account's delegated directory")
    return _PREFIX + _checked(session)


def _checked(name: str) -> str:
    if not name or name.startswith(".") or not _NAME_CHARACTERS.issuperset(name):
        raise InternalError(f"{name!r} is no name for a cgroup")
    return name


def _remove_all(directories: list[str]) -> bool:
    removed = True
    for directory in directories:   # not all(…): what can go, goes
        removed = remove_tree(directory) and removed
    return removed


def _mkdir(path: str) -> bool:
    try:
        os.mkdir(path)
    except FileExistsError:
        return False
    return True


def _mkdir_remedy(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "the kernel has no cgroup ids left: remove stale cgroups, for example with `sealed sweep`"
    return "sealed doctor"
