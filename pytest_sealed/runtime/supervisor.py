"""PID 1 of a session: forks containers, reaps them, and ends everything when its client is gone.

Started by `bootstrap.py` as a fresh `python -I -S` with the fds of its control channel and of pidfds: the
client's, and those of others at whose end it ends too. Single-threaded, small and never blocked: what could
take long is done by a forked child, by the network service or by the forwarder. When it ends, for whatever
reason, the kernel ends every process and frees every mount and network of the session. See pid_namespaces(7).
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from pytest_sealed.errors import ContainerNotStarted, SpecError
from pytest_sealed.linux import mounts, process
from pytest_sealed.runtime import spawn
from pytest_sealed.runtime.answers import answer, refuse
from pytest_sealed.runtime.cgroups import Hierarchy, remove_session
from pytest_sealed.runtime.containers import Containers
from pytest_sealed.runtime.execs import Execs
from pytest_sealed.runtime.helpers import Helper
from pytest_sealed.runtime.hubs import Hubs
from pytest_sealed.runtime.idmap import IdMap
from pytest_sealed.runtime.loop import Loop
from pytest_sealed.runtime.protocol import Channel, ProtocolError
from pytest_sealed.runtime.room import is_full
from pytest_sealed.runtime.scratch import memory_upper_works, remove_tree, upper_works
from pytest_sealed.runtime.seccomp import filters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SHUTDOWN = 1.5   # seconds that containers get to be gone when the session ends


class Supervisor:
    """Routes requests to the parts, and owns their common ends."""

    def __init__(self, control: Channel, watched: list[int], config: dict[str, Any]) -> None:
        self.loop = Loop()
        self.config = config
        self.session: str = config["session"]
        self.run_dir: str = config["run_dir"]
        self.ids = IdMap.from_json(config["ids"])
        self.hierarchy = Hierarchy.from_json(config["hierarchy"])
        self._prepare_folders()
        self.network = Helper(self.loop, "network service", "network/service.py", config["site"])
        self.forwarder = Helper(self.loop, "forwarder", "forward/service.py", self.run_dir)
        self.hubs = Hubs(self.network, f"{self.run_dir}/etc")
        self.memory_upper = memory_upper_works(f"{self.run_dir}/root", f"{self.run_dir}/scratch")
        self._disk_upper: bool | None = None
        self.workers: set[int] = set()
        """Children whose end means nothing: those for slow work, and those that bring a command into its container."""
        self.containers = Containers(self)
        self.execs = Execs(self)
        self._listener = self._listen()
        self._watch_control(control)
        for pidfd in watched:
            self.loop.watch(pidfd, self.end)
        self._watch_children()

    def _prepare_folders(self) -> None:
        for name in ("etc", "root", "scratch"):
            os.makedirs(f"{self.run_dir}/{name}", exist_ok=True)
        mounts.mount("tmpfs", f"{self.run_dir}/etc", "tmpfs", mounts.MS_NOSUID | mounts.MS_NODEV, "size=64m,mode=0755")

    @property
    def disk_upper(self) -> bool:
        """Whether an overlay's upper works on disk; tried when it is first asked for."""
        if self._disk_upper is None:
            trial = f"{self.config['disk']}/trial"
            os.makedirs(trial, 0o700)
            self._disk_upper = upper_works(f"{self.run_dir}/root", trial)
            os.rmdir(trial)
        return self._disk_upper

    def _watch_children(self) -> None:
        ready, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

        def reap() -> None:
            os.read(ready, 4096)
            self.reap()
        self.loop.watch(ready, reap)

    def fork(self) -> int:
        """Fork a child for slow work, as os.fork() does; nobody waits for its end."""
        child = os.fork()
        if child:
            self.workers.add(child)
        return child

    def reap(self) -> None:
        """Take the status of every child that has ended; never waits for a particular one."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self.workers:
                self.workers.remove(pid)
            elif not self.containers.ended(pid, status):
                self.execs.ended(pid, status)

    # requests

    def _listen(self) -> socket.socket:
        """Open the session's control socket, for `sealed ps` and its kin; the folder is the account's alone."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        os.chdir(self.run_dir)   # a socket's path has at most 107 bytes
        listener.bind("control")
        os.chdir("/")
        listener.listen(16)
        listener.setblocking(False)

        def accept() -> None:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self._watch_control(Channel(connection), main=False)
        self.loop.watch(listener.fileno(), accept)
        return listener

    def _watch_control(self, channel: Channel, *, main: bool = True) -> None:
        fd = channel.fileno()

        def serve() -> None:
            try:
                received = channel.receive()
            except ProtocolError:
                received = None if not main else ({}, [])
            except OSError:
                received = None
            if received is not None:
                self._serve(*received)
                return
            self.loop.unwatch(fd)
            channel.close()
            if main:
                self.end()
        self.loop.watch(fd, serve)

    def _serve(self, request: dict[str, Any], fds: list[int]) -> None:
        """Carry out one request; its answers go to the channel that came with it."""
        if not fds:
            return
        try:
            reply = Channel(socket.socket(fileno=fds[0]))
            reply.socket.setblocking(False)   # who doesn't read its answers waits alone
        except OSError:   # no socket: nobody to answer
            for fd in fds:
                _close(fd)
            return
        del fds[0]
        try:
            handler = getattr(self, f"do_{request.get('op')}", None)
            if handler is None:
                raise SpecError(f"there is no operation {request.get('op')!r}")
            handler(request, reply, fds)
        except BaseException as error:
            refuse(reply, error)
        finally:
            for fd in fds:   # that no handler has taken out
                _close(fd)

    def do_hello(self, _request: dict[str, Any], reply: Channel, _fds: list[int]) -> None:
        answer(reply, {"pid": os.getpid(), "memory_upper": self.memory_upper})

    def do_upper(self, _request: dict[str, Any], reply: Channel, _fds: list[int]) -> None:
        answer(reply, {"memory": self.memory_upper, "disk": self.disk_upper})

    def do_list(self, _request: dict[str, Any], reply: Channel, _fds: list[int]) -> None:
        answer(reply, {"containers": self.containers.describe()})

    def do_network(self, request: dict[str, Any], reply: Channel, _fds: list[int]) -> None:
        self.hubs.create(request, reply)

    def do_drop_network(self, request: dict[str, Any], reply: Channel, _fds: list[int]) -> None:
        self.containers.leave(request["network"], lambda: answer(reply, {}))

    def do_socket(self, request: dict[str, Any], reply: Channel, _fds: list[int]) -> None:
        self.hubs.socket(request["network"], reply)

    def do_listen(self, request: dict[str, Any], reply: Channel, _fds: list[int]) -> None:
        self.hubs.listen(request, reply, self.containers.names_changed)

    def do_publish(self, request: dict[str, Any], reply: Channel, fds: list[int]) -> None:
        self.containers.publish(request["container"], request["port"], fds.pop(0))
        answer(reply, {})

    def do_run(self, request: dict[str, Any], reply: Channel, fds: list[int]) -> None:
        self.containers.run(request, reply, fds)

    def do_restart(self, request: dict[str, Any], reply: Channel, _fds: list[int]) -> None:
        self.containers.restart(request["container"], reply)

    def do_remove(self, request: dict[str, Any], reply: Channel, _fds: list[int]) -> None:
        self.containers.remove(request["container"], lambda: answer(reply, {}))

    def do_signal(self, request: dict[str, Any], reply: Channel, _fds: list[int]) -> None:
        self.containers.signal(request["container"], request["signal"])
        answer(reply, {})

    def do_pause(self, request: dict[str, Any], reply: Channel, _fds: list[int]) -> None:
        self.containers.pause(request["container"], reply)

    def do_unpause(self, request: dict[str, Any], reply: Channel, _fds: list[int]) -> None:
        self.containers.unpause(request["container"])
        answer(reply, {})

    def do_stats(self, request: dict[str, Any], reply: Channel, _fds: list[int]) -> None:
        answer(reply, {"stats": self.containers.stats(request["container"])})

    def do_flush(self, request: dict[str, Any], reply: Channel, _fds: list[int]) -> None:
        def flushed(message: dict[str, Any], _fds: list[int]) -> None:
            if "error" in message:   # not silence: it would be taken for the container's
                refuse(reply, self.forwarder.failure(message["error"]))
            else:
                answer(reply, message["ok"])
        self.forwarder.ask({"op": "flush", "container": request["container"]}, flushed)

    def do_exec(self, request: dict[str, Any], reply: Channel, fds: list[int]) -> None:
        self.execs.run(request, reply, fds)

    def do_files(self, request: dict[str, Any], reply: Channel, fds: list[int]) -> None:
        self.execs.files(request, reply, fds)

    def do_writable(self, request: dict[str, Any], reply: Channel, _fds: list[int]) -> None:
        record = self.containers.get(request["container"])
        if record.writable < 0:
            raise ContainerNotStarted(f"container {record.request['name']} has not started", remedy="start() it first")
        answer(reply, {"copied": record.copied is not None}, (record.writable,))

    def do_idmap(self, request: dict[str, Any], reply: Channel, _fds: list[int]) -> None:
        self.execs.idmap(request, reply)

    # the end

    def end(self) -> None:
        """End every container and this process. The client is gone, or asked for it."""
        if not self.loop.running:
            return
        self.containers.end_all()

        def check() -> None:
            self.reap()
            if self.containers.all_gone():
                self.loop.running = False
            else:
                self.loop.after(0.01, check)
        self.loop.after(_SHUTDOWN, lambda: setattr(self.loop, "running", False))
        check()

    def clean(self) -> None:
        """Remove what the kernel doesn't: cgroups, the run directory, writable layers on disk."""
        remove_session(self.hierarchy, self.session)
        remove_tree(self.config["disk"])
        for name in ("host", "etc", "scratch", "root"):   # host: the host's root, see bootstrap.seal_mounts
            try:
                mounts.umount2(f"{self.run_dir}/{name}", mounts.MNT_DETACH)
            except OSError:
                continue
        remove_tree(self.run_dir)


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        pass


