"""What a container shall be: frozen, validated descriptions. Units and names are settled here, once.

`image()` (in `pytest_sealed.container`) and the services make a `ContainerSpec`; fixtures and
`Sandbox.run` take one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Literal, TypedDict, TypeVar, final

from pytest_sealed.errors import SpecError, nearest
from pytest_sealed.given import check_files
from pytest_sealed.secret import SECRETS, Secret, check_secrets
from pytest_sealed.values import (
    CAPABILITIES,
    CONVERTERS,
    LIMITS,
    check_flag,
    check_mode,
    check_name,
    check_target,
    check_user,
    limit,
    pairs,
    parse_signal,
    parse_size,
)

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Unpack

    from pytest_sealed.container import Container
    from pytest_sealed.network import Network
    from pytest_sealed.waits import Wait

__all__ = [
    "CAPABILITIES",
    "ContainerChanges",
    "ContainerOptions",
    "ContainerSpec",
    "Limits",
    "Mount",
    "Tmpfs",
    "check_name",
    "make_spec",
    "parse_signal",
    "parse_size",
]

H_co = TypeVar("H_co", bound="Container", covariant=True)

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
        object.__setattr__(self, "target", check_target("mount target", self.target))
        check_flag("read_only", self.read_only)
        self.check_source()

    def check_source(self) -> None:
        """Raise SpecError if there is no such folder or file, or no more."""
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
    user: str | int | None = None
    """Owner, as a name or number of the container; None: root."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", check_target("tmpfs target", self.target))
        object.__setattr__(self, "size", parse_size(self.size, "tmpfs size"))
        check_mode("tmpfs mode", self.mode)
        if self.user is not None:
            object.__setattr__(self, "user", check_user("tmpfs user", self.user))


class ContainerChanges(TypedDict, total=False):
    """The keywords that `image`, every service, `Sandbox.run` and the `sealed` marker share."""

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
    publish: Literal["loopback", "none"]
    """`none`: no port of the host leads to it, since all users of a machine share its loopback. By default what the sandbox says."""
    memory: int | str | None
    """As each of the next four, None lifts what a spec has set."""
    swap: int | str | None
    cpus: float | None
    cpu_shares: int | None
    pids: int | None
    shm_size: int | str
    """Of /dev/shm; 64 MiB by default."""
    scratch: Literal["memory", "disk"]
    """Where the writable layer lives; `disk` for big data. By default memory, where the kernel can."""
    scratch_size: int | str | None
    """Of a writable layer in memory; by default, or None, half of `memory`, or 1 GiB."""
    mounts: Sequence[Mount]
    tmpfs: Sequence[str | Tmpfs]
    files: Mapping[str, bytes | os.PathLike[str]]
    """Files of its own before its command starts: absolute path → what it says, or a file or folder of the host that is copied."""
    secrets: Mapping[str, str | bytes]
    """Files at `/run/secrets/NAME` that its user alone may read; nothing else shows the values, nor has them on disk."""
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
    seccomp: str | os.PathLike[str]
    """Which system calls it may make: `"default"`; `"unconfined"`, all; or a file: a profile in the OCI's form, or classic BPF."""
    nested: bool
    """For test suites that use pytest-sealed themselves: weaker, since nothing of /proc and /sys is hidden, and namespaces can be made."""
    labels: Mapping[str, str]
    wait: Wait | None
    """When it is ready; None: as soon as it runs. By default what the image says."""
    wait_timeout: float
    """Seconds; 60 by default."""
    setup: Callable[[Any], object]
    """Called with the handle once the container is ready, before the test sees it."""


