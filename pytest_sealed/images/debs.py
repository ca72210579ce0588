"""A first layer out of .deb files: unpacked, merged under /usr, slimmed. No maintainer script is run.

So it needs neither root nor a range of ids, and gives the same bytes everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_sealed.images.accounts import write_accounts
from pytest_sealed.images.archive import forget_members
from pytest_sealed.images.deb import Deb

if TYPE_CHECKING:
    import tarfile

    from pytest_sealed.images.apt import Package
    from pytest_sealed.images.globs import Matcher
    from pytest_sealed.images.layerfile import LayerFile
    from pytest_sealed.images.recipe import Account

__all__ = ["is_slim", "unpack_debs"]

_SLIM = re.compile(r"/usr/share/(?:doc/(?:[^/]+/(?!copyright$).*)|(?:man|info|locale|lintian|bug|doc-base|bash-completion|zsh|menu)/.*)|"
                   r"/usr/share/doc/[^/]+/copyright/.*", re.DOTALL)
_MERGED = ("bin", "sbin", "lib", "lib64", "lib32", "libx32")
_FOLDERS = {"dev": 0o755, "proc": 0o755, "sys": 0o755, "run": 0o755, "tmp": 0o1777, "var/tmp": 0o1777, "root": 0o700, "etc": 0o755,
            "usr/local/bin": 0o755, "home": 0o755, "opt": 0o755, "srv": 0o755, "mnt": 0o755}


def unpack_debs(packages: list[Package], layer: LayerFile, exclude: Matcher, accounts: tuple[Account, ...],
                say: Callable[[int, int, str], None] = lambda _done, _all, _name: None) -> None:
    """Write a root file system out of `packages` into `layer`.

    Raises:
        ImageError: a .deb that is broken.
    """
    for name in ("bin", "sbin", "lib", "lib64"):
        layer.directory("usr")
        layer.directory(f"usr/{name}")
        layer.symlink(name, f"usr/{name}")
    for name, mode in _FOLDERS.items():
        layer.parents(name)
        layer.directory(name, mode)
    layer.file("etc/nsswitch.conf", b"passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n")
    write_accounts(layer, accounts, "", "")
    for index, package in enumerate(packages):
        say(index, len(packages), package.name)
        _unpack(package, layer, exclude)
    say(len(packages), len(packages), "")


def _unpack(package: Package, layer: LayerFile, exclude: Matcher) -> None:
    with Deb(package.file) as deb:
        control = deb.control()
        with deb.data() as tar:
            for entry in tar:
                _take(entry, tar, layer, exclude)
                forget_members(tar)
    name = f"var/lib/dpkg/status.d/{package.name}"   # where scanners of images without dpkg look
    layer.parents(name)
    layer.file(name, control)


def _take(entry: tarfile.TarInfo, tar: tarfile.TarFile, layer: LayerFile, exclude: Matcher) -> None:
    name = _merged(entry.name)
    if not name or (entry.isdir() and name in _MERGED):
        return
    path = f"/{name}"
    if exclude(path) or is_slim(path):
        return
    entry.name = name
    if entry.islnk():
        entry.linkname = _merged(entry.linkname)
    layer.parents(name)
    layer.add(entry, tar.extractfile(entry) if entry.isreg() else None)


def is_slim(path: str) -> bool:
    """Say whether a path is left out of every image: documentation but for copyright files, manuals, translations."""
    return _SLIM.fullmatch(path) is not None


def _merged(name: str) -> str:
    """Return the path of an entry where /bin, /sbin and /lib are links into /usr."""
    text = name.removeprefix("./").strip("/")
    top, slash, rest = text.partition("/")
    return f"usr/{text}" if top in _MERGED and slash and rest else text
