"""Host folders and files in containers: their owner is kept, nothing is written unless asked for, nothing leads out."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from boxes import EITHER_IDS, EITHER_SCRATCH, NEEDS_ROOT, Scratch, idle, needs_writable, sh

from pytest_sealed import Container, ContainerFailed, Mount, Sandbox, SpecError, image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of the host's with a file in it."""
    path = tmp_path / "folder"
    path.mkdir()
    (path / "file").write_text("of the host")
    return path


@pytest.fixture
def writable(sandbox: Sandbox) -> None:
    needs_writable(sandbox)


def flags(container: Container, target: str) -> set[str]:
    [row] = [line.split() for line in sh(container, "cat /proc/mounts").splitlines() if line.split()[1] == target]
    return set(row[3].split(","))


# ---------------------------------------------------------------- owners


@EITHER_IDS
@EITHER_SCRATCH
def test_a_folder_is_read_only_and_its_files_are_roots_where_they_can_be(sandbox: Sandbox, folder: Path, scratch: Scratch) -> None:
    container = idle(sandbox, mounts=[Mount(source=str(folder), target="/data")], scratch=scratch, seccomp="unconfined")
    owner = "65534:65534" if sandbox.describe().mode == "subids" else "0:0"   # such an account has no place inside for its own id
    assert sh(container, "cat /data/file; stat -c ' %u:%g' /data /data/file").split() == ["of", "the", "host", owner, owner]
    for script in ("echo x > /data/file", "touch /data/new", "rm /data/file", "chmod 777 /data", "mount -o remount,rw,bind /data"):
        assert container.exec(["sh", "-c", script]).exit_code != 0, script
    assert "Read-only file system" in container.exec(["touch", "/data/new"]).stderr
    assert [path.name for path in folder.iterdir()] == ["file"]
    assert {"ro", "nosuid", "nodev"} <= flags(container, "/data")


@EITHER_IDS
@pytest.mark.usefixtures("writable")
def test_what_is_written_to_a_writable_folder_is_the_accounts_own(sandbox: Sandbox, folder: Path) -> None:
    container = idle(sandbox, mounts=[Mount(source=str(folder), target="/data", read_only=False)])
    sh(container, "echo changed > /data/file; mkdir /data/sub; echo new > /data/sub/new; chmod 640 /data/sub/new")
    assert (folder / "file").read_text() == "changed\n"
    assert (folder / "sub/new").read_text() == "new\n"
    for path in (folder / "file", folder / "sub", folder / "sub/new"):
        assert (path.stat().st_uid, path.stat().st_gid) == (os.geteuid(), os.getegid())
    assert (folder / "sub/new").stat().st_mode & 0o777 == 0o640
    assert {"rw", "nosuid", "nodev"} <= flags(container, "/data")


@EITHER_IDS
@pytest.mark.usefixtures("writable")
@pytest.mark.parametrize("user", ["1000", "1000:1001", "nobody", "nobody:7"])
def test_the_accounts_files_belong_to_the_containers_user(sandbox: Sandbox, folder: Path, user: str) -> None:
    container = idle(sandbox, user=user, mounts=[Mount(source=str(folder), target="/data", read_only=False)])
    own = sh(container, "echo $(id -u):$(id -g)")
    assert sh(container, "touch /data/new; stat -c %u:%g /data/file /data/new") == own * 2
    assert ((folder / "new").stat().st_uid, (folder / "new").stat().st_gid) == (os.geteuid(), os.getegid())


@pytest.mark.usefixtures("writable")
def test_the_containers_user_may_be_the_images(sandbox: Sandbox, folder: Path) -> None:
    container = sandbox.run("postgres", ["sleep", "1000000"], entrypoint=[], wait=None, mounts=[
        Mount(source=str(folder), target="/data", read_only=False)])
    assert sh(container, "touch /data/new; id -un; stat -c %U /data/file /data/new").split() == ["postgres"] * 3


@NEEDS_ROOT
@pytest.mark.usefixtures("writable")
def test_others_files_are_nobodys_and_closed(sandbox: Sandbox, folder: Path) -> None:
    os.chown(folder / "file", 1234, 1234)
    (folder / "file").chmod(0o600)
    container = idle(sandbox, mounts=[Mount(source=str(folder), target="/data", read_only=False)])
    assert sh(container, "stat -c %u:%g /data/file") == "65534:65534\n"
    assert "Permission denied" in container.exec(["cat", "/data/file"]).stderr
    assert container.exec(["chown", "0", "/data/file"]).exit_code != 0
    assert (folder / "file").stat().st_uid == 1234


