"""What the supervisor knows of its containers and networks, and the table of a container's life."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pytest_sealed.runtime.cgroups import Group
    from pytest_sealed.runtime.protocol import Channel

__all__ = ["TRANSITIONS", "ContainerRecord", "ExecRecord", "Hub"]

# The states of the OCI runtime specification (runtime.md, "State"), and what may follow what.
TRANSITIONS = {
    "creating": ("created", "stopped"),
    "created": ("running", "stopped"),
    "running": ("paused", "stopped"),
    "paused": ("running", "stopped"),
    "stopped": ("creating",),
}


class ContainerRecord:
    """A container: its request, its state, and what the supervisor holds for it until it is removed."""

    __slots__ = ("addresses", "attached", "channel", "copied", "copier", "etc", "exit", "failure", "files", "group", "id", "mount_ns",
                 "netns", "on_gone", "pid", "pidfd", "removed", "request", "secrets", "started", "state", "stats", "sync", "terminal",
                 "writable")

    def __init__(self, request: dict[str, Any], channel: Channel) -> None:
        self.id: str = request["id"]
        self.request = request
        self.channel: Channel | None = channel
        self.state = "creating"
        self.pid = 0
        self.pidfd = self.netns = self.mount_ns = self.terminal = self.copier = -1
        self.writable = -1
        """The folder that holds what it changes, for snapshots."""
        self.files = -1
        """A memory file with what it is given; closed once its root has it."""
        self.secrets = -1
        """A memory file that holds them, for a restart too."""
        self.group: Group | None = None
        self.addresses: dict[str, str] = {}
        """Network → address in it."""
        self.attached: list[tuple[int, str, str]] = []
        self.etc = ""
        self.copied: dict[str, Any] | None = None
        """What that has cost: {"bytes", "seconds"}."""
        self.sync: Channel | None = None
        """To the child until it has started its command."""
        self.started = False
        """Whether the child got as far as the exec."""
        self.failure: dict[str, Any] | None = None
        self.exit: dict[str, Any] | None = None
        self.stats: dict[str, Any] = {}
        self.removed = False
        self.on_gone: list[Callable[[], None]] = []

    def become(self, state: str) -> None:
        """Go to `state`; only the table's steps exist."""
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"container {self.id} can't become {state} from {self.state}")
        self.state = state

    @property
    def alive(self) -> bool:
        return self.pid > 0


class ExecRecord:
    """A command that runs in a container beside its PID 1."""

    __slots__ = ("channel", "container", "failure", "pid", "started", "status", "terminal")

    def __init__(self, container: ContainerRecord, channel: Channel) -> None:
        self.container, self.channel = container, channel
        self.pid = 0
        self.started = False
        self.terminal = -1
        self.failure: dict[str, Any] | None = None
        self.status: int | None = None


class Hub:
    """A network: the hub's namespace, and who is on it."""

    __slots__ = ("fd", "gateway", "id", "listeners", "members", "prefix", "subnet")

    def __init__(self, network: str, subnet: str, gateway: str, prefix: int, fd: int) -> None:
        self.id, self.subnet, self.gateway, self.prefix, self.fd = network, subnet, gateway, prefix, fd
        self.members: dict[str, tuple[str, list[str]]] = {}
        """Container → its address and names here."""
        self.listeners: dict[str, str] = {}
        """Name → address of the test's own sockets."""

    def rows(self) -> list[tuple[str, list[str]]]:
        """Return the rows of a hosts file for everyone here."""
        return [*self.members.values(), *((address, [name]) for name, address in self.listeners.items())]
