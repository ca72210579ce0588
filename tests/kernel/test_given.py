"""Files that a container is given before its command starts: its own, written into its root whatever the image has there."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from boxes import EITHER_IDS, EITHER_SCRATCH, Scratch, idle, logged, sh

from pytest_sealed import ContainerFailed, Sandbox, SpecError, Tmpfs, log

LARGE = 3 << 20


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """Return a folder of the host with a file, a program, a link and a folder in it."""
    folder = tmp_path / "pages"
    (folder / "deep/er").mkdir(parents=True)
    (folder / "index.html").write_text("hello\n")
    (folder / "index.html").chmod(0o640)
    (folder / "run").write_bytes(b"#!/bin/sh\necho ran\n")
    (folder / "run").chmod(0o4755)
    (folder / "deep/er/large").write_bytes(bytes(range(256)) * (LARGE >> 8))
    (folder / "latest").symlink_to("deep/er")
    (folder / "deep").chmod(0o700)
    return folder


@EITHER_IDS
@EITHER_SCRATCH
def test_the_command_finds_what_it_was_given_and_root_owns_it(sandbox: Sandbox, scratch: Scratch, pages: Path) -> None:
    said = logged(sandbox, "stat -c '%n %a %u:%g' /etc/app.toml /srv/new/one /srv/pages/* /srv/pages/deep/er/large; /srv/pages/run; "
                  "cat /etc/app.toml; readlink /srv/pages/latest; md5sum < /srv/pages/deep/er/large", scratch=scratch, read_only=True,
                  files={"/etc/app.toml": b"debug = true\n", "/srv/new/one": pages / "index.html", "/srv/pages": pages, "/empty": b""})
    assert said.splitlines() == [
        "/etc/app.toml 644 0:0", "/srv/new/one 640 0:0", "/srv/pages/deep 700 0:0", "/srv/pages/index.html 640 0:0",
        "/srv/pages/latest 777 0:0", "/srv/pages/run 755 0:0", "/srv/pages/deep/er/large 644 0:0", "ran", "debug = true", "deep/er",
        f"{hashlib.md5((pages / 'deep/er/large').read_bytes()).hexdigest()}  -"]  # noqa: S324  (busybox has it)


@EITHER_IDS
def test_they_replace_files_and_links_of_the_image_and_are_added_to_its_folders(sandbox: Sandbox, pages: Path) -> None:
    container = idle(sandbox, files={"/etc/passwd": b"root:x:0:0::/:/bin/sh\n", "/bin/wget": b"", "/bin": pages})
    assert sh(container, "cat /etc/passwd; test -f /bin/wget -a ! -L /bin/wget && echo a file; index=$(cat /bin/index.html); echo $index; "
              "stat -Lc %a /bin") == "root:x:0:0::/:/bin/sh\na file\nhello\n755\n"


@EITHER_IDS
def test_a_restart_keeps_what_the_container_has_made_of_them(sandbox: Sandbox) -> None:
    container = sandbox.run("busybox", ["sh", "-c", "echo again >> /given; echo up; sleep 1000000"], files={"/given": b"once\n"},
                            stop_timeout=0, wait=log("up"))
    container.restart()
    assert sh(container, "cat /given") == "once\nagain\nagain\n"


@EITHER_IDS
def test_a_link_of_the_image_does_not_lead_a_file_out_of_the_container(sandbox: Sandbox, tmp_path: Path) -> None:
    """As in CVE-2019-14271 and its kin: the path is the container's, whose links are resolved beneath its root."""
    (tmp_path / "outside").mkdir(mode=0o777)
    (tmp_path / "outside").chmod(0o777)
    maker = sandbox.run("busybox", ["ln", "-s", str(tmp_path / "outside"), "/up"], wait=None)
    assert maker.wait() == 0
    hostile = maker.snapshot()
    container = sandbox.run(hostile, ["sh", "-c", f"cat {tmp_path}/outside/file"], wait=None,
                            files={str(tmp_path / "outside"): tmp_path / "outside", "/up/file": b"inside\n"})
    assert container.wait() == 0
    assert container.logs() == "inside\n"
    assert os.listdir(tmp_path / "outside") == []


@pytest.mark.parametrize(("files", "message"), [
    ({"/bin/sh/x": b""}, "/bin/sh/x can't be written: there is a file in the way"),
    ({"/etc": b""}, "/etc can't be written: there is a folder"),
    ({"/large": bytes(2 << 20)}, "its writable layer is too small for /large"),
])
def test_what_cannot_be_written_fails_the_start_with_its_path(sandbox: Sandbox, files: dict[str, bytes], message: str) -> None:
    with pytest.raises(ContainerFailed) as caught:
        idle(sandbox, files=files, scratch_size="1M")
    assert message in str(caught.value)


@pytest.mark.parametrize(("path", "message"), [
    ("/proc/sys/kernel/hostname", "would be hidden by what every container has there of its own, at '/proc'"),
    ("/run/web/pid", "would be hidden by a mount of this container's, at '/run/web'"),
    ("/run/secrets/other", "would be hidden by its secrets, at '/run/secrets'"),
])
def test_what_would_be_hidden_is_refused(sandbox: Sandbox, path: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        idle(sandbox, files={path: b""}, tmpfs=[Tmpfs(target="/run/web")], secrets={"token": "x"})
    assert message in caught.value.message


def test_what_is_not_on_the_host_or_too_large_is_refused_before_anything_starts(sandbox: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=rf"files: '/x' can't be read from {tmp_path}/gone: No such file"):
        idle(sandbox, files={"/x": tmp_path / "gone"})
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 257 << 20)
    with pytest.raises(SpecError, match="they have more than the 256 MiB that they may have together, with that of /x"):
        idle(sandbox, files={"/x": tmp_path / "large"})
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SpecError, match="neither a file nor a folder"):
        idle(sandbox, files={"/x": tmp_path / "pipe"})
