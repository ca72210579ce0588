"""The image store's records: what it finds, what it says, and what a bad place is told. No layer is unpacked here."""

from __future__ import annotations

import fcntl
import json
import os
import signal
from pathlib import Path

import pytest

from pytest_sealed import waits
from pytest_sealed.errors import ImageError, ImageNotFound, StoreError
from pytest_sealed.images.folders import Folders, default_root
from pytest_sealed.images.image import Image, ImageConfig
from pytest_sealed.images.layers import Chain, chain_id
from pytest_sealed.images.recipe_config import HealthCheck
from pytest_sealed.images.store import Store
from pytest_sealed.runtime.idmap import IdMap
from pytest_sealed.spec import Tmpfs

ONE, TWO = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
IDS = IdMap("root", 0, 0, 100000, 100000, 65536)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store", ids=IDS)
    store.folders.make()
    return store


def add(store: Store, name: str, *diff_ids: str, **config: object) -> Image:
    chain = Chain(diff_ids or (ONE,))
    for one, diff_id in zip(chain.ids, chain.diff_ids, strict=True):
        folder = store.layers.path(one)
        folder.mkdir(parents=True, exist_ok=True)
        (folder.parent / "layer.json").write_text(json.dumps({"diff_id": diff_id, "parent": "", "size": 1000}))
    return store.add(name, chain, ImageConfig(**{"env": {"A": "b"}, "labels": {}, **config}), architecture="amd64")  # type: ignore[arg-type]


def test_an_image_is_found_with_all_that_its_config_says(store: Store) -> None:
    config = ImageConfig(
        entrypoint=("tini", "--"), command=("server",), env={"A": "b=c", "EMPTY": ""}, user="web:web", workdir="/srv", ports=(80, 8000),
        volumes=("/data",), labels={"x": "y"}, stop_signal=2, healthcheck=("true",), health=HealthCheck(command=("true",), interval=1.5),
        ready=waits.all_of(waits.tcp(80), waits.any_of(waits.http(80, "/h", status=(200, 204)), waits.log("up", times=2))),
        tmpfs=(Tmpfs(target="/tmp"), Tmpfs(target="/run/x", size="1M", mode=0o755, user="web")))
    add(store, "busybox")
    made = store.add("web:1", Chain((ONE,)), config, architecture="amd64")
    found = store.get("web:1")
    assert found == made
    assert found.config == config
    assert found.digest.startswith("sha256:")
    assert found.size == 1000


def test_the_layers_are_named_by_their_chain_the_lowest_first(store: Store) -> None:
    image = add(store, "two", ONE, TWO)
    assert [path.parent.name for path in image.layers] == ["1" * 64, chain_id(ONE, TWO).removeprefix("sha256:")]
    assert chain_id("", ONE) == ONE
    assert chain_id(ONE, TWO) != TWO


def test_the_same_content_gives_the_same_digest_and_another_config_another(store: Store) -> None:
    assert add(store, "a").digest == add(store, "b").digest
    assert add(store, "c", user="web").digest != add(store, "a").digest


def test_a_missing_image_names_the_command_that_makes_it(store: Store) -> None:
    with pytest.raises(ImageNotFound) as caught:
        store.get("postgres")
    assert "no image 'postgres'" in caught.value.message
    assert caught.value.remedy == "sealed build postgres"


def test_a_mistyped_image_names_the_nearest(store: Store) -> None:
    add(store, "my-service")
    with pytest.raises(ImageNotFound, match="did you mean 'my-service'"):
        store.get("my-servise")
    with pytest.raises(ImageNotFound, match="did you mean 'postgres'"):
        store.get("postgers")


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b:c", "", ".", "..", "x" * 200, "nul\0byte"])
def test_no_name_reaches_outside_the_store(store: Store, name: str) -> None:
    with pytest.raises(ImageError):
        store.get(name)


def test_a_store_that_is_not_there_is_empty_and_is_not_made(tmp_path: Path) -> None:
    store = Store(tmp_path / "none", ids=IDS)
    assert store.images() == []
    with pytest.raises(ImageNotFound):
        store.get("busybox")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"manifest": 3}', b'{"manifest": "sha256:00"}', b'{"manifest": "../../x"}'])
