"""What keeps a store right: every file examined, damage named with what mends it, differences listed, space freed without harm."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from archives import Made, digest, docker_archive, layer

from pytest_sealed.images.layers import Chain
from pytest_sealed.images.load import Loader
from pytest_sealed.images.lockfile import LockedImage, Lockfile
from pytest_sealed.images.prune import prune
from pytest_sealed.images.store import Image, Store
from pytest_sealed.images.verify import verify
from pytest_sealed.runtime.launch import run_inside

TESTS = str(Path(__file__).parents[1])
BASE = layer({"bin/": "", "bin/tool": "content", "etc/": "", "etc/name": "old", "etc/gone": "x", "data/": "", "data/a": "1",
              "link": "-> bin"})
ABOVE = layer({"etc/name": "new!", "etc/.wh.gone": "", "data/.wh..wh..opq": "", "data/b": "2", "opt/": ""})

Change = Callable[[str], None]


def sealed(store: Store, *argv: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pytest_sealed.cli", *argv], capture_output=True, text=True, check=False, cwd=cwd,
                          env={**os.environ, "SEALED_STORE": str(store.root)})


@pytest.fixture
def load(store: Store, tmp_path: Path) -> Callable[..., Image]:
    def take(name: str, layers: Sequence[bytes], **config: object) -> Image:
        path = docker_archive(tmp_path / f"{name}.tar", (Made(layers, dict(config)), [f"{name}:1"]))
        [found] = Loader(store).load(str(path))
        return found
    return take


def within(store: Store, image: Image, number: int, script: str) -> None:
    """Run Python with `fs`, a layer's folder, as those who own its files."""
    run_inside("store_worker", {"fs": str(image.layers[number]), "script": script}, paths=[TESTS], ids=store.folders.ids)


DAMAGES = [
    ("open(f'{fs}/bin/tool', 'w').write('other!!'); os.utime(f'{fs}/bin/tool', ns=times)", "its digest", "layer's digest is"),
    ("open(f'{fs}/bin/tool', 'w').write('other!!')", "/bin/tool", "time "),
    ("open(f'{fs}/bin/tool', 'a').write('!')", "/bin/tool", "has 8 bytes, expected 7"),
    ("open(f'{fs}/bin/tool', 'w').close()", "/bin/tool", "has 0 bytes, expected 7"),
    ("os.unlink(f'{fs}/bin/tool')", "/bin/tool", "can't be opened: No such file or directory"),
    ("os.chmod(f'{fs}/bin/tool', 0o4755)", "/bin/tool", "mode 0755 → 4755"),
    ("os.chmod(f'{fs}/etc', 0o777)", "/etc", "mode 0755 → 0777"),
    ("os.unlink(f'{fs}/link'); os.symlink('etc', f'{fs}/link')", "/link", "target bin → etc"),
    ("open(f'{fs}/extra', 'w').close()", "/extra", "doesn't belong there"),
    ("os.setxattr(f'{fs}/data', 'user.overlay.opaque', b'y')", "/data", "attribute user.overlay.opaque None → 79"),
    ("os.unlink(f'{fs}/../split.gz'); open(f'{fs}/../split.gz', 'wb').write(b'x')", "", "what its tar is written again from is damaged"),
    ("open(f'{fs}/../layer.json', 'w').write('{}')", "", "its layer.json is damaged"),
]


