"""A job of a CI service. The steps of the files that users copy are run as they stand there, in their order, up to a green suite."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from documents import ROOT
from told import finding

from pytest_sealed import LimitUnavailable, Sandbox

WORKFLOW = ROOT / "docs/examples/ci/github-workflow.yml"
PIPELINE = ROOT / "docs/examples/ci/gitlab-ci.yml"
CGROUP = "/sys/fs/cgroup/system.slice/sealed-vm.service"
REASON = f"this account can't make a cgroup in {CGROUP} (Permission denied)"


def steps() -> dict[str, str]:
    """Return name → script of the steps that are scripts."""
    found = {}
    for step in WORKFLOW.read_text().split("\n      - ")[1:]:
        name = re.match(r"name: (.+)", step)
        script = re.search(r"(?m)^        run: (?:\|\n((?: {10}.*\n?|\n)+)|(.+))", step)
        if name and script:
            found[name[1]] = re.sub(r"(?m)^ {10}", "", script[1]) if script[1] else script[2]
    return found


STEPS = steps()


def pipeline(key: str) -> str:
    """Return the commands of one part of GitLab's job, a line each."""
    part = re.search(rf"(?m)^  {key}:\n((?:    - .+\n)+)", PIPELINE.read_text())
    assert part, key
    return re.sub("(?m)^    - ", "", part[1])


@pytest.fixture(scope="module")
def project() -> Iterator[Path]:
    """A project as users have it, on disk, for its images are large; its Python packages are there already."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", ignore_cleanup_errors=True) as work:   # the images are the containers' ids'
        folder = shutil.copytree(ROOT / "docs/examples/shop", Path(work, "project"))
        (folder / "requirements.txt").write_text("pytest-sealed\nhttpx\npsycopg[binary]\n")
        yield folder


def run(name: str, project: Path, **environment: str) -> str:
    """Run a step as the service does: by bash, which stops at the first command that fails."""
    variables = dict(re.findall(r"(?m)^  (\w+): ([^$\s]\S*)", WORKFLOW.read_text().partition("\njobs:")[0].partition("\nenv:\n")[2]))
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    done = subprocess.run(["bash", "-e", "-c", STEPS[name]], cwd=project, capture_output=True, text=True, stdin=subprocess.DEVNULL,
                          env={**os.environ, "CI": "true", "PATH": path, "PIP_NO_INDEX": "1", **variables, **environment})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_before_the_steps_limits_are_refused_with_the_one_that_helps() -> None:
    with Sandbox() as sandbox, pytest.raises(LimitUnavailable) as caught:
        sandbox.run("busybox", ["true"], memory="64M", network=None)
    assert caught.value.message == f"container 'busybox' (busybox) did not start: memory=67108864 can't be enforced: {REASON}"
    assert caught.value.remedy == ("sudo loginctl enable-linger $USER, and run the tests again: systemd gives this session a cgroup then. "
                                   "`sealed doctor` says more")
    found = finding("limits")
    assert (found["state"], found["found"]) == ("missing", REASON)
    assert found["remedy"] == {"commands": ["sudo loginctl enable-linger tester"],
                               "text": "then run the tests again: sessions get a scope from the user manager by themselves"}


def test_the_first_step_gives_the_job_what_containers_need(project: Path) -> None:
    run("What containers need", project)
    with Sandbox() as sandbox:
        assert sandbox.session.scoped
        assert sandbox.run("busybox", ["true"], memory="64M", network=None).wait() == 0


def test_the_other_steps_follow_and_the_suite_is_green(project: Path) -> None:
    doctor = run("Python packages", project)
    assert "can be set (cgroup v2, in a scope that systemd gives)" in doctor
    run("Images, unpacked", project)   # the cache is empty
    run("Images, built", project)
    run("Images, packed", project)
    run("Tests", project)


def test_on_the_next_runner_the_images_come_from_the_cache(project: Path) -> None:
    """Its store is empty; what the cache holds is the file of the last test."""
    store = {"SEALED_STORE": str(project.parent / "store")}
    run("Images, unpacked", project, **store)
    run("Images, built", project, **store)
    run("Tests", project, **store)


def test_gitlabs_job_does_the_same_in_an_environment_of_its_own(project: Path) -> None:
    """Its runner calls before_script and script in one shell, after_script in another; the cache has what the tests before put there."""
    folder = shutil.copytree(project, project.parent / "gitlab")
    kept = (folder / "images.tar").stat().st_mtime_ns
    declared = re.findall(r"(?m)^    (SEALED_\w+): (\S+)", PIPELINE.read_text())
    environment = {**os.environ, **dict(declared), "CI": "true", "SEALED_STORE": str(project.parent / "gitlab-store"),
                   "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/opt/wheels", "PYTHONPATH": str(ROOT)}   # this checkout, not what the wheel has
    for script in (pipeline("before_script") + pipeline("script"), pipeline("after_script")):
        done = subprocess.run(["bash", "-e", "-o", "pipefail", "-c", script], cwd=folder, capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
    assert 'failures="0"' in (folder / "report.xml").read_text()
    assert (folder / "images.tar").stat().st_mtime_ns > kept
