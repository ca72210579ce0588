"""Parsers of what strangers write, each as a function of bytes; `python tests/fuzzing.py SECONDS [NAME …]` fuzzes them, led by coverage.

A target ends without an exception whatever the bytes: the errors that it may raise are caught in it, and nothing else.
What is found lies in `.fuzz/NAME`, with the inputs that led to new code, from which the next run goes on.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

__all__ = ["SEEDS", "TARGETS"]

ROOT = Path(__file__).resolve().parent.parent
FOUND = ROOT / ".fuzz"
LONGEST = 10        # seconds that an input may take
LARGEST = 1024      # MiB of memory

if len(sys.argv) > 2 and sys.argv[1] == "--one":
    import atheris
    with atheris.instrument_imports(include=["pytest_sealed"]):
        import pytest_sealed.images.archive
        import pytest_sealed.images.lockfile
        import pytest_sealed.images.manifest
        import pytest_sealed.images.oci_config
        import pytest_sealed.images.recipe
        import pytest_sealed.images.reference
        import pytest_sealed.images.tree
        import pytest_sealed.runtime.network.dns
        import pytest_sealed.runtime.protocol
        import pytest_sealed.runtime.user  # noqa: F401

from pytest_sealed import image  # noqa: E402
from pytest_sealed.errors import SealedError, SpecError  # noqa: E402
from pytest_sealed.images.archive import Caps, read_archive  # noqa: E402
from pytest_sealed.images.lockfile import load_lock  # noqa: E402
from pytest_sealed.images.manifest import descriptors, diff_ids_of, parse_json, parse_manifest  # noqa: E402
from pytest_sealed.images.oci_config import config_from_oci, config_notes  # noqa: E402
from pytest_sealed.images.recipe import parse_recipe  # noqa: E402
from pytest_sealed.images.reference import parse_reference  # noqa: E402
from pytest_sealed.images.tree import Tree  # noqa: E402
from pytest_sealed.runtime.network.dns import answer  # noqa: E402
from pytest_sealed.runtime.protocol import Channel, ProtocolError, pair  # noqa: E402
from pytest_sealed.runtime.user import UnknownUser, resolve_user  # noqa: E402


def recipe(data: bytes) -> None:
    try:
        parse_recipe(data, "image.toml")
    except SealedError as error:
        assert error.message.startswith("image.toml:")  # noqa: PT017  (either outcome is right)


def lock(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "sealed.lock")
        path.write_bytes(data)
        try:
            load_lock(path)
        except SealedError:
            return


def manifest(data: bytes) -> None:
    for media_type in ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json", ""):
        try:
            parse_manifest(data, media_type, "it")
        except SealedError:
            continue


def index(data: bytes) -> None:
    try:
        descriptors(parse_json(data, "it"), "it")
    except SealedError:
        return


def config(data: bytes) -> None:
    try:
        body = parse_json(data, "it")
        config_from_oci(body, ours=bool(len(data) % 2))
        config_notes(body)
        diff_ids_of(body, 1, "it")
    except SealedError:
        return


def reference(data: bytes) -> None:
    try:
        found = parse_reference(data.decode(errors="surrogateescape"))
    except SpecError:
        return
    assert str(parse_reference(str(found))) == str(found)


def spec(data: bytes) -> None:
    name, _, value = data.decode(errors="surrogateescape").partition("=")
    try:
        image("busybox", **{name: value})  # type: ignore[arg-type]
    except SealedError:
        return
    except TypeError as error:   # of the call: no such keyword, or one that is given already
        assert "image()" in str(error)  # noqa: PT017


def accounts(data: bytes) -> None:
    user, _, files = data.partition(b"\n\n")
    passwd, _, group = files.partition(b"\n\n")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "etc").mkdir()
        Path(folder, "etc/passwd").write_bytes(passwd)
        Path(folder, "etc/group").write_bytes(group)
        root = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        try:
            account = resolve_user(user.decode(errors="surrogateescape"), root_fd=root, count=65536)
        except UnknownUser:
            return
        finally:
            os.close(root)
    assert 0 <= account.uid < 65536
    assert all(0 <= gid < 65536 for gid in (account.gid, *account.groups))


def layer(data: bytes) -> None:
    """Unpack a layer beside a canary."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "canary").write_text("alive")
        Path(folder, "layer").mkdir()
        archive = os.memfd_create("layer")
        os.write(archive, data)
        os.lseek(archive, 0, os.SEEK_SET)
        into = os.open(f"{folder}/layer", os.O_RDONLY)
        try:
            with Tree(into, [], None) as tree:
                for entry in read_archive(archive, highest_id=65535, caps=Caps(entries=200, size=1 << 20)):
                    tree.add(entry)
        except SealedError:
            pass
        finally:
            os.close(archive)
            os.close(into)
            _open_up(Path(folder, "layer"))
        assert sorted(os.listdir(folder)) == ["canary", "layer"]
        assert Path(folder, "canary").read_text() == "alive"


def _open_up(folder: Path) -> None:
    """Give the folders of a layer modes in which they can be removed by whoever isn't root."""
    os.chmod(folder, 0o700)
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            _open_up(path)