@pytest.mark.parametrize(("script", "path", "said"), DAMAGES, ids=[row[0][:50] for row in DAMAGES])
def test_a_damage_of_any_kind_is_named_and_the_remedy_mends_it(
        store: Store, load: Callable[..., Image], script: str, path: str, said: str) -> None:
    load("base", [BASE])
    web = load("web", [BASE, ABOVE])
    assert [verdict.damages for verdict in verify(store, ["base:1", "web:1"])] == [(), ()]
    within(store, web, 0, script)
    base, both = verify(store, ["base:1", "web:1"])
    assert both.damages[:len(base.damages)] == base.damages
    [line] = [line for line in base.damages if said in line]
    assert line.startswith(f"layer 1: {path}" if path.startswith("/") else "layer 1: ")
    assert base.remedy.startswith("sealed rm base:1 web:1 && sealed load ")
    shell = re.sub(r"(^|&& )sealed ", rf"\1{sys.executable} -m pytest_sealed.cli ", base.remedy)
    subprocess.run(["sh", "-c", shell], check=True, capture_output=True, env={**os.environ, "SEALED_STORE": str(store.root)})
    assert sealed(store, "verify", "-q", "base:1", "web:1").returncode == 0


@pytest.mark.parametrize(("script", "path", "said"), [
    ("os.unlink(f'{fs}/etc/gone')", "/etc/gone", "is missing"),
    ("os.removexattr(f'{fs}/data', 'user.overlay.opaque')", "/data", "attribute user.overlay.opaque 79 → None"),
])
def test_a_whiteout_that_is_missing_is_a_damage(store: Store, load: Callable[..., Image], script: str, path: str, said: str) -> None:
    web = load("web", [BASE, ABOVE])
    within(store, web, 1, script)
    [verdict] = verify(store, ["web:1"])
    assert [line for line in verdict.damages if line.startswith(f"layer 2: {path}: ") and said in line]
    assert verdict.remedy.startswith("sealed rm web:1 && ")


def test_a_damaged_document_is_named_and_the_remedy_mends_it(store: Store, load: Callable[..., Image]) -> None:
    web = load("web", [BASE])
    blob = store.folders.blobs / web.digest.removeprefix("sha256:")
    blob.write_bytes(blob.read_bytes() + b" ")
    done = sealed(store, "verify", "busybox", "web:1")
    assert done.returncode == 1
    assert done.stdout.startswith("busybox: whole\nweb:1: damaged\n")
    assert "has other content" in done.stdout
    [remedy] = re.findall("remedy: (.*)", done.stdout)
    assert sealed(store, *remedy.removeprefix("sealed ").split()).returncode == 0
    assert sealed(store, "verify").stdout == "busybox: whole\nweb:1: whole\n"


def test_what_the_build_made_is_whole_with_links_times_and_all(store: Store) -> None:
    [verdict] = verify(store, ["busybox"])
    assert (verdict.damages, verdict.remedy) == ((), "")
    assert sealed(store, "history", "busybox").stdout.splitlines()[1].endswith("busybox: base of Debian trixie")


def test_a_diff_names_what_is_added_changed_and_gone(store: Store, load: Callable[..., Image]) -> None:
    load("base", [BASE], Cmd=["a"])
    load("web", [BASE, ABOVE, layer({"bin/tool": "CONTENT", "data/b/": ""}), layer({"bin/": ""}, mode=0o700)], Cmd=["b"])
    done = sealed(store, "diff", "base:1", "web:1")
    assert done.stdout.splitlines() == [
        "C config command: ('a',) → ('b',)", "C /bin  (mode 0755 → 0700)", "C /bin/tool  (content)", "D /data/a", "A /data/b",
        "D /etc/gone", "C /etc/name  (size 3 → 4)", "A /opt"]
    assert sealed(store, "diff", "web:1", "web:1").stdout == ""
    rows = json.loads(sealed(store, "diff", "--json", "web:1", "base:1").stdout)["files"]
    assert [row["path"] for row in rows if row["kind"] == "A"] == ["/data/a", "/etc/gone"]


def test_a_file_in_a_folders_place_is_a_change_and_what_was_in_it_is_gone(store: Store, load: Callable[..., Image]) -> None:
    load("base", [BASE])
    load("web", [BASE, layer({".wh.data": "", "data": "a file"})])
    lines = sealed(store, "diff", "base:1", "web:1").stdout.splitlines()
    assert lines[0].startswith("C /data  (kind folder → file")
    assert lines[1:] == ["D /data/a"]


