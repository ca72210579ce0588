"""Images that other tools wrote, loaded and run; and images of ours, read by those tools. skopeo and umoci are the judges."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from archives import Made, digest, docker_archive, layer, layout

from pytest_sealed import Sandbox, image
from pytest_sealed.images.load import Loader
from pytest_sealed.images.save import save
from pytest_sealed.images.store import Store

NAMED = "org.opencontainers.image.ref.name"


def tool(*argv: str | Path) -> str:
    """Run a tool; return what it printed."""
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout


def sealed(store: Store, *argv: str | Path, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "pytest_sealed.cli", *map(str, argv)], input=data, capture_output=True, check=False,
                          env={**os.environ, "SEALED_STORE": str(store.root)})


def raw_digest(transport: str) -> str:
    """Return the digest of an image's manifest, as skopeo reads it."""
    return digest(subprocess.run(["skopeo", "inspect", "--raw", transport], capture_output=True, check=True).stdout)


def busybox(store: Store) -> bytes:
    """The lowest layer of busybox, as a tar."""
    chain = store.get("busybox").layers[0].parent.name
    return b"".join(store.layers.tar(f"sha256:{chain}", f"sha256:{chain}"))


@pytest.fixture
def saved(store: Store, tmp_path: Path) -> Path:
    save(store, ["busybox"], str(tmp_path / "busybox.tar"))
    return tmp_path / "busybox.tar"


def test_what_is_saved_loads_as_the_same_image(store: Store, saved: Path, tmp_path: Path) -> None:
    before = store.get("busybox")
    save(store, ["busybox"], str(tmp_path / "oci.tar"), "oci-archive")
    save(store, ["busybox"], str(tmp_path / "oci"), "oci")
    for number, path in enumerate((saved, tmp_path / "oci.tar", tmp_path / "oci")):
        [found] = Loader(store, name=f"again:{number}").load(str(path))
        assert (found.digest, found.layers, found.config) == (before.digest, before.layers, before.config)


def test_the_same_image_gives_the_same_archive(store: Store, saved: Path, tmp_path: Path) -> None:
    save(store, ["busybox"], str(tmp_path / "again.tar"))
    assert (tmp_path / "again.tar").read_bytes() == saved.read_bytes()


def test_a_layer_is_written_again_bit_by_bit_into_another_store(store: Store, saved: Path, new_store: Any) -> None:
    other = new_store()
    [found] = Loader(other).load(str(saved))
    assert found.reference == "busybox:latest"
    assert found.digest == store.get("busybox").digest
    save(other, ["busybox:latest"], str(saved.with_name("other.tar")))
    assert saved.with_name("other.tar").read_bytes() == saved.read_bytes()


def test_skopeo_reads_what_is_saved(store: Store, saved: Path, tmp_path: Path) -> None:
    ids = json.loads(store.documents("busybox")[2])["rootfs"]["diff_ids"]
    assert json.loads(tool("skopeo", "inspect", f"docker-archive:{saved}"))["Layers"] == ids
    assert json.loads(tool("skopeo", "inspect", "--config", f"docker-archive:{saved}"))["config"]["Cmd"] == ["sh"]
    save(store, ["busybox"], str(tmp_path / "oci.tar"), "oci-archive")
    assert raw_digest(f"oci-archive:{tmp_path}/oci.tar:busybox:latest") == store.get("busybox").digest


@pytest.mark.parametrize("how", [(), ("--dest-compress-format", "zstd"), ("--dest-compress-format", "gzip", "--dest-compress-level", "9")])
def test_a_layout_of_skopeo_keeps_its_digest_there_and_back(store: Store, saved: Path, tmp_path: Path, how: tuple[str, ...]) -> None:
    tool("skopeo", "copy", "-q", *how, f"docker-archive:{saved}", f"oci:{tmp_path}/in:registry.example/web:1.2")
    wanted = raw_digest(f"oci:{tmp_path}/in:registry.example/web:1.2")
    [found] = Loader(store).load(f"{tmp_path}/in")
    assert (found.reference, found.digest) == ("registry.example/web:1.2", wanted)
    assert found.layers == store.get("busybox").layers
    save(store, ["web:1.2"], f"{tmp_path}/out.tar", "oci-archive")
    assert raw_digest(f"oci-archive:{tmp_path}/out.tar") == wanted
    tool("skopeo", "copy", "-q", f"oci-archive:{tmp_path}/out.tar", f"dir:{tmp_path}/whole")   # reads and checks every blob


def test_an_archive_of_skopeo_is_loaded(store: Store, saved: Path, tmp_path: Path) -> None:
    tool("skopeo", "copy", "-q", f"docker-archive:{saved}", f"docker-archive:{tmp_path}/x.tar:web:2")
    [found] = Loader(store).load(f"{tmp_path}/x.tar")
    assert found.reference.endswith("/library/web:2")   # skopeo puts a registry before it
    assert store.get("web:2").digest == found.digest
    with Sandbox(store=store) as sandbox:
        assert sandbox.run(image("web:2", wait=None), ["sh", "-c", "echo $0"]).wait(60) == 0


