"""A pull of a large image from a registry on the loopback, against skopeo and umoci, and Podman where there is one. Run with -s."""

from __future__ import annotations

import gzip
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from archives import Made, docker_archive, layer, packed
from figures import in_turn
from registries import push_by_hand, registry

from pytest_sealed.images.store import Store

AGAINST_SKOPEO = 1.0   # times `skopeo copy` and `umoci unpack`, the promise
AGAINST_PODMAN = 1.0   # times `podman pull`, the promise
MEMORY = 64 << 20      # bytes, the promise
SEALED = (sys.executable, "-m", "pytest_sealed.cli")
LAYERS, LAYER = 5, 80_000_000   # bytes unpacked


def content(seed: int) -> bytes:
    """Return a layer of files such as images have: many small ones, some large; they compress to a half or so."""
    chance = random.Random(seed)  # noqa: S311  (the same each time)
    words = [chance.randbytes(chance.randint(2, 9)) for _ in range(2000)]
    text = b"".join(chance.choices(words, k=1_000_000))
    files: dict[str, str | bytes] = {}
    size = 0
    while size < LAYER:
        start, length = chance.randrange(len(text) // 2), chance.choice([500, 2_000, 2_000, 6_000, 6_000, 20_000, 60_000, 2_000_000])
        files[f"usr/lib/{seed}/{len(files) // 50}/{len(files)}"] = text[start:start + length]
        size += length
    return layer(files)


def test_a_pull_takes_no_longer_than_skopeo_with_umoci_and_podman(tmp_path: Path) -> None:
    image = Made([content(seed) for seed in range(LAYERS)])
    manifest, blobs = packed(image, squeeze=lambda data: gzip.compress(data, 6))
    size = sum(map(len, blobs.values()))
    print(f"\n{LAYERS} layers, {sum(map(len, image.layers)) / 1e6:.0f} MB, compressed {size / 1e6:.0f} MB")
    work, rootless = tmp_path / "work", ["--rootless"] if os.geteuid() else []

    def run(*argv: str, **env: str) -> None:
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **env})

    def clean() -> None:
        for name in Store(work / "store").names():
            Store(work / "store").remove(name)
        if (work / "podman").exists():
            run("podman", *podman, "rmi", "--all")
        shutil.rmtree(work)
        work.mkdir()
        os.sync()   # or the next one waits for this one's pages

    with registry(tmp_path / "registry") as place, tempfile.TemporaryDirectory() as short:   # Podman's limit: 50 letters
        push_by_hand(place.host, "large", "1", manifest, blobs)
        podman = ("--root", f"{work}/podman", "--runroot", short, "--storage-driver", "overlay")
        def theirs() -> None:
            run("skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{place.host}/large:1", f"oci:{work}/layout:1")
            run("umoci", "unpack", *rootless, "--image", f"{work}/layout:1", f"{work}/bundle")
        works: dict[str, Callable[[], object]] = {
            "sealed pull": lambda: run(*SEALED, "pull", "-q", f"{place.host}/large:1", SEALED_STORE=f"{work}/store"),
            "skopeo copy, umoci unpack": theirs,
        }
        if shutil.which("podman"):
            works["podman pull"] = lambda: run("podman", *podman, "pull", "-q", "--tls-verify=false", f"{place.host}/large:1")
        work.mkdir()
        ours, other, *more = in_turn(3, after=clean, **works)
    print(ours, other, *more, sep="\n")
    print(f"ratio of the medians {ours.median / other.median:.2f}, promised at most {AGAINST_SKOPEO}")
    for row in more:
        print(f"ratio to Podman's {ours.median / row.median:.2f}, promised at most {AGAINST_PODMAN}")
        assert ours.median <= AGAINST_PODMAN * row.median
    if not more:
        print("Podman: not installed here")
    assert ours.median <= AGAINST_SKOPEO * other.median


PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


@pytest.mark.parametrize("shape", ["one large file", "many files"])
def test_unpacking_needs_less_than_64_mib_whatever_the_layer(tmp_path: Path, shape: str) -> None:
    files: dict[str, str | bytes] = {f"{number // 1000}/{number}": "x" for number in range(200_000)} if shape == "many files" else {
        "large": bytes(400_000_000)}
    docker_archive(tmp_path / "image.tar", (Made([layer(files)]), ["image:1"]))
    done = subprocess.run([sys.executable, "-c", PEAK, *SEALED, "load", "-q", str(tmp_path / "image.tar")], check=True, capture_output=True,
                          text=True, env={**os.environ, "SEALED_STORE": str(tmp_path / "store")})
    Store(tmp_path / "store").remove("image:1")
    peak = int(done.stdout)
    print(f"\n{shape}: at most {peak / 2**20:.1f} MiB in a process of `sealed load`, promised {MEMORY >> 20}")
    assert peak <= MEMORY