def test_what_a_live_session_uses_is_never_pruned(store: Store, load: Callable[..., Image]) -> None:
    web = load("web", [BASE])
    load("other", [BASE, ABOVE])
    with store.lease(web):
        pruned = prune(store, older_than=0, size=1)
        assert set(pruned.names) == {"busybox", "other:1"}
        assert pruned.in_use == ("web:1",)
        assert verify(store, ["web:1"])[0].damages == ()
        load("web", [BASE, ABOVE])                   # another image has its name now; its container still has its files
        prune(store)
        assert web.layers[0].is_dir()
        assert store.remove("web:1") > 0
        assert web.layers[0].is_dir()
    assert prune(store).freed > 0
    assert not web.layers[0].exists()


@pytest.fixture(autouse=True)
def busybox_stays(store: Store) -> None:
    """Prunings here remove busybox too: the next test's store has it again."""
    from pytest_sealed.images.build import Builder
    from pytest_sealed.images.finder import find_recipe
    Builder(store).build(find_recipe("busybox"))


def test_pruning_by_age_counts_from_the_last_use(store: Store, load: Callable[..., Image]) -> None:
    old, used = load("old", [layer({"x": "old"})]), load("used", [layer({"x": "used"})])
    for image in (old, used):
        record = store.records.get(image.reference)
        store.records.put(image.reference, {**record, "created": time.time() - 1000})
    with store.lease(used):
        pass
    assert prune(store, older_than=500, dry_run=True).names == ("old:1",)
    assert store.get("old:1")
    assert sealed(store, "prune", "--older-than", "1h").stdout == "0 MB freed\n"
    assert prune(store, older_than=500).names == ("old:1",)
    assert "old:1" not in store.names()


def test_pruning_by_size_takes_what_was_used_longest_ago(store: Store, load: Callable[..., Image]) -> None:
    big = layer({"big": b"x" * 5_000_000})
    first, second = load("first", [big]), load("second", [layer({"big": b"y" * 5_000_000})])
    load("third", [big, BASE])
    for image, age in ((first, 300), (second, 200), (store.get("third:1"), 100)):
        store.records.put(image.reference, {**store.records.get(image.reference), "created": time.time() - age})
    done = sealed(store, "prune", "--size", "9M", "--dry-run")
    assert done.stdout.splitlines() == ["first:1: would be removed", "second:1: would be removed", "5 MB would be freed"]
    assert prune(store, size=9 << 20).names == ("first:1", "second:1")     # the first one's layer is the third one's too
    assert store.get("third:1")


def lock_of(folder: Path, *images: Image, platform: str = "linux/amd64") -> None:
    Lockfile(folder / "sealed.lock", [
        LockedImage(name=one.reference, platform=platform, manifest=one.digest, source=one.source) for one in images]).write()


def test_pruning_by_lock_leaves_what_the_lock_names_and_what_a_live_session_uses(
        store: Store, load: Callable[..., Image], tmp_path: Path) -> None:
    base, web, held = load("base", [BASE]), load("web", [BASE, ABOVE]), load("held", [layer({"x": "held"})])
    lock_of(tmp_path, store.get("busybox"), web)
    (tmp_path / "below").mkdir()
    with store.lease(held):
        done = sealed(store, "prune", "--lock", "-n", cwd=tmp_path / "below")
        assert done.stdout.splitlines() == ["base:1: would be removed", "held:1: kept, a live session uses it (`sealed ps`)",
                                            "0 MB would be freed"]
        assert store.names() == ["base:1", "busybox", "held:1", "web:1"]
        assert sealed(store, "prune", "--lock", "-q", cwd=tmp_path / "below").returncode == 0
        assert store.names() == ["busybox", "held:1", "web:1"]
        assert base.layers[0].is_dir()              # which is the other one's too
    assert sealed(store, "prune", "--lock", cwd=tmp_path).stdout.splitlines() == ["held:1: removed", "0 MB freed"]
    assert not held.layers[0].exists()
    assert all(not verdict.damages for verdict in verify(store, ["busybox", "web:1"]))


