"""Inside Docker's and Podman's containers: the documented commands, and what is said where one of their flags is missing.

And images that `docker build` makes.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from documents import ROOT
from told import shell_block

PAGE = "docs/how-to/hosts/containers.md"
FLAGS = {engine: shlex.split(flags) for engine, flags in re.findall("(?m)^(docker|podman) run (.+) IMAGE pytest$",
                                                                     shell_block(PAGE, "IMAGE pytest"))}
CGROUPS = ["-v", "/sys/fs/cgroup:/sys/fs/cgroup:rw", "--cgroupns=host"]
PACKAGES = ["-v", f"{ROOT}:/src:ro", "-v", f"{ROOT}/.venv/lib/python3.11/site-packages:/site:ro", "-e", "PYTHONPATH=/src:/site"]
SEALED = 'sealed() { python3 -m pytest_sealed.cli "$@"; }'
SUITE = """
import pytest
from pytest_sealed import tcp

@pytest.mark.parametrize("options", OPTIONS)
def test_two_containers_reach_one_another(sealed, options):
    web = sealed.run("busybox", ["httpd", "-f", "-h", "/etc", "-p", "80"], name="web", wait=tcp(80), ports=[80], **options)
    with web.connect(80): pass
    client = sealed.run("busybox", ["wget", "-q", "-O", "-", "http://web/hostname"], **options)
    assert (client.wait(), client.logs()) == (0, "web\\n")
"""


def sh(command: str) -> str:
    done = subprocess.run(["bash", "-euc", command], cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Docker's engine, and a checkout whose virtual environment is the guest's."""
    (ROOT / ".venv").symlink_to("/opt/venv")
    with open(tmp_path_factory.mktemp("docker") / "log", "w+") as log:
        engine = subprocess.Popen(["dockerd", "--bridge=none", "--iptables=false"], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            while subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
                assert engine.poll() is None, Path(log.name).read_text()
                time.sleep(0.5)
            yield
        finally:
            engine.terminate()
            engine.wait(60)


@pytest.fixture(params=["docker", "podman"])
def engine(request: pytest.FixtureRequest, machine: None) -> str:
    return str(request.param)


def of(engine: str, block: str) -> str:
    """Return the page's commands for an engine, by its words: with Podman they begin with `podman`, and have its flags."""
    if engine == "docker":
        return block
    words = [re.escape(word) for word in FLAGS["docker"]]
    block, count = re.subn(r"[ \\\n]+".join(words), " ".join(FLAGS[engine]), block)
    assert count == 1
    return re.sub(r"\bdocker ", "podman ", block)


def test_the_documented_commands_give_a_container_in_a_container(engine: str) -> None:
    said = sh(of(engine, shell_block(PAGE, "docker load -i python.tar")))
    assert said.endswith("works\n")
    assert "can be set (cgroup v2, below /sys/fs/cgroup" in said


def inside(engine: str, script: str, *flags: str) -> str:
    """Run a shell script in a container, and return what it has printed; it may fail."""
    done = subprocess.run([engine, "run", "--rm", "--network", "none", *flags, *PACKAGES, "python", "sh", "-c", f"{SEALED}; {script}"],
                          capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return done.stdout + done.stderr


@pytest.mark.parametrize(("store", "options"), [
    ("a volume", '{"memory": "32M"}, {"scratch": "disk"}'),
    ("its own files", '{"memory": "32M"}, {"scratch": "disk"}'),
    ("another account", "{}"),
])
def test_a_suite_runs_in_it(engine: str, store: str, options: str) -> None:
    (ROOT / "suite").mkdir(exist_ok=True)
    (ROOT / "suite/test_two.py").write_text(SUITE.replace("OPTIONS", f"[{options}]"))
    flags = {"a volume": [*CGROUPS, "-v", "sealed:/root/.local/share/pytest-sealed"], "its own files": CGROUPS,
             "another account": ["--user", "1000", "-e", "HOME=/tmp"]}[store]
    said = inside(engine, "sealed load /src/busybox.tar && cd /tmp && python3 -m pytest -p no:cacheprovider -c /dev/null /src/suite",
                  *FLAGS[engine], *flags)
    assert re.search(r"\d passed", said) and "failed" not in said, said  # noqa: PT018
    assert ("copied" in said) == (store == "its own files"), said


LEFT_OUT = [   # without a part of the flags, and with more → what the doctor says
    ("docker", "seccomp", [], "this host lets this account make no user namespace"),
    ("docker", "seccomp", ["--cap-add", "SYS_ADMIN"], "Operation not permitted"),
    ("podman", "seccomp", [], "Operation not permitted"),
    ("docker", "systempaths", [], "this host denies a /proc of our own"),
    ("podman", "unmask", [], "this host denies a /proc of our own"),
    ("docker", "", [], "Read-only file system"),
]


@pytest.mark.parametrize(("engine", "left", "more", "words"), LEFT_OUT)
def test_the_doctor_inside_names_what_is_still_denied(machine: None, engine: str, left: str, more: list[str], words: str) -> None:
    flags, options = FLAGS[engine], []
    for option, value in zip(flags[::2], flags[1::2], strict=True):
        options += [option, value] * (not left or not value.startswith(left))
    said = inside(engine, "sealed doctor", *options, *more)
    assert words in said, said
    assert words in (ROOT / PAGE).read_text()


def test_what_docker_build_made_and_saved_runs_here_and_keeps_its_config(machine: None, tmp_path: Path) -> None:
    (tmp_path / "greet.sh").write_text('#!/bin/sh\nset -- "$@" "$(id -un)" "$PWD" "$(ls)"\necho "$@"\n')
    (tmp_path / "Dockerfile").write_text("\n".join([
        "FROM busybox", "COPY greet.sh /", "RUN chmod +x /greet.sh && echo app:x:1234:1234::/:/bin/sh >> /etc/passwd",
        "RUN mkdir /work && touch /work/kept /work/gone", "RUN rm /work/gone",
        "WORKDIR /work", "VOLUME /data", "HEALTHCHECK CMD true", "ONBUILD RUN false", "STOPSIGNAL SIGUSR1", "USER app",
        'ENTRYPOINT ["/greet.sh"]', 'CMD ["hello"]']))
    sh(f"docker load -q -i busybox.tar; DOCKER_BUILDKIT=0 docker build -q --network none -t shop/hello:1 {tmp_path}")
    sh(f"docker save -o {tmp_path}/hello.tar shop/hello:1")
    loaded = sh(f".venv/bin/sealed load {tmp_path}/hello.tar 2>&1")
    assert "ONBUILD" in loaded
    assert sh(".venv/bin/sealed run shop/hello:1") == "hello app /work kept\n"
    assert sh(".venv/bin/sealed verify shop/hello:1") == "shop/hello:1: whole\n"
    [facts] = json.loads(sh("docker image inspect shop/hello:1"))
    sh(f".venv/bin/sealed save shop/hello:1 {tmp_path}/again.tar; docker rmi shop/hello:1; docker load -i {tmp_path}/again.tar")
    [again] = json.loads(sh("docker image inspect shop/hello:1"))
    assert again["Id"] == facts["Id"]
