"""A first layer whose packages' maintainer scripts have run: made by mmdebstrap, cleaned of what is the build's own."""

from __future__ import annotations

import os
import re
import tarfile
from typing import TYPE_CHECKING

from pytest_sealed.errors import HostUnsupported, ImageError
from pytest_sealed.images.accounts import write_accounts
from pytest_sealed.images.apt_sources import acquire_options, sources_for
from pytest_sealed.images.archive import forget_members
from pytest_sealed.images.debs import is_slim
from pytest_sealed.images.layerfile import LayerFile, WrittenLayer
from pytest_sealed.runtime.launch import run_inside

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_sealed.images.apt import Package
    from pytest_sealed.images.globs import Matcher
    from pytest_sealed.images.recipe import Account, Base
    from pytest_sealed.runtime.idmap import IdMap

__all__ = ["configured_base", "require_range"]

_HOOKS = "/usr/share/mmdebstrap/hooks/merged-usr"
# of the host or of the build itself; dev, proc, run and sys are mounted in a container
_DROPPED = re.compile(r"/(?:dev|proc|sys|run|tmp)/.*|"
                      r"/etc/(?:resolv\.conf|hostname|machine-id|apt/sources\.list.*|apt/apt\.conf\.d/99mmdebstrap)|"
                      r"/var/(?:cache|log)/.*[^/]|/var/lib/apt/lists/.*|/etc/\.pwd\.lock|.*/__pycache__(?:/.*)?", re.DOTALL)


def require_range(ids: IdMap) -> None:
    """Raise HostUnsupported in single-id mode, in which packages can't be configured."""
    if ids.single:
        raise HostUnsupported('install = "configure" needs a range of ids, and this account has none',
                              remedy='sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER, or install = "unpack"')


def configured_base(base: Base, packages: list[Package], work: Path, exclude: Matcher, accounts: tuple[Account, ...],
                    ids: IdMap) -> WrittenLayer:
    """Return the layer of `base`, written into the folder `work`.

    Raises:
        ImageError: mmdebstrap failed.
    """
    room, out = work / "room", work / "base.tar"
    room.mkdir()
    debs = [f"/mnt/debs/{os.path.basename(package.file)}" for package in packages]
    options = [f"--aptopt={line.rstrip(';')}" for line in acquire_options().splitlines()]
    argv = ["--mode=root", "--variant=essential", "--format=tar", "--skip=cleanup/reproducible,output/dev", f"--hook-dir={_HOOKS}",
            *options, "--include=" + ",".join(["usr-is-merged", *base.packages]),
            '--setup-hook=mkdir -p "$1/var/cache/apt/archives" && cp ' + " ".join(debs) + ' "$1/var/cache/apt/archives/"',
            base.debian, "-", "/mnt/debian.sources"]
    fd = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)
    try:
        run_inside("pytest_sealed.images.mmdebstrap", {
            "argv": argv, "work": str(room), "archives": os.path.dirname(packages[0].file), "sources": sources_for(base.debian),
            "log": str(work / "log"),
        }, fds=[fd], network=True, ids=ids)
    finally:
        os.close(fd)
    with LayerFile(str(work / "layer.tar")) as layer:
        _filter(str(out), layer, exclude, accounts)
        return layer.finish()


def _filter(path: str, layer: LayerFile, exclude: Matcher, accounts: tuple[Account, ...]) -> None:
    texts = {"etc/passwd": "", "etc/group": ""}
    try:
        with tarfile.open(path, mode="r:") as tar:
            for entry in tar:
                name = entry.name.removeprefix("./").strip("/")
                content = tar.extractfile(entry) if entry.isreg() else None
                if name in texts and content is not None:
                    texts[name] = content.read().decode("utf-8", "replace")
                elif name and not exclude(f"/{name}") and not is_slim(f"/{name}") and not _DROPPED.fullmatch(f"/{name}"):
                    entry.name = name
                    entry.linkname = entry.linkname.removeprefix("./") if entry.islnk() else entry.linkname
                    layer.add(entry, content)
                forget_members(tar)
    except tarfile.TarError as error:
        raise ImageError(f"mmdebstrap wrote a broken archive: {error}") from error
    write_accounts(layer, accounts, texts["etc/passwd"], texts["etc/group"])
