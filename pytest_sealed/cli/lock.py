"""`sealed lock`: which images a project runs on, exactly."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pytest_sealed.cli.bar import progress_for
from pytest_sealed.errors import SealedError, SpecError, nearest
from pytest_sealed.images.lock_check import Project, differences
from pytest_sealed.images.lock_make import Locker
from pytest_sealed.images.lockfile import LOCK, Lockfile, load_lock
from pytest_sealed.images.store import Store

__all__ = ["add_parser", "run"]

_NOTHING = 5   # pytest's exit status where it has collected no test


def add_parser(subparsers: Any) -> None:
    """Add `lock` to the commands."""
    parser = subparsers.add_parser("lock", help=f"write {LOCK}: which images a project runs on, exactly", description=(
        f"Write {LOCK} into the folder of pytest's configuration: the images of the project's recipes, of sealed_images, and of the "
        "container fixtures that pytest collects. What hasn't changed since the last time stays; the rest is built, or asked of its "
        "registry. `sealed sync` gives a machine what it says."))
    parser.add_argument("--check", action="store_true", help="say what the lock has otherwise than the project, and change nothing")
    parser.add_argument("--upgrade", nargs="*", metavar="IMAGE", help="take newer packages, and what tags mean now; else of all images")
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")


def run(args: argparse.Namespace) -> int:
    """Write or check the lock; return 1 if it's to be another."""
    facts = _collected()
    project = Project(root=Path(facts["root"]), images=facts["images"], platforms=tuple(facts["platforms"]))
    if args.check:
        return _check(project, quiet=args.quiet)
    old = load_lock(project.lock) if project.lock.exists() else Lockfile(project.lock)
    known = {image.name for image in old.images}
    for name in args.upgrade or ():
        if name not in known:
            raise SpecError(f"{LOCK} has no image {name!r}{nearest(name, known)}", remedy="sealed lock --upgrade   upgrades all of them")
    with progress_for(sys.stderr, quiet=args.quiet) as progress:
        lock = Locker(project, Store(), old, progress, upgrade=None if args.upgrade == [] else args.upgrade or ()).lock()
    written = lock.write()
    if not args.quiet:
        for line in _changes(old, lock):
            print(line)
        print(f"{lock.path}: {len(lock.images)} image{'s' * (len(lock.images) != 1)}{', as before' * (not written)}")
        if facts["unseen"]:
            print(f"known only when a test runs: the images of {', '.join(facts['unseen'])}; "
                  "what isn't listed here, `sealed_images` in pytest's configuration names")
    missing = differences(project, lock)
    if missing:
        _complain(missing, f"{LOCK} is incomplete", "sealed lock   on a machine of that platform")
    return int(bool(missing))


def _check(project: Project, *, quiet: bool) -> int:
    if not project.lock.exists():
        raise SealedError(f"there is no {project.lock}", remedy="sealed lock   and commit the file")
    lock = load_lock(project.lock)
    found = differences(project, lock)
    if found:
        _complain(found, f"{project.lock} is out of date", "sealed lock   and commit the file")
    elif not quiet:
        print(f"{project.lock} is up to date: {len(lock.images)} image{'s' * (len(lock.images) != 1)}")
    return int(bool(found))


def _complain(found: dict[str, str], what: str, remedy: str) -> None:
    rows = "".join(f"\n  {name}: {why}" for name, why in found.items())
    print(f"sealed: {what}:{rows}\n  remedy: {remedy}", file=sys.stderr)


def _changes(old: Lockfile, new: Lockfile) -> list[str]:
    """Return a line for each image that is another than before."""
    before, after = ({(image.name, image.platform): image for image in lock.images} for lock in (old, new))
    lines = []
    for key in sorted({*before, *after}):
        if before.get(key) != after.get(key):
            lines.append(f"{key[0]} ({key[1]}): {'added' if key not in before else 'removed' if key not in after else 'changed'}")
    return lines


def _collected() -> dict[str, Any]:
    """Let pytest collect in the current folder, and return what it says.

    Raises:
        SealedError: it can't collect; with what it printed.
    """
    with tempfile.NamedTemporaryFile("r", prefix="sealed-lock-") as file:
        argv = ["--collect-only", "-q", "-p", "no:cacheprovider",
                "-p", "pytest_sealed.plugin.project", f"--sealed-project-file={file.name}"]
        result = subprocess.run([sys.executable, "-m", "pytest", *argv], stdin=subprocess.DEVNULL,
                                capture_output=True, text=True, errors="replace", check=False)
        text = file.read()
    if result.returncode not in (0, _NOTHING) or not text:
        printed = "".join(f"\n    {line}" for line in (result.stdout + result.stderr).strip().splitlines()[-25:])
        raise SealedError(f"pytest can't collect the tests here, so which images they use isn't known:{printed}",
                          remedy="pytest --collect-only   must work in this folder, with this environment")
    found: dict[str, Any] = json.loads(text)
    return found
