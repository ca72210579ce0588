"""The file sealed.lock: written the same each time, read with care; and what it has otherwise than a project."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from documents import examples

from pytest_sealed.errors import ImageError, RecipeError
from pytest_sealed.images.apt import Package
from pytest_sealed.images.finder import find_recipe
from pytest_sealed.images.installed import installed_wheels
from pytest_sealed.images.lock_check import Project, differences, here, lacking, recipe_digest, wanted
from pytest_sealed.images.lockfile import LockedImage, LockedLayer, LockedWheel, Lockfile, find_lock, load_lock
from pytest_sealed.images.store import Store

ONE, TWO, THREE = (f"sha256:{digit * 64}" for digit in "123")
RECIPE = LockedImage(
    name="web", platform="linux/amd64", manifest=ONE, recipe=TWO, base="python",
    layers=(LockedLayer(diff_id=ONE, reproducible=True), LockedLayer(diff_id=TWO, reproducible=False)),
    packages=(Package(name="libc6", version="1:2.36-9+deb12u10~x", architecture="amd64", path="pool/main/g/glibc/libc6_2.36_amd64.deb",
                      size=17, sha256="a" * 64),),
    wheels=(LockedWheel(file="flask-3.0.3-py3-none-any.whl", sha256="b" * 64),))
PULLED = LockedImage(name="registry.example/team/shop:1.2", platform="linux/amd64", manifest=ONE, pull="registry.example/team/shop:1.2",
                     index=THREE)
LOADED = LockedImage(name="old:1", platform="linux/arm64", manifest=ONE, source='sealed load "ä b".tar')


def written(tmp_path: Path, *images: LockedImage) -> Lockfile:
    lock = Lockfile(tmp_path / "sealed.lock", images)
    lock.write()
    return lock


def test_what_was_written_is_read_again_and_written_the_same(tmp_path: Path) -> None:
    lock = written(tmp_path, RECIPE, PULLED, LOADED)
    again = load_lock(lock.path)
    assert again.images == lock.images == (LOADED, PULLED, RECIPE)
    assert again.text() == lock.path.read_text()
    assert Lockfile(lock.path, (PULLED, LOADED, RECIPE)).text() == lock.text()
    assert not again.write()
    assert [path.name for path in tmp_path.iterdir()] == ["sealed.lock"]


def test_a_wheel_is_a_requirement_of_one_file() -> None:
    assert RECIPE.wheels[0].requirement == f"flask==3.0.3 --hash=sha256:{'b' * 64}"


@pytest.mark.parametrize(("reference", "platform", "found"), [
    ("web", "linux/amd64", RECIPE), ("web", "linux/arm64", None), ("shop:1.2", "linux/amd64", PULLED),
    ("team/shop:1.2", "linux/amd64", PULLED), ("shop", "linux/amd64", None), ("registry.example/team/shop:1.2", "linux/amd64", PULLED),
    ("other.example/team/shop:1.2", "linux/amd64", None),
    ("team.example/shop:1.2", "linux/arm64", None), ("eb", "linux/amd64", None), ("Not A Name", "linux/amd64", None),
])
def test_names_are_found_as_in_the_store(tmp_path: Path, reference: str, platform: str, found: LockedImage | None) -> None:
    mirrored = LockedImage(name="localhost:5000/team.example/shop:1.2", platform="linux/arm64", manifest=ONE)
    assert Lockfile(tmp_path / "sealed.lock", (RECIPE, PULLED, mirrored)).find(reference, platform) is found


@pytest.mark.parametrize(("old", "new", "said"), [
    ("version = 1", "version = 2", "sealed.lock:2: version = 2 is unknown to this version of pytest-sealed"),
    ("version = 1", "<<<<<<< HEAD", "sealed.lock:2: no TOML: "),
    ('recipe = "', 'recipee = "', "unknown key 'recipee' in [image.0], did you mean 'recipe'?"),
    (ONE, "sha256:11", "manifest holds 'sha256:11', which is no sha256 digest"),
    (f'manifest = "{ONE}"\n', "", "needs the key 'manifest'"),
    ("pool/main", "../../etc", "is no path below a mirror"),
    ("pool/main", "/etc", "is no path below a mirror"),
    ('name = "libc6"', 'name = "../libc6"', "is no package"),
    ("flask-3.0.3-py3-none-any.whl", "../flask-3.0.3-py3-none-any.whl", "is no wheel's name"),
    ("b" * 64, "b" * 63, "is no digest of 64 digits"),
    ("size = 17", 'size = "17"', "size must be a whole number, not '17'"),
    ('name = "web"', 'name = "Web site"', "is no image reference"),
    ('platform = "linux/amd64"', 'platform = "a/b/c/d"', "is no platform"),
    ("reproducible = true", "reproducible = 1", "reproducible must be true or false, not 1"),
    ("\n[[image]]", '\n[[image]]\nname = "web"\nplatform = "linux/amd64"\nmanifest = "' + ONE + '"\n\n[[image]]', "is there twice"),
])
def test_a_damaged_lock_is_refused_with_its_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    lock = written(tmp_path, RECIPE)
    text = lock.path.read_text()
    assert old in text
    lock.path.write_text(text.replace(old, new, 1))
    with pytest.raises(ImageError) as caught:
        load_lock(lock.path)
    assert said in caught.value.message
    assert re.search(r"sealed\.lock:\d+: ", caught.value.message)
    assert caught.value.remedy == "take back the last `sealed.lock` that worked, or remove it; then run `sealed lock`"


def test_a_lock_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"sealed\.lock can't be read: No such file"):
        load_lock(tmp_path / "sealed.lock")
    with pytest.raises(ImageError) as caught:
        find_lock(str(tmp_path))
    assert caught.value.message == f"there is no sealed.lock in {tmp_path}, nor in a folder above"
    assert caught.value.remedy == "sealed lock   in the project's folder writes it"
    written(tmp_path)
    (tmp_path / "below").mkdir()
    assert find_lock(str(tmp_path / "below")) == tmp_path / "sealed.lock"


def test_a_lock_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "sealed.lock").mkdir()
    with pytest.raises(ImageError, match=r"sealed\.lock can't be written: Is a directory"):
        written(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["sealed.lock"]


def test_the_example_of_the_reference_is_a_lock_as_it_would_be_written(tmp_path: Path) -> None:
    [text] = [example.text for example in examples("text") if example.page.endswith("reference/lock.md")]
    (tmp_path / "sealed.lock").write_text(text)
    assert load_lock(tmp_path / "sealed.lock").text() == text


# against a project


def recipe(root: Path, name: str, base: str, text: str = "") -> None:
    folder = root / "fixture-images" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "file").write_text("content")
    (folder / "image.toml").write_text(
        f'schema = 1\nname = "{name}"\n[base]\n{base}\n[[step]]\nfiles = {{ "/file" = "file" }}\n{text}')


@pytest.fixture
def project(tmp_path: Path) -> Project:
    recipe(tmp_path, "below", 'debian = "trixie"\npackages = ["busybox-static"]')
    recipe(tmp_path, "above", 'image = "below"')
    return Project(root=tmp_path, images={"registry.example/x:1": "fixture x", "above": "fixture above"})


def locked(project: Project, platform: str) -> list[LockedImage]:
    below = LockedImage(name="below", platform=platform, manifest=ONE, recipe=recipe_digest(find_recipe("below", str(project.root)), None),
                        layers=(LockedLayer(diff_id=ONE, reproducible=True),))
    above = LockedImage(name="above", platform=platform, manifest=TWO, base="below", recipe=recipe_digest(
        find_recipe("above", str(project.root)), below))
    return [below, above, LockedImage(name="registry.example/x:1", platform=platform, manifest=THREE, pull="registry.example/x:1")]


def test_a_base_comes_before_what_continues_it(project: Project) -> None:
    assert [(name, one is not None) for name, one in wanted(project).items()] == [
        ("below", True), ("above", True), ("registry.example/x:1", False)]


def test_a_lock_that_names_everything_has_no_difference(project: Project) -> None:
    assert differences(project, written(project.root, *locked(project, here()))) == {}


def test_what_a_lock_lacks_is_named_with_who_wants_it(project: Project) -> None:
    lock = written(project.root, *locked(project, here())[1:2])
    assert differences(project, lock) == {
        "below": f"isn't in the lock for {here()}", "registry.example/x:1": f"isn't in the lock for {here()} (fixture x)"}


def test_a_changed_file_of_a_recipe_is_a_difference_of_all_that_continue_it(project: Project) -> None:
    images = locked(project, here())
    (project.root / "fixture-images/below/file").write_text("changed")
    assert differences(project, written(project.root, *images)) == {
        "below": "its recipe, or a file of it, has changed since it was locked"}
    images[0] = locked(project, here())[0]
    assert "above" in differences(project, written(project.root, *images))


def test_other_bits_of_a_base_are_a_difference_unless_they_differ_each_time(project: Project) -> None:
    images = locked(project, here())
    below = images[0]
    images[0] = dataclasses.replace(below, manifest=TWO, layers=(LockedLayer(diff_id=TWO, reproducible=True),))
    assert list(differences(project, written(project.root, *images))) == ["above"]
    images[0] = dataclasses.replace(below, layers=(LockedLayer(diff_id=ONE, reproducible=False),))
    images[1] = dataclasses.replace(images[1], recipe=recipe_digest(find_recipe("above", str(project.root)), images[0]))
    images[0] = dataclasses.replace(images[0], manifest=TWO, layers=(LockedLayer(diff_id=TWO, reproducible=False),))
    assert differences(project, written(project.root, *images)) == {}


def test_what_nothing_names_is_a_difference_of_the_whole_only(project: Project) -> None:
    extra = LockedImage(name="extra", platform=here(), manifest=ONE, source="sealed load x")
    lock = written(project.root, *locked(project, here()), extra)
    assert differences(project, lock) == {"extra": "is in the lock, and nothing names it any more"}
    assert differences(project, lock, whole=False) == {}


def test_each_platform_that_the_project_names_is_asked_for(project: Project) -> None:
    lock = written(project.root, *locked(project, "linux/amd64"))
    both = Project(root=project.root, images=project.images, platforms=("linux/amd64", "linux/s390x"))
    assert set(differences(both, lock).values()) == {"isn't in the lock for linux/s390x", "isn't in the lock for linux/s390x (fixture x)",
                                                     "isn't in the lock for linux/s390x (fixture above)"}
    assert differences(both, written(project.root, *locked(project, "linux/amd64"), *locked(project, "linux/s390x"))) == {}


def test_recipes_that_continue_each_other_are_an_error(tmp_path: Path) -> None:
    recipe(tmp_path, "one", 'image = "two"')
    recipe(tmp_path, "two", 'image = "one"')
    with pytest.raises(RecipeError, match="the recipe is its own base: one → two → one"):
        wanted(Project(root=tmp_path, images={}))


def test_a_recipe_that_is_gone_is_a_difference(project: Project) -> None:
    lock = written(project.root, *locked(project, here()))
    (project.root / "fixture-images/above/image.toml").unlink()
    assert differences(project, lock) == {"above": "was made by a recipe that isn't there any more"}


def test_an_image_of_an_installed_wheel_is_pinned_by_the_python_packages(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    info = project.root / "image_x-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: image-x\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[sealed.images]\nregistry.example/x:1 = image_x\n")
    assert "registry.example/x:1" in wanted(project)
    monkeypatch.syspath_prepend(str(project.root))
    installed_wheels.cache_clear()
    try:
        assert list(wanted(project)) == ["below", "above"]
    finally:
        installed_wheels.cache_clear()


def test_an_empty_store_lacks_all(project: Project, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    found = lacking(store, written(project.root, *locked(project, here())))
    assert found == dict.fromkeys(["above", "below", "registry.example/x:1"], f"isn't in the store {store.root}")
    assert not store.root.exists()