def test_a_damaged_record_says_so_and_how_to_make_it_again(store: Store, damage: bytes) -> None:
    add(store, "web")
    (store.folders.images / "web.json").write_bytes(damage)
    with pytest.raises(ImageError, match="damaged") as caught:
        store.get("web")
    assert "sealed build web" in caught.value.remedy
    assert store.images() == []


def test_an_altered_blob_is_refused(store: Store) -> None:
    image = add(store, "web")
    blob = store.folders.blobs / image.digest.removeprefix("sha256:")
    blob.write_bytes(blob.read_bytes() + b" ")
    with pytest.raises(ImageError, match="has other content"):
        store.get("web")


def test_a_missing_layer_is_noticed_before_a_container_is_started(store: Store) -> None:
    image = add(store, "web", ONE, TWO)
    image.layers[1].rmdir()
    with pytest.raises(ImageError, match="lacks a layer"):
        store.get("web")


def test_a_tag_is_another_name_for_the_same_image(store: Store) -> None:
    add(store, "web")
    assert store.tag("web", "web:stable").digest == store.get("web").digest
    with pytest.raises(ImageNotFound):
        store.tag("nope", "x")


def test_a_leased_image_can_not_be_removed(store: Store) -> None:
    image = add(store, "web")
    with store.lease(image), pytest.raises(ImageError, match="used by a running container"):
        store.remove("web")
    assert store.get("web") == image


def test_two_leases_go_together(store: Store) -> None:
    image = add(store, "web")
    with store.lease(image), store.lease(image):
        pass


def test_a_lease_ends_with_its_process(store: Store) -> None:
    image = add(store, "web")
    child = os.fork()
    if child == 0:
        manager = store.lease(image)
        manager.__enter__()
        os._exit(0)
    os.waitpid(child, 0)
    fd = os.open(store.folders.locks / f"image-{image.digest.removeprefix('sha256:')}", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)


def test_the_store_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SEALED_STORE", str(tmp_path / "s"))
    assert default_root() == tmp_path / "s"
    monkeypatch.delenv("SEALED_STORE")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_root() == tmp_path / "pytest-sealed"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_root() == tmp_path / ".local/share/pytest-sealed"


def test_each_id_map_has_images_of_its_own(tmp_path: Path) -> None:
    store = Store(tmp_path, ids=IDS)
    store.folders.make()
    add(store, "web")
    assert Store(tmp_path, ids=IdMap("single", 0, 0)).images() == []


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.sshfs"])
def test_a_store_on_a_network_file_system_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    (tmp_path / "mountinfo").write_text(f"1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:5 / {tmp_path} rw - {kind} server:/x rw\n")
    folders = Folders(tmp_path / "store", IDS, mountinfo=str(tmp_path / "mountinfo"))
    with pytest.raises(StoreError, match=kind) as caught:
        folders.make()
    assert "SEALED_STORE" in caught.value.remedy
    assert not (tmp_path / "store").exists()


def test_a_store_below_a_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="failed"):
        Folders(tmp_path / "file" / "store", IDS).make()


def test_a_store_without_room_says_how_much_is_needed(store: Store) -> None:
    with pytest.raises(StoreError, match="more and has") as caught:
        store.folders.require(1 << 60)
    assert "sealed rm" in caught.value.remedy


def test_the_store_is_the_accounts_alone(store: Store) -> None:
    assert store.root.stat().st_mode & 0o777 == 0o700


def test_what_a_killed_process_left_is_swept_and_what_a_live_one_uses_is_not(store: Store) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        manager = store.folders.workspace()
        os.write(write, str(manager.__enter__()).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    left = Path(os.read(read, 4096).decode())
    os.close(read)
    os.close(write)
    assert left.is_dir()
    with store.folders.workspace() as mine:
        assert store.folders.sweep() == [left.name]
        assert mine.is_dir()
    assert not left.exists()
    assert list(store.folders.tmp.iterdir()) == []
