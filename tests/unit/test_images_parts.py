"""The smaller parts of a build: patterns, accounts, apt's sources, wheels, files from the project."""

from __future__ import annotations

import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_sealed.errors import ImageError, RecipeError
from pytest_sealed.images.accounts import find_account, write_accounts
from pytest_sealed.images.apt_sources import sources_for
from pytest_sealed.images.debs import is_slim
from pytest_sealed.images.globs import Matcher, translate
from pytest_sealed.images.image import ImageConfig
from pytest_sealed.images.inputs import digest_of, place_files
from pytest_sealed.images.layerfile import LayerFile
from pytest_sealed.images.look import read_text, real_name
from pytest_sealed.images.oci_config import config_from_oci
from pytest_sealed.images.recipe import Account, load_recipe
from pytest_sealed.images.wheels import Wheels


@pytest.mark.parametrize(("pattern", "matching", "other"), [
    ("/usr/share/doc/**", ["/usr/share/doc/a", "/usr/share/doc/a/b"], ["/usr/share/doc", "/usr/share/docs/a", "/x/usr/share/doc/a"]),
    ("**/libLLVM*", ["/usr/lib/libLLVM-14.so.1", "/libLLVM"], ["/usr/lib/xlibLLVM"]),
    ("*.pyc", ["/a.pyc", "/x/y/a.pyc"], ["/a.py"]),
    ("/usr/*/x", ["/usr/a/x", "/usr/a/x/below"], ["/usr/a/b/x", "/usr/x"]),
    ("/a/**/b", ["/a/b", "/a/x/b", "/a/x/y/b"], ["/a/xb"]),
    ("/a/{b,c?}/d", ["/a/b/d", "/a/cx/d"], ["/a/c/d", "/a/{b,c?}/d"]),
    ("/a,b", ["/a,b"], ["/a"]),
    ("/folder", ["/folder", "/folder/below"], ["/folders"]),
    ("/a.b", ["/a.b"], ["/aXb"]),
])
def test_patterns(pattern: str, matching: list[str], other: list[str]) -> None:
    compiled = translate(pattern)
    assert [path for path in matching + other if compiled.fullmatch(path)] == matching


def test_a_matcher_knows_which_patterns_were_of_use() -> None:
    matcher = Matcher(("/a/**", "/b", "/c"))
    assert [path for path in ("/a/x", "/b", "/d") if matcher(path)] == ["/a/x", "/b"]
    assert matcher.unused == ("/c",)
    assert not Matcher(())("/a")


@given(st.text(max_size=30))
def test_any_pattern_is_one_or_says_that_it_is_none(pattern: str) -> None:
    try:
        translate(pattern)
    except ValueError as error:
        assert "brace" in str(error)  # noqa: PT017  (either outcome is right)


def test_slim_images_keep_copyright_files_and_no_other_documentation() -> None:
    paths = ["/usr/share/doc", "/usr/share/doc/x", "/usr/share/doc/x/copyright", "/usr/share/doc/x/README", "/usr/share/man/man1/x.1",
             "/usr/share/locale/de/LC_MESSAGES/x.mo", "/usr/share/zoneinfo/UTC"]
    assert [path for path in paths if not is_slim(path)] == [paths[0], paths[1], paths[2], paths[6]]


PASSWD = "root:x:0:0:root:/root:/bin/sh\nweb:x:70:71:web:/srv:/bin/sh\nbroken\nbad:x:uid:gid::\n\n"
GROUP = "root:x:0:\nstaff:x:50:\nbad:x:gid:\n"


@pytest.mark.parametrize(("user", "found"), [
    ("root", (0, 0)), ("web", (70, 71)), ("web:staff", (70, 50)), ("web:9", (70, 9)), ("70", (70, 71)), ("1234", (1234, 0)),
    ("1234:5", (1234, 5)), ("nobody1", None), ("web:nogroup1", None), ("bad", None), ("web:bad", None), ("70000", None), ("-1", None),
    ("", None), ("broken", None),
])
def test_accounts_are_found_by_name_and_number(user: str, found: tuple[int, int] | None) -> None:
    assert find_account(user, PASSWD, GROUP) == found


def test_new_accounts_are_added_to_those_there_are(tmp_path: Path) -> None:
    with LayerFile(str(tmp_path / "layer.tar")) as layer:
        accounts = Account(name="app", uid=1000, gid=1000, home="/srv/app"), Account(name="web", uid=80, gid=80)
        write_accounts(layer, accounts, PASSWD, GROUP)
        layer.finish()
    with tarfile.open(tmp_path / "layer.tar") as tar:
        assert tar.getnames() == ["etc/passwd", "etc/group", "srv/app"]
        passwd = tar.extractfile("etc/passwd")
        assert passwd is not None
        lines = passwd.read().decode().splitlines()
        assert lines[0] == PASSWD.splitlines()[0]
        assert lines[-2:] == ["app:x:1000:1000:app:/srv/app:/bin/sh", "web:x:80:80:web:/:/bin/sh"]
        assert len([line for line in lines if line.startswith("web:")]) == 1
        assert (tar.getmember("srv/app").uid, tar.getmember("srv/app").mode) == (1000, 0o755)


