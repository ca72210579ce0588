"""A container, as a test holds it: facts before it has started, actions afterwards."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

from pytest_sealed import copying, execution, receiving, waits
from pytest_sealed.endpoints import Endpoints
from pytest_sealed.errors import ContainerNotStarted, InternalError, NetworkError, SealedError, SpecError
from pytest_sealed.failure import describe_end, start_failed, warn_of_copy, warn_of_disk
from pytest_sealed.lifecycle import Lifecycle, StartFailed, Status
from pytest_sealed.readiness import wait_until
from pytest_sealed.request import argv_of, ports_of, run_request
from pytest_sealed.runtime import logs as spool
from pytest_sealed.runtime.idmap import is_hosts_root
from pytest_sealed.secret import open_secrets
from pytest_sealed.spec import ContainerOptions, ContainerSpec, _Unset, make_spec, parse_signal, parse_size
from pytest_sealed.values import check_file, check_seconds

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pytest_sealed.images.snapshot import Snapshots
    from pytest_sealed.images.store import Image, ImageConfig
    from pytest_sealed.network import Network
    from pytest_sealed.runtime.client import Session

__all__ = ["Container", "ExecResult", "Stats", "image"]

ExecResult = execution.ExecResult

_KILL = 60.0    # seconds until a container that doesn't die counts as a bug
_LAST_LINES = 20
_MOST_PASSED = 240   # descriptors in one request, of the kernel's SCM_MAX_FD (253)
_NEWS = 0.05     # seconds that the news of an end may take: a test fails by the lost connection first


def image(reference: str, **options: Unpack[ContainerOptions]) -> ContainerSpec[Container]:
    """Describe a container of the image `reference`, such as "busybox" or "shop-web".

    Args:
        options: see `ContainerOptions`.

    Raises:
        SpecError: an unknown option (names the nearest), or a value that can't be.
    """
    return make_spec(reference, Container, options)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What a container has used, by its cgroup's own figures; after its end, the last ones. None: not counted here."""

    memory: int | None
    """Bytes now."""
    memory_peak: int | None
    """Bytes, the most since the start."""
    memory_limit: int | None
    cpu_seconds: float | None
    periods: int | None
    """Scheduling periods in which it ran under a CPU limit."""
    throttled_periods: int | None
    """Those in which it was made to wait."""
    throttled_seconds: float | None
    pids: int | None
    oom_kills: int


