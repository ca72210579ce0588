"""A host with musl: what is impossible there word by word, and what is documented instead."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest
from archives import Made, docker_archive
from documents import ROOT
from told import shell_block

from pytest_sealed import Container, Sandbox, image, tcp

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


NOT_ITS_OWN = re.compile(r"(usr/)?lib/(modules|firmware)|usr/(local|share)|etc/(mtab|resolv\.conf)")
"""Of the host's root: what the virtual machine has brought, and what an image is large by."""


@pytest.fixture
def alpine(tmp_path: Path) -> str:
    """Make an image of this host's own userland, which is Alpine's."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for name in ("bin", "sbin", "lib", "etc", "usr"):
            tar.add(f"/{name}", name, filter=lambda entry: None if NOT_ITS_OWN.fullmatch(entry.name) else entry)
    docker_archive(tmp_path / "alpine.tar", (Made([layer.getvalue()]), ["alpine:host"]))
    done = sealed(tmp_path, "load", "-q", "alpine.tar")
    assert done.returncode == 0, done.stderr
    return "alpine:host"


def test_musl_and_two_releases_of_debian_ask_each_other_by_name(alpine: str) -> None:
    """Three userlands, one kernel; each with its own C library's resolver."""
    # Alpine's busybox has no httpd.
    answer = "while read -r line && [ ${#line} -gt 1 ]; do :; done; printf 'HTTP/1.0 200 OK\\r\\n\\r\\nalpine'"
    busybox = "mkdir -p /srv && echo trixie > /srv/name && exec httpd -f -p 8000 -h /srv"
    python = ("import http.server, os; os.chdir('/tmp'); open('name', 'w').write('bookworm'); "
              "http.server.HTTPServer(('', 8000), http.server.SimpleHTTPRequestHandler).serve_forever()")
    with Sandbox(name="userlands") as sandbox:
        everyone: dict[str, Container] = {
            "alpine": sandbox.run(image(alpine), ["nc", "-lk", "-p", "8000", "-e", "sh", "-c", answer], name="alpine", wait=tcp(8000)),
            "bookworm": sandbox.run(image("python"), ["python3", "-c", python], name="bookworm", wait=tcp(8000)),
            "trixie": sandbox.run(image("busybox"), ["sh", "-c", busybox], name="trixie", wait=tcp(8000)),
        }
        ask = {"alpine": ["wget", "-q", "-O", "-"], "trixie": ["wget", "-q", "-O", "-"],
               "bookworm": ["python3", "-c", "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())"]}
        said = {(one, other): everyone[one].exec([*ask[one], f"http://{other}:8000/name"], check=True).stdout.strip()
                for one in everyone for other in everyone if one != other}
        assert said == {(one, other): other for one, other in said}
        assert "musl" in everyone["alpine"].exec(["ldd"]).stderr
        assert everyone["alpine"].exec(["sh", "-c", "adduser -D someone && su someone -c whoami"], check=True).stdout == "someone\n"
