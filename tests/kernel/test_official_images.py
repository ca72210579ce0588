"""Images as the official ones are made: an entrypoint that starts as root and drops to a user, volumes, health checks, users, signals."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from archives import Made, docker_archive, layer

from pytest_sealed import ContainerFailed, Sandbox, image
from pytest_sealed.images.load import Loader
from pytest_sealed.images.store import Store

ENTRYPOINT = """#!/bin/sh
set -e
if [ "$1" = serve ] && [ "$(id -u)" = 0 ]; then
    chown -R app:app /data /var/lib/app
    exec DROP "$0" "$@"
fi
exec "$@"
"""
SERVE = """#!/bin/sh
trap 'echo quit by $(id -un); exit 0' QUIT
trap 'echo term; exit 1' TERM
echo "$(id -u):$(id -g) $(id -G) $HOME"
date > /data/mine
touch /var/lib/app/ready
while :; do sleep 1000 & wait $!; done
"""
FILES: dict[str, str | bytes] = {
    "usr/local/": "", "usr/local/bin/entrypoint": ENTRYPOINT, "usr/local/bin/serve": SERVE,
    "etc/passwd": "root:x:0:0::/root:/bin/sh\napp:x:999:999::/home/app:/bin/sh\nother:x:1001:0::/:/bin/sh\n",
    "etc/group": "root:x:0:\napp:x:999:\nextra:x:2000:app\nmore:x:2001:nobody,app\n",
}
DATA = layer({"data/": "", "data/seed": "seed"}, uid=999, gid=2000, mode=0o750)


@pytest.fixture(scope="module")
def below(busybox: Store) -> list[bytes]:
    """The layers of busybox, as tars."""
    ids = json.loads(busybox.documents("busybox")[2])["rootfs"]["diff_ids"]
    found = busybox.get("busybox").layers
    return [b"".join(busybox.layers.tar(f"sha256:{path.parent.name}", one)) for path, one in zip(found, ids, strict=True)]


Load = Callable[..., None]


@pytest.fixture
def load(store: Store, below: list[bytes], tmp_path: Path) -> Load:
    """Loads `made:1`, of busybox and more layers, with a config."""
    def make(*layers: bytes, **config: Any) -> None:
        Loader(store).load(str(docker_archive(tmp_path / "made.tar", (Made([*below, *layers], config), ["made:1"]))))
    return make


@pytest.fixture
def box(store: Store) -> Iterator[Sandbox]:
    with Sandbox(store=store) as sandbox:
        yield sandbox


def said(box: Sandbox, *command: str, **options: Any) -> list[str]:
    """Run a command to its end in a container of the image; return its lines."""
    container = box.run(image("made:1", wait=None), list(command) or None, **options)
    status = container.wait(60)
    assert status == 0, container.logs()
    return container.logs().splitlines()


def by_gosu() -> tuple[str, bytes]:
    """Debian's gosu, which is one static program."""
    path = shutil.which("gosu", path=f"{os.environ['PATH']}:/usr/sbin")
    assert path is not None, "gosu is missing: .ci/setup test"
    return "gosu app", layer({"usr/sbin/gosu": Path(path).read_bytes()})


@pytest.mark.usefixtures("several_ids")
@pytest.mark.parametrize("how", ["gosu", "su"])
def test_an_entrypoint_that_drops_from_root_to_a_user(load: Load, box: Sandbox, how: str) -> None:
    drop, program = by_gosu() if how == "gosu" else ('su app -s /bin/sh -c \'exec "$0" "$@"\' --', layer({}))
    files = {**FILES, "usr/local/bin/entrypoint": ENTRYPOINT.replace("DROP", drop)}
    load(program, layer(files), DATA, Entrypoint=["entrypoint"], Cmd=["serve"], Volumes={"/data": {}, "/var/lib/app": {}},
         StopSignal="SIGQUIT", WorkingDir="/srv", Healthcheck={"Test": ["CMD-SHELL", "test -e /var/lib/app/ready"], "Interval": 10_000_000})
    container = box.run("made:1")
    assert container.logs().splitlines() == ["999:999 999 2000 2001 /home/app"]
    assert container.exec(["stat", "-c", "%u:%g", "/data/mine", "/data/seed", "/var/lib/app"]).stdout.split() == ["999:999"] * 3
    assert container.exec(["pwd"]).stdout == "/srv\n"
    container.stop()
    assert container.logs().splitlines()[-1] == "quit by app"
    assert container.exit_code == 0


@pytest.mark.parametrize(("config", "command", "told"), [
    ({"Entrypoint": ["entrypoint"], "Cmd": ["echo", "cmd"]}, (), "cmd"),
    ({"Entrypoint": ["entrypoint"], "Cmd": ["x"]}, ("echo", "mine"), "mine"),
    ({"Cmd": ["/bin/sh", "-c", "echo shell form $A"]}, (), "shell form b c"), ({"Entrypoint": ["echo", "-n", "only"]}, (), "only"),
    ({"Entrypoint": ["/bin/sh", "-c", "echo $0 $1"], "Cmd": ["one", "two"]}, (), "one two"), ({"Cmd": "hostname"}, (), "box"),
    ({"Entrypoint": None, "Cmd": ["echo", "null"]}, (), "null"),
])
def test_entrypoint_and_command(load: Load, box: Sandbox, config: dict[str, Any], command: tuple[str, ...], told: str) -> None:
    load(layer(FILES), Env=["A=b c", "PATH=/usr/local/bin:/usr/bin:/bin"], **config)
    assert said(box, *command, hostname="box") == [told]


