"""The supervisor's containers: from a request to a running command, and to nothing left of it."""

from __future__ import annotations

import json
import os
import signal
import time

from pytest_sealed.errors import ContainerNotStarted, SpecError
from pytest_sealed.linux import namespaces, process
from pytest_sealed.runtime import spawn
from pytest_sealed.runtime.answers import answer, refuse, take, told
from pytest_sealed.runtime.cgroups import Group
from pytest_sealed.runtime.copied import copy_for
from pytest_sealed.runtime.plan import Facts, plan
from pytest_sealed.runtime.protocol import Channel, pair
from pytest_sealed.runtime.records import ContainerRecord
from pytest_sealed.runtime.room import require_room
from pytest_sealed.runtime.scratch import SmallFolders, remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pytest_sealed.runtime.records import Hub
    from pytest_sealed.runtime.supervisor import Supervisor

__all__ = ["Containers", "fork_in_group"]

_NAMESPACES = namespaces.CLONE_NEWPID | namespaces.CLONE_NEWNS | namespaces.CLONE_NEWIPC | namespaces.CLONE_NEWUTS
_LONGEST_PAUSE = 5.0   # seconds that a container has to stop in
_MOST_BUSY_RETRIES = 8   # 1 ms doubling: a quarter of a second until a cgroup lets go


