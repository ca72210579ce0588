"""The filter of system calls, from inside containers: what it denies, that it is on every process, and profiles of the user's."""

from __future__ import annotations

import json
import platform
import signal
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
from boxes import EITHER_IDS, FOREVER, idle, sh, status

from pytest_sealed import Container, ContainerFailed, Sandbox
from pytest_sealed.linux import libseccomp
from pytest_sealed.runtime.seccomp.profile import FAMILIES

OWN = FAMILIES[platform.machine()][0]
NULL, EVERY = 0, 0xFFFFFFFF
ALLOW = 0x7FFF0000

# What the kernel itself answers to these is something else than EPERM, whoever asks: it is the filter that is seen.
DENIED = {
    "add_key": (NULL,) * 5, "bpf": (0, NULL, 1 << 20), "get_mempolicy": (NULL,) * 5, "kcmp": (0, 0, 99, 0, 0), "keyctl": (9999,),
    "mount": (NULL,) * 5, "mount_setattr": (-1, NULL, EVERY, NULL, 0), "move_pages": (0, 0, NULL, NULL, NULL, EVERY),
    "open_tree": (-1, NULL, EVERY), "perf_event_open": (NULL, 0, 0, 0, EVERY), "pidfd_getfd": (-1, 0, 0),
    "process_madvise": (-1, NULL, 0, 0, EVERY), "request_key": (NULL,) * 4, "setns": (-1, 0), "umount2": (NULL, EVERY),
    "unshare": (0,), "userfaultfd": (1,), "clone": (0x10000000 | 0x200, 0, 0, 0, 0), "personality": (0x40000,),
    **({"modify_ldt": (0, NULL, 0)} if platform.machine() == "x86_64" else {}),
}
# Calls that the kernel denies to a container's root all the same, or that it may lack.
DENIED_TOO = {"io_uring_setup": (1, NULL), "io_uring_enter": (-1, 0, 0, 0, NULL, 0), "io_uring_register": (-1, 0, NULL, 0),
              "kexec_load": (0, 0, NULL, 0), "init_module": (NULL, 0, NULL), "open_by_handle_at": (-1, NULL, 0), "swapon": (NULL, 0),
              "syslog": (3, NULL, 0), "settimeofday": (NULL, NULL), "fanotify_init": (0, 0), "sethostname": (NULL, 0),
              "reboot": (0, 0, 0, NULL)}
GONE = {"clone3": (NULL, 0)}
ALLOWED = {"ptrace": (0, 0, 0, 0), "personality": (EVERY,), "futex_waitv": (NULL, 0, 0, NULL, 0), "openat2": (-1, NULL, NULL, 0)}

# Makes each call in a child, and prints the errno, 0 for success.
MAKE = """
import ctypes, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
for number, arguments in json.loads(sys.argv[1]):
    reader, writer = os.pipe()
    if os.fork() == 0:
        ctypes.set_errno(0)
        libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
        os.write(writer, str(ctypes.get_errno()).encode())
        os._exit(0)
    os.close(writer)
    os.wait()
    print(os.read(reader, 16).decode())
    os.close(reader)
"""


def answers(container: Container, calls: Mapping[str, tuple[int, ...]], *, user: str | None = None) -> dict[str, int]:
    """Return the errno of each call, made by a process in the container."""
    rows = []
    for name, arguments in calls.items():
        number = libseccomp.number(name, OWN)
        assert number is not None, name
        rows.append((number, arguments))
    printed = container.exec(["python3", "-c", MAKE, json.dumps(rows)], user=user, check=True, timeout=60).stdout.split()
    return dict(zip(calls, map(int, printed), strict=True))


@pytest.mark.parametrize("user", ["0", "1000"])
def test_calls_that_the_default_denies_are_denied(sandbox: Sandbox, user: str) -> None:
    container = sandbox.run("python", FOREVER)
    assert answers(container, DENIED | DENIED_TOO, user=user) == dict.fromkeys(DENIED | DENIED_TOO, 1)
    assert answers(container, GONE, user=user) == dict.fromkeys(GONE, 38)
    assert answers(container, {"ptrace": ALLOWED["ptrace"]}, user=user) == {"ptrace": 0}
    assert not {1, 38} & {*answers(container, ALLOWED, user=user).values()}


