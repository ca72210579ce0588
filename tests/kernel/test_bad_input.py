"""What can't be: each a clear error with a remedy, nothing left half done, and the next container runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from boxes import EITHER_IDS, FOREVER, idle

from pytest_sealed import (
    ContainerFailed,
    ImageNotFound,
    Mount,
    Network,
    NetworkError,
    Sandbox,
    SealedError,
    SpecError,
    Tmpfs,
    image,
    tcp,
)

Bad = Callable[[Sandbox], object]


def live(sandbox: Sandbox) -> set[str]:
    """Return the names of containers that the session has, whoever's they are."""
    return {row["name"] for row in sandbox.session.request("list")[0]["containers"]}


def traces(sandbox: Sandbox) -> list[str]:
    """Return what the session has on the host for its containers: cgroups and writable layers on disk."""
    session = sandbox.session
    folders = {Path(base, f"sealed-{session.name}") for base in session.hierarchy.bases.values()} | {session.disk}
    return sorted(str(path) for folder in folders if folder.exists() for path in folder.iterdir() if path.is_dir())


def run(*command: str, **options: Any) -> Bad:
    """Return an attempt to start a container called web."""
    return lambda sandbox: sandbox.run("busybox", list(command) or FOREVER, name="web", **options)


def foreign() -> Network:
    """Return a network of a session that has ended."""
    with Sandbox() as other:
        return other.network("front")


NOT_STARTED = "container 'web' (busybox) did not start: "
USER = "give user= a name of the image's /etc/passwd, or a number"
LOOK = "look into the image: sealed run -ti busybox sh"
CASES: list[tuple[str, Bad, type[SealedError], str, str]] = [
    ("an unknown image", lambda sandbox: sandbox.run("busybux"), ImageNotFound,
     "has no image 'busybux', did you mean 'busybox'?", "`sealed images` lists those there are; `sealed build NAME` makes one of "),
    ("an unknown tag", lambda sandbox: sandbox.run("busybox:9"), ImageNotFound,
     "has no image 'busybox:9', did you mean 'busybox'?", "`sealed images`"),
    ("no image", lambda sandbox: sandbox.run(""), SpecError, "'' names no image", "sealed images"),
    ("nothing to run", lambda sandbox: sandbox.run(None), SpecError, "None names no image", "sealed images"),  # type: ignore[call-overload]
    ("a size with no such unit", run(memory="12Q"), SpecError, "memory='12Q' is no size: the units are b, k, m, g and t (powers of 1024)",
     'for example memory="64M"'),
    ("no memory", run(memory=0), SpecError, "memory=0 must be above zero", "leave memory out for no limit"),
    ("negative memory", run(memory="-64M"), SpecError, "memory='-64M' must be above zero", "leave memory out"),
    ("too little memory", run(memory="1M"), SpecError, "memory='1M' is less than a container needs to start (8M)", 'give "8M" or more'),
    ("no CPU", run(cpus=0), SpecError, "cpus=0 is outside 0.01 to 4096", "leave cpus out"),
    ("negative processes", run(pids=-1), SpecError, "pids=-1 is outside 1 to", "leave pids out"),
    ("an unknown network", run(network="front"), SpecError, "there is no network 'front' in this sandbox", "sealed.network('front')"),
    ("a network of another session", lambda sandbox: run(network=foreign())(sandbox), SpecError,
     "network 'front' is another sandbox's, of another session", "make one here: sealed.network('front')"),
    ("a user that is not there", run(user="nosuch"), SpecError, NOT_STARTED + "the container's /etc/passwd has no user 'nosuch'", USER),
    ("a group that is not there", run(user="root:nosuch"), SpecError,
     NOT_STARTED + "the container's /etc/group has no group 'nosuch'", USER),
    ("a user out of range", run(user=4294967295), SpecError, NOT_STARTED + "id 4294967295 is none of the container's, 0 to 65535", USER),
    ("a user with zeros", run(user="01"), SpecError, NOT_STARTED + "id 01 is none of the container's, 0 to 65535", USER),
    ("half a user", run(user="1:"), SpecError, "user='1:' is no user", "for example user="),
    ("a command that is not there", run("nosuch"), ContainerFailed, NOT_STARTED + "there is no 'nosuch' in the image in PATH=", LOOK),
    ("a path that is not there", run("/no/such"), ContainerFailed, NOT_STARTED + "there is no '/no/such' in the image", LOOK),
    ("a command that is no program", run("/etc/passwd"), ContainerFailed,
     NOT_STARTED + "/etc/passwd is not executable for the user root (permission denied)", LOOK),
    ("a folder as a command", run("/etc"), ContainerFailed, NOT_STARTED + "/etc is not executable", LOOK),
    ("an empty word", run(""), ContainerFailed, NOT_STARTED + "the first word of the command [''] is empty", LOOK),
    ("too long a command", run("true", "x" * 200_000), ContainerFailed,
     NOT_STARTED + "/usr/bin/true can't be executed: Argument list too long", LOOK),
    ("no command", lambda sandbox: sandbox.run("busybox", [], name="web"), SpecError, "image 'busybox' says no command to run", "command="),
    ("a file as working directory", run(workdir="/etc/passwd"), ContainerFailed,
     NOT_STARTED + "the working directory '/etc/passwd' can't be made: there is a file in the way", LOOK),
    ("a working directory below a file", run(workdir="/etc/passwd/a/b"), ContainerFailed,
     NOT_STARTED + "the working directory '/etc/passwd/a/b' can't be made: there is a file in the way", LOOK),
    ("a working directory in the kernel's files", run(workdir="/sys/new"), ContainerFailed,
     NOT_STARTED + "the working directory '/sys/new' can't be made: ", LOOK),
    ("a working directory of too many names", run(workdir="/a" * 4000), ContainerFailed, "can't be made: File name too long", LOOK),
    ("a tmpfs on a file", run(tmpfs=["/etc/passwd"]), ContainerFailed,
     NOT_STARTED + "a tmpfs can't be mounted at /etc/passwd: there is a file in the way", "mount it elsewhere"),
    ("a tmpfs of nobody", run(tmpfs=[Tmpfs(target="/x", user="nosuch")]), SpecError,
     NOT_STARTED + "the container's /etc/passwd has no user", USER),
    ("too many ports", run(ports=range(1, 400)), SpecError, "container 'web' has 399 ports and 0 mounts from the start", "port()"),
    ("a mistyped option", run(memry="64M"), SpecError, "there is no container option 'memry', did you mean 'memory'?", "ContainerOptions"),
]


