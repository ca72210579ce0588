"""A host with musl: what is impossible there word by word, and what is documented instead."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from documents import ROOT
from told import shell_block

PAGE = "docs/how-to/hosts/alpine.md"


def sealed(folder: Path, *arguments: str, store: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SEALED_STORE": store} if store else None
    return subprocess.run([sys.executable, "-m", "pytest_sealed.cli", *arguments], cwd=folder, env=environment, capture_output=True,
                          text=True, stdin=subprocess.DEVNULL)


def test_this_python_has_no_glibc() -> None:
    assert "musl" in str(sysconfig.get_config_var("SOABI"))
    with pytest.raises((ValueError, OSError)):
        os.confstr("CS_GNU_LIBC_VERSION")


def test_images_are_not_built_there_and_the_page_has_the_words(tmp_path: Path) -> None:
    done = sealed(tmp_path, "build", "busybox", store=str(tmp_path / "store"))
    text = re.search(r"```text\n(.*?)```", (ROOT / PAGE).read_text(), re.DOTALL)
    assert text is not None
    assert done.returncode != 0
    assert text[1] in done.stderr


def test_images_built_elsewhere_come_in_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sealed(tmp_path, "export", "images.tar", "busybox").returncode == 0   # as it would be there
    monkeypatch.setenv("SEALED_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("PATH", f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}")
    subprocess.run(["sh", "-euc", shell_block(PAGE, "sealed import")], cwd=tmp_path, check=True, stdin=subprocess.DEVNULL)
    done = sealed(tmp_path, "run", "busybox", "echo", "hello")
    assert done.stdout == "hello\n", done
