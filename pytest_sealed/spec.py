"""What a container shall be: frozen, validated descriptions. Units and names are settled here, once.

`image()` (in `pytest_sealed.container`) and the services make a `ContainerSpec`; fixtures and
`Sandbox.run` take one.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Literal, TypedDict, TypeVar, final

from pytest_sealed.errors import SpecError, nearest

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pytest_sealed.container import Container
    from pytest_sealed.network import Network
    from pytest_sealed.waits import Wait

__all__ = [
    "CAPABILITIES",
    "ContainerOptions",
    "ContainerSpec",
    "Limits",
    "Mount",
    "Tmpfs",
    "make_spec",
    "parse_size",
]

H_co = TypeVar("H_co", bound="Container", covariant=True)

MINIMUM_MEMORY = 8 << 20   # bytes; the runtime itself needs a part of it until the command runs
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}

CAPABILITIES = {
    "CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "FSETID": 4, "KILL": 5, "SETGID": 6, "SETUID": 7, "SETPCAP": 8,
    "NET_BIND_SERVICE": 10, "SYS_CHROOT": 18, "SETFCAP": 31,
}
"""The capabilities that a container may have, all within its own user namespace. See capabilities(7)."""


def parse_size(value: int | str, what: str) -> int:
    """Return a number of bytes from `"64M"`, `"1.5g"`, `"512 KiB"` or an int. Units are powers of 1024, as in Docker.

    Raises:
        SpecError: no such unit, not a number, or not above zero; names `what`.
    """
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise SpecError(f"{what}={value!r} is no size", remedy=f'for example {what}="64M"')
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(-?\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", value)
        unit = match[2].lower() if match else ""
        unit = unit[:1] if re.fullmatch(r"[kmgt](i?b)?", unit) else unit
        if match is None or unit not in _UNITS:
            raise SpecError(f"{what}={value!r} is no size: the units are b, k, m, g and t (powers of 1024)",
                            remedy=f'for example {what}="64M"')
        value = int(float(match[1]) * _UNITS[unit])
    if value <= 0:
        raise SpecError(f"{what}={value} must be above zero", remedy=f'leave {what} out for no limit, or give for example "64M"')
    return value


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a container may use. None: no limit of its own."""

    memory: int | None = None
    """Bytes; the kernel ends a process of the container that would exceed it."""
    swap: int | None = None
    """Bytes beyond `memory`; None: no swap where `memory` is limited."""
    cpus: float | None = None
    """CPU time per wall time, for example 0.5: half a core."""
    cpu_shares: int | None = None
    """Weight against other containers when the CPUs are contended, 2 to 262144; Docker's default is 1024."""
    pids: int | None = 2048
    """Processes and threads."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A host folder or file in a container. The files keep their owner on the host."""

    source: str
    """Path on the host; absolute, `~` expanded."""
    target: str
    """Absolute path in the container."""
    read_only: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", os.path.abspath(os.path.expanduser(os.fspath(self.source))))
        _absolute("mount target", self.target)
        if not os.path.exists(self.source):
            raise SpecError(f"mount source {self.source} does not exist", remedy=f"mkdir -p {self.source}")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Tmpfs:
    """An empty file system in memory."""

    target: str
    """Absolute path in the container."""
    size: int | str = "64M"
    mode: int = 0o1777
    user: str | None = None
    """Owner, as a name or number of the container; None: root."""

    def __post_init__(self) -> None:
        _absolute("tmpfs target", self.target)
        object.__setattr__(self, "size", parse_size(self.size, "tmpfs size"))