@pytest.mark.parametrize(("bad", "kind", "message", "remedy"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
@EITHER_IDS
def test_what_cannot_be_says_why_and_leaves_nothing(sandbox: Sandbox, bad: Bad, kind: type[SealedError], message: str, remedy: str) -> None:
    before = live(sandbox), traces(sandbox)
    with pytest.raises(kind) as caught:
        bad(sandbox)
    assert type(caught.value) is kind
    assert message in caught.value.message
    assert remedy in caught.value.remedy
    assert (live(sandbox), traces(sandbox)) == before
    assert not any(container.status == "running" for container in sandbox.containers)
    again = idle(sandbox, name="web")
    assert (again.status, again.address) == ("running", "10.89.0.2")


@pytest.mark.usefixtures("several_ids")
def test_a_program_that_only_root_may_run_says_who_may_not(sandbox: Sandbox) -> None:
    with pytest.raises(ContainerFailed, match=r"/root/x is not executable for the user nobody \(permission denied\)"):
        run("/root/x", user="nobody")(sandbox)


def test_a_name_is_given_once_and_free_again_after_its_end(sandbox: Sandbox) -> None:
    first = idle(sandbox, name="web", aliases=["www"])
    for options in ({"name": "web"}, {"name": "www"}, {"name": "other", "aliases": ["web"]}, {"aliases": ["www"]}, {"name": "WEB"}):
        with pytest.raises(SpecError, match=r"there is a container called '(?i:web|www)' already\n  remedy: give name= another, or remove"):
            idle(sandbox, **options)
    first.remove()
    assert idle(sandbox, name="www").name == "www"
    assert [idle(sandbox).name for _ in range(2)] == ["busybox", "busybox-2"]


def test_names_of_other_sandboxes_are_free(sandbox: Sandbox, root_sandbox: Sandbox) -> None:
    with Sandbox(parent=root_sandbox) as other:
        assert idle(sandbox, name="web").address == idle(other, name="web").address


def test_a_mount_that_is_gone_leaves_nothing(sandbox: Sandbox, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    spec = image("busybox", command=FOREVER, mounts=[Mount(source=str(folder), target="/data")], name="web", ports=[80])
    folder.rmdir()
    idle(sandbox)
    before = live(sandbox), traces(sandbox), len(os.listdir("/proc/self/fd"))
    with pytest.raises(SpecError, match="does not exist"):
        sandbox.run(spec)
    assert (live(sandbox), traces(sandbox), len(os.listdir("/proc/self/fd"))) == before


def test_a_network_that_is_closed_is_refused(sandbox: Sandbox) -> None:
    network = sandbox.network("gone")
    network.close()
    for attempt in (lambda: idle(sandbox, network=network), lambda: network.connect("10.89.0.2", 80), network.listen):
        with pytest.raises(NetworkError, match=r"network 'gone' was closed\n  remedy: .*make another"):
            attempt()
    assert not sandbox.containers


@EITHER_IDS
def test_a_container_that_failed_is_not_shown_by_ps_and_those_that_run_are(sandbox: Sandbox) -> None:
    running = idle(sandbox, name="running")
    with pytest.raises(ContainerFailed):
        run("nosuch")(sandbox)
    with pytest.raises(ContainerFailed):
        run("false", wait=tcp(80))(sandbox)
    shown = subprocess.run([sys.executable, "-m", "pytest_sealed.cli", "ps", "--json"], check=True, capture_output=True, text=True)
    [session] = [row for row in json.loads(shown.stdout) if row["session"] == sandbox.session.name]
    states = {row["id"]: row["state"] for row in session["containers"]}
    assert states[running.id] == "running"
    assert [state for name, state in states.items() if name != running.id] in ([], ["stopped"])   # the one that ended, for its files


def test_a_failed_start_is_reported(sandbox: Sandbox) -> None:
    with pytest.raises(ContainerFailed):
        run("nosuch")(sandbox)
    [container] = sandbox.containers
    assert container.report().splitlines()[:3] == [
        "image    busybox", "command  nosuch", f"state    never started: {NOT_STARTED}there is no 'nosuch' in the image in "
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
