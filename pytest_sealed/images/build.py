"""Builds a recipe's image layer by layer; what has not changed is taken from the store."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from pytest_sealed.errors import ImageError, RecipeError
from pytest_sealed.images.accounts import find_account, write_accounts
from pytest_sealed.images.apt import Apt
from pytest_sealed.images.debs import unpack_debs
from pytest_sealed.images.finder import find_recipe
from pytest_sealed.images.globs import Matcher
from pytest_sealed.images.image import DEFAULT_PATH, Image, ImageConfig, change_config
from pytest_sealed.images.inputs import Placed, digest_of, place_files, write_files
from pytest_sealed.images.layerfile import LayerFile, WrittenLayer
from pytest_sealed.images.layers import Chain
from pytest_sealed.images.look import python_version, read_text, real_name
from pytest_sealed.images.progress import Progress
from pytest_sealed.images.wheels import Wheels, fetch_wheels
from pytest_sealed.runtime.launch import run_inside

if TYPE_CHECKING:
    from pytest_sealed.images.recipe import FileItem, Recipe, State, Step
    from pytest_sealed.images.schema import Key
    from pytest_sealed.images.store import Store

__all__ = ["Builder"]

_FORMAT = 1   # raise it when the same recipe shall give other layers


@final
class Builder:
    """Builds images into a store.

    Args:
        store: where they go.
        progress: is told what is going on.
        fresh: take no layer from earlier builds.
    """

    def __init__(self, store: Store, progress: Progress | None = None, *, fresh: bool = False) -> None:
        self.store = store
        self._progress = progress or Progress()
        self._fresh = fresh
        self._done: dict[str, Image] = {}

    def build(self, recipe: Recipe) -> Image:
        """Return the recipe's image, built if it isn't there or the recipe or what it uses has changed.

        Raises:
            RecipeError: the recipe is wrong; begins with file and line.
            ImageError: packages can't be fetched, a command failed, or the store can't take it.
        """
        if recipe.name in self._done:
            return self._done[recipe.name]
        start = time.monotonic()
        self.store.folders.make()
        parent = self._parent(recipe, ())
        key, files = self._key(recipe, parent)
        image = None if self._fresh else self._current(recipe, key)
        built = image is None
        if image is None:
            waiting = lambda: self._progress.note(f"{recipe.name}: another process builds it; waiting")
            with self.store.layers.lock(f"build-{hashlib.sha256(recipe.name.encode()).hexdigest()[:32]}", waiting):
                image = None if self._fresh else self._current(recipe, key)
                built = image is None
                image = image or self._make(recipe, parent, key, files)
        self._progress.end(recipe.name, built=built, size=image.size, seconds=time.monotonic() - start)
        self._done[recipe.name] = image
        return image

    def _parent(self, recipe: Recipe, above: tuple[str, ...]) -> Image | None:
        if not recipe.base.image:
            return None
        name, chain = recipe.base.image, (*above, recipe.name)
        if name in chain:
            raise recipe.error(("base", "image"), f"the recipe is its own base: {' → '.join((*chain, name))}")
        try:
            found = find_recipe(name, recipe.folder)
        except RecipeError as error:
            if self.store.digest(name):
                return self.store.get(name)   # an image that was loaded, not built
            raise recipe.error(("base", "image"), error.message, remedy=error.remedy) from error
        if found.base.image:
            self._parent(found, chain)
        return self.build(found)

    def _current(self, recipe: Recipe, key: str) -> Image | None:
        if self.store.recipe_key(recipe.name) != key:
            return None
        try:
            return self.store.get(recipe.name)
        except ImageError:
            return None   # damaged: build it again

    def _key(self, recipe: Recipe, parent: Image | None) -> tuple[str, list[list[Placed]]]:
        """Return a digest of all that the image is made from, and the files of each step."""
        files = [place_files(recipe, step) for step in recipe.steps]
        facts = [_FORMAT, recipe.source.text, parent.digest if parent else "", [digest_of(rows) for rows in files], _requirements(recipe)]
        return _hash(facts), files

    def _make(self, recipe: Recipe, parent: Image | None, key: str, files: list[list[Placed]]) -> Image:
        self._progress.begin(recipe.name)
        with self.store.building():
            self.store.folders.sweep()
            build = _Build(self.store, recipe, self._progress, fresh=self._fresh)
            build.start(parent)
            if recipe.python is not None:
                build.python()
            for step, rows in zip(recipe.steps, files, strict=True):
                build.step(step, rows)
            for state in recipe.states:
                build.state(state)
            return self.store.add(recipe.name, build.chain, build.config, architecture=_architecture(), key=key)


class _Build:
    """One build going on: the chain of layers so far."""

    def __init__(self, store: Store, recipe: Recipe, progress: Progress, *, fresh: bool) -> None:
        self._store, self._recipe, self._progress, self._fresh = store, recipe, progress, fresh
        self.chain = Chain()
        self.config = ImageConfig(env={"PATH": DEFAULT_PATH}, labels={})

    def start(self, parent: Image | None) -> None:
        """Make the first layer, or go on from the base image."""
        recipe, base = self._recipe, self._recipe.base
        if parent is None:
            facts = ["debian", base.debian, base.install, base.packages, base.omit, base.exclude, repr(recipe.accounts), _architecture()]
            self._layer(facts, f"base of Debian {base.debian}", self._debian)
            self.config = change_config(self.config, recipe.config)
            return
        self.chain = Chain(tuple(json.loads(path.with_name("layer.json").read_text())["diff_id"] for path in parent.layers))
        self.config = change_config(parent.config, recipe.config)
        if recipe.accounts:
            self._layer(["accounts", repr(recipe.accounts)], "accounts", self._accounts)

    def _debian(self, work: Path) -> WrittenLayer:
        recipe, base = self._recipe, self._recipe.base
        exclude = Matcher(base.exclude)
        packages = Apt(str(self._store.folders.cache / "debian"), base.debian, self._progress.stage).fetch(base.packages, base.omit)
        if base.install == "configure":
            from pytest_sealed.images.configure import configured_base
            self._progress.stage(f"configuring {len(packages)} packages (mmdebstrap)")
            written = configured_base(base, packages, work, exclude, recipe.accounts, self._store.folders.ids)
        else:
            self._progress.stage(f"unpacking {len(packages)} packages")
            with LayerFile(str(work / "layer.tar")) as layer:
                unpack_debs(packages, layer, exclude, recipe.accounts, self._progress.step)
                written = layer.finish()
        self._refuse_unused(("base", "exclude"), exclude.unused)
        return written

    def _accounts(self, work: Path) -> WrittenLayer:
        lowers = self._lowers()
        with LayerFile(str(work / "layer.tar")) as layer:
            write_accounts(layer, self._recipe.accounts, read_text(lowers, "etc/passwd"), read_text(lowers, "etc/group"))
            return layer.finish()

    def python(self) -> None:
        """Unpack the requirements' wheels and compile them."""
        wanted, version = self._recipe.python, python_version(self._lowers())
        assert wanted is not None
        if not version:
            raise self._recipe.error(("python",), "[python] needs an image with a python3", remedy='[base] image = "python"')

        def make(work: Path) -> WrittenLayer:
            self._progress.stage("fetching Python packages")
            folder = fetch_wheels(wanted, _requirements(self._recipe), self._recipe, version, self._store.folders.cache / "wheels")
            wheels = Wheels(folder, version)
            self._progress.stage(f"unpacking {len(wheels.files)} Python packages")
            with LayerFile(str(work / "files.tar")) as layer:
                wheels.unpack(layer)
                layer.finish()
            compile_all = ("python3", "-m", "compileall", "-q", "-j", "2", "--invalidation-mode", "unchecked-hash", wheels.target)
            return self._contain(work, ("python",), run=(compile_all,), files=str(work / "files.tar"))
        self._layer(["python", version, _requirements(self._recipe)], "Python packages", make)

    def step(self, step: Step, files: list[Placed]) -> None:
        """Make the layer of a [[step]]."""
        def make(work: Path) -> WrittenLayer:
            path = str(work / ("files.tar" if step.run or step.remove else "layer.tar"))
            lowers = self._lowers()
            with LayerFile(path) as layer:
                write_files(layer, files, lambda item: self._owner(item, lowers), lambda name: real_name(lowers, name))
                written = layer.finish()
            if not (step.run or step.remove):
                return written
            return self._contain(work, step.key, user=step.user, env=step.env, run=step.run, remove=step.remove, files=path if files else "")
        facts = ["step", digest_of(files), step.run, step.remove, step.env, step.user, sorted(self.config.env.items())]
        self._layer(facts, _describe(step), make)

    def state(self, state: State) -> None:
        """Make the layer of a [[state]]."""
        def make(work: Path) -> WrittenLayer:
            return self._contain(work, state.key, user=state.user, env=state.env, run=state.run)
        self._layer(["state", state.run, state.env, state.user, sorted(self.config.env.items())], f"preparing {state.name}", make)

    def _layer(self, facts: list[Any], title: str, make: Any) -> None:
        """Add the layer that `make` writes, or the one that an earlier build has made of the same."""
        record = self._store.folders.steps / f"{_hash([_FORMAT, self.chain.top, *facts])}.json"
        if not self._fresh:
            try:
                known = Chain(tuple(json.loads(record.read_text())["diff_ids"]))
            except (OSError, ValueError, KeyError, TypeError):
                known = Chain()
            if known.diff_ids and self._store.layers.has(known):
                self.chain = known
                return
        self._progress.stage(title)
        with self._store.folders.workspace() as work:
            written = make(work)
            self._progress.stage(f"storing {title} ({written.size / 1e6:.0f} MB)")
            self.chain = self._store.layers.commit(self.chain, written, work)
        fresh = record.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps({"diff_ids": self.chain.diff_ids}))
        os.replace(fresh, record)

    def _contain(self, work: Path, key: Key, *, run: tuple[tuple[str, ...], ...], user: str = "root", env: tuple[tuple[str, str], ...] = (),
                 remove: tuple[str, ...] = (), files: str = "") -> WrittenLayer:
        """Run commands in a build container, and return the layer that they leave."""
        environment = {"HOME": "/", **self.config.env, **dict(env)}
        room = work / "room"
        room.mkdir()
        payload = {"work": str(room), "lowers": self._lowers(), "output": str(work / "layer.tar"), "log": str(work / "log"), "user": user,
                   "env": environment, "run": [list(command) for command in run], "remove": list(remove)}
        fds = [os.open(files, os.O_RDONLY | os.O_CLOEXEC)] if files else []
        try:
            found = run_inside("pytest_sealed.images.buildroot", payload, fds=fds, ids=self._store.folders.ids)
        except ImageError as error:
            raise self._recipe.error((*key, "run"), error.message, remedy=error.remedy) from error
        finally:
            for fd in fds:
                os.close(fd)
        self._refuse_unused((*key, "remove"), tuple(found["unused"]))
        return WrittenLayer(path=payload["output"], diff_id=found["diff_id"], size=found["size"], entries=found["entries"])  # type: ignore[arg-type]

    def _lowers(self) -> list[str]:
        return self._store.layers.lowers(self.chain)

    def _owner(self, item: FileItem, lowers: list[str]) -> tuple[int, int]:
        if item.user == "root":
            return 0, 0
        found = find_account(item.user, read_text(lowers, "etc/passwd"), read_text(lowers, "etc/group"))
        if found is None:
            raise self._recipe.error(item.key, f"files: the image has no user {item.user!r}", remedy=f"[users] {item.user} = {{ uid = 1000 }}")
        return found

    def _refuse_unused(self, key: Key, patterns: tuple[str, ...]) -> None:
        if patterns:
            raise self._recipe.error(key, f"{key[-1]}: {patterns[0]!r} matches nothing", remedy="correct or remove the pattern")


def _describe(step: Step) -> str:
    parts = [f"{len(step.files)} files"] if step.files else []
    parts += [" ".join(command)[:50] for command in step.run[:1]] + (["…"] if len(step.run) > 1 else [])
    return ", ".join(parts) or "removing files"


def _requirements(recipe: Recipe) -> str:
    if recipe.python is None:
        return ""
    if not recipe.python.file:
        return "\n".join(recipe.python.requirements)
    try:
        with open(recipe.resolve(("python", "requirements"), recipe.python.file), encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise recipe.error(("python", "requirements"), f"{recipe.python.file} can't be read: {error}") from error


def _hash(facts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=list).encode()).hexdigest()


def _architecture() -> str:
    """Return this machine's architecture in the words of the OCI image index."""
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}.get(machine, machine)