def test_an_image_of_umoci_runs(store: Store, tmp_path: Path) -> None:
    """Layers, whiteouts and a config of umoci's making, on top of busybox."""
    save(store, ["busybox"], f"{tmp_path}/web", "oci")
    (tmp_path / "greet").write_text("#!/bin/sh\necho \"$1 $WHO from $PWD\"; ls -d /srv /srv/x 2>&1; id -u\n")
    (tmp_path / "greet").chmod(0o755)
    (tmp_path / "x").write_text("")
    at = ("--image", f"{tmp_path}/web:busybox:latest")
    tool("umoci", "tag", *at, "1.0")
    at = ("--image", f"{tmp_path}/web:1.0")
    rootless = ("--rootless",) if os.geteuid() else ()
    tool("umoci", "insert", *rootless, *at, tmp_path / "greet", "/usr/bin/greet")
    tool("umoci", "insert", *rootless, *at, tmp_path / "x", "/srv/x")
    tool("umoci", "insert", *rootless, "--whiteout", *at, "/srv/x")
    tool("umoci", "config", *at, "--config.entrypoint", "greet", "--config.cmd", "hello", "--config.env", "WHO=you",
         "--config.workingdir", "/tmp", "--config.user", "nobody", "--config.stopsignal", "SIGINT", "--config.exposedports", "80/tcp",
         "--config.volume", "/data", "--config.label", "a=b")
    rows = json.loads((tmp_path / "web/index.json").read_text())
    rows["manifests"] = [row for row in rows["manifests"] if row["annotations"][NAMED] == "1.0"]
    (tmp_path / "web/index.json").write_text(json.dumps(rows))
    [found] = Loader(store).load(f"{tmp_path}/web")
    assert found.reference == "web:1.0"
    assert (found.config.stop_signal, found.config.ports, found.config.volumes, found.config.labels) == (2, (80,), ("/data",), {"a": "b"})
    done = sealed(store, "run", "web:1.0")
    assert done.returncode == 0, done.stderr
    first, *listed, user = done.stdout.decode().splitlines()
    assert first == "hello you from /tmp"
    assert [line for line in listed if "No such file" not in line] == ["/srv"]
    assert user == "65534"


@pytest.mark.skipif(os.geteuid() != 0, reason="umoci gives files to their owners as root only")
def test_umoci_unpacks_what_is_saved(store: Store, tmp_path: Path) -> None:
    save(store, ["busybox"], f"{tmp_path}/oci", "oci")
    tool("umoci", "unpack", "--image", f"{tmp_path}/oci:busybox:latest", tmp_path / "bundle")
    there = sorted(os.listdir(tmp_path / "bundle/rootfs/usr/bin"))
    assert there == sorted({name for one in store.get("busybox").layers for name in os.listdir(one / "usr/bin")})


