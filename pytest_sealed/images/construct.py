"""The layers of one image being built, each from the store if an earlier build has made it of the same."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from pytest_sealed.errors import ImageError, RecipeError, StoreError
from pytest_sealed.images.accounts import find_account, write_accounts
from pytest_sealed.images.apt import Apt
from pytest_sealed.images.debs import unpack_debs
from pytest_sealed.images.folders import explain
from pytest_sealed.images.globs import Matcher
from pytest_sealed.images.image import DEFAULT_PATH, Image, ImageConfig, change_config
from pytest_sealed.images.inputs import Placed, digest_of, write_files
from pytest_sealed.images.interpreter import ASK, Interpreter, interpreter_from
from pytest_sealed.images.layerfile import LayerFile, WrittenLayer
from pytest_sealed.images.layers import Chain
from pytest_sealed.images.look import read_text, real_name
from pytest_sealed.images.mirror import fetch_debs
from pytest_sealed.images.provenance import Inputs, locked_wheel
from pytest_sealed.images.wheels import Wheels, fetch_wheels
from pytest_sealed.runtime.launch import run_inside

if TYPE_CHECKING:
    from pytest_sealed.images.lockfile import LockedImage
    from pytest_sealed.images.progress import Progress
    from pytest_sealed.images.recipe import FileItem, PythonPackages, Recipe, State, Step
    from pytest_sealed.images.schema import Key
    from pytest_sealed.images.store import Store

__all__ = ["FORMAT", "Construction", "architecture", "hash_of", "requirements_of"]

FORMAT = 1   # raise it when the same recipe shall give other layers


@final
class Construction:
    """One build going on: the chain of layers so far.

    Args:
        fresh: take no layer from earlier builds.
        locked: what a lock says of the image: packages are those, and layers come out as it says.
    """

    def __init__(self, store: Store, recipe: Recipe, progress: Progress, *, fresh: bool, locked: LockedImage | None = None) -> None:
        self._store, self._recipe, self._progress, self._fresh, self._locked = store, recipe, progress, fresh, locked
        self.chain = Chain()
        self.config = ImageConfig(env={"PATH": DEFAULT_PATH}, labels={})
        self.history: list[str] = []
        """What each layer was made by."""
        self.inputs: list[Inputs] = []
        """What each layer of this recipe is made from."""

    def start(self, parent: Image | None) -> None:
        """Make the first layer, or go on from the base image."""
        recipe, base = self._recipe, self._recipe.base
        if parent is None:
            facts = ["debian", base.debian, base.install, base.packages, base.omit, base.exclude, repr(recipe.accounts), architecture()]
            if self._locked is not None:
                facts.append([package.sha256 for package in self._locked.packages])
            self._layer(facts, f"base of Debian {base.debian}", self._debian, Inputs(packages=()))
            self.config = change_config(self.config, recipe.config)
            return
        self.chain = Chain(tuple(json.loads(path.with_name("layer.json").read_text())["diff_id"] for path in parent.layers))
        self.history = self._store.history(parent)
        self.config = change_config(parent.config, recipe.config)
        if recipe.accounts:
            self._layer(["accounts", repr(recipe.accounts)], "accounts", self._accounts)

    def _debian(self, work: Path, inputs: Inputs) -> WrittenLayer:
        recipe, base = self._recipe, self._recipe.base
        exclude = Matcher(base.exclude)
        if base.install == "configure":
            from pytest_sealed.images.configure import configured_base, require_range
            require_range(self._store.folders.ids)
        cache = self._store.folders.cache / "debian"
        if self._locked is not None and base.install == "unpack":   # mmdebstrap resolves by itself, with the host's apt
            packages = fetch_debs(self._locked.packages, base.debian, architecture(), cache, self._progress.stage)
        else:
            packages = Apt(str(cache), base.debian, self._progress.stage, fresh=self._fresh).fetch(base.packages, base.omit)
        inputs.packages = tuple(packages)
        if base.install == "configure":
            self._progress.stage(f"configuring {len(packages)} packages (mmdebstrap)")
            written = configured_base(base, packages, work, exclude, recipe.accounts, self._store.folders.ids)
        else:
            self._progress.stage(f"unpacking {len(packages)} packages")
            with LayerFile(str(work / "layer.tar")) as layer:
                unpack_debs(packages, layer, exclude, recipe.accounts, self._progress.step)
                written = layer.finish()
        self._refuse_unused(("base", "exclude"), exclude.unused)
        return written

    def _accounts(self, work: Path, _inputs: Inputs) -> WrittenLayer:
        lowers = self._lowers()
        with LayerFile(str(work / "layer.tar")) as layer:
            write_accounts(layer, self._recipe.accounts, read_text(lowers, "etc/passwd"), read_text(lowers, "etc/group"))
            return layer.finish()

    def python(self, wanted: PythonPackages) -> None:
        """Unpack the requirements' wheels and compile them."""
        text, hashes = requirements_of(self._recipe), wanted.hashes
        if self._locked is not None:
            options = [line for line in text.splitlines() if re.match(r"\s*-(?!-hash)", line)]   # such as --index-url
            text, hashes = "\n".join([*options, *(wheel.requirement for wheel in self._locked.wheels)]), True

        def make(work: Path, inputs: Inputs) -> WrittenLayer:
            python = self._interpreter()
            self._progress.stage("fetching Python packages")
            folder = fetch_wheels(replace(wanted, hashes=hashes), text, self._recipe, python, self._store.folders.cache / "wheels")
            wheels = Wheels(folder, python.version)
            inputs.wheels = tuple(locked_wheel(path) for path in wheels.files)
            self._progress.stage(f"unpacking {len(wheels.files)} Python packages")
            with LayerFile(str(work / "files.tar")) as layer:
                wheels.unpack(layer)
                layer.finish()
            compile_all = ("python3", "-m", "compileall", "-q", "-j", "2", "--invalidation-mode", "unchecked-hash", wheels.target)
            return self._contain(work, ("python",), run=(compile_all,), files=str(work / "files.tar"))
        self._layer(["python", text, hashes], "Python packages", make, Inputs(wheels=()))

    def _interpreter(self) -> Interpreter:
        """Ask the python3 of the layers so far."""
        with self._store.folders.workspace() as work:
            try:
                self._contain(work, ("python",), run=(ASK,))
                with open(work / "log", "rb") as log:
                    began = len(f"$ {' '.join(ASK)}\n")   # what the room writes first
                    log.seek(max(began, os.fstat(log.fileno()).st_size - (1 << 17)))
                    return interpreter_from(log.read())
            except RecipeError as error:
                raise self._recipe.error(("python",), f"[python] needs an image with a python3: {error.message.splitlines()[-1].strip()}",
                                         remedy='[base] image = "python"') from error
            except StoreError:
                raise
            except ImageError as error:
                raise self._recipe.error(("python",), error.message, remedy=error.remedy) from error

    def step(self, step: Step, files: list[Placed]) -> None:
        """Make the layer of a [[step]]."""
        def make(work: Path, _inputs: Inputs) -> WrittenLayer:
            path = str(work / ("files.tar" if step.run or step.remove else "layer.tar"))
            lowers = self._lowers()
            with LayerFile(path) as layer:
                write_files(layer, files, lambda item: self._owner(item, lowers), lambda name: real_name(lowers, name))
                written = layer.finish()
            if not (step.run or step.remove):
                return written
            return self._contain(work, step.key, user=step.user, env=step.env, run=step.run, remove=step.remove,
                                 files=path if files else "")
        facts = ["step", digest_of(files), step.run, step.remove, step.env, step.user, sorted(self.config.env.items())]
        self._layer(facts, _describe(step), make)

    def state(self, state: State) -> None:
        """Make the layer of a [[state]]."""
        def make(work: Path, _inputs: Inputs) -> WrittenLayer:
            return self._contain(work, state.key, user=state.user, env=state.env, run=state.run)
        self._layer(["state", state.run, state.env, state.user, sorted(self.config.env.items())], f"preparing {state.name}", make,
                    Inputs(reproducible=False))

    def _layer(self, facts: list[Any], title: str, make: Callable[[Path, Inputs], WrittenLayer], inputs: Inputs | None = None) -> None:
        """Add the layer that `make` writes, or the one that an earlier build has made of the same.

        Args:
            make: is told where, and notes in the inputs what it took.
            inputs: those that there may be.
        """
        inputs = inputs or Inputs()
        self.history.append(f"{self._recipe.name}: {title}")
        self.inputs.append(inputs)
        record = self._store.folders.steps / f"{hash_of([FORMAT, self.chain.top, *facts])}.json"
        if not self._fresh:
            try:
                known = json.loads(record.read_text())
                chain = Chain(tuple(known["diff_ids"]))
                inputs.recall(known)   # not there in records of an older version
            except (OSError, ValueError, KeyError, TypeError):
                chain = Chain()
            if chain.diff_ids and self._store.layers.has(chain):
                self._check(title, chain.diff_ids[-1])
                self.chain = chain
                return
        self._progress.stage(title)
        try:
            with self._store.folders.workspace() as work:
                written = make(work, inputs)
                self._check(title, written.diff_id)
                self._progress.stage(f"storing {title} ({written.size / 1e6:.0f} MB)")
                self.chain = self._store.layers.commit(self.chain, written, work)
        except OSError as error:
            raise explain(error, self._store.root) from error
        fresh = record.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps({"diff_ids": self.chain.diff_ids, **inputs.facts()}))
        os.replace(fresh, record)

    def _check(self, title: str, diff_id: str) -> None:
        """Refuse a layer that isn't the lock's."""
        if self._locked is None:
            return
        number = len(self.inputs)
        there = self._locked.layers[number - 1] if number <= len(self._locked.layers) else None
        if there is None or (there.reproducible and there.diff_id != diff_id):
            raise ImageError(f"layer {number} of {self._recipe.name} ({title}) came out as {diff_id}, and the lock has "
                             f"{there.diff_id if there else 'no such layer'}",
                             remedy="commands that give other bits each time belong into a [[state]]; then `sealed lock` again")

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
        except StoreError:
            raise
        except ImageError as error:
            raise self._recipe.error((*key, "run"), error.message, remedy=error.remedy) from error
        finally:
            for fd in fds:
                os.close(fd)
        self._refuse_unused((*key, "remove"), tuple(found["unused"]))
        return WrittenLayer(path=str(work / "layer.tar"), diff_id=found["diff_id"], size=found["size"], entries=found["entries"])

    def _lowers(self) -> list[str]:
        return self._store.layers.lowers(self.chain)

    def _owner(self, item: FileItem, lowers: list[str]) -> tuple[int, int]:
        if item.user == "root":
            return 0, 0
        found = find_account(item.user, read_text(lowers, "etc/passwd"), read_text(lowers, "etc/group"))
        if found is None:
            raise self._recipe.error(item.key, f"files: the image has no user {item.user!r}",
                                     remedy=f"[users] {item.user} = {{ uid = 1000 }}")
        return found

    def _refuse_unused(self, key: Key, patterns: tuple[str, ...]) -> None:
        if patterns:
            raise self._recipe.error(key, f"{key[-1]}: {patterns[0]!r} matches nothing", remedy="correct or remove the pattern")