@NEEDS_ROOT
@pytest.mark.usefixtures("writable")
def test_no_other_owner_can_be_given_to_a_file_of_the_host(sandbox: Sandbox, folder: Path) -> None:
    container = idle(sandbox, mounts=[Mount(source=str(folder), target="/data", read_only=False)])
    assert container.exec(["chown", "1000", "/data/file"]).exit_code != 0   # it has no place on the host
    assert container.exec(["mknod", "/data/null", "c", "1", "3"]).exit_code != 0
    assert "nosuid" in flags(container, "/data")
    assert (folder / "file").stat().st_uid == 0


# ---------------------------------------------------------------- files and targets


@EITHER_IDS
def test_a_file_can_be_mounted_on_one_that_is_there_or_not(sandbox: Sandbox, folder: Path) -> None:
    source = str(folder / "file")
    container = idle(sandbox, mounts=[Mount(source=source, target="/etc/passwd"), Mount(source=source, target="/new/folder/file")])
    assert sh(container, "cat /etc/passwd /new/folder/file") == "of the host" * 2
    assert container.exec(["sh", "-c", "echo x > /new/folder/file"]).exit_code != 0
    assert sh(container, "stat -c '%a %u:%g' /new /new/folder").splitlines() == ["755 0:0", "755 0:0"]


@EITHER_IDS
@pytest.mark.usefixtures("writable")
def test_a_writable_file_is_written_on_the_host(sandbox: Sandbox, folder: Path) -> None:
    container = idle(sandbox, mounts=[Mount(source=str(folder / "file"), target="/file", read_only=False)])
    sh(container, "echo changed > /file")
    assert (folder / "file").read_text() == "changed\n"
    assert container.exec(["rm", "/file"]).exit_code != 0


@EITHER_IDS
@pytest.mark.usefixtures("writable")
def test_a_working_directory_missing_in_a_host_folder_is_made_by_the_account_or_refused_in_words(sandbox: Sandbox, folder: Path) -> None:
    mounts = [Mount(source=str(folder), target="/data", read_only=False)]
    if sandbox.describe().mode == "single":
        idle(sandbox, workdir="/data/new", mounts=mounts)
        assert (folder / "new").stat().st_uid == os.geteuid()
    else:
        with pytest.raises(ContainerFailed, match="'/data/new' can't be made: it is in a host folder, and missing there"):
            idle(sandbox, workdir="/data/new", mounts=mounts)
        assert [path.name for path in folder.iterdir()] == ["file"]


@EITHER_IDS
@pytest.mark.parametrize("target", ["/data", "/data/sub/deep", "/usr/share", "/data/../other", "/bin/sub"])
def test_a_folder_can_be_mounted_anywhere(sandbox: Sandbox, folder: Path, target: str) -> None:
    container = idle(sandbox, mounts=[Mount(source=str(folder), target=target)])
    assert sh(container, f"cat {os.path.normpath(target)}/file") == "of the host"


@EITHER_IDS
def test_a_mount_in_another_is_not_hidden_by_it_whichever_comes_first(sandbox: Sandbox, folder: Path, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    for path in (inner / "deep", folder / "sub"):
        path.mkdir(parents=True)
    (inner / "file").write_text("of the inner one")
    container = idle(sandbox, mounts=[Mount(source=str(inner), target="/data/sub"), Mount(source=str(folder), target="/data")],
                     tmpfs=["/data/sub/deep", "/x/y", "/x"])
    for _ in range(2):
        assert sh(container, "cat /data/file /data/sub/file") == "of the hostof the inner one"
        sh(container, "touch /data/sub/deep/new /x/y/new")
        assert list((inner / "deep").iterdir()) == list((folder / "sub").iterdir()) == []
        assert sh(container, "cut -d' ' -f2 /proc/mounts | grep ^/x") == "/x\n/x/y\n"
        container.restart(timeout=0)


@pytest.mark.parametrize("sandbox", ["single"], indirect=True)   # root's others are idmapped, which no file system in /dev can be
def test_a_folder_in_which_the_host_has_mounted_something_comes_whole_and_read_only(sandbox: Sandbox) -> None:
    container = idle(sandbox, mounts=[Mount(source="/dev", target="/host")])
    assert flags(container, "/host") >= {"ro", "nosuid", "nodev"}
    below = [line.split() for line in sh(container, "grep ' /host/' /proc/mounts").splitlines()]
    assert {"/host/pts", "/host/shm"} <= {line[1] for line in below}
    assert all("ro" in line[3].split(",") for line in below)
    assert container.exec(["touch", "/host/shm/file"]).stderr.endswith("Read-only file system\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount on the host")
def test_a_folder_is_not_mounted_writable_where_something_below_it_is_read_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALED_IDS", "single")
    (folder / "below").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "below", folder / "below"], check=True)
    try:
        with Sandbox(name="below") as sandbox:   # begun after the mount, which it wouldn't see
            with pytest.raises(ContainerFailed) as caught:
                idle(sandbox, mounts=[Mount(source=str(folder), target="/data", read_only=False)])
            assert f"{folder} can't be mounted writable: it, or what is mounted below it, is read-only" in caught.value.message
            assert caught.value.remedy == "mount it read-only, or a folder of it that can be written"
            assert "ro" in flags(idle(sandbox, mounts=[Mount(source=str(folder), target="/data")]), "/data/below")
    finally:
        subprocess.run(["umount", folder / "below"], check=True)