@pytest.mark.parametrize("squeeze", [lambda data: data, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("path", ["FILE", "-"])
def test_load_prints_the_names_that_run_takes(store: Store, tmp_path: Path, squeeze: Any, path: str) -> None:
    made = Made([busybox(store), layer({"hello": "#!/bin/busybox sh\necho it works\n"})], {"Cmd": ["/hello"]})
    archive = squeeze(docker_archive(tmp_path / "made.tar", (made, ["made:1", "registry.example/made:stable"])).read_bytes())
    (tmp_path / "made.tar").write_bytes(archive)
    done = sealed(store, "load", str(tmp_path / "made.tar") if path == "FILE" else "-", data=archive)
    assert done.stdout.decode().split() == ["made:1", "registry.example/made:stable"], done.stderr
    assert sealed(store, "run", "made:1").stdout == b"it works\n"
    assert sealed(store, "run", "made:stable").stdout == b"it works\n"


def test_an_archive_as_docker_build_and_docker_save_write_it(store: Store, tmp_path: Path) -> None:
    """Recorded from Docker 20.10: folders of its old layers, a link to an equal layer, and all that it writes into a config."""
    script = '#!/bin/busybox sh\necho "$GREETING from $(busybox id -u), in $PWD; $*"; busybox ls -d /kept /gone 2> /dev/null\n'
    program = layer({"usr/": "", "usr/bin/": "", "usr/bin/hello": script})
    layers = [busybox(store), layer({"gone/": "", "kept/": ""}), layer({".wh.gone": ""}, mode=0), layer({"srv/": "", "srv/app/": ""}),
              program, program]
    step = {"Hostname": "", "Domainname": "", "User": "1234", "AttachStdin": False, "Tty": False, "OpenStdin": False, "StdinOnce": False,
            "ExposedPorts": {"8080/tcp": {}}, "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "GREETING=hello there"], "Cmd": ["one", "two"],
            "Healthcheck": {"Test": ["CMD-SHELL", "test -d /kept"], "Interval": 1000000000}, "Image": f"sha256:{'6' * 64}",
            "Volumes": {"/data": {}}, "WorkingDir": "/srv/app", "Entrypoint": ["/usr/bin/hello"], "OnBuild": ["RUN nothing"],
            "Labels": {"a": "b"}, "StopSignal": "SIGQUIT"}
    made = Made(layers, step, {
        "container": "2" * 64, "created": "2026-11-24T14:58:20.567490663Z", "docker_version": "20.10.24+dfsg1",
        "container_config": {**step, "Cmd": ["/bin/sh", "-c", "#(nop) ", 'CMD ["one" "two"]']},
        "history": [{"created": "2026-11-24T14:58:02.616791598Z", "created_by": "/bin/sh -c #(nop) COPY file:7 in /x "}] * 6 + [
            {"created": "2026-11-24T14:58:02.616791598Z", "created_by": "/bin/sh -c #(nop)  USER 1234", "empty_layer": True}]})
    ids = [f"{number}" * 64 for number in range(6)]
    config = f"{digest(made.body).removeprefix('sha256:')}.json"
    with tarfile.open(tmp_path / "built.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        def add(name: str, data: bytes = b"", **changes: Any) -> None:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            for key, value in changes.items():
                setattr(entry, key, value)
            tar.addfile(entry, io.BytesIO(data))
        for number, one in enumerate(ids):
            add(one, type=tarfile.DIRTYPE, mode=0o755)
            add(f"{one}/VERSION", b"1.0")
            add(f"{one}/json", json.dumps({"id": one, "parent": ids[number - 1], "os": "linux"}).encode())
            if number == 5:
                add(f"{one}/layer.tar", type=tarfile.SYMTYPE, linkname=f"../{ids[4]}/layer.tar")
            else:
                add(f"{one}/layer.tar", layers[number])
        add(config, made.body)
        add("manifest.json", json.dumps([{"Config": config, "RepoTags": ["shop/hello:1", "hello:again"],
                                          "Layers": [f"{one}/layer.tar" for one in ids]}]).encode())
        add("repositories", json.dumps({"shop/hello": {"1": ids[-1]}, "hello": {"again": ids[-1]}}).encode())
    done = sealed(store, "load", tmp_path / "built.tar")
    assert done.stdout.split() == [b"shop/hello:1", b"hello:again"], done.stderr
    assert b"ONBUILD instructions are ignored" in done.stderr
    user = ("--user", "0") if os.environ.get("SEALED_IDS") == "single" else ()
    done = sealed(store, "run", *user, "hello:again", "three")
    assert done.stdout.decode() == f"hello there from {'0' if user else '1234'}, in /srv/app; three\n/kept\n", done.stderr
    assert sealed(store, "history", "hello:again").stdout.count(b"COPY file:7") == 6
    save(store, ["shop/hello:1"], str(tmp_path / "saved.tar"))
    assert json.loads(tool("skopeo", "inspect", "--config", f"docker-archive:{tmp_path}/saved.tar"))["config"]["StopSignal"] == "SIGQUIT"


def test_a_layout_of_several_platforms_gives_this_machines(store: Store, tmp_path: Path) -> None:
    folder = layout(tmp_path / "many", *(
        (Made([busybox(store), layer({"which": name})], changes={"architecture": name}),
         {"platform": {"os": "linux", "architecture": name}}) for name in ("amd64", "arm64", "s390x")))
    [found] = Loader(store, name="which:1").load(str(folder))
    assert (found.layers[-1] / "which").read_text() == {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    [found] = Loader(store, name="which:2", platform="linux/s390x").load(str(folder))
    assert (found.layers[-1] / "which").read_text() == "s390x"


def test_a_loaded_image_goes_with_its_layers_and_blobs(store: Store, saved: Path, tmp_path: Path) -> None:
    tool("skopeo", "copy", "-q", f"docker-archive:{saved}", f"oci:{tmp_path}/in:web:1")
    Loader(store).load(f"{tmp_path}/in")
    assert len(list((store.root / "blobs/sha256").iterdir())) == 2
    store.remove("web:1")
    assert list((store.root / "blobs/sha256").iterdir()) == []
    assert store.get("busybox").layers[0].is_dir()


def test_without_the_blobs_an_image_is_saved_with_uncompressed_layers(store: Store, saved: Path, tmp_path: Path) -> None:
    tool("skopeo", "copy", "-q", f"docker-archive:{saved}", f"oci:{tmp_path}/in:web:1")
    Loader(store).load(f"{tmp_path}/in")
    for path in (store.root / "blobs/sha256").iterdir():
        path.unlink()
    done = sealed(store, "save", "--format", "oci-archive", "web:1", tmp_path / "out.tar")
    assert b"written uncompressed, and the image has another digest" in done.stderr
    assert json.loads(tool("skopeo", "inspect", f"oci-archive:{tmp_path}/out.tar"))["Layers"] == json.loads(
        store.documents("web:1")[2])["rootfs"]["diff_ids"]