def test_an_unconfined_container_can_make_them(sandbox: Sandbox) -> None:
    container = sandbox.run("python", FOREVER, seccomp="unconfined")
    made = answers(container, DENIED)
    assert {name: made[name] for name in made if made[name] == 1} == {}
    assert answers(container, GONE)["clone3"] not in (1, 38)
    assert status(container)["Seccomp"] == "0"


SOCKETS = "import socket\nfor family in (1, 2, 10, 16, 38, 40, 31):\n" \
          "  try: socket.socket(family, 2 if family < 38 else 5 if family == 38 else 1).close(); print(family, 0)\n" \
          "  except OSError as error: print(family, error.errno)"


def test_sockets_of_unusual_families_are_denied(sandbox: Sandbox) -> None:
    sealed, unconfined = (sandbox.run("python", FOREVER, seccomp=choice).exec(["python3", "-c", SOCKETS], check=True).stdout.splitlines()
                          for choice in ("default", "unconfined"))
    assert sealed == ["1 0", "2 0", "10 0", "16 0", "38 1", "40 1", "31 1"]
    assert not {"38 1", "40 1", "31 1"} & set(unconfined)


# int 0x80 with getpid of i386; then x32's number of getpid.
OTHER_ABIS = {
    "i386": "import ctypes, mmap, os\n"
            "code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)\n"
            r"code.write(b'\xb8\x14\0\0\0\xcd\x80\xc3')" "\n"
            "print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))() == os.getpid())",
    "x32": "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nprint(libc.syscall(ctypes.c_long(0x40000000 + 39)) != 0)",
}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="i386 and x32 are ABIs of x86_64")
@pytest.mark.parametrize("abi", OTHER_ABIS)
def test_a_call_of_another_abi_of_the_machine_ends_the_process(sandbox: Sandbox, abi: str) -> None:
    ended, unconfined = (sandbox.run("python", ["python3", "-c", OTHER_ABIS[abi]], seccomp=choice)
                         for choice in ("default", "unconfined"))
    assert ended.wait(60) == 128 + signal.SIGSYS
    assert ended.logs() == ""
    assert "was ended by SIGSYS: its filter of system calls does that to a program of another ABI, such as " in ended.obituary()
    unconfined.wait(60)
    assert unconfined.logs() == "True\n", "else something else than the filter denies it"


@EITHER_IDS
@pytest.mark.parametrize("init", [False, True])
def test_every_process_of_a_container_has_the_filter(sandbox: Sandbox, init: bool) -> None:
    container = idle(sandbox, init=init)
    rows = sh(container, "grep -H Seccomp: /proc/[0-9]*/status").splitlines()
    assert len(rows) >= 3 if init else len(rows) >= 2
    assert {row.partition(":")[2].split()[-1] for row in rows} == {"2"}
    assert status(container)["Seccomp"] == "2"
    container.stop(timeout=0)
    container.restart()
    assert status(container, 1)["Seccomp"] == "2"


def test_a_root_without_the_capability_has_chroot_denied_by_a_filter_of_its_own(sandbox: Sandbox) -> None:
    assert status(idle(sandbox))["Seccomp_filters"] == "1"
    container = idle(sandbox, capabilities=["CHOWN"])
    assert status(container)["Seccomp_filters"] == "2"
    assert container.exec(["chroot", "/", "true"]).exit_code != 0


# ---------------------------------------------------------------- profiles of the user's


def write(path: Path, *rules: dict[str, object], default: str = "SCMP_ACT_ALLOW") -> Path:
    path.write_text(json.dumps({"defaultAction": default, "syscalls": list(rules)}))
    return path