def message(data: bytes) -> None:
    """Receive a packet from a peer that says anything."""
    ours, theirs = pair()
    with ours, theirs:
        Channel(theirs.socket)._send(data[:100_000], [])
        try:
            ours.receive()
        except ProtocolError:
            return


def name_query(data: bytes) -> None:
    reply = answer(data, lambda name: ["10.89.0.2"] if name == "db" else None, lambda _address: "db")
    assert reply is None or len(reply) >= 12


def _tar(*rows: tuple[str, bytes, str]) -> bytes:
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name, kind, link in rows:
                info = tarfile.TarInfo(name)
                info.type, info.linkname, info.mode = kind, link, 0o755
                tar.addfile(info)
        file.seek(0)
        return file.read()


_DIGEST = b"sha256:" + b"0" * 64
TARGETS: dict[str, Callable[[bytes], None]] = {
    "accounts": accounts, "config": config, "index": index, "layer": layer, "lock": lock, "manifest": manifest, "message": message,
    "name_query": name_query, "recipe": recipe, "reference": reference, "spec": spec}
SEEDS: dict[str, list[bytes]] = {
    "accounts": [b"app:app\n\nroot:x:0:0:root:/root:/bin/sh\napp:x:70:70::/srv:\n\napp:x:70:root,app\n"],
    "config": [b'{"architecture":"amd64","os":"linux","config":{"User":"1:2","Env":["A=b"],"Cmd":["a"],"ExposedPorts":{"80/tcp":{}},'
               b'"Volumes":{"/d":{}},"StopSignal":"SIGINT","Healthcheck":{"Test":["CMD","x"],"Interval":1000000000},"Labels":{"a":"b"}},'
               b'"rootfs":{"type":"layers","diff_ids":["' + _DIGEST + b'"]},"history":[{"created_by":"x"}]}'],
    "index": [b'{"schemaVersion":2,"manifests":[{"mediaType":"m","digest":"' + _DIGEST + b'","size":1,"platform":{"os":"linux",'
              b'"architecture":"arm64","variant":"v8"}}]}'],
    "layer": [_tar(("a", tarfile.DIRTYPE, ""), ("a/b", tarfile.REGTYPE, ""), ("a/.wh.c", tarfile.REGTYPE, ""),
                   ("l", tarfile.SYMTYPE, "../x"), ("h", tarfile.LNKTYPE, "a/b"), ("f", tarfile.FIFOTYPE, "")),
              _tar(("n" * 200, tarfile.REGTYPE, ""))],
    "lock": [b'schema = 1\n'],
    "manifest": [b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"c","digest":"'
                 + _DIGEST + b'","size":2},"layers":[{"mediaType":"l","digest":"' + _DIGEST + b'","size":3}]}'],
    "message": [b'J{"op":"run","id":1}', b"M"],
    "name_query": [b"\x12\x34\x01\0\0\1\0\0\0\0\0\0\x02db\0\0\1\0\1",
                   b"\x12\x34\x01\0\0\1\0\0\0\0\0\0\x012\x010\x0289\x0210\7in-addr\4arpa\0\0\x0c\0\1"],
    "recipe": [path.read_bytes() for path in sorted(ROOT.glob("fixture-images/*/image.toml"))],
    "reference": [b"busybox", b"registry.example:5000/a/b:1@" + _DIGEST],
    "spec": [b"memory=64M", b"user=1:2", b"seccomp=default", b"workdir=/a", b"hostname=x", b"stop_signal=SIGTERM", b"shm_size=1k"],
}


def _one(name: str, arguments: list[str]) -> None:
    atheris.Setup([sys.argv[0], *arguments], TARGETS[name])
    atheris.Fuzz()


def main() -> int:
    """Fuzz each target for its part of the seconds, and say what was found."""
    seconds, names = int(sys.argv[1]), sys.argv[2:] or list(TARGETS)
    failed = []
    for name in names:
        corpus = FOUND / name / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(SEEDS[name]):
            (corpus / f"seed-{number}").write_bytes(seed)
        done = subprocess.run([sys.executable, __file__, "--one", name, f"-max_total_time={max(1, seconds // len(names))}",
                               f"-timeout={LONGEST}", f"-rss_limit_mb={LARGEST}", "-max_len=65536", "-verbosity=0", "-print_final_stats=1",
                               f"-artifact_prefix={FOUND}/{name}/", str(corpus)],
                              capture_output=True, text=True, errors="replace", cwd=ROOT)
        runs = next((line.split()[-1] for line in done.stderr.splitlines() if "number_of_executed_units" in line), "?")
        verdict = "FAILED" if done.returncode else "nothing found"
        print(f"{name:12} {runs:>9} inputs, {len(list(corpus.iterdir())):5} that led to new code: {verdict}", flush=True)
        if done.returncode:
            failed.append(name)
            print(done.stderr[-4000:])
    return bool(failed)


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        _one(sys.argv[2], sys.argv[3:])
    else:
        sys.exit(main())
