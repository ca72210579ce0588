"""Reads a recipe, what an image shall be: from TOML and checked before anything is fetched.

The file format's reference is docs/reference/recipes.md.
"""

from __future__ import annotations

import os
import re

from pytest_sealed.errors import RecipeError
from pytest_sealed.images.recipe_config import parse_config
from pytest_sealed.images.recipe_model import Account, Base, FileItem, PythonPackages, Recipe, State, Step
from pytest_sealed.images.schema import Key, Source, Table

__all__ = ["Account", "Base", "FileItem", "PythonPackages", "Recipe", "State", "Step", "load_recipe", "parse_recipe"]

FILE = "image.toml"
HIGHEST_ID = 65535
_NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*(?::[\w][\w.-]{0,127})?")


def load_recipe(path: str) -> Recipe:
    """Read the recipe at `path`: an image.toml, or a folder that holds one.

    Raises:
        RecipeError: it isn't there, or is wrong; the message begins with file and line.
    """
    file = os.path.join(path, FILE) if os.path.isdir(path) else path
    try:
        with open(file, "rb") as stream:
            data = stream.read((1 << 20) + 1)
    except OSError as error:
        raise RecipeError(f"{file}:1: can't be read: {error.strerror}",
                          remedy="name a folder with an image.toml, or the file itself") from error
    return parse_recipe(data, file)


def parse_recipe(data: bytes, path: str) -> Recipe:
    """Return the recipe that `data`, read from `path`, describes.

    Raises:
        RecipeError: the message begins with file and line, and names the key.
    """
    shown = os.path.relpath(path) if not os.path.relpath(path).startswith("..") else path
    source = Source.decode(shown, data)
    top = source.parse()
    top.only("schema", "name", "base", "users", "python", "step", "state", "config")
    if "schema" not in top:
        top.fail(None, "the recipe needs the key 'schema'", remedy="write schema = 1 at its top")
    if top.integer("schema", 0, 0, 10**9) != 1:
        top.fail("schema", f"schema = {top.values['schema']} is unknown to this version",
                 remedy="write schema = 1, or upgrade pytest-sealed")
    name = top.required("name")
    if not _NAME.fullmatch(name) or len(name) > 200:
        top.fail("name", f"name = {name!r} is no image name", remedy="lower-case letters, digits, '.', '-', '_', then perhaps ':tag'")
    accounts = _accounts(top)
    steps = tuple(_step(table) for table in top.tables("step"))
    states = tuple(_state(table) for table in top.tables("state"))
    return Recipe(
        name=name, folder=os.path.dirname(os.path.abspath(path)), source=source, base=_base(top), accounts=accounts,
        python=_python(top), steps=steps, states=states, config=parse_config(top),
    )


def _base(top: Table) -> Base:
    table = top.table("base")
    if table is None:
        top.fail(None, "the recipe needs a [base]",
                 remedy='[base] with debian = "bookworm" and packages = […], or image = "another recipe"')
    table.only("debian", "image", "install", "packages", "omit", "exclude")
    debian, image = table.string("debian"), table.string("image")
    if bool(debian) == bool(image):
        table.fail("image" if image else None, "[base] needs either debian or image" + (", not both" if image else ""))
    if debian and not re.fullmatch(r"[a-z]{2,30}", debian):
        table.fail("debian", f"debian = {debian!r} is no release's code name", remedy='for example debian = "bookworm"')
    if image:
        for key in ("install", "packages", "omit", "exclude"):
            if key in table:
                table.fail(key, f"{key} goes with debian, not with image", remedy="put it into the recipe of the base image")
        if not _NAME.fullmatch(image):
            table.fail("image", f"image = {image!r} is no image name")
    packages = table.strings("packages")
    for key, names in (("packages", packages), ("omit", table.strings("omit"))):
        for word in names:
            if not re.fullmatch(r"[a-z0-9][a-z0-9+.-]+(?:=[\w.+:~-]+)?", word):
                table.fail(key, f"{word!r} is no package name")
    if debian and not packages:
        table.fail(None, "[base] needs packages", remedy='for example packages = ["busybox-static"]')
    install = table.choice("install", ("unpack", "configure"), "unpack")
    return Base(debian=debian, image=image, install=install, packages=packages,  # type: ignore[arg-type]  # choice checked it
                omit=table.strings("omit"), exclude=table.patterns("exclude"))


