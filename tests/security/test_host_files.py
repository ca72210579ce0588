"""The host's files: what runs the session, the image store, and folders that a container may write to."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from boxes import EITHER_IDS, EITHER_SCRATCH, NEEDS_ROOT, Scratch, idle, sh
from weakened import weakened

from pytest_sealed import ContainerFailed, Mount, Sandbox
from pytest_sealed.request import run_request
from pytest_sealed.runtime import launch
from pytest_sealed.values import CAPABILITIES

# ---------------------------------------------------------------- what runs the session

# CVE-2019-5736: a command that is a link to the program that starts it, which is the host's, keeps hold of that. Here it is the
# interpreter, which the supervisor goes on running, so that it can't be written to anyway (ETXTBSY): its mode can.
OVERWRITE = """
import os, sys
if len(sys.argv) == 1:
    interpreter = os.open("/proc/self/exe", os.O_PATH)
    os.set_inheritable(interpreter, True)
    os.execv("/usr/bin/python3", ["python3", "/attack", str(interpreter)])
link = f"/proc/self/fd/{sys.argv[1]}"
print(os.stat(link).st_ino)
for attack in (lambda: os.open(link, os.O_WRONLY), lambda: os.open(link, os.O_RDWR), lambda: os.chmod(link, 0o4777),
               lambda: os.utime(link), lambda: os.setxattr(link, "user.evil", b"x"), lambda: os.truncate(link, 0)):
    try:
        attack()
        print("done")
    except OSError as error:
        print(error.errno)
"""


@pytest.fixture
def interpreter(tmp_path: Path) -> Path:
    """A copy of this interpreter that belongs to the account, as those of uv and pyenv do."""
    path = tmp_path / "python/bin/python3"
    path.parent.mkdir(parents=True)
    shutil.copy(launch.interpreter(), path)
    (tmp_path / "python/lib").mkdir()
    library = Path(sysconfig.get_path("stdlib"))
    (tmp_path / "python/lib" / library.name).symlink_to(library)
    return path


def overwritten(sandbox: Sandbox, interpreter: Path) -> list[str]:
    """Return what each attack of a container's on the interpreter came to: "done" or an errno."""
    # The store for one id has no Python: the host's will do.
    container = idle(sandbox, mounts=[Mount(source="/usr", target="/usr")])
    container.write_text("/attack", OVERWRITE)
    inode, *came = container.exec(["/proc/self/exe", "-I", "-S", "/attack"], check=True).stdout.split()
    assert int(inode) == interpreter.stat().st_ino, "it has hold of something else"
    return came


@pytest.mark.parametrize("ids", ["range", "single"])
def test_the_interpreter_of_the_session_cannot_be_changed(tmp_path: Path, interpreter: Path, ids: str) -> None:
    def look() -> tuple[int, int, bytes]:
        facts = interpreter.stat()
        return facts.st_mode, facts.st_mtime_ns, interpreter.read_bytes()
    before = look()
    with weakened(tmp_path, ids=ids, interpreter=interpreter) as sandbox:   # nothing is: it has another interpreter, that's all
        came = overwritten(sandbox, interpreter)
        assert "done" not in came
        assert came[2:5] == ["30"] * 3   # EROFS: it isn't an owner or a mode alone that protects it
    assert look() == before


def test_where_its_mounts_are_writable_it_can(tmp_path: Path, interpreter: Path) -> None:
    seal = ("bootstrap.py",
            "    mounts.mount_setattr(\"/\", set=mounts.MOUNT_ATTR_RDONLY | mounts.MOUNT_ATTR_NOSUID, recursive=True)\n", "")
    with weakened(tmp_path, seal, ids="single", interpreter=interpreter) as sandbox:
        assert overwritten(sandbox, interpreter)[2] == "done"
    assert stat.S_IMODE(interpreter.stat().st_mode) == 0o4777


# ---------------------------------------------------------------- folders that a container may write to

# Every way to a set-user-ID or set-group-ID file, and to one with capabilities.
PLANT = """
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)

def call(number, *arguments):
    if libc.syscall(ctypes.c_long(number), *arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

def made(name):
    fd = os.open(name, os.O_CREAT | os.O_RDWR, 0o755)
    os.write(fd, b"evil")
    return fd

def unnamed(name, mode):
    os.link(f"/proc/self/fd/{os.open('.', os.O_TMPFILE | os.O_RDWR, mode)}", name, src_dir_fd=os.open(".", 0), follow_symlinks=True)

def openat2(name, mode):
    call(437, -100, name.encode(), struct.pack("QQQ", os.O_CREAT | os.O_WRONLY, mode, 0), ctypes.c_size_t(24))

WAYS = {
    "fchmod": lambda name, mode: os.fchmod(made(name), mode),
    "chmod": lambda name, mode: (made(name), os.chmod(name, mode)),
    "fchmodat2": lambda name, mode: (made(name), call(452, -100, name.encode(), mode, 0)),
    "openat": lambda name, mode: os.open(name, os.O_CREAT | os.O_WRONLY, mode),
    "openat2": openat2,
    "mknod": os.mknod,
    "unnamed": unnamed,
    "capabilities": lambda name, mode: os.setxattr(made(name), "security.capability",
                                                   struct.pack("<IIIII", 0x02000001, 0xffffffff, 0, 0xffffffff, 0)),
}
os.umask(0)
os.chdir("/shared")
for way in WAYS:
    for mode in (0o4755, 0o2755):
        try:
            WAYS[way](f"{way}-{mode:o}", mode)
        except OSError as error:
            print(way, error)
"""


