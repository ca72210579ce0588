"""Fixtures of the tests that run containers: one supervisor for all of them, a sandbox of its own for each test, stores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from boxes import needs_writable
from registries import Registry, registry

from pytest_sealed import Sandbox
from pytest_sealed.errors import ImageNotFound
from pytest_sealed.images.build import Builder
from pytest_sealed.images.finder import find_recipe
from pytest_sealed.images.folders import default_root
from pytest_sealed.images.store import Store

NEEDED = {"range": ("busybox", "python", "postgres"), "single": ("busybox",)}


def _root(mode: str) -> Iterator[Sandbox]:
    with pytest.MonkeyPatch.context() as patch:
        if mode == "single":
            patch.setenv("SEALED_IDS", "single")
        else:
            patch.delenv("SEALED_IDS", raising=False)
        sandbox = Sandbox(name=f"the kernel tests' ({mode})")
        _require(sandbox, mode)
        sandbox.session  # noqa: B018  (the id map is chosen now)
    with sandbox:
        yield sandbox
    assert sandbox.leftovers() == []


def _require(sandbox: Sandbox, mode: str) -> None:
    missing = []
    for name in NEEDED[mode]:
        try:
            sandbox.store.get(name)
        except ImageNotFound:
            missing.append(name)
    if missing:   # never a skip: without them nothing here would be tested
        command = f"{'SEALED_IDS=single ' if mode == 'single' else ''}sealed build {' '.join(missing)}"
        pytest.fail(f"the store {sandbox.store.root} lacks images that these tests need. Build them first: {command}", pytrace=False)


@pytest.fixture(scope="session")
def root_sandbox() -> Iterator[Sandbox]:
    """The sandbox whose supervisor all tests share, with a range of ids where the account has one."""
    yield from _root("range")


@pytest.fixture(scope="session")
def single_root_sandbox() -> Iterator[Sandbox]:
    """The same in single-id mode: a container's user is the account itself."""
    yield from _root("single")


@pytest.fixture
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """A sandbox for one test; see `boxes.EITHER_IDS`."""
    mode = getattr(request, "param", "range")
    parent: Sandbox = request.getfixturevalue("root_sandbox" if mode == "range" else "single_root_sandbox")
    before = _descriptors()
    with Sandbox(parent=parent, name=request.node.name) as sandbox:
        yield sandbox
    assert _descriptors() <= before, "a test leaves descriptors open"


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def several_ids(sandbox: Sandbox) -> None:
    """Skip where the account has no range of ids to give to containers."""
    if sandbox.describe().mode == "single":
        pytest.skip("a container of this account has one id: it has no range in /etc/subuid and /etc/subgid")


@pytest.fixture
def shared(sandbox: Sandbox, tmp_path: Path) -> Path:
    """A folder of the host's for a container that may write to it."""
    needs_writable(sandbox)
    (tmp_path / "shared").mkdir()
    return tmp_path / "shared"


@pytest.fixture
def memory_layers() -> None:
    """Skip where a writable layer can't be in memory: an overlay's upper wants `user.*` attributes, tmpfs's since Linux 6.6."""
    fd = os.memfd_create("layer")
    try:
        os.setxattr(fd, "user.trial", b"")
    except OSError:
        pytest.skip("this kernel's tmpfs can't hold a writable layer")
    finally:
        os.close(fd)


@pytest.fixture
def single(sandbox: Sandbox) -> bool:
    """Whether the test's containers have one id."""
    return sandbox.describe().mode == "single"


# ---------------------------------------------------------------- images that tests build


@pytest.fixture(scope="session")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages that this account's store has fetched before, else a place for them."""
    own = default_root() / "cache"
    return own if own.is_dir() else tmp_path_factory.mktemp("cache")


def empty(store: Store) -> None:
    """Remove the images of a store, whose files an account with a range of ids can't remove otherwise: for pytest's clean-up."""
    for name in store.names():
        store.remove(name)


@pytest.fixture
def new_store(tmp_path_factory: pytest.TempPathFactory, fetched: Path) -> Iterator[Callable[[], Store]]:
    made: list[Store] = []

    def make() -> Store:
        root = tmp_path_factory.mktemp("store")
        (root / "cache").symlink_to(fetched)
        made.append(Store(root))
        return made[-1]
    yield make
    for store in made:
        empty(store)


@pytest.fixture(scope="session")
def busybox(tmp_path_factory: pytest.TempPathFactory, fetched: Path) -> Iterator[Store]:
    root = tmp_path_factory.mktemp("store")
    (root / "cache").symlink_to(fetched)
    store = Store(root)
    Builder(store).build(find_recipe("busybox"))
    yield store
    empty(store)


@pytest.fixture
def store(busybox: Store) -> Iterator[Store]:
    """A store with busybox in it, and nothing else before the test and after it."""
    record = busybox.records.get("busybox")
    yield busybox
    busybox.records.put("busybox", record)   # a test may have loaded it, which is another origin
    for name in busybox.names():
        if name != "busybox":
            busybox.remove(name)


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., str]:
    """Writes a recipe on top of busybox; returns its path."""
    def write(name: str, text: str) -> str:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "image.toml").write_text(f'schema = 1\nname = "{name}"\n[base]\nimage = "busybox"\n{text}\n')
        return str(folder)
    return write


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own: without the account's credentials and settings."""
    for name in ("REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_CONFIG_HOME", "CONTAINERS_REGISTRIES_CONF", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Debian's docker-registry, without TLS and open to all."""
    with registry(tmp_path_factory.mktemp("registry")) as found:
        yield found