@pytest.mark.usefixtures("several_ids")
@pytest.mark.parametrize(("user", "ids"), [
    ("", "0:0 0"), ("app", "999:999 999 2000 2001"), ("999", "999:999 999 2000 2001"), ("app:extra", "999:2000 2000"), ("app:0", "999:0 0"),
    ("1001:extra", "1001:2000 2000"), ("other", "1001:0 0"), ("4242", "4242:0 0"), ("4242:4343", "4242:4343 4343"),
])
def test_users_by_name_and_number_known_or_not(load: Load, box: Sandbox, user: str, ids: str) -> None:
    load(layer(FILES), User=user)
    assert said(box, "sh", "-c", 'echo "$(id -u):$(id -g) $(id -G)"') == [ids]


def test_a_user_that_the_image_has_not_is_refused(load: Load, box: Sandbox) -> None:
    load(layer(FILES), User="nobody-here", Cmd=["true"])
    with pytest.raises(Exception, match="/etc/passwd has no user 'nobody-here'"):
        box.run("made:1")


@pytest.mark.usefixtures("several_ids")
@pytest.mark.parametrize("read_only", [False, True])
def test_volumes_begin_as_the_image_has_them_in_every_container(load: Load, box: Sandbox, read_only: bool) -> None:
    load(layer(FILES), DATA, User="app", Volumes={"/data": {}, "/new/deep": {}, "/data/inner": {}})
    script = ("ls /data; stat -c '%u:%g %a' /data /new/deep /data/inner; echo more > /data/seed; cat /data/seed; "
              "echo x > /data/own && rm /data/own")
    for _ in range(2):
        assert said(box, "sh", "-c", script, read_only=read_only) == ["inner", "seed", "999:2000 750", "0:0 755", "0:0 755", "more"]
    if read_only:
        assert "Read-only" in said(box, "sh", "-c", "touch /x 2>&1 || true", read_only=True, user="0")[0]


@pytest.mark.parametrize("volume", ["/", "//", "/../..", "relative", "/proc", "/proc/self/fd/9", "/dev/shm", "/sys/fs", "/etc/../data",
                                    "/link/x"])
@pytest.mark.parametrize("read_only", [False, True])
def test_volumes_in_odd_places_stay_within(load: Load, box: Sandbox, tmp_path: Path, volume: str, read_only: bool) -> None:
    (tmp_path / "canary").mkdir()
    load(layer({"link": f"-> {tmp_path}/canary"}), Volumes={volume: {}}, Cmd=["true"])
    script = "test -d /proc/1 && echo x > /dev/null && ! echo 1 2> /dev/null > /proc/sys/kernel/panic && echo as ever"
    if volume in ("/proc/self/fd/9", "/link/x"):
        with pytest.raises(ContainerFailed, match=r"the image's volume .* can't be made") as caught:
            box.run("made:1")
        assert "please report" not in str(caught.value)
    else:
        assert said(box, "sh", "-c", script, read_only=read_only) == ["as ever"]
    assert os.listdir(tmp_path / "canary") == []


def test_a_volume_where_a_file_is_is_refused(load: Load, box: Sandbox) -> None:
    load(layer({"data": "a file"}), Volumes={"/data": {}}, Cmd=["true"])
    with pytest.raises(ContainerFailed, match="the image's volume '/data' can't be made: there is a file in the way"):
        box.run("made:1")


def test_a_mount_of_the_tests_covers_a_volume(load: Load, box: Sandbox, tmp_path: Path) -> None:
    load(layer(FILES), DATA, Volumes={"/data": {}})
    assert said(box, "sh", "-c", "ls /data; touch /data/x && ls /data", tmpfs=["/data"], read_only=True) == ["x"]


@pytest.mark.parametrize(("test", "shell"), [
    (["CMD", "test", "-e", "/tmp/ready"], None), (["CMD-SHELL", "test -e /tmp/ready && test -n \"$PATH\""], None),
    (["CMD-SHELL", "-e /tmp/ready"], ["/bin/sh", "-c", 'eval "test $0"']),
])
def test_a_health_check_says_when_a_container_is_ready(load: Load, box: Sandbox, test: list[str], shell: list[str] | None) -> None:
    load(layer(FILES), Cmd=["sh", "-c", "head -c 3000000 /dev/urandom | sha256sum; echo made > /tmp/ready; exec sleep 1000000"],
         Healthcheck={"Test": test, "Interval": 10_000_000}, **({"Shell": shell} if shell else {}))
    assert box.run("made:1").read_text("/tmp/ready") == "made\n"


