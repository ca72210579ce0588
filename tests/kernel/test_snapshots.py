"""Snapshots: an image of what a container has changed, and of nothing else; usable at once, and kept if it has a name."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tarfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from archives import Made, docker_archive, layer
from boxes import EITHER_IDS

from pytest_sealed import Container, ContainerNotStarted, LimitUnavailable, Mount, Sandbox, SealedWarning, image
from pytest_sealed.errors import ImageError, ImageNotFound, SpecError
from pytest_sealed.images.layers import Chain
from pytest_sealed.images.load import Loader
from pytest_sealed.images.prune import prune
from pytest_sealed.images.store import Store
from pytest_sealed.images.verify import verify
from pytest_sealed.services import postgres

DEEDS = """
echo changed > /etc/motd.new; rm -r /home; mkdir /home; echo in > /home/new; rm -r /srv; mkdir -p /data/deep; echo x > /data/deep/file
ln /data/deep/file /data/second; ln -s deep/file /data/link; mkfifo /data/pipe; chmod 2750 /data/deep
touch -d '2021-02-03 04:05:06' /etc/motd.new
"""


def stopped(sandbox: Sandbox, script: str, **options: object) -> Container:
    box = sandbox.run(image("busybox", **options), ["sh", "-c", script])  # type: ignore[arg-type]
    assert box.wait(30) == 0, box.logs()
    return box


def layer_of(sandbox: Sandbox, reference: str) -> dict[str, str]:
    """Return path → kind of what the snapshot's own layer holds, as a tar."""
    store = sandbox.store
    chain = Chain(tuple(json.loads(store.documents(reference)[2])["rootfs"]["diff_ids"]))
    with tarfile.open(fileobj=io.BytesIO(b"".join(store.layers.tar(chain.top, chain.diff_ids[-1])))) as tar:
        return {entry.name: "folder" if entry.isdir() else "link" if entry.islnk() or entry.issym() else "file" for entry in tar}


@pytest.fixture
def kept(sandbox: Sandbox) -> Iterator[str]:
    """The name of a snapshot that the test may take, and which goes with it."""
    name = f"kept-{os.getpid()}"
    yield name
    if f"{name}:latest" in sandbox.store.names():
        sandbox.close()
        sandbox.store.remove(f"{name}:latest")


@EITHER_IDS
@pytest.mark.parametrize("scratch", ["memory", "disk"])
def test_a_snapshot_shows_what_the_container_showed_and_holds_nothing_else(sandbox: Sandbox, scratch: str) -> None:
    box = stopped(sandbox, DEEDS, scratch=scratch)
    name = box.snapshot()
    assert layer_of(sandbox, name) == {
        ".": "folder", ".wh.srv": "file", "etc": "folder", "etc/motd.new": "file", "home": "folder", "home/.wh..wh..opq": "file",
        "home/new": "file", "data": "folder", "data/deep": "folder", "data/deep/file": "link", "data/second": "file", "data/link": "link",
        "data/pipe": "file"}
    look = sandbox.run(name, ["sh", "-c", "cat /etc/motd.new /home/* /data/link; stat -c '%a %h' /data/deep /data/second; "
                              "test -p /data/pipe; echo $?; test -e /srv; echo $?; stat -c %y /etc/motd.new"])
    assert look.wait(30) == 0
    assert look.logs().splitlines() == ["changed", "in", "x", "2750 2", "644 2", "0", "1", "2021-02-03 04:05:06.000000000 +0000"]
    assert verify(sandbox.store, [name])[0].damages == ()


