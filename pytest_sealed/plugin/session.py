"""The containers of one pytest process: a root sandbox, and one below it for each scope in use."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, final

import pytest

from pytest_sealed.errors import HostUnsupported, SealedError, SpecError, no_linux
from pytest_sealed.plugin import closure, options
from pytest_sealed.plugin.unsupported import require_linux

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from _pytest import nodes

    from pytest_sealed.container import Container
    from pytest_sealed.network import Network
    from pytest_sealed.sandbox import Sandbox
    from pytest_sealed.spec import ContainerSpec

__all__ = ["RUN", "Figures", "Record", "Run", "host_name", "run_of"]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Record:
    """The container of a container fixture, for as long as the fixture lives."""

    fixture: str
    container: Container
    network: Network | None
    """The network of its scope; None where its spec names other networks."""


@final
class Figures:
    """What the terminal summary tells; those of xdist workers are added up."""

    def __init__(self) -> None:
        self.started = 0
        """Containers."""
        self.seconds: list[float] = []
        """From the start of each until it was ready; those that never were are missing."""
        self.left: list[str] = []
        """What was still on the host at the end."""

    def pack(self) -> dict[str, Any]:
        """Return them as plain values, for the way from a worker to the controller."""
        return {"started": self.started, "seconds": self.seconds, "left": self.left}

    def count(self, containers: Iterable[Container]) -> None:
        """Count containers that have had their time."""
        for one in containers:
            self.started += one.started_at is not None
            self.seconds += [one.start_seconds] if one.start_seconds is not None else []

    def add(self, packed: dict[str, Any]) -> None:
        """Add a worker's."""
        self.started += packed["started"]
        self.seconds += packed["seconds"]
        self.left += packed["left"]


SANDBOX: pytest.StashKey[Sandbox] = pytest.StashKey()
RECORDS: pytest.StashKey[list[Record]] = pytest.StashKey()
RUN: pytest.StashKey[Run] = pytest.StashKey()


def run_of(config: pytest.Config) -> Run:
    """Return the containers of this pytest process.

    Raises:
        pytest.UsageError: the plugin is off.
    """
    run = config.stash.get(RUN, None)
    if run is None:
        raise pytest.UsageError("this test needs a container, but the plugin pytest-sealed is off: "
                                "remove `-p no:sealed`, or deselect the test")
    return run


