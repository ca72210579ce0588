"""A sandbox: containers and networks with one lifetime. Works without pytest: `with Sandbox() as sealed: …`."""

from __future__ import annotations

import contextlib
import itertools
import platform
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar, final, overload

from pytest_sealed.container import Container, image
from pytest_sealed.errors import NetworkError, SealedError, SpecError, nearest, no_linux
from pytest_sealed.images.installed import installed_wheels
from pytest_sealed.images.snapshot import Snapshots
from pytest_sealed.images.store import Store
from pytest_sealed.network import DEFAULT, Network, names_of
from pytest_sealed.runtime.cgroups import detect
from pytest_sealed.runtime.client import Session
from pytest_sealed.runtime.idmap import find_id_map
from pytest_sealed.spec import ContainerSpec
from pytest_sealed.values import check_publish

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pytest_sealed.spec import ContainerChanges

__all__ = ["HostReport", "Sandbox"]

H = TypeVar("H", bound=Container)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HostReport:
    """What containers of this session run on."""

    mode: str
    """How ids are mapped: "root", "subids" or "single" (the container's user is this account itself)."""
    cgroup: str
    """"v1", "v2" or "none"."""
    limits: tuple[str, ...]
    """The controllers whose limits can be enforced."""
    kernel: str
    store: str


class _Shared:
    """What a root sandbox and its children share: the store, and the session once one needs it."""

    def __init__(self, store: Store | None, watched: Sequence[int]) -> None:
        self._given = store
        self._store: Store | None = store
        self._watched = watched
        self._session: Session | None = None
        self._lock = threading.Lock()
        self._warming: threading.Thread | None = None

    @property
    def store(self) -> Store:
        if self._store is None:
            self._store = Store()
        return self._store

    @property
    def session(self) -> Session:
        with self._lock:
            if self._session is None:
                absent = no_linux()
                if absent is not None:
                    raise absent
                from pytest_sealed.runtime.sweep import sweep
                sweep()
                self._session = Session(self.store.root / "scratch", watched=self._watched)
            return self._session

    @property
    def started(self) -> Session | None:
        return self._session

    def warm(self) -> None:
        def start() -> None:
            with contextlib.suppress(SealedError):   # the first use raises it again, in the test that needs it
                self.session  # noqa: B018
                installed_wheels()   # which the first image is asked for
        self._warming = threading.Thread(target=start, name="sealed-warm", daemon=True)
        self._warming.start()

    def close(self) -> None:
        if self._warming is not None:
            self._warming.join()
        with self._lock:
            if self._session is not None:
                self._session.close()


