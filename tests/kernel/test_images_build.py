"""Images built for real, from busybox upwards, into stores of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_sealed.errors import ImageError, RecipeError, StoreError
from pytest_sealed.images.build import Builder
from pytest_sealed.images.finder import find_recipe
from pytest_sealed.images.image import Image
from pytest_sealed.images.progress import Progress
from pytest_sealed.images.recipe import load_recipe
from pytest_sealed.images.store import Store
from pytest_sealed.linux import mounts, namespaces
from pytest_sealed.runtime.idmap import find_id_map
from pytest_sealed.runtime.launch import run_inside

Write = Callable[..., str]


class Heard(Progress):
    """Remembers what a build says."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.built: dict[str, bool] = {}

    def stage(self, text: str) -> None:
        self.stages.append(text)

    def end(self, name: str, *, built: bool, size: int, seconds: float, verb: str = "built") -> None:
        self.built[name] = built


def build(store: Store, path: str) -> Image:
    return Builder(store).build(load_recipe(path))


def content(image: Image, path: str) -> str:
    """Read a file of the topmost layer that has it, as the account outside."""
    return next((layer / path).read_text() for layer in reversed(image.layers) if (layer / path).exists())


def assert_clean(store: Store) -> None:
    assert list(store.folders.tmp.iterdir()) == []


def test_two_stores_get_the_same_bits(store: Store, new_store: Callable[[], Store]) -> None:
    first, other = store.get("busybox"), new_store()
    second = Builder(other).build(find_recipe("busybox"))
    assert second.digest == first.digest
    assert [path.parent.name for path in second.layers] == [path.parent.name for path in first.layers]
    assert_clean(other)