class Containers:
    """All containers of the session, by id and by the pid of their PID 1."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._s = supervisor
        self._etc = SmallFolders(f"{supervisor.run_dir}/etc")
        self._records: dict[str, ContainerRecord] = {}
        self._pids: dict[int, ContainerRecord] = {}

    def get(self, container: str) -> ContainerRecord:
        record = self._records.get(container)
        if record is None:
            raise ContainerNotStarted(f"container {container} is gone", remedy="use it within the life of its sandbox")
        return record

    def alive(self, container: str) -> ContainerRecord:
        record = self.get(container)
        if record.state not in ("running", "paused"):
            raise ContainerNotStarted(f"container {record.request['name']} is {record.state}, not running",
                                      remedy="look at its exit code and logs(), or call restart()")
        return record

    def describe(self) -> list[dict[str, Any]]:
        return [{"id": record.id, "name": record.request["name"], "image": record.request["image"], "state": record.state,
                 "pid": record.pid, "argv": record.request["argv"], "addresses": record.addresses} for record in self._records.values()]

    # starting

    def run(self, request: dict[str, Any], channel: Channel, fds: list[int]) -> None:
        """Start a container. On `channel`: {"started": …} or {"error": …}; later {"exited": …}; closing it removes the container.

        `fds`: a listener for each of `ports`, then a detached mount for each of `mounts`, then a memory file with the
        `secrets` if there are some, then one with the `files`, then three stdio if `stdio`.
        """
        if request["id"] in self._records:
            raise SpecError(f"there is a container {request['id']} already")
        self._s.forwarder.require()   # nobody would read its output, and it would end by SIGPIPE
        if not request["tty"] and not request["stdio"]:
            require_room(self._s.run_dir)
        record = ContainerRecord(request, channel)
        self._records[record.id] = record
        stdio: list[int] = []
        try:
            for port in request["ports"]:
                self.publish(record.id, port, fds.pop(0))
            for row in request["mounts"]:
                if row["passed"]:
                    record.attached.append((fds.pop(0), row["source"], row["target"]))
            record.secrets = fds.pop(0) if request["secrets"] else -1
            record.files = fds.pop(0) if request["files"] else -1
            stdio += [fds.pop(0) for _ in range(3)] if request["stdio"] else []
            self._s.loop.watch(channel.fileno(), lambda: self._hung_up(record))
            if not request["tty"] and not request["stdio"]:
                stdio += self._spool(record)
            self._s.hubs.attach(record, lambda error: self._networked(record, stdio, error) if error else self._root(record, stdio))
        except BaseException:   # a request that makes no sense: nothing of it stays
            self._s.loop.unwatch(channel.fileno())
            record.channel = None   # the caller's, who answers on it
            self._close_all(stdio)
            self._forget(record)
            raise

    def restart(self, container: str, reply: Channel) -> None:
        """Run a stopped container's command again, on its own file system and networks."""
        record = self.get(container)
        if record.state != "stopped":
            raise SpecError(f"container {record.request['name']} is {record.state}", remedy="stop() it first")
        self._s.forwarder.require()
        require_room(self._s.run_dir)
        record.become("creating")
        record.exit = record.failure = None
        answer(reply, {})
        self._networked(record, self._spool(record), None)

    def _spool(self, record: ContainerRecord) -> list[int]:
        """Make the output pipes; the forwarder keeps what comes out of them."""
        out, err = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
        self._s.forwarder.tell({"op": "spool", "container": record.id, "path": f"{self._s.run_dir}/logs/{record.id}"}, [out[0], err[0]])
        os.close(out[0])
        os.close(err[0])
        return [-1, out[1], err[1]]

    def _root(self, record: ContainerRecord, stdio: list[int]) -> None:
        """Copy the image where no overlay can have a writable layer, which takes a while; then go on."""
        s, request = self._s, record.request
        wants_disk = request["scratch"] == "disk" or not s.memory_upper
        if record.removed or not wants_disk or s.disk_upper:
            self._networked(record, stdio, None)
            return
        ready, report = os.pipe2(os.O_CLOEXEC)
        child = s.fork()
        if child == 0:
            copy_for(request["layers"], f"{s.config['disk']}/{record.id}", report)
        os.close(report)
        record.copier = process.pidfd_open(child)

        def copied() -> None:
            data = os.read(ready, 65536)
            s.loop.unwatch(ready)
            os.close(ready)
            self._close(record, "copier")
            end = json.loads(data) if data else {"error": {"kind": "", "text": "the copy of its image was ended"}}
            record.copied = end.get("copied")
            if record.copied is None and not record.removed:
                self._close_all(stdio)
                self._failed(record, end["error"])
            else:
                self._networked(record, stdio, None)
        s.loop.watch(ready, copied)

    def _networked(self, record: ContainerRecord, stdio: list[int], error: str | None) -> None:
        try:
            if error:
                self._failed(record, {"kind": "network", "text": error})
            elif record.removed:
                self._failed(record, {"kind": "", "text": "it was removed before it started"})
            else:
                self._fork(record, stdio)
        except BaseException as caught:
            self._failed(record, {"kind": type(caught).__name__, "text": getattr(caught, "message", "") or repr(caught),
                                  "remedy": getattr(caught, "remedy", "")})
        finally:
            self._close_all(stdio)
        if record.removed and not record.alive:   # who removed it while it waited for its network waits for that
            self._forget(record)

    @staticmethod
    def _close_all(stdio: list[int]) -> None:
        for fd in {fd for fd in stdio if fd >= 0}:
            os.close(fd)

    def _fork(self, record: ContainerRecord, stdio: list[int]) -> None:
        s, request = self._s, record.request
        if not record.etc:
            record.etc = self._etc.take()
        s.hubs.write_hosts(record)
        os.chown(f"{record.etc}/hosts", s.ids.outer(0), s.ids.outer(0))
        os.chmod(f"{record.etc}/hosts", 0o644)
        request["resolv_conf"] = s.hubs.resolv_conf(record)
        record.group = Group.create(s.hierarchy, s.session, record.id, request["limits"])
        if request["nested"] and not s.ids.single:   # the one id owns the files of the limits too
            record.group.delegate(s.ids.outer(0), s.ids.outer(0))
        steps = plan(request, self._facts(record), s.ids)
        ours, theirs = pair()
        flags = _NAMESPACES | (namespaces.CLONE_NEWNET if record.netns < 0 else 0)
        try:
            record.pid = fork_in_group(record.group, flags)
        except OSError:
            ours.close()
            theirs.close()
            raise
        if record.pid == 0:
            spawn.run_container(request, steps, s.ids, f"{s.run_dir}/root", stdio, theirs)
        theirs.close()
        record.become("created")
        record.pidfd = process.pidfd_open(record.pid)
        self._pids[record.pid] = record
        record.sync, record.started = ours, False
        s.loop.watch(ours.fileno(), lambda: self._progress(record, ours))
        self._tell_names(record)

    def _facts(self, record: ContainerRecord) -> Facts:
        s, group = self._s, record.group
        assert group is not None  # noqa: S101  (for the type checker)
        return Facts(
            scratch_point=f"{s.run_dir}/scratch", disk=f"{s.config['disk']}/{record.id}", etc=record.etc, procs=group.entry()[1],
            memory_upper=s.memory_upper, cgroup2=s.hierarchy.version == "v2" and bool(group.directories),
            cgroup_binds=group.inside_binds(), network=record.netns if record.netns >= 0 else None, attached=record.attached,
            bound=[(row["source"], row["target"], row["read_only"]) for row in record.request["mounts"] if not row["passed"]],
            kept=record.mount_ns if record.mount_ns >= 0 else None, copied=record.copied is not None,
            delegated=group.delegated, leaf=group.leaf, secrets=record.secrets, files=record.files,
        )

    def _progress(self, record: ContainerRecord, sync: Channel) -> None:
        """Take the child's next message: {"map"}, {"terminal"}, {"exec"}, {"error"}, or the end, which exec brings."""
        why = take(sync, lambda message, fds: self._heard(record, sync, message, fds))
        if why is None:
            return
        if why:
            record.failure = {"kind": "", "text": why}
        self._s.loop.unwatch(sync.fileno())
        sync.close()
        record.sync = None
        if record.started and record.failure is None:
            self._running(record)
        else:   # it ends by itself, if it is still ours. Its end tells
            self._kill(record)

    def _heard(self, record: ContainerRecord, sync: Channel, message: dict[str, Any], fds: list[int]) -> None:
        """Act on a message of the child's, as `take` has it."""
        if "map" in message:
            uid, gid = message["map"]
            try:
                self._write_maps(record, int(uid), int(gid))
                if message["writable"]:
                    self._close(record, "writable")
                    record.writable = fds.pop()
                self._keep(record, fds)
                sync.send({"mapped": True})
            except OSError as why:   # it was killed meanwhile; else it would wait for ever. Its end tells
                record.failure = record.failure or {"kind": "", "text": f"it ended, or its ids could not be mapped: {why}"}
                self._kill(record)
        elif "terminal" in message:
            self._close(record, "terminal")
            record.terminal = fds.pop(0)
        elif "exec" in message:
            record.started = True
        elif "error" in message:
            record.failure = told(message["error"])

    def _write_maps(self, record: ContainerRecord, uid: int, gid: int) -> None:
        ids = self._s.ids
        if ids.single:
            _write(f"/proc/{record.pid}/setgroups", "deny")
        _write(f"/proc/{record.pid}/uid_map", ids.container_map(uid))
        _write(f"/proc/{record.pid}/gid_map", ids.container_map(gid))

    def _keep(self, record: ContainerRecord, folders: list[int]) -> None:
        """Keep this run's files reachable after its end, for copies and a restart, and let go of an earlier run's."""
        mount_ns = os.open(f"/proc/{record.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        self._close(record, "mount_ns", "files")
        record.mount_ns = mount_ns
        if folders:
            old, record.attached = record.attached, [(fd, *row[1:]) for fd, row in zip(folders, record.attached, strict=True)]
            folders.clear()
            for fd, _, _ in old:
                os.close(fd)

    def _running(self, record: ContainerRecord) -> None:
        record.become("running")
        if record.addresses:
            self._s.forwarder.tell({"op": "up", "container": record.id, "address": self._first_address(record)}, self._first_hub(record))
        terminal = [record.terminal] if record.terminal >= 0 else []
        self._tell(record, {"started": {"pid": record.pid, "addresses": record.addresses, "copied": record.copied}}, terminal)

    def _first_address(self, record: ContainerRecord) -> str | None:
        return next(iter(record.addresses.values()), None)

    def _first_hub(self, record: ContainerRecord) -> list[int]:
        return [hub.fd for hub in self._s.hubs.of(record)[:1]]

    def leave(self, network: str, done: Callable[[], None]) -> None:
        """Drop a network, and take everybody off it; `done` is called when nothing leads there any more.

        A container's ports lead to its next network from then on, as Docker's do, or refuse.
        """
        waiting = 2

        def one_less(_message: dict[str, Any] | None = None, _fds: list[int] | None = None) -> None:
            nonlocal waiting
            waiting -= 1
            if not waiting:
                done()
        hub = self._s.hubs.remove(network, one_less)
        for record in [self._records[member] for member in (hub.members if hub is not None else ()) if member in self._records]:
            was = self._first_address(record)
            record.addresses.pop(network)
            self._write_hosts(record)
            address = self._first_address(record)
            if address != was and record.state in ("running", "paused"):
                waiting += 1
                self._s.forwarder.ask({"op": "up" if address else "down", "container": record.id, "address": address}, one_less,
                                      self._first_hub(record))
        one_less()

    def publish(self, container: str, port: int, listener: int) -> None:
        """Forward a listening socket of the host to a port of the container, now or once it is up."""
        record = self.get(container)
        up = record.state in ("running", "paused") and bool(record.addresses)
        self._s.forwarder.tell({"op": "listen", "container": container, "port": port,
                                "address": self._first_address(record) if up else None},
                               [listener, *(self._first_hub(record) if up else [])])
        os.close(listener)

    def _tell_names(self, record: ContainerRecord) -> None:
        """Bring the hosts files of a container's neighbours up to date."""
        for hub in self._s.hubs.of(record):
            self.names_changed(hub)

    def names_changed(self, hub: Hub) -> None:
        for member in hub.members:
            other = self._records.get(member)
            if other is not None:
                self._write_hosts(other)

    def _write_hosts(self, record: ContainerRecord) -> None:
        if record.etc:
            try:
                self._s.hubs.write_hosts(record)
            except OSError:
                pass   # it has filled its file system of them by itself

    # ending

    def ended(self, pid: int, status: int) -> bool:
        """Note the end of a child; false if it is no container's PID 1."""
        record = self._pids.pop(pid, None)
        if record is None:
            return False
        code = os.waitstatus_to_exitcode(status)
        while record.sync is not None:   # it was quicker than our look at its last messages
            self._progress(record, record.sync)
        record.pid = 0
        self._close(record, "pidfd", "terminal")
        if record.group is not None:
            record.stats = dict(record.group.stats())
        self._s.forwarder.tell({"op": "down", "container": record.id})
        started = record.state in ("running", "paused")
        if not started:
            failure = record.failure or {"kind": "", "text": f"its process ended before the command ran (status {code})"}
            self._failed(record, {**failure, "oom": bool(record.stats.get("oom_kills"))})
        else:
            record.become("stopped")
            record.exit = {"code": code if code >= 0 else None, "signal": -code if code < 0 else None,
                           "oom": bool(record.stats.get("oom_kills")), "stats": record.stats}
            self._tell(record, {"exited": record.exit})
        self._drop_group(record)   # who waits for its end needn't wait for this
        if record.removed:
            self._forget(record)
        return True

    def _drop_group(self, record: ContainerRecord) -> None:
        if record.pid == 0 and record.group is not None:
            self._remove_group(record.group)
            record.group = None

    def _failed(self, record: ContainerRecord, failure: dict[str, Any]) -> None:
        if record.state != "stopped":
            record.become("stopped")
        self._drop_group(record)
        record.failure = failure
        self._tell(record, {"error": failure})

    def _remove_group(self, group: Group, attempt: int = 0) -> None:
        # exec'd commands end with PID 1, but stay in the cgroup until they are reaped
        if not group.remove() and attempt < _MOST_BUSY_RETRIES:
            self._s.loop.after(0.001 * 2 ** attempt, lambda: self._remove_group(group, attempt + 1))

    def _tell(self, record: ContainerRecord, message: dict[str, Any], fds: list[int] | None = None) -> None:
        if record.channel is not None:
            try:
                record.channel.send(message, fds or [])
            except OSError:
                pass   # its hang-up is on its way

    def _hung_up(self, record: ContainerRecord) -> None:
        """The handle's end is closed: nobody can use this container any more."""
        self._hang_up(record)
        self.remove(record.id, lambda: None)

    def _hang_up(self, record: ContainerRecord) -> None:
        if record.channel is not None:
            self._s.loop.unwatch(record.channel.fileno())
            record.channel.close()
            record.channel = None

    def remove(self, container: str, done: Callable[[], None]) -> None:
        """End a container and forget it; `done` is called when its processes are gone, and its log is whole."""
        record = self._records.get(container)
        if record is None:
            done()
            return
        record.on_gone.append(done)
        record.removed = True
        if record.copier >= 0:
            try:
                process.pidfd_send_signal(record.copier, signal.SIGKILL)
            except ProcessLookupError:
                pass   # it has just ended
        if record.alive:
            self._kill(record)
        elif record.state != "creating":
            self._forget(record)

    def _forget(self, record: ContainerRecord) -> None:
        self._records.pop(record.id, None)
        self._s.hubs.detach(record)
        self._tell_names(record)
        self._hang_up(record)
        self._close(record, "netns", "mount_ns", "terminal", "writable", "secrets", "files")
        for fd, _, _ in record.attached:
            os.close(fd)
        if record.etc:
            self._etc.give(record.etc)
        if record.request["scratch"] == "disk" or not self._s.memory_upper:
            self._in_child(lambda: remove_tree(f"{self._s.config['disk']}/{record.id}"))

        def dropped(_message: dict[str, Any], _fds: list[int]) -> None:
            for done in record.on_gone:
                done()
        self._s.forwarder.ask({"op": "drop", "container": record.id}, dropped)

    def _close(self, record: ContainerRecord, *names: str) -> None:
        for name in names:
            fd = getattr(record, name)
            if fd >= 0:
                os.close(fd)
                setattr(record, name, -1)

    def signal(self, container: str, number: int) -> None:
        record = self.alive(container)
        if number == signal.SIGKILL:
            self._kill(record)
        else:
            process.pidfd_send_signal(record.pidfd, number)

    def _kill(self, record: ContainerRecord) -> None:
        try:
            process.pidfd_send_signal(record.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass   # it has ended, and its status was taken just now

    def pause(self, container: str, reply: Channel) -> None:
        """Stop a container's processes, and answer once they have; the loop goes on meanwhile."""
        deadline = time.monotonic() + _LONGEST_PAUSE

        def look() -> None:
            try:
                paused = self._pause(self.alive(container), last=time.monotonic() >= deadline)   # it may have ended meanwhile
            except Exception as error:
                refuse(reply, error)
                return
            if paused:
                answer(reply, {})
            else:
                self._s.loop.after(0.01, look)
        look()

    def _pause(self, record: ContainerRecord, *, last: bool) -> bool:
        """Return whether all processes have stopped; the `last` time that they have not is an error."""
        if record.state == "paused" or record.group is None:
            return True
        if record.group.freeze(timeout=0.002):
            record.become("paused")
            return True
        if last:
            record.group.thaw()
            raise ContainerNotStarted(f"container {record.request['name']} did not stop within {_LONGEST_PAUSE:g} seconds",
                                      remedy="call pause() again")
        return False

    def unpause(self, container: str) -> None:
        record = self.alive(container)
        if record.state == "paused" and record.group is not None:
            record.group.thaw()
            record.become("running")

    def stats(self, container: str) -> dict[str, Any]:
        record = self.get(container)
        return dict(record.group.stats()) if record.group is not None and record.alive else record.stats

    def end_all(self) -> None:
        for container in list(self._records):
            self.remove(container, lambda: None)

    def _in_child(self, work: Callable[[], None]) -> None:
        """Do slow file work in a forked child; the loop reaps it."""
        try:
            child = self._s.fork()
        except OSError:
            return   # no process or memory is free: the session's end removes what is left
        if child == 0:
            try:
                work()
            finally:
                os._exit(0)

    def all_gone(self) -> bool:
        return not self._records


def fork_in_group(group: Group, flags: int = 0, *, beside: bool = False) -> int:
    """Fork a child that is born in a container's cgroup v2, where there is one; it enters those of v1 by itself. See `Group.entry`."""
    directory, _ = group.entry(beside=beside)
    if directory is None:
        return namespaces.fork_into(flags)
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return namespaces.fork_into(flags, fd)
    finally:
        os.close(fd)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