class Container:
    """A handle on a container. Made by `Sandbox.run` and the fixtures; services have subclasses.

    Attributes:
        spec: what it was made from.
        name: on its networks.
        id: of this container, in this session.
        networks: those that it has its name on.
        joins: those that it is on besides, nameless.
        started_at: seconds since the epoch when the start was asked for; None before.
        start_seconds: from there until it was ready; None before.
    """

    def __init__(self, session: Session, spec: ContainerSpec[Any], found: Image, *, name: str, networks: Sequence[Network],
                 joins: Sequence[Network] = (), snapshots: Snapshots | None = None) -> None:
        self.spec, self.name = spec, name
        self.networks, self.joins = tuple(networks), tuple(joins)
        self.id = f"{name}-{os.urandom(4).hex()}"
        self.started_at: float | None = None
        self.start_seconds: float | None = None
        self.started_position = 0
        self._session, self._image, self._snapshots = session, found, snapshots
        self._life = Lifecycle(session, name)
        self._endpoints = Endpoints(session, self._life, self.id)
        argv_of(spec, found)
        for port in ports_of(spec, found) if self.networks and spec.publish != "none" else ():
            self._endpoints.port(port)

    # facts

    @property
    def image(self) -> str:
        """The image's reference."""
        return self._image.reference

    @property
    def image_config(self) -> ImageConfig:
        """The image's configuration: command, ports, health check and so on."""
        return self._image.config

    @property
    def argv(self) -> list[str]:
        """The command and its arguments."""
        return argv_of(self.spec, self._image)

    @property
    def status(self) -> Status:
        """The state, in the words of the OCI runtime specification."""
        return self._life.status

    @property
    def exit_code(self) -> int | None:
        """The command's exit code; None while it runs, and where a signal ended it."""
        self.poll_exit(0)
        return self._life.exit["code"] if self._life.exit else None

    @property
    def exit_signal(self) -> int | None:
        """The signal that ended the command, if one did."""
        self.poll_exit(0)
        return self._life.exit["signal"] if self._life.exit else None

    @property
    def oom_killed(self) -> bool:
        """Whether the kernel has ended a process in it because the memory limit was reached."""
        if self.poll_exit(0):
            return bool(self._life.exit and self._life.exit["oom"])
        return self._life.asked and self.stats().oom_kills > 0

    @property
    def addresses(self) -> dict[str, str]:
        """Its IPv4 addresses, by the id of the network; empty before the start."""
        return self._life.addresses

    @property
    def removed(self) -> bool:
        """Whether it is gone: `remove()` was called, or its sandbox was closed."""
        return self._life.removed

    @property
    def address(self) -> str:
        """Its IPv4 address in its first network.

        Raises:
            ContainerNotStarted: before the start, or without a network.
            NetworkError: its networks were closed.
        """
        for network in self.networks:
            if network.id in self.addresses and not network.closed:
                return self.addresses[network.id]
        if self.networks and all(network.closed for network in self.networks):
            raise NetworkError(f"container {self.name!r} is on no network any more: what it was on was closed, "
                               f"{', '.join(network.name for network in self.networks)}",
                               remedy="close a network after the last use of its containers")
        raise ContainerNotStarted(f"container {self.name!r} has no address {'yet' if self.networks else '(it has no network)'}",
                                  remedy="use its name in other containers' settings; port() and url() work before the start")

    def port(self, port: int) -> int:
        """Return the port on the host's loopback that leads to `port` of the container; the same before and after its start.

        Raises:
            SpecError: it has no network, or publishes no ports.
        """
        self._require_network(port)
        if self.spec.publish == "none":
            raise SpecError(f"container {self.name!r} publishes no ports: those of the loopback are open to everybody on this machine",
                            remedy=f"unix_socket({port}) is for this account alone, connect({port}) for this process; "
                                   'or give it publish="loopback"')
        return self._endpoints.port(port)

    def unix_socket(self, port: int, *, file: str = "") -> Path:
        """Return the path of a unix socket that leads to `port` of the container, and which nobody but this account can use.

        It is the same before and after the start, and has mode 0600 in a folder of mode 0700.

        Args:
            file: name of its file, for clients that are given the folder; by default `PORT.sock`.

        Raises:
            SpecError: it has no network, or `file` can't be a file's name.
            HostUnsupported: the path would be too long for a socket.
        """
        self._require_network(port)
        return self._endpoints.unix_socket(port, check_file("file", file or f"{port}.sock"))

    def _require_network(self, port: int) -> None:
        waits.tcp(port)
        if not self.networks:
            raise SpecError(f"container {self.name!r} has no network, so no ports", remedy="leave network= out")

    @property
    def ports(self) -> dict[int, int]:
        """The container's ports that are forwarded, and the host's loopback ports that lead to them."""
        return dict(self._endpoints.ports)

    @property
    def sockets(self) -> dict[Path, int]:
        """Its unix sockets, and the container's ports that they lead to."""
        return {path: port for (port, _), path in self._endpoints.sockets.items()}

    def url(self, port: int, path: str = "", *, scheme: str = "http") -> str:
        """Return the URL by which the test reaches `port`, for example `http://127.0.0.1:40123/orders`."""
        return f"{scheme}://127.0.0.1:{self.port(port)}{'/' * bool(path and not path.startswith('/'))}{path}"

    # the start

    def start(self) -> None:
        """Start it, and wait until it is ready.

        Raises:
            ContainerFailed: it could not start; says why.
            ContainerExited: it ended before it was ready.
            NotReady: it was not ready within `wait_timeout`.
        """
        began = time.monotonic()
        self.started_at = time.time()
        self.launch()
        condition = self._condition()
        if condition is not None:
            wait_until(self, condition, self.spec.wait_timeout, advice=self._advice())
        if self.spec.setup is not None:
            self.spec.setup(self)
        self.start_seconds = time.monotonic() - began

    def _condition(self) -> waits.Wait | None:
        if not isinstance(self.spec.wait, _Unset):
            return self.spec.wait
        config = self._image.config
        return config.ready or (waits.Healthy() if config.healthcheck else None)

    def _advice(self) -> str:
        """Name what keeps entrypoints of many official images from getting on where a container has one id only."""
        user = self._image.config.user if self.spec.user is None else self.spec.user
        entrypoint = self._image.config.entrypoint if self.spec.entrypoint is None else self.spec.entrypoint
        if not (self._session.ids.single and entrypoint and user.partition(":")[0] in ("", "0", "root")):
            return ""
        return ("; an entrypoint that runs itself again until it isn't root any more never gets on in single-id mode: give it the user "
                'that it would become, such as user="postgres", or this account a range of ids (`sealed doctor` says how)')

    def launch(self, *, terminal: tuple[int, int] | None = None, stdio: Sequence[int] = ()) -> int | None:
        """Start it without waiting until it is ready; return the descriptor of its terminal, if it gets one.

        Args:
            terminal: rows and columns of one that its standard streams shall be.
            stdio: descriptors of what these shall be instead of its log.

        Raises:
            ContainerFailed: it could not start; says why.
        """
        if self._life.asked or self._life.removed:
            raise SpecError(f"container {self.name!r} was started already", remedy="restart() runs it again")
        try:
            self._ask(terminal, stdio)
            return self._take_start()
        except SealedError:
            if self._life.failure is not None or not self._life.asked:   # often nobody has its handle: let go of its name and address
                self.remove()
            raise

    def _ask(self, terminal: tuple[int, int] | None, stdio: Sequence[int]) -> None:
        with self._life.lock, contextlib.ExitStack() as passed:
            ports, listeners = self._endpoints.waiting()
            if len(ports) + len(self.spec.mounts) > _MOST_PASSED:
                raise SpecError(
                    f"container {self.name!r} has {len(ports)} ports and {len(self.spec.mounts)} mounts from the start, "
                    f"and {_MOST_PASSED} can be handed over at once", remedy="ask for ports by port() once it runs")
            if self.spec.nested and self._session.ids.single and is_hosts_root(self._session.ids.uid):
                raise SpecError(
                    f"nested=True is refused for container {self.name!r} in single-id mode as root: its root could be the host's, to whom "
                    "/proc/sys is open", remedy="unset SEALED_IDS, or run the tests as an ordinary account")
            mounts, fds = copying.open_mounts(self._session, self.spec, self._image, passed)
            if self.spec.secrets:
                fds.append(open_secrets(self.spec.secrets))
                passed.callback(os.close, fds[-1])
            if self.spec.files:
                fds.append(copying.open_given(self._session, self.spec.files))
                passed.callback(os.close, fds[-1])
            request = run_request(
                self.spec, self._image, container=self.id, name=self.name, ports=ports, mounts=mounts,
                terminal=terminal, stdio=bool(stdio),
                networks=[*({"network": network.id, "names": [self.name, *self.spec.aliases]} for network in self.networks),
                          *({"network": network.id, "names": []} for network in self.joins)])
            for listener in listeners:
                listener.listen(socket.SOMAXCONN)
            self._life.begin(request, [*(listener.fileno() for listener in listeners), *fds, *stdio])
            self._endpoints.handed_over()
            for network in self.networks:
                network.members.append(self)

    def _take_start(self) -> int | None:
        try:
            terminal = self._life.take_start()
        except StartFailed as error:
            self._life.failure = start_failed(self, error.reason)
            raise self._life.failure from None
        if self._life.copied is not None:
            warn_of_copy(self, self._life.copied, self._session)
        if self.spec.scratch_size is not None:
            warn_of_disk(self._session)
        return terminal

    # the end

    def poll_exit(self, timeout: float | None) -> bool:
        """Tell whether it has ended, waiting at most `timeout` seconds for that; None waits for ever."""
        return self._life.poll_exit(timeout)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended; return the exit code, or 128 + n where signal n ended it.

        Raises:
            TimeoutError: it still runs after `timeout` seconds.
        """
        self._life.require_started()
        if not self.poll_exit(timeout if timeout is None else check_seconds("timeout", timeout)):
            raise TimeoutError(f"container {self.name!r} still runs after {timeout:g} s")
        end = self._life.exit
        if end is None:
            raise self._life.failure or InternalError(f"container {self.name!r} has no exit status")
        return int(end["code"] if end["code"] is not None else 128 + end["signal"])

    def signal(self, number: int | str) -> None:
        """Send a signal to its PID 1, which ignores what it has no handler for. See pid_namespaces(7)."""
        self._life.require_started()
        self._session.request("signal", container=self.id, signal=parse_signal(number))

    def kill(self) -> None:
        """End it at once, with all its processes."""
        if not self.poll_exit(0):
            with contextlib.suppress(ContainerNotStarted):   # it ended meanwhile
                self.signal(signal.SIGKILL)
            self.poll_exit(_KILL)

    def stop(self, timeout: float | None = None) -> None:
        """Ask it to end by the stop signal, and kill it after `timeout` seconds (by default `stop_timeout`)."""
        self._life.require_started()
        grace = self.spec.stop_timeout if timeout is None else check_seconds("timeout", timeout)
        if self.poll_exit(0):
            return
        if self.status == "paused":
            self.unpause()
        number = self.spec.stop_signal or self._image.config.stop_signal or int(signal.SIGTERM)
        with contextlib.suppress(ContainerNotStarted):   # it ended meanwhile
            self.signal(number)
        if not self.poll_exit(grace):
            self.kill()

    def pause(self) -> None:
        """Freeze all its processes."""
        self._life.require_started()
        self._session.request("pause", container=self.id)
        self._life.froze(True)

    def unpause(self) -> None:
        """Let its processes go on."""
        self._life.require_started()
        self._session.request("unpause", container=self.id)
        self._life.froze(False)

    def restart(self, timeout: float | None = None) -> None:
        """Stop it and run its command again: same files, names, addresses and ports; wait until it is ready."""
        self.stop(timeout)
        self.started_position = self.log_position()
        self._session.request("restart", container=self.id)
        self._life.again()   # not before: a restart that is refused leaves the end as it was
        self._take_start()
        condition = self._condition()
        if condition is not None:
            wait_until(self, condition, self.spec.wait_timeout)

    def remove(self) -> None:
        """End it and drop what it has; idempotent. Its logs and last figures stay readable until the sandbox closes."""
        self.begin_remove()()

    def begin_remove(self) -> Callable[[], None]:
        """Begin its removal, and return what waits for the rest: so several can end at once."""
        if self._life.removed or not (self._life.asked and self._session.alive):
            return self._removed
        channel = self._session.open("remove", container=self.id)

        def finish() -> None:
            with channel:
                self._session.answer(channel)
            self.poll_exit(0)   # its last figures came before the answer
            self._removed()
        return finish

    def _removed(self) -> None:
        self._life.remove()
        self._endpoints.close()
        for network in self.networks:
            if self in network.members:
                network.members.remove(self)

    # talking to it

    def connect(self, port: int, *, timeout: float | None = 5.0) -> socket.socket:
        """Open a TCP connection to `port` inside its network.

        Raises:
            OSError: the real answer, such as ConnectionRefusedError.
            NetworkError: its networks were closed.
        """
        network, address = self._place()
        return network.connect(address, port, timeout=timeout)

    def begin_connect(self, port: int) -> socket.socket:
        """Return a non-blocking socket that is connecting, as `Network.begin_connect`."""
        network, address = self._place()
        return network.begin_connect(address, port)

    def _place(self) -> tuple[Network, str]:
        if not self.networks:
            raise SpecError(f"container {self.name!r} has no network to connect in", remedy="leave network= out")
        address = self.address
        return next(network for network in self.networks if not network.closed), address

    def exec(self, command: Sequence[str], *, stdin: str | bytes | None = None, env: Mapping[str, str] | None = None,
             user: str | int | None = None, workdir: str | None = None, timeout: float | None = None, check: bool = False,
             max_output: int | str = execution.MOST_OUTPUT) -> ExecResult:
        """Run a command beside the container's own, and wait for it.

        Args:
            command: program and arguments; for a shell line `["sh", "-c", "…"]`.
            stdin: what it reads; by default nothing.
            env: added to the container's environment.
            user: as in `ContainerOptions`; by default the container's.
            timeout: seconds until it is killed.
            check: a non-zero exit code is a `ContainerFailed` with the command's output.
            max_output: bytes, or "64M" and the like, of each stream that may be kept in memory.

        Raises:
            ExecTimeout: the time is over; the command was killed.
            ContainerFailed: the command can't be started, with `check` it failed, or it wrote more than `max_output` and was killed.
            ContainerNotStarted: the container doesn't run.
        """
        self._life.require_started()
        if timeout is not None:
            check_seconds("timeout", timeout)
        return execution.run_exec(self, self._session, self.exec_request(command, env=env, user=user, workdir=workdir),
                                  stdin=stdin, timeout=timeout, check=check, max_output=parse_size(max_output, "max_output"))

    def exec_in_slices(self, command: Sequence[str], *, timeout: float, length: float) -> Generator[None, None, ExecResult]:
        """Run a command as `exec` does, by a generator that runs for `length` seconds at a time; closing it kills the command."""
        self._life.require_started()
        return execution.exec_in_slices(self, self._session, self.exec_request(command), timeout=timeout, length=length)

    def exec_request(self, command: Sequence[str], *, env: Mapping[str, str] | None = None, user: str | int | None = None,
                     workdir: str | None = None, tty: bool = False) -> dict[str, Any]:
        """Return the request `exec` of the supervisor, with this container's settings as defaults."""
        settled = self.spec.replace(command=command, env=env or {})
        if not settled.command:
            raise SpecError("exec() was given no command", remedy='for example exec(["ls", "/"])')
        if workdir:
            settled = settled.replace(workdir=workdir)
        if user is not None:
            settled = settled.replace(user=user)
        base = run_request(settled, self._image, container=self.id, name=self.name, networks=[], ports=[], mounts=[])
        return {"container": self.id, "argv": list(settled.command or ()), "env": base["env"], "workdir": base["workdir"],
                "user": base["user"], "tty": tty}

    def logs(self, *, stream: Literal["stdout", "stderr"] | None = None, since: int | None = None, tail: int | None = None) -> str:
        """Return what its command has written, both streams in order.

        Args:
            stream: only this one.
            since: a `log_position()`; by default everything that is kept (the log is bounded).
            tail: only that many last lines.

        Raises:
            ContainerFailed: the process that kept the log has died.
            ContainerNotStarted: its sandbox was closed.
            SpecError: there is no such stream.
        """
        waits.check_stream("logs", stream)
        text = spool.text(record for record in self.log_records(since=since or 0) if stream in (None, record.stream))
        return text if tail is None else "\n".join(text.splitlines()[-tail:] if tail > 0 else [])

    def log_records(self, *, since: int = 0, flush: bool = True) -> list[spool.Record]:
        """Return the pieces of its log after the position `since`, with their stream and time.

        Args:
            flush: False: those that are in the log already, rather than all that has been written until now.
        """
        if self._session.closed:
            raise ContainerNotStarted(f"the log of container {self.name!r} went with its sandbox, which is closed",
                                      remedy="read it within the sandbox's `with` block or fixture")
        lost = self._flush() if flush else 0
        records = spool.read(self._log_path, since=since)
        return [*records, spool.loss(lost, records[-1].end if records else since)] if lost else records

    def log_position(self) -> int:
        """Return the present end of the log, for `logs(since=…)`."""
        self._flush()
        return spool.position(self._log_path)

    @property
    def _log_path(self) -> Path:
        return self._session.run_dir / "logs" / self.id

    def _flush(self) -> int:
        """Have all that was written until now in the log; return how many bytes there was no space for."""
        if self._life.asked and not self._life.removed and self._session.alive:
            return int(self._session.request("flush", container=self.id)[0]["lost"])
        return 0

    def stats(self) -> Stats:
        """Return what it has used.

        Raises:
            ContainerNotStarted: before the start.
        """
        if self._life.exit is not None:
            figures = self._life.exit["stats"]
        elif self._life.failure is not None or self._life.removed:
            figures = {}
        else:
            self._life.require_started()
            figures = self._session.request("stats", container=self.id)[0]["stats"]
        return Stats(
            memory=figures.get("memory_current"), memory_peak=figures.get("memory_peak"), memory_limit=figures.get("memory_limit"),
            cpu_seconds=figures.get("cpu_seconds"), periods=figures.get("periods"), throttled_periods=figures.get("throttled_periods"),
            throttled_seconds=figures.get("throttled_seconds"), pids=figures.get("pids_current"), oom_kills=figures.get("oom_kills") or 0)

    # files

    def put(self, source: str | os.PathLike[str], target: str, *, user: int = 0) -> None:
        """Copy a file or folder of the host to the path `target` of the container; a file to a folder keeps its name.

        Args:
            user: owner of the copies, a uid (and gid) of the container.

        Raises:
            ContainerFailed: the target can't be written, with the container's path.
            FileNotFoundError: there is no `source`.
        """
        self._life.require_started()
        copying.put(self._session, self.id, Path(source), target, user)

    def get(self, source: str, target: str | os.PathLike[str], *, max_size: int | str = receiving.MOST_DATA) -> None:
        """Copy a file or folder of the container to the path `target` of the host.

        Links are copied as links, holes of sparse files as holes. A file or link that is in the way is replaced, and never written
        through. In a host folder that a container may write to, a link on the way to `target` is refused.

        Args:
            max_size: bytes of data, or "64G" and the like, that may be written; holes don't count.

        Raises:
            ContainerFailed: there is no such file, it is no file or folder, or more than `max_size`.
            SpecError: there is such a link.
            OSError: the host can't write it; with the path.
        """
        self._life.require_started()
        copying.get(self._session, self.id, source, Path(target), parse_size(max_size, "max_size"))

    def read_text(self, path: str) -> str:
        """Return the text (UTF-8) of a file of the container."""
        self._life.require_started()
        return copying.read(self._session, self.id, path).decode()

    def write_text(self, path: str, text: str, *, mode: int = 0o644, user: int = 0) -> None:
        """Write a text file of the container, UTF-8; missing parents are made."""
        self._life.require_started()
        copying.write(self._session, self.id, path, text.encode(), mode, user)

    def snapshot(self, name: str | None = None) -> str:
        """Make an image of its files as they are now, and return that image's name, for `run()` and `image()`.

        The image has the same command and settings as the container's own. `stop()` the container first: programs write down what
        they know when they end. One that runs is paused meanwhile, and a `SealedWarning` says what that costs.

        Args:
            name: NAME or NAME:TAG, under which the store keeps it; by default it goes with the sandbox of this container.

        Raises:
            SpecError: the name can't be.
            ImageError: its files are too large.
            StoreError: the store is full, or can't be written.
        """
        self._life.require_started()
        if self._snapshots is None:
            raise SpecError(f"container {self.name!r} is of no sandbox, and so has no store to put a snapshot into",
                            remedy="make it by Sandbox.run()")
        from pytest_sealed.snapshots import take_snapshot
        return take_snapshot(self, self._image, self._session, self._snapshots, name)

    # waiting

    def wait_for(self, condition: waits.Wait, *, timeout: float = 30.0) -> None:
        """Wait until a condition of `pytest_sealed.waits` holds; fails at once when the container ends."""
        self._life.require_started()
        wait_until(self, condition, check_seconds("timeout", timeout))

    def wait_for_port(self, port: int, *, timeout: float = 30.0) -> None:
        """Wait until a TCP port accepts connections."""
        self.wait_for(waits.tcp(port), timeout=timeout)

    def wait_for_log(self, pattern: str, *, timeout: float = 30.0, times: int = 1) -> None:
        """Wait until a line of the log matches a regular expression."""
        self.wait_for(waits.log(pattern, times=times), timeout=timeout)

    def wait_for_http(self, port: int, path: str = "/", *, status: int | tuple[int, ...] = (), timeout: float = 30.0) -> None:
        """Wait until an HTTP GET is answered with the wanted status."""
        self.wait_for(waits.http(port, path, status=status), timeout=timeout)

    def wait_for_exec(self, command: Sequence[str], *, timeout: float = 30.0) -> None:
        """Wait until a command exits with 0."""
        self.wait_for(waits.command(*command), timeout=timeout)

    # telling what happened

    def obituary(self) -> str:
        """Return one sentence on how it ended."""
        return describe_end(self.name, self.argv, self._life.exit, self.spec.limits.memory)

    def last_lines(self) -> str:
        """Return the log's last lines as an indented block, or nothing."""
        text = self.logs(tail=_LAST_LINES)
        return f"\n  last log lines of {self.name}:\n" + "\n".join(f"    {line}" for line in text.splitlines()) if text else ""

    def by_hand(self) -> str:
        """Return the command that runs the same by hand."""
        return f"sealed run {self.image}" + ("" if self.spec.command is None else f" {shlex.join(self.spec.command)}")

    def report(self, *, since_logs: int = 0) -> str:
        """Return what a failure report says of it: image, state, exit cause, memory, ports, and the log since a position."""
        from pytest_sealed.failure import report
        if not self.poll_exit(_NEWS) and self._life.asked and self.oom_killed:
            self.poll_exit(10 * _NEWS)
        return report(self, self._life.exit, self._life.failure, since_logs)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} image={self.image} {self._life.status}>"