def _describe(step: Step) -> str:
    parts = [f"{len(step.files)} file{'s' if len(step.files) > 1 else ''}"] if step.files else []
    parts += [" ".join(command)[:50] for command in step.run[:1]] + (["…"] if len(step.run) > 1 else [])
    return ", ".join(parts) or "removing files"


def requirements_of(recipe: Recipe) -> str:
    """Return the text of a recipe's requirements: all that decides on them, so that a change of it is noticed.

    Raises:
        RecipeError: the file can't be read, or it names another one.
    """
    if recipe.python is None:
        return ""
    key = ("python", "requirements")
    text = "\n".join(recipe.python.requirements)
    if recipe.python.file:
        try:
            with open(recipe.resolve(key, recipe.python.file), encoding="utf-8") as file:
                text = file.read()
        except (OSError, UnicodeDecodeError) as error:
            raise recipe.error(key, f"{recipe.python.file} can't be read: {error}") from error
    other = re.search(r"(?m)^\s*(?:-[rc]|--requirement|--constraint).*$", text)
    if other:
        raise recipe.error(key, f"{other[0].strip()!r}: requirements that are in another file aren't read",
                           remedy="put all lines into one file, for example by `uv pip compile` or `pip-compile`")
    return text


def hash_of(facts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=list).encode()).hexdigest()


def architecture() -> str:
    """Return this machine's architecture in the words of the OCI image index."""
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}.get(machine, machine)