def planted(sandbox: Sandbox, folder: Path, **options: Any) -> set[str]:
    """Return in which ways a container's root has left files that give whoever runs them more than he has."""
    container = idle(sandbox, mounts=[Mount(source="/usr", target="/usr"), Mount(source=str(folder), target="/shared", read_only=False)],
                     **options)
    container.exec(["python3", "-c", PLANT], check=True)
    return {path.name.partition("-")[0] for path in folder.iterdir()
            if path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID) or "security.capability" in os.listxattr(path)}


@EITHER_IDS
def test_no_file_with_privileges_can_be_planted_in_a_host_folder(sandbox: Sandbox, shared: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    own.write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    cases: dict[str, dict[str, Any]] = {"default": {}, "profile": {"seccomp": own}, "disk": {"scratch": "disk"}}
    for name, options in cases.items():
        (shared / name).mkdir()
        assert planted(sandbox, shared / name, **options) == set()


@EITHER_IDS
def test_without_the_filter_and_with_one_more_capability_each_of_them_can(
        sandbox: Sandbox, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def strong(*arguments: Any, **options: Any) -> dict[str, Any]:
        return {**run_request(*arguments, **options), "capabilities": list(CAPABILITIES.values())}
    monkeypatch.setattr("pytest_sealed.container.run_request", strong)
    assert planted(sandbox, shared, seccomp="unconfined") >= {"chmod", "fchmod", "openat", "openat2", "mknod", "unnamed", "capabilities"}


def test_in_its_own_files_a_container_may_have_such_programs(sandbox: Sandbox) -> None:
    container = idle(sandbox)
    sh(container, "touch /tmp/su && chmod 4755 /tmp/su && test -u /tmp/su")


# ---------------------------------------------------------------- the image store

CHANGE = "echo evil >> /bin/busybox; chmod 777 /etc; rm -r /usr/share /etc/passwd; ln -sf /nowhere /etc/group; mv /var /moved; touch /new"


def contents(layers: tuple[Path, ...]) -> list[tuple[str, int, int, str]]:
    return sorted((str(path), path.lstat().st_mode, path.lstat().st_mtime_ns,
                   hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() and not path.is_symlink() else "")
                  for layer in layers for path in layer.rglob("*"))


@NEEDS_ROOT
@EITHER_IDS
@EITHER_SCRATCH
def test_what_a_container_does_to_its_files_it_does_to_no_image(sandbox: Sandbox, scratch: Scratch) -> None:
    layers = sandbox.store.get("busybox").layers
    before = contents(layers)
    container = idle(sandbox, scratch=scratch)
    container.exec(["sh", "-c", CHANGE])
    assert sh(container, "cat /new; ls -d /moved").split() == ["/moved"]
    assert contents(layers) == before
    assert "root" in idle(sandbox, scratch=scratch).read_text("/etc/passwd")


# ---------------------------------------------------------------- a directory that leads out

# CVE-2024-21626: a descriptor of the host's is open while the working directory is entered, and named as that.
LEAK = ("spawn.py", "        mount_ns = os.open(", "        os.open('/', os.O_PATH)\n        mount_ns = os.open(")
FOLLOW = ("spawn.py", "        fd = files.openat2(root_fd, path, os.O_PATH | os.O_DIRECTORY)\n",
          "        fd = os.open(path, os.O_PATH | os.O_DIRECTORY)\n")
LOOK_OUTSIDE = ("spawn.py", "        os.getcwd()", "        path")


def seen_from_descriptors(sandbox: Sandbox) -> list[set[str]]:
    """Return what lies in each folder that a command can be started in by way of the runtime's descriptors."""
    container = idle(sandbox)
    seen = []
    for number in range(3, 48):
        try:
            seen.append(set(container.exec(["ls", "-A"], workdir=f"/proc/self/fd/{number}").stdout.split()))
        except ContainerFailed:
            continue
    return seen


def test_no_descriptor_of_the_runtimes_can_be_the_working_directory(tmp_path: Path) -> None:
    with weakened(tmp_path, LEAK) as sandbox:
        assert seen_from_descriptors(sandbox) == []


def test_where_links_to_descriptors_are_followed_one_can(tmp_path: Path) -> None:
    with weakened(tmp_path, LEAK, FOLLOW, LOOK_OUTSIDE) as sandbox:
        assert set(os.listdir("/")) in seen_from_descriptors(sandbox)
