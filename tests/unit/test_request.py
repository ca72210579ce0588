"""From a spec and an image's config to what is run: Docker's rules, settled before anything starts."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_sealed.container import Container
from pytest_sealed.errors import SpecError
from pytest_sealed.images.image import Image, ImageConfig
from pytest_sealed.request import argv_of, ports_of, run_request
from pytest_sealed.spec import ContainerSpec, Tmpfs, make_spec


def image(**config: Any) -> Image:
    full = ImageConfig(**{"env": {}, "labels": {}, **config})
    return Image(reference="box", digest="sha256:0", layers=(), size=0, created=0, config=full)


def spec(**options: Any) -> ContainerSpec[Container]:
    return make_spec("box", Container, options)  # type: ignore[arg-type]


def request(wanted: ContainerSpec[Container], of: Image | None = None) -> dict[str, Any]:
    return run_request(wanted, of or image(command=("sh",)), container="db-1", name="db", networks=[], ports=[], mounts=[])


# ---------------------------------------------------------------- what is executed: as in Docker's reference, "CMD and ENTRYPOINT"

BOTH = {"entrypoint": ("docker-entrypoint",), "command": ("postgres",)}


@pytest.mark.parametrize(("config", "options", "argv"), [
    (BOTH, {}, ["docker-entrypoint", "postgres"]),
    (BOTH, {"command": ["psql", "-l"]}, ["docker-entrypoint", "psql", "-l"]),
    (BOTH, {"command": []}, ["docker-entrypoint"]),
    (BOTH, {"entrypoint": ["sh"]}, ["sh"]),   # an entrypoint drops the image's command
    (BOTH, {"entrypoint": ["sh"], "command": ["-c", "true"]}, ["sh", "-c", "true"]),
    (BOTH, {"entrypoint": [], "command": ["true"]}, ["true"]),
    ({"command": ("httpd",)}, {}, ["httpd"]),
    ({"command": ("httpd",)}, {"command": ["sh"]}, ["sh"]),
    ({"entrypoint": ("tini", "--")}, {}, ["tini", "--"]),
    ({"entrypoint": ("tini", "--")}, {"command": ["sh"]}, ["tini", "--", "sh"]),
])
def test_entrypoint_and_command_combine_as_in_docker(config: dict[str, Any], options: dict[str, Any], argv: list[str]) -> None:
    assert argv_of(spec(**options), image(**config)) == argv


@pytest.mark.parametrize(("config", "options"), [({}, {}), (BOTH, {"entrypoint": []}), ({"command": ("sh",)}, {"command": []})])
def test_nothing_to_run_is_refused(config: dict[str, Any], options: dict[str, Any]) -> None:
    with pytest.raises(SpecError) as caught:
        argv_of(spec(**options), image(**config))
    assert str(caught.value) == """image 'box' says no command to run\n  remedy: give command=["…"]"""


def test_the_environment_is_the_images_and_what_is_given_on_top() -> None:
    of = image(command=("sh",), env={"PATH": "/opt/bin:/bin", "LANG": "C.UTF-8"})
    assert request(spec(env={"LANG": "C", "DEBUG": "1"}), of)["env"] == {"PATH": "/opt/bin:/bin", "LANG": "C", "DEBUG": "1"}
    assert of.config.env["LANG"] == "C.UTF-8"


@pytest.mark.parametrize(("theirs", "ours", "user"), [("", {}, ""), ("postgres", {}, "postgres"), ("postgres", {"user": "root"}, "root"),
                                                      ("postgres", {"user": 0}, "0"), ("", {"user": "1:2"}, "1:2")])
def test_the_user_is_the_one_given_else_the_images_else_root(theirs: str, ours: dict[str, Any], user: str) -> None:
    assert request(spec(**ours), image(command=("sh",), user=theirs))["user"] == user


@pytest.mark.parametrize(("theirs", "ours", "workdir"), [("", {}, "/"), ("/app", {}, "/app"), ("/app", {"workdir": "/srv"}, "/srv"),
                                                         ("srv/app/", {}, "/srv/app"), ("//srv", {}, "/srv"), ("/a/../../b/.", {}, "/b")])
def test_the_working_directory_is_the_one_given_else_the_images_else_the_root(theirs: str, ours: dict[str, Any], workdir: str) -> None:
    assert request(spec(**ours), image(command=("sh",), workdir=theirs))["workdir"] == workdir


def test_the_host_name_is_the_one_given_else_the_containers_name() -> None:
    assert request(spec())["hostname"] == "db"
    assert request(spec(hostname="primary"))["hostname"] == "primary"


def test_the_images_ports_are_forwarded_and_those_given() -> None:
    assert ports_of(spec(ports=[9000, 80]), image(ports=(80, 443))) == [80, 443, 9000]


def test_the_images_tmpfs_come_first_and_those_given_after() -> None:
    of = image(command=("sh",), tmpfs=(Tmpfs(target="/run", size="1M", user="app"),))
    assert request(spec(tmpfs=["/tmp"]), of)["tmpfs"] == [
        {"target": "/run", "size": 1 << 20, "mode": 0o1777, "user": "app"},
        {"target": "/tmp", "size": 64 << 20, "mode": 0o1777, "user": ""},
    ]


def test_without_wishes_only_processes_are_limited_and_softly() -> None:
    assert request(spec())["limits"] == {"memory": None, "swap": None, "cpus": None, "cpu_shares": None, "pids": 2048,
                                         "pids_required": False}
    assert request(spec(pids=100))["limits"]["pids_required"] is True


def test_a_container_has_at_most_eleven_capabilities_by_number() -> None:
    assert request(spec())["capabilities"] == [0, 1, 3, 4, 5, 6, 7, 8, 10, 18, 31]
    assert request(spec(capabilities=["KILL"]))["capabilities"] == [5]
    assert request(spec(capabilities=[]))["capabilities"] == []