ONE_LINE = "deb [signed-by=/keys/k.gpg] http://mirror.example/debian bookworm main contrib\n# deb http://x.example bookworm main\n" \
           "deb http://mirror.example/debian bookworm-updates main\ndeb http://other.example/apt stable tools\n"
DEB822 = "Types: deb deb-src\nURIs: http://mirror.example/security\nSuites: bookworm-security\nComponents: main\n" \
         "Signed-By: /keys/k.gpg\n\nTypes: deb\nEnabled: no\nURIs: http://off.example/debian\nSuites: bookworm\nComponents: main\n"


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("SEALED_DEBIAN_MIRROR", raising=False)
    (tmp_path / "apt/sources.list.d").mkdir(parents=True)
    (tmp_path / "apt/sources.list").write_text(ONE_LINE)
    (tmp_path / "apt/sources.list.d/security.sources").write_text(DEB822)
    (tmp_path / "os-release").write_text('ID=debian\nVERSION_CODENAME=bookworm\n')
    return tmp_path


def test_packages_come_from_the_hosts_own_sources(etc: Path) -> None:
    text = sources_for("bookworm", str(etc))
    assert text.count("URIs: http://mirror.example/debian\n") == 2
    assert "Suites: bookworm-security\nComponents: main\nSigned-By: /keys/k.gpg" in text
    assert not any(host in text for host in ("x.example", "other.example", "off.example"))


def test_another_release_comes_from_the_same_mirror(etc: Path) -> None:
    text = sources_for("trixie", str(etc))
    assert "Suites: trixie\n" in text
    assert "Suites: trixie-security\n" in text
    assert "bookworm" not in text


def test_a_mirror_of_the_environment_wins(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALED_DEBIAN_MIRROR", "http://mine.example/debian")
    assert "URIs: http://mine.example/debian\nSuites: bookworm\n" in sources_for("bookworm", str(etc))


def test_a_host_without_debian_sources_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEALED_DEBIAN_MIRROR", raising=False)
    (tmp_path / "os-release").write_text("ID=ubuntu\nVERSION_CODENAME=noble\n")
    with pytest.raises(ImageError, match="no Debian") as caught:
        sources_for("bookworm", str(tmp_path))
    assert "SEALED_DEBIAN_MIRROR" in caught.value.remedy


def wheel(folder: Path, **files: str) -> None:
    with zipfile.ZipFile(folder / "thing-1.0-py3-none-any.whl", "w") as archive:
        for name, text in files.items():
            archive.writestr(name.replace("__", "/"), text)


def unpack(folder: Path) -> dict[str, tuple[int, bytes]]:
    with LayerFile(str(folder / "layer.tar")) as layer:
        Wheels(folder, "3.11").unpack(layer)
        layer.finish()
    with tarfile.open(folder / "layer.tar") as tar:
        return {member.name: (member.mode, tar.extractfile(member).read()) for member in tar}  # type: ignore[union-attr]


def test_a_wheel_is_unpacked_with_its_commands(tmp_path: Path) -> None:
    wheel(tmp_path, **{
        "thing__main.py": "x = 1", "thing-1.0.data__scripts__tool": "#!python\nprint()", "thing-1.0.data__data__share__x": "d",
        "thing-1.0.data__purelib__pure.py": "p", "thing-1.0.data__headers__h.h": "h",
        "thing-1.0.dist-info__entry_points.txt":
            "[console_scripts]\nthing = thing.main:app.run [extra]\nbad/name = a:b\n[other]\nx = y:z\n",
    })
    found = unpack(tmp_path)
    packages = "usr/local/lib/python3.11/dist-packages"
    assert found[f"{packages}/thing/main.py"] == (0o644, b"x = 1")
    assert found[f"{packages}/pure.py"][1] == b"p"
    assert found["usr/local/bin/tool"] == (0o755, b"#!/usr/bin/python3\nprint()")
    assert found["usr/local/share/x"][1] == b"d"
    mode, script = found["usr/local/bin/thing"]
    assert mode == 0o755
    assert b"from thing.main import app\n" in script
    assert b"app.run()" in script
    assert not any(name.endswith((".h", "name")) for name in found)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "thing-1.0.data/data/../../../x"])
def test_a_wheel_that_wants_out_is_refused(tmp_path: Path, name: str) -> None:
    wheel(tmp_path, **{name: "dead"})
    with pytest.raises(ImageError, match=r"leads out|absolute"):
        unpack(tmp_path)


