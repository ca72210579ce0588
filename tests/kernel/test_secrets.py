"""Secrets: files that the command's user reads, and that nothing else has, inside or on the host."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from boxes import EITHER_IDS, EITHER_SCRATCH, FOREVER, NEEDS_ROOT, Scratch, host_pid, idle, sh, status

from pytest_sealed import Container, ContainerFailed, Sandbox, image
from pytest_sealed.images.layers import Chain

VALUE = "correct-horse-battery-staple"
SECRETS: dict[str, str | bytes] = {"db_password": VALUE, "key.bin": b"\0\xff\n"}


def told(container: Container) -> list[str]:
    """Return what the runtime says of a container, in each of its ways."""
    listed, _ = container._session.request("list")
    return [repr(container), repr(container.spec), str(container.spec), container.report(), container.by_hand(), container.obituary(),
            repr(pickle.dumps(container.spec)), repr(listed), subprocess.run([sys.executable, "-m", "pytest_sealed.cli", "ps"],
                                                                             capture_output=True, text=True, check=True).stdout]


def hidden(text: str | bytes) -> bool:
    data = text.encode() if isinstance(text, str) else text
    return VALUE.encode() not in data and VALUE.encode().hex().encode() not in data


@EITHER_IDS
@pytest.mark.parametrize(("user", "owner"), [("root", "0 0"), ("1000", "1000 0"), ("70:71", "70 71")])
def test_a_secret_is_a_file_that_the_commands_user_alone_may_read(sandbox: Sandbox, user: str, owner: str) -> None:
    container = idle(sandbox, user=user, secrets=SECRETS)
    assert sh(container, "cd /run/secrets; stat -c '%n %a %u %g %s' *").splitlines() == [
        f"db_password 400 {owner} {len(VALUE)}", f"key.bin 400 {owner} 3"]
    assert sh(container, "cat /run/secrets/db_password; od -An -tx1 /run/secrets/key.bin").split() == [VALUE, "00", "ff", "0a"]
    kind, options = sh(container, "grep ' /run/secrets ' /proc/mounts").split()[2:4]
    assert kind == "tmpfs"
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(options.split(","))
    for attempt in ("echo x > /run/secrets/new", "rm /run/secrets/key.bin", "chmod 444 /run/secrets/key.bin", "umount /run/secrets",
                    "mount -o remount,rw /run/secrets"):
        assert container.exec(["sh", "-c", attempt]).exit_code != 0, attempt


@pytest.mark.usefixtures("several_ids")
def test_another_user_of_the_container_cannot_read_it(sandbox: Sandbox) -> None:
    container = idle(sandbox, user="1000", secrets=SECRETS)
    assert "Permission denied" in container.exec(["cat", "/run/secrets/db_password"], user="1001").stderr


@EITHER_IDS
def test_it_is_there_with_a_tmpfs_around_it_a_read_only_root_and_after_a_restart(sandbox: Sandbox) -> None:
    container = idle(sandbox, secrets=SECRETS, tmpfs=["/run"], read_only=True, stop_timeout=0)
    for _ in range(2):
        assert sh(container, "cat /run/secrets/db_password; touch /run/beside") == VALUE
        container.restart()


@EITHER_IDS
def test_a_container_without_secrets_has_none_and_a_change_replaces_those_there_were(sandbox: Sandbox) -> None:
    assert sh(idle(sandbox), "ls -d /run/secrets 2> /dev/null || echo none") == "none\n"
    spec = image("busybox", command=FOREVER, secrets=SECRETS)
    assert sh(sandbox.run(spec, secrets={"other": "x"}), "ls /run/secrets") == "other\n"
    assert sh(sandbox.run(spec, secrets={}), "ls -d /run/secrets 2> /dev/null || echo none") == "none\n"


@EITHER_IDS
@EITHER_SCRATCH
def test_a_snapshot_has_no_secrets(sandbox: Sandbox, scratch: Scratch) -> None:
    container = idle(sandbox, secrets=SECRETS, scratch=scratch)
    sh(container, "echo kept > /srv/file")
    container.kill()
    name = container.snapshot()
    store = sandbox.store
    assert hidden("".join(map(str, store.documents(name))))
    chain = Chain(tuple(json.loads(store.documents(name)[2])["rootfs"]["diff_ids"]))
    data = b"".join(store.layers.tar(chain.top, chain.diff_ids[-1]))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        names = tar.getnames()
    assert "srv/file" in names
    assert not [path for path in names if path.startswith("run/secrets/")]
    assert hidden(data)
    assert sh(sandbox.run(name, FOREVER), "cat /srv/file; ls /run/secrets 2> /dev/null; true") == "kept\n"


@EITHER_IDS
@EITHER_SCRATCH
def test_nothing_that_the_runtime_says_or_keeps_has_the_value(sandbox: Sandbox, scratch: Scratch) -> None:
    container = idle(sandbox, secrets=SECRETS, scratch=scratch, env={"SHOWN": "shown"})
    session = container._session
    sh(container, "cat /run/secrets/db_password")
    for text in told(container):
        assert hidden(text), text
    assert sum("<secret>" in text for text in told(container)) == 2
    for folder in (session.run_dir, session.disk):
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                assert hidden(_read(path)), path
    lines = [_read(path) for path in Path("/proc").glob("[0-9]*/cmdline")]
    assert any(lines)
    assert all(map(hidden, lines))
    assert hidden(sh(container, "cat /proc/1/environ /proc/1/cmdline /proc/self/environ /proc/mounts /proc/self/mountinfo; env; ps"))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:   # it has ended meanwhile
        return b""


@NEEDS_ROOT
def test_the_supervisors_memory_does_not_have_the_value(sandbox: Sandbox) -> None:
    container = idle(sandbox, secrets=SECRETS, env={"SHOWN": "-".join(reversed(VALUE.split("-")))})
    container.restart(0)
    memory = _memory(sandbox.session.pid)
    assert b"staple-battery-horse-correct" in memory   # so that it would be found
    assert hidden(memory)


def _memory(pid: int) -> bytes:
    """Return all that a process has in writable memory."""
    found = []
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, flags = line.split()[:2]
            if flags.startswith("rw") and "[v" not in line:
                start, end = (int(word, 16) for word in span.split("-"))
                memory.seek(start)
                found.append(memory.read(end - start))
    return b"".join(found)


@NEEDS_ROOT
def test_the_commands_process_holds_no_descriptor_of_them(sandbox: Sandbox) -> None:
    container = idle(sandbox, secrets=SECRETS)
    links = [str(path.readlink()) for path in Path(f"/proc/{host_pid(container)}/fd").iterdir()]
    assert len(links) == 3
    assert not [link for link in links if "memfd" in link]
    assert status(container)["NoNewPrivs"] == "1"


@EITHER_IDS
@pytest.mark.parametrize(("script", "why"), [
    ("mkdir -p /run; rm -rf /run/secrets; echo x > /run/secrets", "there is a file in the way"),
    ("mkdir -p /run; rm -rf /run/secrets; ln -s /nowhere/at/all /run/secrets", "/run/secrets is a link that leads nowhere"),
])
def test_an_image_with_something_else_in_its_place_is_refused(sandbox: Sandbox, script: str, why: str) -> None:
    made = sandbox.run("busybox", ["sh", "-c", script])
    assert made.wait(30) == 0, made.logs()
    hostile = made.snapshot()
    with pytest.raises(ContainerFailed) as caught:
        sandbox.run(hostile, FOREVER, secrets=SECRETS, name="web")
    assert caught.value.message == (f"container 'web' ({hostile}) did not start: secrets= can't be mounted at /run/secrets: {why}")
    assert caught.value.remedy == "mend the image: /run/secrets is a folder, or missing, in one that gets secrets"
    assert hidden(str(caught.value))


@EITHER_IDS
def test_a_link_in_its_place_leads_nowhere_but_into_the_container(sandbox: Sandbox) -> None:
    made = sandbox.run("busybox", ["sh", "-c", "mkdir -p /run /srv/deep; rm -rf /run/secrets; ln -s ../../../srv/deep /run/secrets"])
    assert made.wait(30) == 0, made.logs()
    container = sandbox.run(made.snapshot(), FOREVER, secrets=SECRETS)
    assert sh(container, "cat /run/secrets/db_password; cat /srv/deep/db_password; rm /run/secrets; ls -A /run") == VALUE * 2
