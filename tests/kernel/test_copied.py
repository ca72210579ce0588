"""Where an overlay can have no writable layer: each container gets a copy of its image, and a warning says what that costs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_sealed import Sandbox
from pytest_sealed.runtime.launch import run_inside

TESTS = str(Path(__file__).parents[1])


def test_a_copy_is_what_overlayfs_shows_of_the_layers(tmp_path: Path) -> None:
    found = run_inside("copy_worker", {"folder": str(tmp_path), "seeds": [0, 300]}, paths=[TESTS])
    assert found["failures"] == []
    assert found["compared"] > 30


PRELUDE = """
import os, sys, time, warnings
warnings.simplefilter("always")
from pytest_sealed import Sandbox, StoreError
"""


@pytest.fixture
def on_overlayfs(sandbox: Sandbox, tmp_path: Path) -> list[str]:
    """The start of a command line that runs Python with this account's images in a store on overlayfs, in a mount namespace of its own."""
    store = sandbox.store.root
    options = f"lowerdir={store},upperdir={tmp_path}/upper,workdir={tmp_path}/work" + (",userxattr" if os.geteuid() else "")
    script = (f"mount -t tmpfs -o size=256m none {tmp_path} && mkdir {tmp_path}/upper {tmp_path}/work {tmp_path}/run {tmp_path}/store && "
              f"mount -t overlay -o {options} none {tmp_path}/store && chmod 700 {tmp_path}/run && "
              f'SEALED_STORE={tmp_path}/store XDG_RUNTIME_DIR={tmp_path}/run exec "$0" "$@"')
    return ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else []), "sh", "-c", script, sys.executable]


def run(command: list[str], text: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*command, "-c", PRELUDE + text], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_a_container_on_disk_gets_a_copy_and_a_warning_says_what_it_cost(on_overlayfs: list[str]) -> None:
    done = run(on_overlayfs, """
with Sandbox() as sandbox:
    assert sandbox.session.request("upper")[0] == {"memory": True, "disk": False}
    for number in range(2):
        box = sandbox.run("busybox", ["sleep", "1000"], scratch="disk")
        assert box.exec(["sh", "-c", "echo mine > /new && rm -r /home && cat /new"]).stdout == "mine\\n"
    box.restart(0)
    print(box.exec(["sh", "-c", "cat /new; ls -d /home; head -c 100000 /bin/busybox | wc -c"]).stdout)
    other = sandbox.run("busybox", ["sleep", "1000"], scratch="disk")
    assert other.exec(["test", "-d", "/home", "-a", "!", "-e", "/new"]).exit_code == 0
    in_memory = sandbox.run("busybox", ["cat", "/proc/mounts"])
    in_memory.wait()
    assert in_memory.logs().startswith("overlay / overlay")
assert sandbox.leftovers() == []
""")
    assert done.stdout == "mine\n100000\n\n"
    told = [line for line in done.stderr.splitlines() if "SealedWarning" in line]
    assert len(told) == 1, done.stderr   # once for an image
    assert "began with a copy of its image, 1." in told[0]
    assert "MiB in " in told[0]
    assert "  remedy: set SEALED_STORE to a folder on ext4, xfs or btrfs, such as a volume" in done.stderr.splitlines()


@pytest.mark.skipif(os.geteuid() != 0, reason="the namespace of an ordinary account's own has no cgroups")
def test_the_copys_cost_is_not_the_containers(on_overlayfs: list[str]) -> None:
    run(on_overlayfs, """
warnings.simplefilter("ignore")
with Sandbox() as sandbox:
    box = sandbox.run("python", ["true"], scratch="disk", memory="16M")
    box.wait()
    assert box.stats().oom_kills == 0
    assert box.stats().memory_peak < 8 << 20, box.stats()
""")


def test_a_read_only_root_is_one(on_overlayfs: list[str]) -> None:
    run(on_overlayfs, """
warnings.simplefilter("ignore")
with Sandbox() as sandbox:
    box = sandbox.run("busybox", ["sleep", "1000"], scratch="disk", read_only=True)
    assert "Read-only file system" in box.exec(["touch", "/new"]).stderr
    assert box.exec(["mknod", "/dev/null2", "c", "1", "3"]).exit_code != 0
""")


def test_no_room_for_a_copy_is_said_with_the_remedy(on_overlayfs: list[str], tmp_path: Path) -> None:
    done = run(on_overlayfs, f"""
with Sandbox() as sandbox:
    sandbox.session
    fill, room = open("{tmp_path}/fill", "wb"), os.statvfs("{tmp_path}")
    os.posix_fallocate(fill.fileno(), 0, room.f_bavail * room.f_bsize - (500 << 10))
    try:
        sandbox.run("busybox", ["true"], scratch="disk")
    except StoreError as error:
        print(error)
    os.truncate(fill.fileno(), 0)
    assert sandbox.run("busybox", ["true"], scratch="disk").wait() == 0
assert sandbox.leftovers() == []
""")
    assert "container 'busybox' (busybox) did not start: its image can't be copied to" in done.stdout
    assert "remedy: set SEALED_STORE" in done.stdout


def test_a_removal_during_the_copy_ends_it(on_overlayfs: list[str]) -> None:
    run(on_overlayfs, """
import threading
warnings.simplefilter("ignore")
image = "busybox" if open("/proc/self/setgroups").read() == "deny\\n" else "python"   # the larger, where it is there
with Sandbox() as sandbox:
    box = sandbox.run(image, ["sleep", "1000"], scratch="disk", start=False)
    starter = threading.Thread(target=lambda: ended.append(outcome(box)), daemon=True)
    ended = []
    def outcome(box):
        try:
            box.start()
        except Exception as error:
            return type(error).__name__
    starter.start()
    scratch = sandbox.session.disk
    while not (scratch / box.id).exists() and starter.is_alive():
        time.sleep(0.001)
    box.remove()
    starter.join(20)
    assert not starter.is_alive()
    deadline = time.monotonic() + 20
    while (scratch / box.id).exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
assert sandbox.leftovers() == []
""")


def test_a_snapshot_of_a_copy_is_one_layer_with_all_of_it(on_overlayfs: list[str]) -> None:
    run(on_overlayfs, """
with Sandbox() as sandbox:
    box = sandbox.run("busybox", ["sh", "-c", "echo mine > /new && rm -r /home && rm /etc/resolv.conf"],
                      scratch="disk", tmpfs=["/srv", "/made/deep"])
    assert box.wait(30) == 0
    name = box.snapshot()
    assert len(sandbox.store.get(name).layers) == 1
    look = sandbox.run(name, ["sh", "-c", "cat /new; test -e /home; echo $?; ls -d /srv; ls -d /made"])
    assert look.wait(30) == 1
    assert look.logs(stream="stdout").splitlines() == ["mine", "1", "/srv"]
    [layer] = sandbox.store.get(name).layers
    assert set(os.listdir(layer / "etc")) == set().union(*(
        os.listdir(one / "etc") for one in sandbox.store.get("busybox").layers if (one / "etc").is_dir())), os.listdir(layer / "etc")
""")