@EITHER_IDS
def test_several_mounts_lie_side_by_side_and_below_a_tmpfs(sandbox: Sandbox, folder: Path) -> None:
    source = str(folder)
    container = idle(sandbox, tmpfs=["/work"], read_only=True, mounts=[Mount(source=source, target=f"/work/{name}") for name in "ab"])
    assert sh(container, "cat /work/a/file /work/b/file; touch /work/mine") == "of the host" * 2


@EITHER_IDS
@pytest.mark.parametrize(("file", "target"), [(True, "/etc"), (False, "/etc/passwd")])
def test_a_file_on_a_folder_or_a_folder_on_a_file_is_refused(sandbox: Sandbox, folder: Path, file: bool, target: str) -> None:
    source = str(folder / "file" if file else folder)
    with pytest.raises(ContainerFailed) as caught:
        idle(sandbox, mounts=[Mount(source=source, target=target)], name="web")
    why = "it is a file, and there is a folder" if file else "there is a file in the way"
    assert caught.value.message == f"container 'web' (busybox) did not start: {source} can't be mounted at {target}: {why}"
    assert caught.value.remedy
    assert idle(sandbox, name="web").status == "running"


def test_a_source_that_has_gone_since_is_refused(sandbox: Sandbox, folder: Path) -> None:
    spec = image("busybox", mounts=[Mount(source=str(folder), target="/data")], name="web")
    (folder / "file").unlink()
    folder.rmdir()
    with pytest.raises(SpecError) as caught:
        sandbox.run(spec)
    assert str(caught.value) == f"mount source {folder} does not exist\n  remedy: mkdir -p {folder}"
    assert idle(sandbox, name="web").status == "running"


def test_a_user_that_there_cannot_be_is_refused_with_mounts_as_without(sandbox: Sandbox, folder: Path) -> None:
    with pytest.raises(SpecError, match="id 70000 is none of the container's, 0 to 65535"):
        idle(sandbox, user=70000, mounts=[Mount(source=str(folder), target="/data")])


# ---------------------------------------------------------------- attacks, ends


# CVE-2021-30465 and CVE-2024-45310: a mount's target goes through a link that is in its place by then.
@EITHER_IDS
@EITHER_SCRATCH
@pytest.mark.parametrize("link", ["/etc", "../etc", "/proc/1/root/etc", "{outside}/etc", "/../../../..{outside}/etc"])
def test_a_target_that_has_become_a_link_leads_within_the_container(
        sandbox: Sandbox, folder: Path, tmp_path: Path, scratch: Scratch, link: str) -> None:
    outside = tmp_path / "outside"
    (outside / "etc").mkdir(parents=True)
    container = idle(sandbox, mounts=[Mount(source=str(folder), target="/srv/data/sub")], scratch=scratch)
    sh(container, f"mv /srv/data /srv/moved; ln -s {link.format(outside=outside)} /srv/data")
    if container.exec(["test", "-e", "/srv/data/"]).exit_code == 0 and "/proc" not in link:
        container.restart(timeout=0)
        assert sh(container, "cat /srv/data/sub/file") == "of the host"
    else:
        with pytest.raises(ContainerFailed, match=r"can't be mounted at /srv/data/sub: (.* link that leads nowhere|Too many levels)"):
            container.restart(timeout=0)
    assert list((outside / "etc").iterdir()) == []
    assert (folder / "file").read_text() == "of the host"


@EITHER_IDS
@EITHER_SCRATCH
@pytest.mark.usefixtures("writable")
def test_what_is_mounted_outlives_the_container_however_it_ends(
        sandbox: Sandbox, folder: Path, scratch: Scratch) -> None:
    def one() -> Container:
        return idle(sandbox, mounts=[Mount(source=str(folder), target="/data", read_only=False)], scratch=scratch)
    stopped, killed, removed, restarted, left = (one() for _ in range(5))
    stopped.stop(timeout=0)
    killed.kill()
    removed.remove()
    for _ in range(3):
        restarted.restart(timeout=0)
    assert sh(restarted, "cat /data/file; touch /data/after") == "of the host"
    assert left.status == "running"
    sandbox.close()
    assert (folder / "file").read_text() == "of the host"
    assert sorted(path.name for path in folder.iterdir()) == ["after", "file"]