def _accounts(top: Table) -> tuple[Account, ...]:
    users = top.table("users") or Table(top.source, ("users",), {})
    found: list[Account] = []
    for name in users.values:
        table = users.table(name) or users
        if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", name) or name == "root":
            users.fail(name, f"{name!r} is no user name" if name != "root" else "root is there already")
        table.only("uid", "gid", "home", "shell")
        if "uid" not in table:
            table.fail(None, f"user {name} needs a uid")
        uid = table.integer("uid", 0, 1, HIGHEST_ID)
        account = Account(name=name, uid=uid, gid=table.integer("gid", uid, 0, HIGHEST_ID),
                          home=_absolute(table, "home", "/"), shell=_absolute(table, "shell", "/bin/sh"))
        if any(other.uid == uid for other in found):
            table.fail("uid", f"uid {uid} is given to two users")
        found.append(account)
    return tuple(found)


def _absolute(table: Table, name: str, default: str) -> str:
    value = table.string(name, default)
    if not value.startswith("/") or ".." in value.split("/") or any(character in value for character in ":\n"):
        table.fail(name, f"{name} = {value!r} is no absolute path")
    return os.path.normpath(value)


def _step(table: Table) -> Step:
    table.only("files", "run", "remove", "env", "user")
    step = Step(files=_files(table), run=table.commands("run"), remove=table.patterns("remove"),
                env=table.pairs("env", environment=True), user=table.string("user", "root"), key=table.key)
    if not (step.files or step.run or step.remove):
        table.fail(None, "a [[step]] does nothing", remedy="give it files, run or remove")
    return step


def _files(step: Table) -> tuple[FileItem, ...]:
    table = step.table("files")
    if table is None:
        return ()
    items = []
    for target, value in table.values.items():
        key: Key = (*table.key, target)
        if not target.startswith("/") or ".." in target.split("/") or "\0" in target or target == "//":
            table.fail(target, f"files: {target!r} is no absolute path in the image")
        if isinstance(value, dict):
            items.append(_file_table(Table(table.source, key, value), target))
            continue
        items.append(FileItem(target=target, source=_source_path(table, target), key=key))
    return tuple(items)


def _file_table(table: Table, target: str) -> FileItem:
    table.only("source", "text", "link", "mode", "user")
    if sum(name in table for name in ("source", "text", "link")) != 1:
        table.fail(None, f"files: {target!r} needs one of source, text and link")
    mode = None
    if "mode" in table:
        if not re.fullmatch(r"0?[0-7]{3,4}", table.string("mode")):
            table.fail("mode", f"mode = {table.values['mode']!r} is no mode", remedy='for example mode = "0755"')
        mode = int(table.string("mode"), 8)
    return FileItem(target=target, source=_source_path(table, "source") if "source" in table else "",
                    text=table.string("text") if "text" in table else None, link=table.string("link"),
                    mode=mode, user=table.string("user", "root"), key=table.key)


def _source_path(table: Table, name: str) -> str:
    value = table.required(name)
    if value.startswith("/"):
        table.fail(name, f"{value!r} is absolute", remedy="name a path or pattern relative to the recipe's folder")
    return value


def _state(table: Table) -> State:
    table.only("name", "user", "run", "env")
    run = table.commands("run")
    if not run:
        table.fail(None, "a [[state]] needs run")
    return State(name=table.required("name"), run=run, user=table.string("user", "root"),
                 env=table.pairs("env", environment=True), key=table.key)


def _python(top: Table) -> PythonPackages | None:
    table = top.table("python")
    if table is None:
        return None
    table.only("requirements", "hashes")
    hashes = table.flag("hashes", False)
    if isinstance(table.values.get("requirements"), str):
        return PythonPackages(file=_source_path(table, "requirements"), hashes=hashes)
    lines = table.strings("requirements")
    if not lines:
        table.fail(None, "[python] needs requirements", remedy='a file\'s name, or a list such as ["flask==3.0.3"]')
    return PythonPackages(requirements=lines, hashes=hashes)