class ContainerOptions(ContainerChanges, total=False):
    """All keywords of a spec: those of `ContainerChanges`, and the command, which `Sandbox.run` takes by position."""

    command: Sequence[str]
    """Instead of the image's command; follows the entrypoint."""


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
    publish: Literal["loopback", "none"] | None = None
    """None: what the sandbox says."""
    limits: Limits = Limits()
    shm_size: int = 64 << 20
    scratch: Literal["memory", "disk"] | None = None
    scratch_size: int | None = None
    mounts: tuple[Mount, ...] = ()
    tmpfs: tuple[Tmpfs, ...] = ()
    files: tuple[tuple[str, bytes | Path], ...] = ()
    secrets: tuple[tuple[str, Secret], ...] = ()
    read_only: bool = False
    init: bool = False
    stop_signal: int | None = None
    stop_timeout: float = 10.0
    ulimits: tuple[tuple[str, int, int], ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()
    capabilities: tuple[str, ...] = tuple(CAPABILITIES)
    seccomp: str = "default"
    nested: bool = False
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


_ELSEWHERE = {"cap_add": "capabilities", "configs": "files", "copy_into": "files", "cpu_count": "cpus", "environment": "env",
              "mem_limit": "memory", "nano_cpus": "cpus", "security_opt": "seccomp", "volumes": "mounts", "working_dir": "workdir"}
"""What other libraries and Compose files call an option."""


def _settle(spec: ContainerSpec[Any], options: dict[str, Any]) -> dict[str, Any]:
    """Turn keywords of `ContainerOptions` into values for the fields of `ContainerSpec`."""
    known = {**ContainerChanges.__annotations__, **ContainerOptions.__annotations__}
    for key in options:
        if key not in known:
            raise SpecError(f"there is no container option {key!r}{nearest(_ELSEWHERE.get(key, key), known)}",
                            remedy="`pytest_sealed.ContainerOptions` lists them; the reference page explains each")
    changes: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    for key, value in options.items():
        if key in LIMITS:
            limits[key] = limit(key, value)
        elif key in ("env", "labels"):
            changes[key] = tuple(sorted({**dict(getattr(spec, key)), **pairs(key, value)}.items()))
        elif key == "network":
            changes["networks"] = () if value is None else (CONVERTERS[key](key, value),)
        elif key in ("mounts", "tmpfs"):
            changes[key] = _targets(key, value)
        elif key == "files":
            changes[key] = check_files(key, value)
        elif key == "secrets":
            changes[key] = check_secrets(key, value)
        else:
            changes[key] = CONVERTERS[key](key, value)
    _check_together(spec, options, changes)
    if limits:
        changes["limits"] = replace(spec.limits, **limits)
        if changes["limits"].swap is not None and changes["limits"].memory is None:
            raise SpecError("swap= needs memory=", remedy='give both, for example memory="64M", swap="64M", or neither: swap=None')
    if changes.get("init", spec.init) and changes.get("limits", spec.limits).pids == 1:
        raise SpecError("init=True needs two processes, and pids=1 allows one", remedy="give pids=2 or more, or leave init= out")
    return changes


def _targets(key: str, value: Any) -> tuple[Mount | Tmpfs, ...]:
    example = '[Mount(source="data", target="/data")]' if key == "mounts" else '["/tmp", Tmpfs(target="/run", size="1M")]'
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise SpecError(f"{key}={value!r} is no list", remedy=f"for example {key}={example}")
    kind = Mount if key == "mounts" else Tmpfs
    items = [Tmpfs(target=item) if kind is Tmpfs and isinstance(item, str) else item for item in value]
    for item in items:
        if not isinstance(item, kind):
            raise SpecError(f"{key}: {item!r} is no {kind.__name__}", remedy=f"for example {example.strip('[]')}")
    return tuple(items)


def _check_together(spec: ContainerSpec[Any], options: dict[str, Any], changes: dict[str, Any]) -> None:
    if "network" in options and "networks" in options:
        raise SpecError("both network= and networks= were given", remedy="give one of them")
    ports = changes.get("ports", spec.ports)
    if ports and changes.get("networks", spec.networks) == ():
        raise SpecError(f"ports={[*ports]} lead nowhere without a network",
                        remedy="leave network=None out, or, where another set the ports, add ports=[]")
    if ports and changes.get("publish", spec.publish) == "none":
        raise SpecError(f"ports={[*ports]} would be published, and publish= is 'none'",
                        remedy="leave ports= out, and use unix_socket() or connect(); or, where another set one of them, give "
                               "ports=[] or publish='loopback'")
    if changes.get("scratch", spec.scratch) == "disk" and changes.get("scratch_size", spec.scratch_size) is not None:
        raise SpecError('scratch_size= is for a writable layer in memory, and scratch="disk" puts it on disk, which sets no size',
                        remedy="give one of them; where another set scratch_size, add scratch_size=None")
    if {"mounts", "tmpfs", "secrets"} & changes.keys():
        targets = [item.target for key in ("mounts", "tmpfs") for item in changes.get(key, getattr(spec, key))]
        among = next((target for target in targets if f"{target}/".startswith(f"{SECRETS}/")), None)
        if among is not None and changes.get("secrets", spec.secrets):
            raise SpecError(f"a mount at {among!r} and secrets=, which are the files of {SECRETS}", remedy="mount it elsewhere")
        twice = next((target for target in targets if targets.count(target) > 1), None)
        if twice is not None:
            raise SpecError(f"two mounts at {twice!r}", remedy="give each a target of its own")