@final
class Run:
    """Holds the sandboxes, from the first that is needed to the end of the session.

    A forked child of a test must not end what belongs to its parent: there, everything that ends something does nothing.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._owner = os.getpid()
        parent = os.getppid()   # 0: it is in another PID namespace
        self._watched = [parent] if parent and hasattr(config, "workerinput") else []
        """xdist's controller: when that is killed, execnet lets this worker go on for up to ten seconds."""
        self._root: Sandbox | None = None
        self._warm = options.starts_nothing(config)   # or needn't be
        self.figures = Figures()
        self.store = options.store(config)
        self._diagnosed = False
        self._positions: dict[Container, int] = {}
        self._ended: list[Container] = []

    @property
    def forked(self) -> bool:
        return os.getpid() != self._owner

    # the session's start and end

    def collected(self, item: pytest.Item) -> None:
        """Start the runtime in the background once a test is seen that needs it, while collection goes on."""
        if self._warm or not _uses_containers(item):
            return
        self._warm = True
        if no_linux() is not None:
            return
        with contextlib.suppress(SealedError):   # the first use raises it again, in the test that needs it
            self._open().warm()

    def selected(self, items: Iterable[pytest.Item]) -> None:
        """End the runtime if no test that needs it was left by `-k` and the like."""
        if self._root is not None and not any(_uses_containers(item) for item in items):
            self._root.close()
            self._root = None

    def close(self) -> None:
        """End everything; idempotent."""
        root, self._root = self._root, None
        if root is None or self.forked:
            return
        try:
            root.close()
            self.figures.left += root.leftovers()
        except (SealedError, OSError) as error:   # the tests are over: this is told, and fails none of them
            self.figures.left.append(f"the end of the session failed: {error}")

    def _open(self) -> Sandbox:
        if self._root is None:
            from pytest_sealed.images.store import Store
            from pytest_sealed.plugin.frozen import guard
            from pytest_sealed.sandbox import Sandbox
            self._root = Sandbox(name="session", store=Store(self.store, check=guard(self._config)),
                                 publish=options.publish(self._config), watched=self._watched)
        return self._root

    # scopes

    def sandbox(self, node: nodes.Node) -> Sandbox:
        """Return the sandbox of a scope; made at the first use, below those of the wider scopes, closed with the scope.

        Raises:
            SealedError: this is a forked child, where the thread that starts the runtime may have held its lock.
        """
        __tracebackhide__ = True
        if self.forked:
            raise SealedError("containers belong to the process that started them, and this test runs in a forked child of it",
                              remedy="leave out --forked (pytest-forked) for tests with containers; a worker of pytest-xdist has its own")
        found = node.stash.get(SANDBOX, None)
        if found is not None:
            return found
        require_linux(self._config)
        from pytest_sealed.sandbox import Sandbox
        parent = self.sandbox(node.parent) if node.parent is not None else self._open()
        made = node.stash[SANDBOX] = Sandbox(parent=parent, name=node.nodeid or "session", network=_network_name(node))
        node.addfinalizer(partial(self._close, node))
        return made

    def _close(self, node: nodes.Node) -> None:
        if self.forked:
            return
        sandbox = node.stash[SANDBOX]
        del node.stash[SANDBOX]
        try:
            with self._unless_all_is_gone():
                sandbox.close()
        finally:
            self.figures.count(sandbox.containers)

    @contextlib.contextmanager
    def _unless_all_is_gone(self) -> Iterator[None]:
        """Let a removal fail in silence when the supervisor was killed: nothing is left to remove, and a use will say why."""
        try:
            yield
        except SealedError:
            if self._open().session.alive:
                raise

    # containers of fixtures

    def container(self, request: pytest.FixtureRequest, spec: ContainerSpec[Any], needs: Iterable[str]) -> Container:
        """Return the container of a fixture, ready; or only planned, where another container fixture overrides this one.

        Args:
            request: the fixture's.
            needs: the fixture's parameters.
        """
        __tracebackhide__ = True
        node, fixture = request.node, str(request.fixturename)
        sandbox = self.sandbox(node)
        if spec.name is None:
            try:
                spec = spec.replace(name=host_name(fixture))
            except SpecError:
                raise SpecError(f"the container of the fixture {fixture!r} can't have its name: it is no host name",
                                remedy='give it one of letters, digits and "-": name="…" in its spec') from None
        own = sandbox.network() if spec.networks is None else None
        joins = _wider_networks(node, closure.dependencies(request, needs)) if own is not None else ()
        container: Container = sandbox.plan(spec, joins=joins)
        # Recorded before the start, so that one that fails is reported and removed like any other.
        record = Record(fixture=fixture, container=container, network=own)
        node.stash.setdefault(RECORDS, []).append(record)
        request.addfinalizer(partial(self._end, node, record))
        if not closure.is_overridden(request):
            container.start()
        return container

    def _end(self, node: nodes.Node, record: Record) -> None:
        if self.forked:
            return
        node.stash[RECORDS].remove(record)
        self._ended.append(record.container)
        with self._unless_all_is_gone():
            record.container.remove()

    # reports

    def begin(self, item: pytest.Item) -> None:
        """Remember where the logs of the containers of wider scopes end, so that a report shows this test's part only."""
        self._positions.clear()
        for node in item.listchain()[:-1]:
            for container in _containers(node):
                with contextlib.suppress(SealedError, OSError):   # it is gone, and a test that needs it will say so
                    self._positions[container] = container.log_position()

    def ending(self) -> None:
        """Remember from now on which containers end: a failed teardown reports them."""
        self._ended.clear()

    def diagnosis(self, error: BaseException) -> str:
        """Return what `sealed doctor` finds, of this process's first test that the host can't do; else nothing."""
        if not isinstance(error, HostUnsupported) or self._diagnosed or no_linux() is not None:
            return ""
        self._diagnosed = True
        from pytest_sealed.doctor import examine
        try:
            return examine(self.store).short()
        except Exception as failure:   # the report of the test matters more
            return f"sealed doctor failed: {failure!r}"

    def reported(self, item: pytest.Item, when: str | None) -> Iterator[tuple[Container, int]]:
        """Yield the containers of a test, widest scope first, each with the log position that its part begins at."""
        names = closure.active_names(item)
        used: list[Container] = []
        for node in item.listchain():
            by_fixture = {record.container: record.fixture for record in node.stash.get(RECORDS, ())}
            by_hand = _SEALED.get(_network_name(node), "") in names
            used += [one for one in _containers(node) if (node is item or by_fixture[one] in names if one in by_fixture else by_hand)]
        if when == "teardown":
            used += self._ended
        for container in dict.fromkeys(used):
            ready = container.start_seconds is not None   # else it failed in an earlier test, and this one shows why
            yield container, self._positions.get(container, 0) if ready else 0


_SEALED = {"default": "sealed", "module": "sealed_module", "session": "sealed_session"}


def host_name(fixture: str) -> str:
    """Return the name on networks of a fixture's container: the fixture's, cut to what a host name can be."""
    return fixture.strip("_")[:63].rstrip("_") or "container"


def _network_name(node: nodes.Node) -> str:
    """Return the name of a scope's own network, which its subnet hangs on."""
    scopes = {"default": pytest.Item, "class": pytest.Class, "module": pytest.Module, "session": pytest.Session}
    return next((name for name, kind in scopes.items() if isinstance(node, kind)), "package")


def _containers(node: nodes.Node) -> list[Container]:
    sandbox = node.stash.get(SANDBOX, None)
    return sandbox.containers if sandbox is not None else []


def _wider_networks(node: nodes.Node, values: Iterable[object]) -> list[Network]:
    """Return the scopes' networks, nearest first, on which containers among `values` live: see decision 0020."""
    wanted = {id(value) for value in values}
    chain = node.listchain()[-2::-1]
    found = [record.network for scope in chain for record in scope.stash.get(RECORDS, ()) if id(record.container) in wanted]
    return list(dict.fromkeys(network for network in found if network is not None))


def _uses_containers(item: pytest.Item) -> bool:
    if not set(_SEALED.values()).isdisjoint(getattr(item, "fixturenames", ())):
        return True
    if "pytest_sealed.plugin.fixtures" not in sys.modules:
        return False
    from pytest_sealed.plugin.fixtures import is_ours
    return any(is_ours(found[-1]) for found in closure.definitions(item).values() if found)
