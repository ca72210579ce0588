"""Recipes: what they say, and what is said about wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_sealed import waits
from pytest_sealed.errors import RecipeError
from pytest_sealed.images.recipe import Recipe, load_recipe, parse_recipe
from pytest_sealed.spec import Tmpfs

SHIPPED = sorted(path.parent.name for path in (Path(__file__).parents[2] / "fixture-images").glob("*/image.toml"))

GOOD = """\
schema = 1
name = "web"

[base]
debian = "bookworm"
packages = ["python3", "busybox-static"]
exclude = ["**/gconv/**"]

[users]
web = { uid = 1000, home = "/srv/web" }

[[step]]
files = { "/srv/web/" = "app/*.py", "/etc/motd" = { text = "hello", mode = "0600", user = "web" } }
run = [["true"], ["sh", "-c", "echo $PATH"]]

[[step]]
remove = ["/usr/share/doc/**"]
env = { A = "b" }

[[state]]
name = "data"
user = "web"
run = [["touch", "/srv/web/data"]]

[config]
cmd = ["python3"]
user = "web"
env = { LANG = "C.UTF-8" }
ports = [8000, 80]
tmpfs = ["/tmp", { path = "/run/web", size = "1M", mode = "0750", user = "web" }]
ready = { all = [{ tcp = 8000 }, { http = { port = 8000, path = "/health", status = 204 } }, { log = "up" }] }
stop_signal = "int"
healthcheck = { command = ["true"], interval = 1.5 }
"""


def parse(text: str) -> Recipe:
    return parse_recipe(text.encode(), "fixture-images/web/image.toml")


def test_a_recipe_says_what_the_image_shall_be() -> None:
    recipe = parse(GOOD)
    assert recipe.name == "web"
    assert recipe.base.packages == ("python3", "busybox-static")
    assert (recipe.accounts[0].uid, recipe.accounts[0].gid, recipe.accounts[0].home) == (1000, 1000, "/srv/web")
    assert recipe.steps[0].run == (("true",), ("sh", "-c", "echo $PATH"))
    assert recipe.steps[0].files[1].mode == 0o600
    assert recipe.states[0].user == "web"
    config = recipe.config
    assert config.ports == (80, 8000)
    assert config.tmpfs == (Tmpfs(target="/tmp"), Tmpfs(target="/run/web", size="1M", mode=0o750, user="web"))
    assert config.ready == waits.all_of(waits.tcp(8000), waits.http(8000, "/health", status=204), waits.log("up"))
    assert config.stop_signal == 2
    assert config.healthcheck is not None
    assert config.healthcheck.interval == 1.5


@pytest.mark.parametrize("name", SHIPPED)
def test_every_recipe_that_ships_is_right_and_named_like_its_folder(name: str) -> None:
    assert load_recipe(f"{Path(__file__).parents[2]}/fixture-images/{name}").name == name


def test_the_recipes_that_the_project_promises_ship() -> None:
    assert {"busybox", "python", "postgres", "redis", "nginx"} <= set(SHIPPED)


@pytest.mark.parametrize(("line", "old", "new", "said"), [
    (1, "schema = 1", "schema = 2", "schema = 2 is unknown"),
    (1, "schema = 1\n", "", "needs the key 'schema'"),
    (2, 'name = "web"', 'name = "Web App"', "no image name"),
    (2, 'name = "web"', "name = 3", "name must be a string, not 3"),
    (4, 'debian = "bookworm"\npackages = ["python3", "busybox-static"]\nexclude = ["**/gconv/**"]', "", "needs either debian or image"),
    (6, "packages =", "pakages =", "unknown key 'pakages' in [base], did you mean 'packages'?"),
    (6, '"python3",', '"Python 3",', "'Python 3' is no package name"),
    (6, '"busybox-static"]', '7]', "packages must be a list of strings, and holds 7"),
    (7, '"**/gconv/**"', '"/usr/{a,b"', "a brace is open"),
    (10, "web = { uid = 1000,", "web = { uid = 70000,", "uid = 70000 is outside 1 to 65535"),
    (10, 'home = "/srv/web"', 'home = "srv"', "home = 'srv' is no absolute path"),
    (10, "web = { uid", "root = { uid", "root is there already"),
    (10, "uid = 1000, ", "", "user web needs a uid"),
    (12, "[[step]]\nfiles", "[[stpe]]\nfiles", "unknown key 'stpe', did you mean 'step'?"),
    (13, '"/etc/motd"', '"etc/motd"', "'etc/motd' is no absolute path"),
    (13, 'text = "hello"', 'tekst = "hello"', "unknown key 'tekst'"),
    (13, 'mode = "0600"', 'mode = "rw"', "mode = 'rw' is no mode"),
    (13, '"app/*.py"', '"/app/*.py"', "'/app/*.py' is absolute"),
    (14, 'run = [["true"],', 'run = ["true",', "run must be a list of commands"),
    (18, 'env = { A = "b" }', "env = { A = 1 }", "env.A must be a string, not 1"),
    (20, 'run = [["touch", "/srv/web/data"]]', "", "a [[state]] needs run"),
    (26, 'cmd = ["python3"]', 'cmd = "python3"', "cmd must be a list of words"),
    (29, "ports = [8000,", "ports = [800000,", "800000 is no TCP port"),
    (30, 'size = "1M"', 'size = "12Q"', "tmpfs size='12Q' is no size"),
    (30, 'mode = "0750"', 'mode = "17777"', "tmpfs mode=8191 is no mode"),
    (30, '"0750", user = "web"', '"0750", user = "a b"', "tmpfs user='a b' is no user"),
    (31, "tcp = 8000", "tpc = 8000", "unknown key 'tpc'"),
    (31, '{ log = "up" }', '{ log = "(" }', "no regular expression"),
    (32, '"int"', '"SIGNIT"', "there is no signal 'SIGNIT', did you mean 'SIGINT'?"),
    (33, 'command = ["true"], ', "", "healthcheck needs a command"),
    (33, "interval = 1.5", "intervall = 1.5", "unknown key 'intervall' in [config.healthcheck], did you mean 'interval'?"),
    (25, "[config]", "[config", "no TOML"),
    (2, 'name = "web"', "name = \"\\u0000\"", "name holds a NUL byte"),
])
def test_an_error_names_file_line_and_key(line: int, old: str, new: str, said: str) -> None:
    assert old in GOOD
    with pytest.raises(RecipeError) as caught:
        parse(GOOD.replace(old, new, 1))
    assert said in caught.value.message
    assert caught.value.message.startswith(f"fixture-images/web/image.toml:{line}: "), caught.value.message


def test_a_recipe_without_an_end_says_where_it_stops() -> None:
    with pytest.raises(RecipeError, match=r"image\.toml:3: no TOML"):
        parse('schema = 1\nname = "web"\nx = [')


def test_a_recipe_that_is_not_there_says_how_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(tmp_path / "nope"))
    assert "No such file" in str(caught.value)
    assert "image.toml" in caught.value.remedy


def test_a_binary_file_is_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "image.toml").write_bytes(b"schema = 1\n\xff\xfe")
    with pytest.raises(RecipeError, match=r"image\.toml:2: not UTF-8"):
        load_recipe(str(tmp_path))


def test_a_huge_recipe_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    (tmp_path / "image.toml").write_bytes(b"#" * (3 << 20))
    with pytest.raises(RecipeError, match="at most"):
        load_recipe(str(tmp_path))


def test_sources_may_lie_in_the_project_and_not_outside_it(tmp_path: Path) -> None:
    folder = tmp_path / "fixture-images" / "web"
    folder.mkdir(parents=True)
    (folder / "image.toml").write_text(GOOD)
    recipe = load_recipe(str(folder))
    assert recipe.resolve((), "../../app/x.py") == str(tmp_path / "app/x.py")
    with pytest.raises(RecipeError, match="leads out of the project"):
        recipe.resolve((), "../../../x.py")


@given(st.binary(max_size=400))
def test_any_bytes_give_a_recipe_or_a_recipe_error(data: bytes) -> None:
    try:
        parse_recipe(data, "image.toml")
    except RecipeError as error:
        assert error.message.startswith("image.toml:")  # noqa: PT017  (either outcome is right)


@settings(max_examples=300)
@given(st.integers(0, len(GOOD)), st.integers(0, 40), st.text(alphabet=st.characters(codec="utf-8"), max_size=12))
def test_any_change_of_a_good_recipe_gives_a_recipe_or_a_recipe_error(at: int, length: int, text: str) -> None:
    try:
        parse_recipe((GOOD[:at] + text + GOOD[at + length:]).encode(), "image.toml")
    except RecipeError as error:
        assert error.message.startswith("image.toml:")  # noqa: PT017  (either outcome is right)


_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2**70, 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=8)


@settings(max_examples=300)
@given(st.sampled_from(["schema", "name", "base", "users", "python", "step", "state", "config", "base.packages", "config.ready",
                        "config.tmpfs", "users.web", "config.env", "config.stop_signal", "config.healthcheck", "config.ports"]), _values)
def test_any_kind_of_value_anywhere_gives_a_recipe_or_a_recipe_error(key: str, value: object) -> None:
    try:
        parse(GOOD + f"\n[extra]\n{_toml(value)}" if value is None else _with(key, _toml(value)))
    except RecipeError as error:
        assert "image.toml:" in error.message  # noqa: PT017  (either outcome is right)


def _with(key: str, text: str) -> str:
    table, _, name = key.rpartition(".")
    lines = GOOD.splitlines()
    if not table:
        return f"{name} = {text}\n" + "\n".join(line for line in lines if not line.startswith(f"{name} ="))
    index = lines.index(f"[{table}]")
    kept = [line for line in lines[index + 1:] if not line.startswith(f"{name} =")]
    return "\n".join([*lines[:index + 1], f"{name} = {text}", *kept])


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(char):08x}" if not 0xD800 <= ord(char) < 0xE000 else "?" for char in value) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(name)} = {_toml(item)}" for name, item in value.items()) + "}"
    return "0" if value is None else repr(value).replace("inf", "inf")