def test_pruning_by_lock_leaves_what_the_lock_names_for_another_platform(
        store: Store, load: Callable[..., Image], tmp_path: Path) -> None:
    lock_of(tmp_path, load("web", [BASE]), platform="linux/s390x")
    assert sealed(store, "prune", "--lock", cwd=tmp_path).stdout.splitlines()[:-1] == ["busybox: removed"]
    assert store.names() == ["web:1"]


def test_pruning_by_lock_and_size_counts_what_the_lock_leaves(store: Store, load: Callable[..., Image], tmp_path: Path) -> None:
    """The oldest image stays: without those that aren't in the lock there is room enough."""
    first = load("first", [layer({"big": b"x" * 5_000_000})])
    load("second", [layer({"big": b"y" * 5_000_000})])
    store.records.put(first.reference, {**store.records.get(first.reference), "created": time.time() - 300})
    lock_of(tmp_path, first)
    assert sealed(store, "prune", "--lock", "--size", "6M", "-n", cwd=tmp_path).stdout.splitlines()[:-1] == [
        "busybox: would be removed", "second:1: would be removed"]
    assert sealed(store, "prune", "--lock", "--size", "4M", cwd=tmp_path).stdout.splitlines()[:-1] == [
        "busybox: removed", "second:1: removed", "first:1: removed"]


def test_pruning_by_a_lock_that_is_not_there_or_is_none_removes_nothing(store: Store, load: Callable[..., Image], tmp_path: Path) -> None:
    load("web", [BASE])
    done = sealed(store, "prune", "--lock", "--older-than", "0m", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (f"sealed: there is no sealed.lock in {tmp_path}, nor in a folder above\n"
                           "  remedy: sealed lock   in the project's folder writes it\n")
    (tmp_path / "sealed.lock").write_text("version = 1\n[[image]]\n")
    done = sealed(store, "prune", "--lock", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("sealed: sealed.lock:")
    assert store.names() == ["busybox", "web:1"]


def test_layers_that_no_image_has_and_what_killed_processes_left_are_pruned(store: Store, load: Callable[..., Image]) -> None:
    web = load("web", [BASE])
    os.unlink(store.records.path("web:1"))
    (store.folders.tmp / "left").mkdir()
    assert prune(store).freed >= len(BASE)
    assert not web.layers[0].exists()
    assert not (store.folders.tmp / "left").exists()


def test_a_damaged_image_keeps_nobody_from_removing_another(store: Store, load: Callable[..., Image]) -> None:
    web, _ = load("web", [BASE]), load("other", [ABOVE])
    (store.folders.blobs / web.digest.removeprefix("sha256:")).write_bytes(b"{}")
    assert sealed(store, "rm", "other:1").returncode == 0
    assert sealed(store, "rm", "web:1").returncode == 0


def test_inspect_and_images_tell_shared_sizes_and_sources(store: Store, load: Callable[..., Image]) -> None:
    load("base", [BASE])
    web = load("web", [BASE, ABOVE], Env=["A=b"])
    store.tag("web:1", "web:stable")
    [facts] = json.loads(sealed(store, "inspect", "web:1").stdout)
    assert facts["names"] == ["web:1", "web:stable"]
    assert facts["shared_size"] == len(BASE)
    assert facts["config"]["Env"] == ["A=b"]
    assert [row["diff_id"] for row in facts["layers"]] == [digest(BASE), digest(ABOVE)]
    assert facts["layers"][1]["chain_id"] == Chain((digest(BASE), digest(ABOVE))).top
    assert facts["digest"] == web.digest
    assert facts["source"].startswith("sealed load ")
    row = next(line for line in sealed(store, "images").stdout.splitlines() if line.startswith("web:stable"))
    assert "load " in row
