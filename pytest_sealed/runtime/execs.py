"""The supervisor's short-lived children: commands and file access in a running container, id-mapping namespaces."""

from __future__ import annotations

import os
import signal

from pytest_sealed.errors import ContainerFailed, SealedError
from pytest_sealed.linux import namespaces
from pytest_sealed.runtime import spawn
from pytest_sealed.runtime.answers import answer, take, told
from pytest_sealed.runtime.containers import fork_in_group
from pytest_sealed.runtime.files import serve_files
from pytest_sealed.runtime.protocol import Channel, pair
from pytest_sealed.runtime.records import ExecRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_sealed.runtime.records import ContainerRecord
    from pytest_sealed.runtime.supervisor import Supervisor

__all__ = ["Execs"]

_PROCESSES = 2   # of a command while it starts: itself, and who brings it into the container


class Execs:
    """Commands beside a container's PID 1, by their pid."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._s = supervisor
        self._pids: dict[int, ExecRecord] = {}
        self._early: dict[int, int] = {}
        """Ends of commands that came before the message that says whose they are; kept only while one is due: pids come again."""
        self._nameless: set[ExecRecord] = set()

    def run(self, request: dict[str, Any], reply: Channel, fds: list[int]) -> None:
        """Start a command. On `reply`: {"started": …} or {"error": …}, later {"exited": …}; closing it kills the command.

        `fds`: stdin, stdout and stderr, unless `tty`.
        """
        record = self._s.containers.alive(request["container"])
        if record.state == "paused":
            raise SealedError(f"container {record.request['name']} is paused", remedy="unpause() it first")
        settled = {**request, "rlimits": record.request["rlimits"], "capabilities": record.request["capabilities"],
                   "seccomp": record.request["seccomp"], "hostname": record.request["hostname"]}
        ours, theirs = pair()
        assert record.group is not None  # noqa: S101  (it runs)
        procs = record.group.entry(beside=True)[1]
        try:
            child = fork_in_group(record.group, beside=True)
        except BlockingIOError:   # on cgroup v2 it is born under the limit
            ours.close()
            theirs.close()
            raise _no_process(record) from None
        if child == 0:
            spawn.run_exec(settled, self._s.ids, record.pid, record.pidfd, procs, fds, theirs)
        self._s.workers.add(child)
        theirs.close()
        for fd in fds:
            os.close(fd)
        fds.clear()
        execution = ExecRecord(record, reply)
        self._nameless.add(execution)
        self._s.loop.watch(ours.fileno(), lambda: self._progress(execution, ours))
        self._s.loop.watch(reply.fileno(), lambda: self._hung_up(execution))

    def _progress(self, execution: ExecRecord, sync: Channel) -> None:
        why = take(sync, lambda message, fds: self._heard(execution, message, fds))
        if why is None:
            return
        if why:
            execution.failure = {"kind": "", "text": why}
            self._kill(execution)
        self._s.loop.unwatch(sync.fileno())
        sync.close()
        self._named(execution)
        execution.started = True
        if execution.failure is None and execution.pid:
            self._tell(execution, {"started": {"pid": execution.pid}}, [execution.terminal] if execution.terminal >= 0 else [])
        elif execution.failure is None:
            execution.failure = {"kind": "", "text": "the container ended meanwhile"}
        self._finish(execution)

    def _heard(self, execution: ExecRecord, message: dict[str, Any], fds: list[int]) -> None:
        """Act on a message of the child's, as `take` has it."""
        if "pid" in message:
            pid = int(message["pid"])
            status = self._early.pop(pid, None)
            if status is None and not _belongs(pid, execution.container):
                raise ValueError(f"process {pid} is none of the container's")
            execution.pid, execution.status = pid, status
            if status is None:
                self._pids[pid] = execution
            self._named(execution)
            if execution.channel.socket.fileno() < 0:
                self._kill(execution)
        elif "terminal" in message:
            if execution.terminal >= 0:
                os.close(execution.terminal)
            execution.terminal = fds.pop(0)
        elif "error" in message:
            execution.failure = told(message["error"])
            if execution.failure["kind"] == "processes":
                error = _no_process(execution.container)
                execution.failure = {"kind": type(error).__name__, "text": error.message, "remedy": error.remedy}

    def _named(self, execution: ExecRecord) -> None:
        self._nameless.discard(execution)
        if not self._nameless:
            self._early.clear()

    def ended(self, pid: int, status: int) -> None:
        """Note the end of a child that is neither a container's PID 1 nor a worker."""
        execution = self._pids.pop(pid, None)
        if execution is None:
            if self._nameless:
                self._early[pid] = status
            return
        execution.status = status
        self._finish(execution)

    def _finish(self, execution: ExecRecord) -> None:
        """Tell the end once both the command's start and its status are known."""
        if not execution.started or (execution.status is None and execution.failure is None):
            return
        if execution.failure is not None:
            self._tell(execution, {"error": execution.failure})
        elif execution.status is not None:
            code = os.waitstatus_to_exitcode(execution.status)
            self._tell(execution, {"exited": {"code": code if code >= 0 else None, "signal": -code if code < 0 else None}})
        if execution.terminal >= 0:
            os.close(execution.terminal)
            execution.terminal = -1
        if execution.channel.socket.fileno() >= 0:
            self._s.loop.unwatch(execution.channel.fileno())
            execution.channel.close()

    def _tell(self, execution: ExecRecord, message: dict[str, Any], fds: list[int] | None = None) -> None:
        try:
            execution.channel.send(message, fds or [])
        except OSError:
            pass   # the caller has gone

    def _hung_up(self, execution: ExecRecord) -> None:
        """The caller gave up: end the command, now or as soon as its pid is known."""
        self._s.loop.unwatch(execution.channel.fileno())
        execution.channel.close()
        self._kill(execution)

    def _kill(self, execution: ExecRecord) -> None:
        if execution.pid in self._pids:   # not reaped yet, so the pid is still its own
            for kill in (os.kill, os.killpg):   # it leads a group of its own: what it waits for ends with it
                try:
                    kill(execution.pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue

    def files(self, request: dict[str, Any], reply: Channel, fds: list[int]) -> None:
        """Serve a copy in or out from a forked child in the container's mount namespace."""
        record = self._s.containers.get(request["container"])
        if self._s.fork() == 0:
            try:
                serve_files(request, record.mount_ns, self._s.ids, reply, fds)
            finally:
                os._exit(0)
        reply.close()
        for fd in fds:
            os.close(fd)
        fds.clear()

    def idmap(self, request: dict[str, Any], reply: Channel) -> None:
        """Answer with a user namespace that maps the account's own id to a container's, for idmapped mounts."""
        ids = self._s.ids
        ours, theirs = pair()
        child = self._s.fork()
        if child == 0:
            try:
                ours.close()   # or the end of the channel would never come
                namespaces.unshare(namespaces.CLONE_NEWUSER)
                theirs.send({})
                theirs.receive()
            finally:
                os._exit(0)
        theirs.close()
        with ours:
            ours.receive()
            for file, own, inside in (("uid_map", ids.uid, request["uid"]), ("gid_map", ids.gid, request["gid"])):
                fd = os.open(f"/proc/{child}/{file}", os.O_WRONLY | os.O_CLOEXEC)
                os.write(fd, f"{own} {ids.outer(inside)} 1\n".encode())
                os.close(fd)
            namespace = os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        answer(reply, {}, (namespace,))
        os.close(namespace)


def _belongs(pid: int, record: ContainerRecord) -> bool:
    """Tell whether a process is in a container's PID namespace."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid") == os.readlink(f"/proc/{record.pid}/ns/pid")
    except PermissionError:
        return True   # one of both is about to end: newer kernels show nobody its namespaces then


def _no_process(record: ContainerRecord) -> ContainerFailed:
    """Return why no process could be made for a command: the container's limit if it leaves no room, else the host's."""
    what = f"exec in container {record.request['name']!r}: no process could be made for the command"
    limit = record.request["limits"].get("pids")
    now = record.group.stats().get("pids_current") if record.group is not None else None
    if limit and now is not None and now + _PROCESSES > limit:
        return ContainerFailed(f"{what}: the container's limit is reached (pids={limit}, and a command takes {_PROCESSES} to start)",
                               remedy=f"give the container pids={limit + _PROCESSES} or more; stats().pids tells how many it has")
    return ContainerFailed(f"{what}: this account, or the host, has as many as it may have",
                           remedy="raise `ulimit -u`, or end some: `ps -eo user= | sort | uniq -c` counts them")