class ContainerOptions(TypedDict, total=False):
    """The keywords that `image`, every service, `Sandbox.run` and the `sealed` marker share."""

    command: Sequence[str]
    """Instead of the image's command; follows the entrypoint."""
    entrypoint: Sequence[str]
    """Instead of the image's entrypoint; `[]` for none."""
    env: Mapping[str, str]
    """Added to the image's environment. Nothing of the host's environment ever enters a container."""
    user: str | int
    """`name`, `uid`, `name:group` or `uid:gid`, resolved in the container's own passwd and group files."""
    workdir: str
    hostname: str
    name: str
    """Its name on its networks; by default the fixture's."""
    aliases: Sequence[str]
    """More names on its networks."""
    network: Network | str | None
    """Instead of the test's own network; None: no network but loopback."""
    networks: Sequence[Network | str]
    """Several networks."""
    ports: Sequence[int]
    """More ports that are forwarded from the start; the image's are, and `port()` adds others at any time."""
    memory: int | str
    swap: int | str
    cpus: float
    cpu_shares: int
    pids: int
    shm_size: int | str
    """Of /dev/shm; 64 MiB by default."""
    scratch: Literal["memory", "disk"]
    """Where the writable layer lives; `disk` for big data. By default memory, where the kernel can."""
    scratch_size: int | str
    """Of a writable layer in memory; by default half of `memory`, or 1 GiB."""
    mounts: Sequence[Mount]
    tmpfs: Sequence[str | Tmpfs]
    read_only: bool
    """The root file system can't be written."""
    init: bool
    """A small init is PID 1 and reaps orphans; by default the command itself is PID 1."""
    stop_signal: str | int
    stop_timeout: float
    """Seconds between the stop signal and SIGKILL when `stop()` is called; 10 by default."""
    ulimits: Mapping[str, int | tuple[int, int]]
    """For example `{"nofile": 1024}` or `{"core": (0, 0)}` (soft, hard). See getrlimit(2)."""
    sysctls: Mapping[str, str]
    """Of the container's own namespaces, for example `{"net.core.somaxconn": "512"}`."""
    capabilities: Sequence[str]
    """Which of `CAPABILITIES` root keeps; by default all eleven."""
    labels: Mapping[str, str]
    wait: Wait | None
    """When it is ready; None: as soon as it runs. By default what the image says."""
    wait_timeout: float
    """Seconds; 60 by default."""
    setup: Callable[[Any], object]
    """Called with the handle once the container is ready, before the test sees it."""