def main() -> None:
    process.set_name("sealed-super")
    os.umask(0o022)   # cgroups and shared folders are read by containers; the run directory is closed to others
    process.set_dumpable(False)
    spawn.open_files = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))   # a container holds six descriptors
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    control, watched = Channel(socket.socket(fileno=int(sys.argv[1]))), [int(text) for text in sys.argv[2:]]
    for fd in (control.fileno(), *watched):
        os.set_inheritable(fd, False)
    received = control.receive()
    if received is None:
        return
    config = received[0]
    supervisor = None
    try:
        log = os.open(f"{config['run_dir']}/supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.dup2(log, 2)
        os.dup2(log, 1)
        spawn.ready_filters = filters.ready()
        supervisor = Supervisor(control, watched, config)
        spawn.caught_signals = [number for number in signal.valid_signals() if signal.getsignal(number) not in (signal.SIG_DFL, None)]
        supervisor.loop.run()
    except BaseException as error:
        # Until it has started, it makes things in the run directory only.
        _report_failure(control, full=supervisor is None and isinstance(error, OSError) and is_full(error))
        raise
    finally:
        if supervisor is not None:
            supervisor.clean()
    os._exit(0)


def _report_failure(control: Channel, *, full: bool) -> None:
    """Leave the traceback where the client finds it: the log goes with the run directory."""
    import traceback
    try:
        control.socket.setblocking(False)
        control.send({"failed": traceback.format_exc()[-4000:], "full": full})
    except OSError:
        pass   # nobody is there to read it


if __name__ == "__main__":
    main()