def test_nothing_of_the_runtimes_own_is_in_it(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush")
    box = stopped(sandbox, "echo x > /run/secrets/hidden; echo y > /var/cache/tmp/hidden; echo z > /srv/own; echo h >> /etc/hosts; "
                  "rm /etc/resolv.conf; echo mine > /etc/hostname; touch /app/dir/beside", tmpfs=["/var/cache/tmp", "/run/secrets"],
                  mounts=[Mount(source=str(tmp_path / "secret"), target="/app/dir/token"),
                          Mount(source=str(tmp_path), target="/mnt/only/mounted")])
    name = box.snapshot()
    assert set(layer_of(sandbox, name)) == {".", "app", "app/dir", "app/dir/beside", "srv", "srv/own"} | (
        set(layer_of(sandbox, name)) & {"etc", "mnt", "run", "var", "var/cache"})
    assert "mnt/only" not in layer_of(sandbox, name)
    look = sandbox.run(name, ["sh", "-c", "cat /etc/hostname; test -s /etc/resolv.conf && echo served; ls /run /app/dir"], name="look")
    assert look.wait(30) == 0
    assert look.logs().splitlines() == ["look", "served", "/app/dir:", "beside", "", "/run:"]


def test_where_etc_is_a_link_the_files_of_the_runtime_are_left_out_all_the_same(new_store: Callable[[], Store], busybox: Store,
                                                                               tmp_path: Path) -> None:
    shell = next(path for path in (one / "bin/busybox" for one in busybox.get("busybox").layers) if path.exists()).resolve().read_bytes()
    made = Made([layer({"bin/busybox": shell, "usr/etc/": "", "etc": "-> usr/etc"})])
    store = new_store()
    Loader(store).load(str(docker_archive(tmp_path / "linked.tar", (made, ["linked:1"]))))
    with Sandbox(store=store) as sandbox:
        box = sandbox.run("linked:1", ["/bin/busybox", "sh", "-c", "echo x > /usr/etc/own; /bin/busybox cat /etc/hostname"])
        assert box.wait(30) == 0
        assert box.logs() == "linked\n"
        assert [path for path in layer_of(sandbox, box.snapshot()) if path.startswith("usr/etc/")] == ["usr/etc/own"]


def test_snapshots_stack_and_the_container_goes_on_after_its_restart(sandbox: Sandbox) -> None:
    box = sandbox.run("busybox", ["sh", "-c", "echo once >> /count; sleep 1000"], init=True)
    box.wait_for_exec(["test", "-e", "/count"])
    box.stop()
    first = box.snapshot()
    box.restart()
    box.wait_for_exec(["sh", "-c", "[ $(wc -l < /count) = 2 ]"])
    box.stop()
    second = box.snapshot()
    counts = [sandbox.run(name, ["cat", "/count"]) for name in (first, second)]
    assert [one.wait(30) for one in counts] == [0, 0]
    assert [len(one.logs().splitlines()) for one in counts] == [1, 2]
    third = sandbox.run(second, ["rm", "/count"])
    assert third.wait(30) == 0
    gone = sandbox.run(third.snapshot(), ["test", "-e", "/count"])
    assert gone.wait(30) == 1
    assert len(sandbox.store.get(third.snapshot()).layers) == 4


def test_a_running_container_is_paused_and_a_warning_says_what_that_means(sandbox: Sandbox) -> None:
    box = sandbox.run("busybox", ["sh", "-c", "while :; do echo line >> /file; done"])
    box.wait_for_exec(["test", "-s", "/file"])
    with pytest.warns(SealedWarning, match="was running when its snapshot was taken: its files are (as after|of different)") as caught:
        name = box.snapshot()
    assert "remedy: stop() it first; restart() lets it go on" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert box.status == "running"
    look = sandbox.run(name, ["tail", "-n", "1", "/file"])
    assert look.wait(30) == 0
    try:
        box.pause()
    except LimitUnavailable:   # of an account without cgroups
        assert "of different moments, since it can't be paused here" in str(caught[0].message)
        return
    assert "as after a power cut" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        box.snapshot()
    box.unpause()   # it still was paused


def test_a_named_snapshot_stays_and_others_go_with_the_sandbox(kept: str) -> None:
    with Sandbox() as first:
        box = stopped(first, "echo data > /data")
        assert box.snapshot(kept) == f"{kept}:latest"
        unnamed = box.snapshot()
        assert unnamed.startswith("snapshot-busybox-")
        with first.store.building(exclusive=True):
            first.store.prune()   # by another, say
        assert first.run(unnamed, ["cat", "/data"]).wait(30) == 0
        layers = first.store.get(unnamed).layers
    with Sandbox() as second:
        assert second.run(image(kept), ["cat", "/data"]).wait(30) == 0
        with pytest.raises(ImageNotFound):
            second.run(unnamed)
        assert layers == second.store.get(kept).layers
        done = subprocess.run([sys.executable, "-m", "pytest_sealed.cli", "images"], capture_output=True, text=True, check=True)
        assert re.search(rf"{kept}:latest .* snapshot of container busybox of busybox\n", done.stdout)


def test_the_layers_of_unnamed_snapshots_go_with_the_sandbox_unless_another_uses_them(busybox: Store) -> None:
    with Sandbox(store=busybox) as outer:   # a store where nobody builds: else they go later
        with Sandbox(parent=outer) as inner:
            name = stopped(inner, "echo some other data > /data").snapshot()
            own = busybox.get(name).layers[-1]
            user = outer.run(name, ["sleep", "1000"])
        assert user.read_text("/data") == "some other data\n"
        assert own.is_dir()
        with Sandbox(parent=outer) as inner:
            another = busybox.get(stopped(inner, "echo yet other data > /data").snapshot()).layers[-1]
            with busybox.building():
                inner.close()
        assert another.is_dir()
        assert busybox.names() == ["busybox", name]
        prune(busybox)
        assert own.is_dir()
        assert not another.exists()
        with Sandbox(parent=outer) as inner:
            another = busybox.get(stopped(inner, "echo yet other data > /data").snapshot()).layers[-1]
        assert not another.exists()
    prune(busybox)
    assert not own.exists()
    assert busybox.names() == ["busybox"]


def test_what_a_killed_session_has_left_goes_with_the_next_sweep(busybox: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALED_STORE", str(busybox.root))   # where no other session starts, which would sweep
    script = ("import os, signal; from pytest_sealed import Sandbox; s = Sandbox(); b = s.run('busybox', ['touch', '/left']); b.wait(30); "
              "print(b.snapshot(), flush=True); os.kill(os.getpid(), signal.SIGKILL)")
    name = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False).stdout.strip()
    assert name in busybox.names()
    left = busybox.get(name).layers[-1]
    done = subprocess.run([sys.executable, "-m", "pytest_sealed.cli", "sweep"], capture_output=True, text=True, check=True)
    assert f"snapshot {name}" in done.stdout
    assert name not in busybox.names()
    prune(busybox)
    assert not left.exists()


def test_a_database_is_prepared_once_and_its_snapshot_serves_many(sandbox: Sandbox, several_ids: None) -> None:
    db = sandbox.run(postgres())
    assert db.exec(["psql", "-h", "127.0.0.1", "-U", "test", "-c", "CREATE TABLE users AS SELECT 'ada' AS name"]).exit_code == 0
    db.stop()
    prepared = db.snapshot()
    for _ in range(2):
        again = sandbox.run(replace(postgres(), image=prepared))
        assert again.exec(["psql", "-h", "127.0.0.1", "-U", "test", "-Atc", "SELECT name FROM users"]).stdout == "ada\n"
        assert again.exec(["psql", "-h", "127.0.0.1", "-U", "test", "-c", "DROP TABLE users"]).exit_code == 0


@pytest.mark.parametrize(("name", "said", "remedy"), [
    ("busybox", "'busybox' is the image of a recipe", "give the snapshot a name of its own, such as 'busybox-filled'"),
    (f"x@sha256:{'1' * 64}", "holds a digest", "snapshot('x')"),
    ("No", "'No' is no part of a name (capital letters aren't allowed)", "write NAME:TAG"),
])
def test_names_that_can_not_be(sandbox: Sandbox, name: str, said: str, remedy: str) -> None:
    box = stopped(sandbox, "true")
    with pytest.raises(SpecError) as caught:
        box.snapshot(name)
    assert said in caught.value.message
    assert remedy in caught.value.remedy


def test_a_huge_sparse_file_is_refused_before_anything_is_written(sandbox: Sandbox) -> None:
    box = stopped(sandbox, "mkdir /big; truncate -s 900G /big/hole")
    with pytest.raises(ImageError, match=r"the container's files have 921600 MiB, .* the largest is /big/hole \(921600 MiB\)") as caught:
        box.snapshot()
    assert "remove such files before the snapshot" in caught.value.remedy


def test_a_removed_container_has_no_snapshot(sandbox: Sandbox) -> None:
    box = stopped(sandbox, "true")
    box.remove()
    with pytest.raises(ContainerNotStarted):
        box.snapshot()