class _Unset:
    """Of `wait`: what the image says."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<what the image says>"


IMAGE_SAYS = _Unset()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec(Generic[H_co]):
    """A container to be: an image and what differs from it. Made by `image()` and the services.

    Every field has the meaning that `ContainerOptions` gives it, in settled units.
    """

    image: str
    handle: type[H_co]
    """The class of the handle that a fixture or `Sandbox.run` returns."""
    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    env: tuple[tuple[str, str], ...] = ()
    user: str | None = None
    workdir: str | None = None
    hostname: str | None = None
    name: str | None = None
    aliases: tuple[str, ...] = ()
    networks: tuple[Network | str, ...] | None = None
    """None: the sandbox's own network; empty: none but loopback."""
    ports: tuple[int, ...] = ()
    limits: Limits = Limits()  # noqa: RUF009  (frozen)
    shm_size: int = 64 << 20
    scratch: Literal["memory", "disk"] | None = None
    scratch_size: int | None = None
    mounts: tuple[Mount, ...] = ()
    tmpfs: tuple[Tmpfs, ...] = ()
    read_only: bool = False
    init: bool = False
    stop_signal: int | None = None
    stop_timeout: float = 10.0
    ulimits: tuple[tuple[str, int, int], ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()
    capabilities: tuple[str, ...] = tuple(CAPABILITIES)
    labels: tuple[tuple[str, str], ...] = ()
    wait: Wait | _Unset | None = IMAGE_SAYS
    wait_timeout: float = 60.0
    setup: Callable[[Any], object] | None = None

    def replace(self, **options: Unpack[ContainerOptions]) -> ContainerSpec[H_co]:
        """Return a spec that differs by `options`; `env` and `labels` are added to, all else is replaced.

        Raises:
            SpecError: an unknown keyword (names the nearest), or a value that can't be.
        """
        return replace(self, **_settle(self, dict(options)))


def make_spec(image: str, handle: type[H_co], options: ContainerOptions) -> ContainerSpec[H_co]:
    """Return a spec for `image` whose containers are handled by `handle`. For authors of services.

    Raises:
        SpecError: an unknown keyword (names the nearest), or a value that can't be.
    """
    if not isinstance(image, str) or not image.strip():
        raise SpecError(f"{image!r} names no image", remedy='for example image("busybox"); `sealed images` lists those there are')
    return ContainerSpec(image=image, handle=handle).replace(**options)


_SIGNALS = {item.name.removeprefix("SIG").lower(): int(item) for item in signal.Signals}


def parse_signal(value: str | int) -> int:
    """Return the number of a signal from `"SIGINT"`, `"int"`, `"2"` or 2.

    Raises:
        SpecError: there is no such signal; names the nearest.
    """
    text = str(value).strip()
    number = int(text) if text.isdigit() else _SIGNALS.get(text.lower().removeprefix("sig"), 0)
    if not 1 <= number <= 64:
        raise SpecError(f"there is no signal {value!r}{nearest(text.upper(), [f'SIG{n.upper()}' for n in _SIGNALS])}",
                        remedy='give a name or number of signal(7), for example "SIGINT"')
    return number


def _settle(spec: ContainerSpec[Any], options: dict[str, Any]) -> dict[str, Any]:
    """Turn keywords of `ContainerOptions` into values for the fields of `ContainerSpec`."""
    known = ContainerOptions.__annotations__
    for key in options:
        if key not in known:
            raise SpecError(f"there is no container option {key!r}{nearest(key, known)}",
                            remedy="`pytest_sealed.ContainerOptions` lists them; the reference page explains each")
    changes: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    for key, value in options.items():
        if key in ("memory", "swap", "cpus", "cpu_shares", "pids"):
            limits[key] = _limit(key, value)
        elif key == "network":
            changes["networks"] = () if value is None else (value,)
        else:
            changes[key] = _VALUES.get(key, lambda _spec, given: given)(spec, value)
    if "network" in options and "networks" in options:
        raise SpecError("both network= and networks= were given", remedy="give one of them")
    if limits:
        changes["limits"] = replace(spec.limits, **limits)
        if changes["limits"].swap is not None and changes["limits"].memory is None:
            raise SpecError("swap= needs memory=", remedy='give both, for example memory="64M", swap="64M"')
    return changes


def _limit(key: str, value: Any) -> Any:
    if key == "memory":
        size = parse_size(value, key)
        if size < MINIMUM_MEMORY:
            raise SpecError(f"memory={value!r} is less than a container needs to start ({MINIMUM_MEMORY >> 20}M)",
                            remedy=f'give "{MINIMUM_MEMORY >> 20}M" or more')
        return size
    if key == "swap":
        return 0 if value in (0, "0") else parse_size(value, key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SpecError(f"{key}={value!r} is no number", remedy=f"for example {key}={'0.5' if key == 'cpus' else '512'}")
    low, high = {"cpus": (0.01, 4096), "cpu_shares": (2, 262144), "pids": (1, 1 << 22)}[key]
    if not low <= value <= high:
        raise SpecError(f"{key}={value} is outside {low} to {high}", remedy=f"leave {key} out, or give a number in that range")
    return float(value) if key == "cpus" else int(value)


def _absolute(what: str, path: str) -> None:
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
        raise SpecError(f"{what} {path!r} is no absolute path", remedy="begin it with '/'")
    if os.path.normpath(path) == "/":
        raise SpecError(f"{what} {path!r} is the root itself", remedy="name a folder below it")


def _words(key: str) -> Callable[[Any, Any], tuple[str, ...]]:
    def convert(_spec: object, value: Any) -> tuple[str, ...]:
        if isinstance(value, str) or not all(isinstance(word, str) and "\0" not in word for word in value):
            raise SpecError(f"{key}={value!r} is no list of strings",
                            remedy=f'for example {key}=["redis-cli", "ping"]; for a shell line, ["sh", "-c", "…"]')
        return tuple(value)
    return convert


def _pairs(key: str, add: bool) -> Callable[[Any, Any], tuple[tuple[str, str], ...]]:
    def convert(spec: Any, value: Any) -> tuple[tuple[str, str], ...]:
        for name, text in dict(value).items():
            if not isinstance(name, str) or not isinstance(text, str) or not name or "=" in name or "\0" in name + text:
                raise SpecError(f"{key}: {name!r}: {text!r} is no pair of strings", remedy=f'for example {key}={{"NAME": "value"}}')
        return tuple(sorted({**(dict(getattr(spec, key)) if add else {}), **dict(value)}.items()))
    return convert


_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")


def check_name(what: str, value: Any) -> str:
    """Return `value` if it can be a name on a network (RFC 1123's letters, and underscores)."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise SpecError(f"{what} {value!r} is no host name",
                        remedy="use letters, digits, '-', '_' and '.', at most 63, a letter or digit first and last")
    return value


def _ulimits(_spec: object, value: Any) -> tuple[tuple[str, int, int], ...]:
    known = ("as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio",
             "rttime", "sigpending", "stack")
    rows = []
    for name, amount in dict(value).items():
        if name not in known:
            raise SpecError(f"there is no ulimit {name!r}{nearest(str(name), known)}", remedy="see getrlimit(2)")
        soft, hard = amount if isinstance(amount, tuple) else (amount, amount)
        rows.append((name, int(soft), int(hard)))
    return tuple(sorted(rows))


def _sysctls(_spec: object, value: Any) -> tuple[tuple[str, str], ...]:
    for name in dict(value):
        if not re.fullmatch(r"(net|fs\.mqueue)\.[\w./-]+|kernel\.(shm\w+|msg\w+|sem)", str(name)) or ".." in name:
            raise SpecError(f"sysctl {name!r} is not one of a container's own namespaces",
                            remedy="net.*, fs.mqueue.*, kernel.shm*, kernel.msg* and kernel.sem can be set")
    return tuple(sorted((str(name), str(text)) for name, text in dict(value).items()))


def _capabilities(_spec: object, value: Any) -> tuple[str, ...]:
    names = [str(name).upper().removeprefix("CAP_") for name in value]
    for name in names:
        if name not in CAPABILITIES:
            raise SpecError(f"capability {name!r} can't be given to a container{nearest(name, CAPABILITIES)}",
                            remedy=f"those there are: {', '.join(CAPABILITIES)}")
    return tuple(sorted(set(names)))


def _one_of(key: str, *words: str) -> Callable[[Any, Any], str]:
    def convert(_spec: object, value: Any) -> str:
        if value not in words:
            raise SpecError(f"{key}={value!r} is none of {', '.join(map(repr, words))}", remedy=f"give {words[0]!r} or {words[-1]!r}")
        return str(value)
    return convert


def _seconds(key: str) -> Callable[[Any, Any], float]:
    def convert(_spec: object, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
            raise SpecError(f"{key}={value!r} is no number of seconds", remedy=f"for example {key}=5")
        return float(value)
    return convert


def _path(key: str) -> Callable[[Any, Any], str]:
    def convert(_spec: object, value: Any) -> str:
        if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
            raise SpecError(f"{key}={value!r} is no absolute path", remedy="begin it with '/'")
        return value
    return convert


def _ports(_spec: object, value: Any) -> tuple[int, ...]:
    from pytest_sealed.waits import tcp
    return tuple(sorted({tcp(port).port for port in value}))


_VALUES: dict[str, Callable[[Any, Any], Any]] = {
    "command": _words("command"),
    "entrypoint": _words("entrypoint"),
    "env": _pairs("env", add=True),
    "labels": _pairs("labels", add=True),
    "user": lambda _spec, value: str(value),
    "workdir": _path("workdir"),
    "hostname": lambda _spec, value: check_name("hostname", value),
    "name": lambda _spec, value: check_name("container name", value),
    "aliases": lambda _spec, value: tuple(check_name("alias", alias) for alias in value),
    "networks": lambda _spec, value: tuple(value),
    "ports": _ports,
    "shm_size": lambda _spec, value: parse_size(value, "shm_size"),
    "scratch": _one_of("scratch", "memory", "disk"),
    "scratch_size": lambda _spec, value: parse_size(value, "scratch_size"),
    "mounts": lambda _spec, value: tuple(value),
    "tmpfs": lambda _spec, value: tuple(Tmpfs(target=item) if isinstance(item, str) else item for item in value),
    "stop_signal": lambda _spec, value: parse_signal(value),
    "stop_timeout": _seconds("stop_timeout"),
    "wait_timeout": _seconds("wait_timeout"),
    "ulimits": _ulimits,
    "sysctls": _sysctls,
    "capabilities": _capabilities,
}