class Sandbox:
    """Containers and networks that end together. A context manager; the supervisor starts at the first use.

    Args:
        parent: a sandbox whose session this one shares; the networks and containers are its own.
        name: for messages.
        network: the name of the network that its containers are on unless they say otherwise.
        store: where images are; by default this account's store.
        publish: of its containers that don't say otherwise, see `ContainerChanges`; by default the parent's, else "loopback".
        watched: pids of other processes at whose end everything ends too, as at this one's.

    Raises:
        SpecError: `publish` is something else.
    """

    def __init__(self, *, parent: Sandbox | None = None, name: str = "sandbox", network: str = DEFAULT, store: Store | None = None,
                 publish: Literal["loopback", "none"] | None = None, watched: Sequence[int] = ()) -> None:
        self.name = name
        inherited = parent._publish if parent is not None else "loopback"
        self._publish: str = check_publish("publish", inherited if publish is None else publish)
        self._default = network
        self.containers: list[Container] = []
        self.networks: dict[str, Network] = {}
        self._parent = parent
        self._shared: _Shared = parent._shared if parent is not None else _Shared(store, watched)
        self._leases = contextlib.ExitStack()
        self._snapshots = Snapshots(lambda: self.store)
        self._leased: set[str] = set()
        self._lock = threading.RLock()
        self._closed = False

    @property
    def session(self) -> Session:
        """The runtime's session, started at the first use.

        Raises:
            HostUnsupported: this host can't run containers; says why and what helps.
        """
        if self._closed:
            raise SpecError(f"the sandbox {self.name!r} is closed", remedy="use it within its `with` block or fixture")
        return self._shared.session

    @property
    def store(self) -> Store:
        """Where images are."""
        return self._shared.store

    def warm(self) -> None:
        """Start the supervisor in the background, so that the first container needn't wait for it."""
        self._shared.warm()

    def describe(self) -> HostReport:
        """Return what containers run on here; starts nothing."""
        session = self._shared.started
        ids, hierarchy = (session.ids, session.hierarchy) if session is not None else (find_id_map(), detect())
        return HostReport(mode=ids.mode, cgroup=hierarchy.version, limits=tuple(sorted(hierarchy.bases)),
                          kernel=platform.release(), store=str(self.store.root))

    def network(self, name: str | None = None) -> Network:
        """Return the network `name` of this sandbox, by default the one that its containers share; made if it isn't there."""
        name = name or self._default
        with self._lock:
            if name not in self.networks or self.networks[name].closed:
                self.networks[name] = Network(self.session, name, self._subnets())
            return self.networks[name]

    def _subnets(self) -> set[str]:
        own = {network.subnet for network in self.networks.values() if not network.closed}
        return own | self._parent._subnets() if self._parent is not None else own

    @overload
    def run(self, what: str, command: Sequence[str] | None = None, *, start: bool = True,
            **options: Unpack[ContainerChanges]) -> Container: ...
    @overload
    def run(self, what: ContainerSpec[H], command: Sequence[str] | None = None, *, start: bool = True,
            **options: Unpack[ContainerChanges]) -> H: ...
    def run(self, what: str | ContainerSpec[H], command: Sequence[str] | None = None, *, start: bool = True,
            **options: Unpack[ContainerChanges]) -> Container | H:
        """Start a container and wait until it is ready.

        Args:
            what: a spec, or an image's name.
            command: instead of the image's.
            start: False returns the handle at once; `handle.start()` starts it later.
            options: changes to the spec, see `ContainerChanges`.

        Raises:
            ImageNotFound: the store has no such image; names the nearest and the command that makes it.
            SpecError, NetworkError: something asked for can't be; says what and the remedy.
            ContainerFailed: it did not start, ended early, or was not ready in time.
        """
        spec: ContainerSpec[Container] = what if isinstance(what, ContainerSpec) else image(what)
        if command is not None:
            spec = spec.replace(command=command)
        if options:
            spec = spec.replace(**options)
        del options   # a traceback with arguments shows no secrets
        container = self.plan(spec)
        if start:
            container.start()
        return container

    def plan(self, spec: ContainerSpec[H], *, joins: Sequence[Network] = ()) -> H:
        """Return a container that has not started: its facts are there, and `start()` starts it.

        Args:
            spec: what it shall be.
            joins: networks that it is on besides, nameless: it reaches who is on them by name, and nobody there finds it.

        Raises:
            ImageNotFound, SpecError: as `run`.
        """
        session = self.session
        if spec.publish is None and self._publish == "none":
            spec = spec.replace(publish="none")
        found = self.store.pinned(spec.image)
        with self._lock:   # several threads may start containers at once
            networks = self._networks(spec)
            name = self._name(spec, found.reference, networks)
            if found.digest not in self._leased:
                self._leases.enter_context(self.store.lease(found))
                self._leased.add(found.digest)
            container = spec.handle(session, spec, found, name=name, networks=networks, joins=joins, snapshots=self._snapshots)
            self.containers.append(container)
        return container

    def _networks(self, spec: ContainerSpec[Container]) -> list[Network]:
        if spec.networks is None:
            return [self.network()]
        networks = [network if isinstance(network, Network) else self._named(network) for network in spec.networks]
        for network in networks:
            if network._session is not self.session:
                raise SpecError(f"network {network.name!r} is another sandbox's, of another session",
                                remedy=f"make one here: sealed.network({network.name!r})")
            if network.closed:
                raise NetworkError(f"network {network.name!r} was closed", remedy=f"make another: sealed.network({network.name!r})")
        return networks

    def _named(self, name: object) -> Network:
        sandbox: Sandbox | None = self
        known: list[str] = []
        while sandbox is not None:
            if name in sandbox.networks:
                return sandbox.networks[str(name)]
            known += sandbox.networks
            sandbox = sandbox._parent
        raise SpecError(f"there is no network {name!r} in this sandbox{nearest(str(name), known)}",
                        remedy=f"make it first: sealed.network({str(name)!r})")

    def _name(self, spec: ContainerSpec[Container], reference: str, networks: list[Network]) -> str:
        taken = {name for network in networks for member in network.members for name in names_of(member)}
        taken |= {container.name.lower() for container in self.containers if not container.removed}
        listeners = {name: network.name for network in networks for name in network.listener_names}
        for name in (*(() if spec.name is None else (spec.name,)), *spec.aliases):
            if name.lower() in taken:
                raise SpecError(f"there is a container called {name!r} already",
                                remedy="give name= another, or remove() that one first")
            if name.lower() in listeners:
                raise SpecError(f"the name {name!r} belongs to a listener of network {listeners[name.lower()]!r}",
                                remedy="give name= another, or listen() under another")
        if spec.name is not None:
            return spec.name
        base = reference.rpartition("/")[2].partition(":")[0].partition("@")[0]
        names = itertools.chain([base], (f"{base}-{count}" for count in itertools.count(2)))
        return next(name for name in names if name not in taken and name not in listeners)

    def close(self) -> None:
        """End all containers, drop all networks; idempotent. A root sandbox ends the session with all its children."""
        if self._closed:
            return
        self._closed = True
        session = self._shared.started
        try:
            if session is not None and session.alive:
                with contextlib.ExitStack() as stack:
                    for network in self.networks.values():
                        stack.callback(network.close)
                    for finish in [container.begin_remove() for container in self.containers]:
                        stack.callback(finish)
        finally:
            self._leases.close()
            self._snapshots.close()
            if self._parent is None:
                self._shared.close()

    def leftovers(self) -> list[str]:
        """Return what the session still has on the host after this, the root sandbox, has closed; normally nothing."""
        session = self._shared.started
        return session.leftovers() if session is not None else []

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Sandbox {self.name} {len(self.containers)} containers>"