@EITHER_IDS
def test_a_profile_of_the_users_is_what_counts(sandbox: Sandbox, tmp_path: Path) -> None:
    path = write(tmp_path / "no-folders.json", {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28})
    container = idle(sandbox, seccomp=path)
    for script in ("mkdir /tmp/a", "unshare -u true && mkdir /tmp/a"):
        result = container.exec(["sh", "-c", script])
        assert (result.exit_code, "No space left on device" in result.stderr) == (1, "unshare" not in script), result.stderr
    assert status(container, 1)["Seccomp"] == "2"


def test_a_filter_is_set_when_all_that_the_runtime_does_is_done(sandbox: Sandbox, tmp_path: Path) -> None:
    """What Docker's profile allows and starting a container takes may be denied to its command."""
    path = write(tmp_path / "strict.json", {
        "names": ["prlimit64", "setsid", "dup2", "dup3", "prctl", "capset", "setgroups", "setresuid", "setresgid", "fchdir",
                  "close_range", "umask", "sendmsg", "fcntl", "clone", "fork", "vfork"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1})
    for init in (False, True):
        container = sandbox.run("busybox", ["echo", "hello"], seccomp=path, init=init, ulimits={"core": 0})
        assert container.wait(60) == 0
        assert container.logs() == "hello\n"


def test_a_ready_program_is_set_as_it_is(sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "all.bpf"
    path.write_bytes(struct.pack("=HBBI", 6, 0, 0, ALLOW))
    assert status(idle(sandbox, seccomp=path))["Seccomp"] == "2"


def test_a_program_that_the_kernel_refuses_is_an_error_with_the_remedy(sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "bad.bpf"
    path.write_bytes(b"\xff" * 8)
    with pytest.raises(ContainerFailed) as caught:
        idle(sandbox, seccomp=path)
    assert caught.value.message.endswith("did not start: the kernel refuses its filter of system calls: it is no program of classic "
                                         "BPF for seccomp(2), or this kernel has no filters (CONFIG_SECCOMP_FILTER)")
    assert caught.value.remedy == 'run it without a filter: seccomp="unconfined"'


def test_a_profile_that_denies_execve_is_told(sandbox: Sandbox, tmp_path: Path) -> None:
    path = write(tmp_path / "none.json", {"names": ["execve"], "action": "SCMP_ACT_ERRNO"})
    with pytest.raises(ContainerFailed, match="true can't be executed: Operation not permitted"):
        sandbox.run("busybox", ["/bin/true"], seccomp=path)


# ---------------------------------------------------------------- one id

# What entrypoints of stock images do: give the data to the service's user, become that user, serve.
ENTRYPOINT = """
set -e
test "$(id -u)" = 0
echo app:x:33:33::/srv:/bin/sh >> /etc/passwd
echo app:x:33: >> /etc/group
mkdir -p /srv/data
touch /srv/data/a
chown -R app:app /srv/data
chown -h app /srv/data/a
chgrp app /srv/data
exec su app -c 'touch /srv/data/b && echo serving'
"""


@pytest.mark.parametrize("sandbox", ["single"], indirect=True)
def test_with_one_id_an_entrypoint_that_changes_owners_and_becomes_a_user_runs(sandbox: Sandbox) -> None:
    container = sandbox.run("busybox", ["sh", "-c", ENTRYPOINT])
    assert container.wait(60) == 0, container.logs()
    assert container.logs() == "serving\n"
    unconfined = sandbox.run("busybox", ["sh", "-c", ENTRYPOINT], seccomp="unconfined")
    assert unconfined.wait(60) != 0, "else this test shows nothing"
    assert "Invalid argument" in unconfined.logs()


@pytest.mark.parametrize("sandbox", ["single"], indirect=True)
def test_with_one_id_only_a_root_with_the_capabilities_is_told_so(sandbox: Sandbox) -> None:
    attempt = "touch /tmp/a && chown 33 /tmp/a"
    assert idle(sandbox).exec(["sh", "-c", attempt]).exit_code == 0
    for container in (idle(sandbox, user="1000"), idle(sandbox, capabilities=["SETUID", "SETGID"])):
        assert container.exec(["sh", "-c", attempt]).exit_code != 0