def test_single_id_mode_gives_the_same_bits(store: Store, new_store: Callable[[], Store], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALED_IDS", "single")
    other = Store(new_store().root)
    assert other.folders.ids.single
    assert Builder(other).build(find_recipe("busybox")).digest == store.get("busybox").digest


def test_files_belong_to_the_ids_of_containers_and_folders_have_their_modes(store: Store) -> None:
    ids = find_id_map()
    base = store.get("busybox").layers[0]
    assert (base / "usr/bin/busybox").stat().st_uid == (ids.uid if ids.single else ids.uid_start)
    assert (base / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert not any((base / path).exists() for path in ("etc/resolv.conf", "etc/hostname", "dev/null", "usr/share/man"))


def test_what_is_up_to_date_is_not_built_again(store: Store) -> None:
    heard = Heard()
    Builder(store, heard).build(find_recipe("busybox"))
    assert heard.built == {"busybox": False}
    assert heard.stages == []


def test_a_changed_step_is_built_again_and_those_before_it_are_not(store: Store, recipe: Write) -> None:
    def text(second: str) -> str:
        return f'[[step]]\nrun = [["touch", "/first"]]\n[[step]]\nrun = [["touch", "/{second}"]]'
    before = build(store, recipe("steps", text("second")))
    heard = Heard()
    after = Builder(store, heard).build(load_recipe(recipe("steps", text("other"))))
    assert [stage for stage in heard.stages if stage.startswith("touch")] == ["touch /other"]
    assert after.layers[:-1] == before.layers[:-1]
    assert after.layers[-1] != before.layers[-1]


def test_a_changed_file_is_built_again(store: Store, recipe: Write) -> None:
    path = recipe("file", '[[step]]\nfiles = { "/srv/" = "*.txt" }')
    Path(path, "a.txt").write_text("one")
    assert content(build(store, path), "srv/a.txt") == "one"
    Path(path, "a.txt").write_text("two")
    assert content(build(store, path), "srv/a.txt") == "two"


def test_a_changed_base_is_built_and_then_what_continues_it(store: Store, recipe: Write) -> None:
    folder = Path(recipe("below", '[[step]]\nrun = [["touch", "/one"]]')).parent
    (folder / "fixture-images").mkdir()
    (folder / "below").rename(folder / "fixture-images/below")
    above = folder / "fixture-images/above"
    above.mkdir()
    (above / "image.toml").write_text('schema = 1\nname = "above"\n[base]\nimage = "below"\n[config]\nenv = { A = "b" }\n')
    first = build(store, str(above))
    below = folder / "fixture-images/below/image.toml"
    below.write_text(below.read_text().replace("/one", "/two"))
    second = build(store, str(above))
    assert (second.layers[-1] / "two").exists()
    assert first.layers[:2] == second.layers[:2]
    assert second.config.env["A"] == "b"


def test_a_recipe_can_not_be_its_own_base(store: Store, recipe: Write) -> None:
    folder = Path(recipe("ring", "")).parent
    (folder / "fixture-images").mkdir()
    for name, other in (("ring", "rang"), ("rang", "ring")):
        (folder / "fixture-images" / name).mkdir()
        (folder / "fixture-images" / name / "image.toml").write_text(f'schema = 1\nname = "{name}"\n[base]\nimage = "{other}"\n')
    with pytest.raises(RecipeError, match=r"image\.toml:4: the recipe is its own base: ring → rang → ring"):
        build(store, str(folder / "fixture-images/ring"))


def test_commands_run_as_the_user_that_is_asked_for_in_a_container_without_a_network(
        store: Store, recipe: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "of the host")
    script = ("id -u; id -g; grep -c : /proc/net/dev; grep CapEff /proc/self/status; env | sort; hostname; ls -A /proc/self/fd | wc -l; "
              "test -e /etc/shadow || echo no host; head -c 4 /dev/zero | wc -c; ls / | grep -c old; true")
    image = build(store, recipe("inside", f"""
        [users]
        web = {{ uid = 70, home = "/srv/web" }}
        [[state]]
        name = "facts"
        user = "web"
        env = {{ MORE = "here" }}
        run = [["sh", "-c", "({script}) > /srv/web/out 2>&1"]]"""))
    lines = content(image, "srv/web/out").splitlines()
    assert lines[:4] == ["70", "70", "1", "CapEff:\t0000000000000000"]
    assert "SECRET=of the host" not in lines
    assert "MORE=here" in lines
    assert lines[-5:] == ["build", "4", "no host", "4", "0"]


def test_a_states_files_belong_to_its_user(store: Store, recipe: Write) -> None:
    ids = find_id_map()
    image = build(store, recipe("owned", '[users]\nweb = { uid = 70, home = "/srv/web" }\n[[state]]\nname = "x"\nuser = "web"\n'
                                'run = [["sh", "-c", "umask 077; echo x > /srv/web/mine"]]'))
    status = (image.layers[-1] / "srv/web/mine").stat()
    assert status.st_uid == (ids.uid if ids.single else ids.uid_start + 70)
    assert status.st_mode & 0o777 == 0o600


def test_what_was_removed_is_gone_for_the_next_step_and_a_folder_made_again_is_empty(store: Store, recipe: Write) -> None:
    image = build(store, recipe("removed", """
        [[step]]
        run = [["mkdir", "-p", "/srv/a/b"], ["touch", "/srv/a/one", "/srv/a/b/two", "/srv/three"]]
        [[step]]
        remove = ["/srv/three", "/srv/a/b"]
        [[step]]
        run = [["sh", "-c", "rm -r /srv/a; mkdir /srv/a; touch /srv/a/new"]]
        [[step]]
        run = [["sh", "-c", "find /srv | sort > /found"]]"""))
    assert content(image, "found").split() == ["/srv", "/srv/a", "/srv/a/new"]


def test_a_base_without_the_folders_that_are_mounted_over_gets_them(store: Store, recipe: Write) -> None:
    image = build(store, recipe("bare", '[[step]]\nremove = ["/dev", "/proc", "/run", "/tmp"]\n[[step]]\nrun = [["true"]]'))
    ids = find_id_map()
    for name, mode in (("dev", 0o755), ("proc", 0o755), ("run", 0o755), ("tmp", 0o1777)):
        status = (image.layers[-1] / name).stat()
        assert (status.st_mode & 0o7777, status.st_uid) == (mode, ids.uid if ids.single else ids.uid_start)


def test_a_command_that_fails_names_file_line_and_last_words_and_leaves_nothing(store: Store, recipe: Write) -> None:
    with pytest.raises(RecipeError) as caught:
        build(store, recipe("failing", '[[step]]\nrun = [["true"], ["sh", "-c", "echo last words; exit 3"]]'))
    assert "failing/image.toml:6: run[1] `sh -c echo last words; exit 3` exited with 3" in caught.value.message
    assert caught.value.message.endswith("    last words")
    assert "failing" not in store.names()
    assert_clean(store)


@pytest.mark.parametrize(("text", "said"), [
    ('[[step]]\nrun = [["nope"]]', "exited with 127\n    nope: No such file or directory"),
    ('[[step]]\nuser = "nobody1"\nrun = [["true"]]', "the image has no user 'nobody1'"),
    ('[[step]]\nremove = ["/nope/**"]', "remove: '/nope/**' matches nothing"),
    ('[[step]]\nfiles = { "/a" = "nope" }', "there is no such file"),
    ('[[step]]\nfiles = { "/a/" = "*.nope" }', "the pattern matches nothing"),
    ('[[step]]\nfiles = { "/a" = { text = "x", user = "nobody1" } }', "files: the image has no user 'nobody1'"),
    ('[[step]]\nfiles = { "/linuxrc/x" = { text = "x" } }', "is no folder"),
    ('[python]\nrequirements = ["x"]', "[python] needs an image with a python3"),
])
def test_what_a_recipe_asks_in_vain_is_said_and_leaves_nothing(store: Store, recipe: Write, text: str, said: str) -> None:
    with pytest.raises(ImageError) as caught:
        build(store, recipe("vain", text))
    assert said in caught.value.message
    assert "vain" not in store.names()
    assert_clean(store)


def test_an_unknown_package_names_the_nearest(new_store: Callable[[], Store], tmp_path: Path) -> None:
    (tmp_path / "image.toml").write_text('schema = 1\nname = "x"\n[base]\ndebian = "bookworm"\npackages = ["busybox-statik"]\n')
    with pytest.raises(ImageError, match="no package 'busybox-statik', did you mean 'busybox-static'"):
        build(new_store(), str(tmp_path))


def test_an_exclusion_that_matches_nothing_is_an_error(new_store: Callable[[], Store], tmp_path: Path) -> None:
    (tmp_path / "image.toml").write_text(
        'schema = 1\nname = "x"\n[base]\ndebian = "bookworm"\npackages = ["busybox-static"]\nexclude = ["/usr/share/**",\n  "/nope"]\n')
    store = new_store()
    with pytest.raises(RecipeError, match=r"image\.toml:6: exclude: '/nope' matches nothing"):
        build(store, str(tmp_path))
    assert_clean(store)


def test_files_land_under_usr_where_bin_is_a_link(store: Store, recipe: Write) -> None:
    path = recipe("linked", '[[step]]\nfiles = { "/bin/tool" = { text = "#!/bin/sh\\necho tool\\n", mode = "0755" } }\n'
                  '[[step]]\nrun = [["sh", "-c", "tool > /out"]]')
    image = build(store, path)
    assert content(image, "out") == "tool\n"
    assert (image.layers[-2] / "usr/bin/tool").exists()


BUILD = """
import sys
from pytest_sealed.images.build import Builder
from pytest_sealed.images.recipe import load_recipe
from pytest_sealed.images.progress import Progress
from pytest_sealed.images.store import Store
class Said(Progress):
    def stage(self, text): print(text, flush=True)
    def note(self, text): print(text, flush=True)
    def end(self, name, *, built, size, seconds): print(name, "built" if built else "up to date", flush=True)
print(Builder(Store(sys.argv[1]), Said()).build(load_recipe(sys.argv[2])).digest)
"""


def builder(store: Store, path: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", BUILD, str(store.root), path], stdout=subprocess.PIPE, text=True)


def test_of_several_builders_one_works_and_the_others_wait(store: Store, recipe: Write) -> None:
    path = recipe("many", '[[step]]\nrun = [["sh", "-c", "head -c 16 /dev/urandom > /random; sleep 0.5"]]')
    workers = [builder(store, path) for _ in range(4)]
    outputs = [worker.communicate()[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 4
    assert len({output.splitlines()[-1] for output in outputs}) == 1
    assert sum("many built" in output for output in outputs) == 1
    assert_clean(store)


def test_a_killed_build_leaves_no_image_and_the_next_one_sweeps(store: Store, recipe: Write) -> None:
    path = recipe("killed", '[[step]]\nrun = [["sleep", "0.7"]]')
    worker = builder(store, path)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "busybox up to date\n"
    assert worker.stdout.readline() == "sleep 0.7\n"
    while not any((folder / "log").exists() for folder in store.folders.tmp.iterdir()):
        assert worker.poll() is None
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    assert "killed" not in store.names()
    assert list(store.folders.tmp.iterdir()) != []
    build(store, path)
    assert_clean(store)


def test_a_removed_image_takes_its_own_layers_along_and_leaves_shared_ones(store: Store, recipe: Write) -> None:
    image = build(store, recipe("gone", '[[step]]\nrun = [["sh", "-c", "mkdir -m 0 /locked; touch /locked/x"]]'))
    assert store.remove("gone") > 0
    assert [path.exists() for path in image.layers] == [True, True, False]
    assert store.get("busybox").layers == image.layers[:2]
    assert_clean(store)


def test_a_removed_layer_is_built_again(store: Store, recipe: Write) -> None:
    path = recipe("again", '[[step]]\nrun = [["touch", "/again"]]')
    first = build(store, path)
    store.remove("again")
    assert build(store, path).layers == first.layers


def in_a_mount_namespace(action: Callable[[], object]) -> None:
    """Run `action` in a child with a mount namespace of its own, where it may mount: as root, or in a user namespace."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            uid, gid = os.geteuid(), os.getegid()
            namespaces.unshare(namespaces.CLONE_NEWNS | (namespaces.CLONE_NEWUSER if uid else 0))
            if uid:
                for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
                    Path("/proc/self", name).write_text(text)
                os.environ["SEALED_IDS"] = "single"
            mounts.mount(None, "/", None, mounts.MS_PRIVATE | mounts.MS_REC)
            action()
            os._exit(0)
        except BaseException:
            os.write(write, traceback.format_exc().encode()[-4000:])
        finally:
            os._exit(1)
    os.close(write)
    with open(read) as report:
        text = report.read()
    assert os.waitpid(child, 0)[1] == 0, text


def test_a_store_on_overlayfs_holds_images_removals_and_all(tmp_path: Path, fetched: Path, recipe: Write) -> None:
    path = recipe("overlaid", """
        [[step]]
        run = [["mkdir", "-p", "/srv/a/b"], ["touch", "/srv/a/one", "/srv/a/b/two", "/srv/three"]]
        [[step]]
        run = [["sh", "-c", "rm -r /srv/three /srv/a; mkdir /srv/a; touch /srv/a/new"]]
        [[step]]
        run = [["sh", "-c", "find /srv | sort > /found"]]""")
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()

    def action() -> None:
        attributes = ",userxattr" if os.environ.get("SEALED_IDS") == "single" else ""
        mounts.mount("overlay", f"{tmp_path}/merged", "overlay", 0,
                     f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work{attributes}")
        store = Store(tmp_path / "merged/store")
        store.folders.make()
        store.folders.cache.rmdir()
        store.folders.cache.symlink_to(fetched)
        image = build(store, path)
        assert content(image, "found").split() == ["/srv", "/srv/a", "/srv/a/new"]
        assert_clean(store)
    in_a_mount_namespace(action)


def test_a_full_store_says_so_and_is_left_as_it_was(tmp_path: Path, fetched: Path) -> None:
    (tmp_path / "small").mkdir()

    def action() -> None:
        mounts.mount("tmpfs", f"{tmp_path}/small", "tmpfs", 0, "size=3m")
        store = Store(tmp_path / "small/store")
        store.folders.make()
        store.folders.cache.rmdir()
        store.folders.cache.symlink_to(fetched)
        with pytest.raises(StoreError, match=r"full|needs"):
            Builder(store).build(find_recipe("busybox"))
        assert_clean(store)
        assert list(store.folders.layers.iterdir()) == []
    in_a_mount_namespace(action)


def test_a_read_only_store_gives_its_images_and_refuses_builds(store: Store, recipe: Write) -> None:
    path = recipe("refused", '[[step]]\nrun = [["true"]]')

    def action() -> None:
        mounts.mount(str(store.root), str(store.root), None, mounts.MS_BIND)
        mounts.mount(None, str(store.root), None, mounts.MS_BIND | mounts.MS_REMOUNT | mounts.MS_RDONLY)
        here = Store(store.root, ids=store.folders.ids)
        with here.lease(here.get("busybox")):
            pass
        with pytest.raises(StoreError, match="can't be written"):
            build(here, path)
    in_a_mount_namespace(action)


def test_layers_show_through_overlayfs_what_the_oci_rules_say(tmp_path: Path) -> None:
    tests = str(Path(__file__).parents[1])
    found = run_inside("layer_worker", {"folder": str(tmp_path), "seeds": [0, 500]}, paths=[tests])
    assert found["failures"] == []
    assert found["compared"] > 50