def test_a_broken_wheel_is_named(tmp_path: Path) -> None:
    (tmp_path / "thing-1.0-py3-none-any.whl").write_bytes(b"PK no zip")
    with pytest.raises(ImageError, match=r"thing-1\.0-py3-none-any\.whl is broken") as caught:
        unpack(tmp_path)
    assert caught.value.remedy.startswith("rm ")


def recipe(tmp_path: Path, files: str) -> Path:
    (tmp_path / "image.toml").write_text(f'schema = 1\nname = "x"\n[base]\nimage = "busybox"\n[[step]]\nfiles = {files}\n')
    return tmp_path


def test_folders_patterns_and_texts_find_their_places(tmp_path: Path) -> None:
    for name in ("app/a.py", "app/sub/b.py", "app/__pycache__/a.pyc", "one.txt", "two.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    files = '{ "/srv/app" = "app", "/in/" = "app", "/txt" = "*.txt", "/t" = { text = "x" }, "/l" = { link = "t" } }'
    found = load_recipe(str(recipe(tmp_path, files)))
    assert [placed.name for placed in place_files(found, found.steps[0])] == [
        "in/app", "in/app/a.py", "in/app/sub", "in/app/sub/b.py", "l", "srv/app", "srv/app/a.py", "srv/app/sub", "srv/app/sub/b.py", "t",
        "txt/one.txt", "txt/two.txt"]


def test_contents_and_the_right_to_run_count_for_the_digest_and_times_do_not(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("one")
    found = load_recipe(str(recipe(tmp_path, '{ "/f" = "f" }')))
    digests = [digest_of(place_files(found, found.steps[0]))]
    for change in (lambda: (tmp_path / "f").touch(), lambda: (tmp_path / "f").chmod(0o755), lambda: (tmp_path / "f").write_text("two")):
        change()
        digests.append(digest_of(place_files(found, found.steps[0])))
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_a_source_that_is_not_there_names_the_line(tmp_path: Path) -> None:
    found = load_recipe(str(recipe(tmp_path, '{ "/f" = "nope" }')))
    with pytest.raises(RecipeError, match=r"image\.toml:6: files: 'nope': there is no such file"):
        place_files(found, found.steps[0])


def test_a_look_into_layers_follows_no_link_and_waits_for_no_fifo(tmp_path: Path) -> None:
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    for folder in (upper, lower):
        (folder / "etc").mkdir(parents=True)
    (lower / "etc/passwd").write_text("lower")
    (lower / "bin").symlink_to("usr/bin")
    both = [str(upper), str(lower)]
    assert read_text(both, "etc/passwd") == "lower"
    (upper / "etc/passwd").symlink_to("/etc/hostname")
    assert read_text(both, "etc/passwd") == ""
    (upper / "etc/passwd").unlink()
    os.mkfifo(upper / "etc/passwd")
    assert read_text(both, "etc/passwd") == ""
    assert real_name(both, "bin/x") == "usr/bin/x"
    assert real_name(both, "etc/x") == "etc/x"


@pytest.mark.parametrize("config", [
    {"config": {"Env": 3}}, {"config": {"StopSignal": "SIGNOPE"}}, {"config": {"ExposedPorts": {"http": {}}}}, {"config": "text"},
    {"config": {"Labels": {"io.pytest-sealed.ready": "{"}}}, {"config": {"Labels": {"io.pytest-sealed.ready": '{"tcp": 0}'}}},
    {"config": {"Labels": {"io.pytest-sealed.ready": '{"moon": "full"}'}}},
    {"config": {"Labels": {"io.pytest-sealed.tmpfs": '[{"x": 1}]'}}},
])
def test_a_config_that_makes_no_sense_is_an_image_error(config: dict[str, object]) -> None:
    with pytest.raises(ImageError):
        config_from_oci(config)


def test_a_config_of_docker_is_understood() -> None:
    config = config_from_oci({"config": {
        "Env": ["PATH=/bin", "X=a=b"], "Cmd": ["redis"], "Entrypoint": None, "ExposedPorts": {"6379/tcp": {}, "53/udp": {}, "80": {}},
        "StopSignal": "SIGQUIT", "Healthcheck": {"Test": ["CMD-SHELL", "curl x"], "Interval": 2_000_000_000}, "Volumes": {"/data": {}}}})
    assert isinstance(config, ImageConfig)
    assert config.env == {"PATH": "/bin", "X": "a=b"}
    assert config.ports == (80, 6379)
    assert config.healthcheck == ("/bin/sh", "-c", "curl x")
    assert config.health is not None
    assert (config.health.interval, config.health.timeout) == (2.0, 30.0)
    assert config_from_oci({"config": {"Healthcheck": {"Test": ["NONE"]}}}).healthcheck is None