@pytest.mark.parametrize("test", [["NONE"], ["CMD"], [], None])
def test_a_health_check_that_is_none_is_not_waited_for(load: Load, box: Sandbox, test: list[str] | None) -> None:
    load(layer(FILES), Cmd=["sleep", "1000000"], Healthcheck={"Test": test} if test is not None else None)
    assert box.run("made:1").exec(["echo", "up"]).stdout == "up\n"


@pytest.mark.parametrize(("signal", "number"), [("SIGQUIT", 3), ("QUIT", 3), ("sigint", 2), ("10", 10), ("SIGRTMIN+3", 37),
                                                ("RTMAX-2", 62)])
def test_the_signal_to_stop_by(load: Load, box: Sandbox, signal: str, number: int) -> None:
    script = f"trap 'echo {number}; exit 7' {number}; echo up; while :; do sleep 1000 & wait $!; done"
    load(layer(FILES), StopSignal=signal, Cmd=["sh", "-c", script])
    container = box.run(image("made:1", wait=None))
    container.wait_for_log("up")
    container.stop()
    assert (container.logs().splitlines(), container.exit_code) == (["up", str(number)], 7)


def test_a_tree_like_those_of_rpm_distributions(load: Load, box: Sandbox) -> None:
    """Synthetic: merged /usr by links, os-release below /usr/lib, a passwd without a last line break, with a comment and lines of NIS."""
    load(layer({"usr/lib/": "", "usr/lib64/": "", "usr/lib/os-release": 'NAME="Fedora Linux"\nID=fedora\n', "usr/lib64/libfoo.so.1": "foo",
                "usr/lib64/libfoo.so": "-> libfoo.so.1", "lib": "-> usr/lib", "lib64": "-> usr/lib64", "etc/": "",
                "etc/os-release": "-> ../usr/lib/os-release", "etc/redhat-release": "-> fedora-release", "run/": "", "var/run": "-> ../run",
                "etc/passwd": "# accounts\n\n+::::::\nroot:x:0:0:Super User:/root:/bin/sh\ndbus:x:81:81:System: bus:/:/usr/sbin/nologin:\n"
                              "app:x:998:996::/var/lib/app:/sbin/nologin", "etc/group": "root:x:0:\n+:::\napp:x:996:\nwheel:x:10:app"}),
         layer({"usr/lib64/libfoo.so.2": "foo two", "usr/lib64/.wh.libfoo.so.1": "", "usr/lib64/libfoo.so": "-> libfoo.so.2"}),
         WorkingDir="/var/run/app")
    assert said(box, "/bin/sh", "-c", ". /etc/os-release; echo $ID; cat /lib64/libfoo.so; ls /lib64; pwd -P; ls -d /run/app") == [
        "fedora", "foo twolibfoo.so", "libfoo.so.2", "/run/app", "/run/app"]


@pytest.mark.usefixtures("several_ids")
def test_accounts_in_unusual_lines(load: Load, box: Sandbox) -> None:
    load(layer({"etc/passwd": "# accounts\n\n+::::::\nshort:x\nbad:x:-1:x::\nroot:x:0:0:Super User:/root:/bin/sh\n"
                              "app:x:998:996::/var/lib/app:/sbin/nologin",
                "etc/group": "root:x:0:\n+:::\napp:x:996:\nwheel:x:10:app"}), User="app")
    script = 'exec 2> /dev/null; echo "$(id -u):$(id -g) $(id -G) $HOME"'   # busybox complains about the lines
    assert said(box, "sh", "-c", script) == ["998:996 996 10 /var/lib/app"]


def test_what_builds_on_top_would_do_is_ignored_with_a_note(store: Store, load: Load, tmp_path: Path) -> None:
    load(layer(FILES), OnBuild=["RUN touch /never"], Cmd=["sh", "-c", "ls /never 2>&1 || true"])
    done = subprocess.run([sys.executable, "-m", "pytest_sealed.cli", "load", str(tmp_path / "made.tar")], capture_output=True, text=True,
                          check=False, env={**os.environ, "SEALED_STORE": str(store.root)})
    assert (done.returncode, done.stdout) == (0, "made:1\n"), done.stderr
    assert "its ONBUILD instructions are ignored: they are meant for builds on top of it" in done.stderr


def test_environment_ports_labels_and_a_workdir_that_is_missing(load: Load, box: Sandbox) -> None:
    load(layer(FILES), Env=["A=1", "B==x y", "PATH=/usr/bin:/bin", "EMPTY="], ExposedPorts={"8000/tcp": {}, "53/udp": {}},
         Labels={"a": "b", "c": ""}, WorkingDir="/srv/app", Cmd=["sleep", "1000000"])
    container = box.run("made:1")
    assert container.exec(["sh", "-c", 'pwd; echo "$A|$B|${EMPTY-unset}"']).stdout.splitlines() == ["/srv/app", "1|=x y|"]
    assert (container.image_config.ports, container.image_config.labels) == ((8000,), {"a": "b", "c": ""})
    assert container.port(8000) > 0
