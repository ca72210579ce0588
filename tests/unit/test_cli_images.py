"""`sealed build`, `images` and `rm`: what they print, and how they say no."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_sealed.cli import COMMANDS, main
from pytest_sealed.cli.bar import Bar, Lines, progress_for
from pytest_sealed.images.finder import find_recipe, recipe_names
from pytest_sealed.images.image import ImageConfig
from pytest_sealed.images.layers import Chain
from pytest_sealed.images.manifest import OCI_LAYER, Descriptor, manifest_of
from pytest_sealed.images.store import Store

ONE = f"sha256:{'1' * 64}"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SEALED_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    return Store()


def add(store: Store, name: str) -> None:
    store.folders.make()
    layer = store.layers.path(ONE)
    layer.mkdir(parents=True, exist_ok=True)
    (layer.parent / "layer.json").write_text(json.dumps({"diff_id": ONE, "parent": "", "size": 2_000_000}))
    store.add(name, Chain((ONE,)), ImageConfig(env={}, labels={}), architecture="amd64")


def test_images_lists_what_is_there_and_what_could_be_built(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    add(store, "postgres")
    assert main(["images"]) == 0
    out = capsys.readouterr().out
    assert "postgres" in out.splitlines()[1]
    assert "2 MB" in out
    assert "not built: busybox, nginx, python, redis (sealed build NAME)" in out
    assert f"store: {store.root}" in out


def test_images_of_an_empty_store_makes_no_store(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["images"]) == 0
    assert "not built: busybox" in capsys.readouterr().out
    assert not store.root.exists()


def test_images_in_json(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    add(store, "web")
    assert main(["images", "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert row["reference"] == "web"
    assert row["layers"] == [str(store.layers.path(ONE))]


def test_rm_says_what_it_has_freed(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    add(store, "web")
    add(store, "other")
    assert main(["rm", "web"]) == 0
    assert main(["rm", "--all"]) == 0
    assert capsys.readouterr().out == "web: removed, 0 MB freed\nother: removed, 2 MB freed\n"
    assert Store().names() == []


def test_images_tells_where_an_image_is_from_and_what_it_shares(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    add(store, "web")
    store.add("other", Chain((ONE,)), ImageConfig(env={}, labels={}, user="x"), architecture="amd64")
    store.records.put("other", {**store.records.get("other"), "source": "sealed pull registry.example/other"})
    main(["images"])
    head, other, web = capsys.readouterr().out.splitlines()[:3]
    assert head.split() == ["IMAGE", "DIGEST", "SIZE", "SHARED", "LAYERS", "AGE", "FROM"]
    assert other.split()[2:6] == ["2", "MB", "2", "MB"]
    assert other.endswith("just now        pull registry.example/other")
    assert web.endswith("build")


def test_a_tag_is_another_name_and_tells_how_both_are_made_again(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    add(store, "web")
    assert main(["tag", "web", "registry.example/team/web"]) == 0
    assert capsys.readouterr().out == "registry.example/team/web:latest\n"
    assert store.digest("registry.example/team/web:latest") == store.digest("web")
    store.layers.path(ONE).rmdir()
    assert main(["inspect", "registry.example/team/web"]) == 1
    assert "remedy: sealed build web && sealed tag web registry.example/team/web:latest" in capsys.readouterr().err


def test_history_lists_layers_and_steps_without_one(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    add(store, "plain")
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [ONE]}, "history": [
        {"created_by": "ADD rootfs\n\x1b[31m /"}, {"created_by": "CMD [\"sh\"]", "empty_layer": True}]}
    body = json.dumps(config).encode()
    store.put("web", manifest_of(body, [Descriptor(digest=ONE, size=1, media_type=OCI_LAYER, annotations={})], "web").data, body,
              Chain((ONE,)), source="sealed load web.tar")
    assert main(["history", "web"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "111111111111      2.0 MB  ADD rootfs \\x1b[31m /", '-                      -  CMD ["sh"]']
    assert main(["history", "plain"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["111111111111      2.0 MB  (not said)"]


def test_rm_of_fetched_packages(store: Store) -> None:
    store.folders.make()
    (store.folders.cache / "x").write_text("")
    assert main(["rm", "--cache"]) == 0
    assert not store.folders.cache.exists()


@pytest.mark.parametrize(("argv", "said", "remedy"), [
    (["rm"], "which image?", "sealed rm IMAGE"),
    (["rm", "postgers"], "no image 'postgers', did you mean 'postgres'?", "sealed build NAME"),
    (["build"], "which recipe?", "sealed build NAME (there are busybox, nginx, postgres, python, redis), or sealed build --all"),
    (["build", "postgers"], "there is no recipe 'postgers', did you mean 'postgres'?", "write fixture-images/postgers/image.toml"),
    (["tag", "web", "x@sha256:" + "1" * 64], "a name with one can't be given by hand", "sealed tag IMAGE x"),
    (["tag", "web", "Web"], "'Web' is no part of a name (capital letters aren't allowed)", "write NAME:TAG"),
    (["prune", "--older-than", "3 days"], "'3 days' is no age", "for example 90m, 12h, 30d, 4w"),
    (["prune", "--size", "much"], "--size='much' is no size", 'for example --size="64M"'),
    (["verify", "nope"], "no image 'nope'", "`sealed images` lists those there are"),
    (["diff", "nope", "nope"], "no image 'nope'", "`sealed images` lists those there are"),
    (["build", "./nope"], "nope:1: can't be read: No such file or directory", "name a folder with an image.toml"),
])
def test_an_error_is_a_line_and_a_remedy(store: Store, capsys: pytest.CaptureFixture[str], argv: list[str], said: str, remedy: str) -> None:
    assert main(argv) == 1
    first, second = capsys.readouterr().err.strip().splitlines()
    assert first.startswith("sealed: ")
    assert said in first
    assert remedy in second


def test_a_broken_recipe_among_several_does_not_stop_the_command_line_from_naming_it(
        store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "fixture-images/web").mkdir(parents=True)
    (tmp_path / "fixture-images/web/image.toml").write_text('schema = 1\nname = "web"\n[bsae]\n')
    assert main(["build", "web"]) == 1
    assert "fixture-images/web/image.toml:3: unknown key 'bsae', did you mean 'base'?" in capsys.readouterr().err


def test_a_projects_own_recipe_wins_over_one_that_ships(store: Store, tmp_path: Path) -> None:
    (tmp_path / "fixture-images/redis").mkdir(parents=True)
    (tmp_path / "fixture-images/redis/image.toml").write_text('schema = 1\nname = "redis"\n[base]\nimage = "busybox"\n')
    (tmp_path / "deep/er").mkdir(parents=True)
    assert find_recipe("redis", str(tmp_path / "deep/er")).base.image == "busybox"
    assert find_recipe("postgres", str(tmp_path)).base.debian
    assert recipe_names(str(tmp_path)) == ["busybox", "nginx", "postgres", "python", "redis"]


def test_a_recipe_is_named_like_its_folder(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "fixture-images/web").mkdir(parents=True)
    (tmp_path / "fixture-images/web/image.toml").write_text('schema = 1\nname = "wbe"\n[base]\nimage = "busybox"\n')
    assert main(["build", "web"]) == 1
    assert "image.toml:2: name = 'wbe', but the recipe lies in the folder 'web'" in capsys.readouterr().err


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["bild"])
    assert caught.value.code == 2
    assert "there is no command 'bild', did you mean 'build'?" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"sealed {command}" in capsys.readouterr().out


def test_the_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert all(f"\n    {command} " in out for command in COMMANDS)


def test_images_imports_no_other_command_and_no_pytest(tmp_path: Path) -> None:
    others = ("pytest", "pyroute2", "pytest_sealed.cli.run", "pytest_sealed.images.build")
    code = f"import sys; from pytest_sealed.cli import main; main(['images']); print([name for name in sys.modules if name in {others}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env={**os.environ, "SEALED_STORE": str(tmp_path)})
    assert done.stdout.splitlines()[-1] == "[]"


def tell(progress: Lines) -> None:
    progress.begin("web")
    progress.stage("unpacking 2 packages")
    for done, name in enumerate(("libc6", "busybox", "")):
        progress.step(done, 2, name)
    progress.note("web: another process builds it; waiting")
    progress.end("web", built=True, size=2_400_000, seconds=1.25)


def test_progress_in_a_log_is_plain_lines() -> None:
    out = io.StringIO()
    tell(progress_for(out))
    assert out.getvalue() == ("web: unpacking 2 packages\nweb: another process builds it; waiting\nweb: built, 2 MB in 1.2 s\n")


def test_progress_in_a_terminal_is_a_bar_that_leaves_one_line_for_each_image() -> None:
    out = Terminal()
    progress = progress_for(out)
    assert isinstance(progress, Bar)
    tell(progress)
    assert "[" + "█" * 24 + "] 2/2" in out.getvalue()
    shown = [line.rsplit("\r", 1)[-1] for line in out.getvalue().split("\n")]
    assert shown == ["web: another process builds it; waiting", "web: built, 2 MB in 1.2 s", ""]


def test_quiet_says_nothing() -> None:
    out = Terminal()
    tell(progress_for(out, quiet=True))
    assert out.getvalue() == ""
