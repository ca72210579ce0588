"""Commands beside the container's own: their results, streams, identity, limits of time, and failures."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from boxes import EITHER_IDS, FOREVER, NEEDS_ROOT, children, eventually, idle, sh, state, status
from weakened import weakened

from pytest_sealed import ContainerFailed, ContainerNotStarted, ExecTimeout, Sandbox, SpecError

MIB = 1 << 20


# ---------------------------------------------------------------- results


@EITHER_IDS
@pytest.mark.parametrize(("script", "code"), [("true", 0), ("exit 3", 3), ("exit 255", 255), ("kill -TERM $$", 128 + 15),
                                              ("kill -KILL $$", 128 + 9)])
def test_the_exit_code_is_the_commands_or_128_and_the_signal(sandbox: Sandbox, script: str, code: int) -> None:
    result = idle(sandbox).exec(["sh", "-c", script])
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", "")


@EITHER_IDS
def test_the_two_streams_are_kept_apart_and_bytes_are_kept(sandbox: Sandbox) -> None:
    result = idle(sandbox).exec(["sh", "-c", r"printf 'out\377\n'; printf 'err\000' >&2"])
    assert (result.stdout_bytes, result.stderr_bytes) == (b"out\xff\n", b"err\0")
    assert (result.stdout, result.stderr) == ("out\ufffd\n", "err\0")


def test_much_output_on_both_streams_is_all_there(sandbox: Sandbox) -> None:
    result = idle(sandbox).exec(["sh", "-c", "yes out | head -c 4194304; yes err | head -c 4194304 >&2"])
    assert result.stdout_bytes == b"out\n" * MIB
    assert result.stderr_bytes == b"err\n" * MIB


@EITHER_IDS
@pytest.mark.parametrize("data", ["", "a line\n", "no newline", b"\xff\0\n" * 5, "\N{SNOWMAN}"])
def test_what_is_given_is_what_the_command_reads(sandbox: Sandbox, data: str | bytes) -> None:
    result = idle(sandbox).exec(["cat"], stdin=data)
    assert result.stdout_bytes == (data.encode() if isinstance(data, str) else data)


def test_much_input_and_output_at_once_do_not_stall(sandbox: Sandbox) -> None:
    data = bytes(range(256)) * (8 * MIB // 256)
    assert idle(sandbox).exec(["cat"], stdin=data).stdout_bytes == data


def test_input_that_nobody_reads_is_no_error(sandbox: Sandbox) -> None:
    result = idle(sandbox).exec(["sh", "-c", "exec <&-; echo done"], stdin=b"x" * 8 * MIB)
    assert (result.exit_code, result.stdout) == (0, "done\n")


def test_without_input_there_is_none(sandbox: Sandbox) -> None:
    assert idle(sandbox).exec(["cat"]).stdout == ""


def test_what_a_command_leaves_running_keeps_nobody_waiting(sandbox: Sandbox) -> None:
    container = idle(sandbox)
    result = container.exec(["sh", "-c", "sleep 1000000 & echo started"])
    assert (result.exit_code, result.stdout) == (0, "started\n")
    eventually(lambda: len(sh(container, "pidof sleep").split()) == 2, "what was left running sleeps beside the container's own")


# ---------------------------------------------------------------- identity


@EITHER_IDS
def test_a_command_runs_as_the_container_does(sandbox: Sandbox) -> None:
    container = idle(sandbox, user="nobody", workdir="/tmp", env={"A": "1", "B": "1"})
    assert sh(container, "id -u; pwd; echo $A$B $HOME $HOSTNAME").split() == ["65534", "/tmp", "11", "/nonexistent", "busybox"]
    result = container.exec(["sh", "-c", "pwd; echo $A$B$C"], env={"B": "2", "C": "3"}, workdir="/usr")
    assert result.stdout.split() == ["/usr", "123"]


@pytest.mark.parametrize(("user", "ids"), [("root", "0 0 0"), (0, "0 0 0"), ("nobody", "65534 65534 65534"), ("7:8", "7 8 8"),
                                           (1000, "1000 0 0"), ("nobody:7", "65534 7 7")])
@pytest.mark.usefixtures("several_ids")
def test_a_command_can_run_as_another_user(sandbox: Sandbox, user: str | int, ids: str) -> None:
    result = idle(sandbox).exec(["sh", "-c", "echo $(id -u; id -g; id -G)"], user=user)
    assert result.stdout == f"{ids}\n"


@EITHER_IDS
def test_a_command_is_in_the_containers_namespaces_and_cgroups(sandbox: Sandbox) -> None:
    container = idle(sandbox, memory="64M")
    look = "for name in ipc mnt net pid uts cgroup user; do readlink /proc/{}/ns/$name; done"
    assert sh(container, look.format("self")) == sh(container, look.format("1"))
    assert sh(container, "cat /proc/self/cgroup") == sh(container, "cat /proc/1/cgroup")
    before = container.stats().memory_peak or 0
    sh(container, "head -c 20000000 /dev/zero | tail -c 20000000 > /dev/null")
    assert (container.stats().memory_peak or 0) > before + 10_000_000


def test_ulimits_and_capabilities_are_the_containers(sandbox: Sandbox) -> None:
    container = idle(sandbox, ulimits={"nofile": (100, 200)}, capabilities=["KILL"])
    assert sh(container, "ulimit -Sn; ulimit -Hn").split() == ["100", "200"]
    assert container.exec(["chroot", "/", "true"]).exit_code != 0


# ---------------------------------------------------------------- time


@EITHER_IDS
def test_a_command_beyond_its_time_is_killed(sandbox: Sandbox) -> None:
    container = idle(sandbox, name="web")
    with pytest.raises(ExecTimeout) as caught:
        container.exec(["sh", "-c", "echo working; echo hard >&2; exec sleep 1234567"], timeout=0.2)
    assert caught.value.message.splitlines()[0] == (
        "the command sh -c 'echo working; echo hard >&2; exec sleep 1234567' in container 'web' ran longer than 0.2 s and was killed")
    assert caught.value.remedy == "give exec() a longer timeout="
    assert isinstance(caught.value, TimeoutError)
    with pytest.raises(ExecTimeout, match="ran longer than"):
        container.exec(["sh", "-c", "sleep 1234567; true"], timeout=0.2)
    eventually(lambda: "1234567" not in sh(container, "ps"), "the commands and what they waited for are gone")
    assert container.status == "running"


def test_a_command_without_any_time_leaves_nothing_running(sandbox: Sandbox) -> None:
    container = idle(sandbox)
    for _ in range(20):   # the caller is gone before it is known which process the command is
        with pytest.raises(ExecTimeout):
            container.exec(["sleep", "1234567"], timeout=0)
    eventually(lambda: "1234567" not in sh(container, "ps"), "the commands are gone")


@NEEDS_ROOT
def test_an_end_is_never_taken_for_that_of_an_earlier_process_with_the_same_pid(tmp_path: Path) -> None:
    """A process that served a copy ends, with 0, while it isn't known yet which process a command is; and that one gets its pid."""
    with weakened(tmp_path, ("execs.py", "record.mount_ns, self._s.ids, reply, fds)\n",
                             "record.mount_ns, self._s.ids, reply, fds)\n                signal.sigtimedwait([], 1)\n")) as sandbox:
        container = idle(sandbox)
        sh(container, "true")   # so that the pids before the next are free again
        supervisor = sandbox.session.pid
        before = children(supervisor)
        container.read_text("/etc/passwd")
        [copier] = children(supervisor) - before
        codes: list[int] = []
        asks = threading.Thread(target=lambda: codes.append(container.exec(["sh", "-c", "exit 3"]).exit_code))
        os.kill(supervisor, signal.SIGSTOP)
        try:
            asks.start()
            eventually(lambda: state(copier) == "Z", "it has ended")
            number = next(line.split()[-1] for line in Path(f"/proc/{copier}/status").read_text().splitlines() if line.startswith("NSpid"))
            again = f"echo {int(number) - 2} > /proc/sys/kernel/ns_last_pid"   # a command is the second process that an exec forks
            subprocess.run(["nsenter", f"--pid=/proc/{supervisor}/ns/pid", "sh", "-c", again], check=True)
        finally:
            os.kill(supervisor, signal.SIGCONT)
        asks.join()
    assert codes == [3]


def test_many_commands_at_once(sandbox: Sandbox) -> None:
    container = idle(sandbox)
    results: dict[int, str] = {}

    def run(number: int) -> None:
        results[number] = container.exec(["sh", "-c", f"cat; echo {number}"], stdin=f"in{number} ").stdout
    threads = [threading.Thread(target=run, args=[number]) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: f"in{number} {number}\n" for number in range(20)}


# ---------------------------------------------------------------- size


@EITHER_IDS
@pytest.mark.parametrize(("stream", "to"), [("stdout", ""), ("stderr", ">&2")])
def test_output_without_end_is_kept_within_bounds_and_ended(sandbox: Sandbox, stream: str, to: str) -> None:
    container = idle(sandbox, name="web")
    with pytest.raises(ContainerFailed) as caught:
        container.exec(["sh", "-c", f"cat /dev/zero {to}"], timeout=60)
    assert caught.value.message == (
        f"the command sh -c 'cat /dev/zero {to}' in container 'web' wrote more to its {stream} than the 16 MiB that exec() keeps")
    assert "get()" in caught.value.remedy
    assert "max_output=" in caught.value.remedy
    eventually(lambda: "/dev/zero" not in sh(container, "ps"), "the command is gone")
    assert container.status == "running"


def test_the_bound_of_output_is_the_callers_and_exact(sandbox: Sandbox) -> None:
    container = idle(sandbox)
    assert container.exec(["head", "-c", "1024", "/dev/zero"], max_output="1K").stdout_bytes == b"\0" * 1024
    for command in (["head", "-c", "1025", "/dev/zero"], ["sh", "-c", "head -c 1025 /dev/zero >&2; exit 1"]):
        with pytest.raises(ContainerFailed, match="than the 1 KiB that exec"):
            container.exec(command, max_output=1024, check=True)
    assert len(container.exec(["head", "-c", str(20 * MIB), "/dev/zero"], max_output="20M").stdout_bytes) == 20 * MIB
    with pytest.raises(SpecError, match="max_output='much' is no size"):
        container.exec(["true"], max_output="much")


def test_what_a_command_leaves_writing_for_ever_keeps_nobody_waiting(sandbox: Sandbox) -> None:
    container = idle(sandbox)
    assert container.exec(["sh", "-c", "yes & yes & sleep 0.01"], timeout=60, max_output="256M").exit_code == 0
    sh(container, "killall yes")


def test_an_error_quotes_only_the_end_of_a_long_line(sandbox: Sandbox) -> None:
    with pytest.raises(ContainerFailed) as caught:
        idle(sandbox).exec(["sh", "-c", "yes x | head -n 1000000 | tr -d '\\n' >&2; echo end >&2; exit 1"], check=True)
    assert len(str(caught.value)) < 5000
    assert str(caught.value).endswith("xend")


# ---------------------------------------------------------------- processes


@EITHER_IDS
@pytest.mark.parametrize(("pids", "init"), [(1, False), (2, False), (2, True)])
def test_a_container_without_room_for_a_command_says_so(sandbox: Sandbox, pids: int, init: bool) -> None:
    container = idle(sandbox, name="web", pids=pids, init=init)
    for _ in range(3):
        with pytest.raises(ContainerFailed) as caught:
            container.exec(["true"])
        assert caught.value.message == ("exec in container 'web': no process could be made for the command: "
                                        f"the container's limit is reached (pids={pids}, and a command takes 2 to start)")
        assert caught.value.remedy == f"give the container pids={pids + 2} or more; stats().pids tells how many it has"
    with pytest.raises(ContainerFailed, match="no process could be made for the command"):
        container.wait_for_exec(["true"], timeout=60)
    assert container.status == "running"
    container.write_text("/file", "copies need no process of its own")
    assert container.read_text("/file")


@EITHER_IDS
def test_a_command_needs_no_more_room_than_is_said(sandbox: Sandbox) -> None:
    assert idle(sandbox, pids=3).exec(["echo", "there is room"]).stdout == "there is room\n"


# ---------------------------------------------------------------- failures


@EITHER_IDS
@pytest.mark.parametrize(("command", "why"), [
    (["nosuch"], "exec in container 'web': there is no 'nosuch' in the image in PATH=/usr/local/sbin:"),
    (["/nosuch"], "exec in container 'web': there is no '/nosuch' in the image"),
    (["/etc/passwd"], "exec in container 'web': /etc/passwd is not executable for the user root (permission denied)"),
    (["/etc"], "exec in container 'web': /etc is not executable for the user root (permission denied)"),
    (["/text"], "exec in container 'web': /text can't be executed: Exec format error"),
    (["/script"], "exec in container 'web': /script: its interpreter (the #! line or the dynamic loader) is not in the image"),
    (["", "x"], "exec in container 'web': the first word of the command ['', 'x'] is empty"),
])
def test_a_command_that_cannot_start_says_why(sandbox: Sandbox, command: list[str], why: str) -> None:
    container = idle(sandbox, name="web")
    container.write_text("/text", "hello", mode=0o755)
    container.write_text("/script", "#!/bin/bash\n", mode=0o755)
    with pytest.raises(ContainerFailed) as caught:
        container.exec(command)
    assert caught.value.message.startswith(why)
    assert caught.value.remedy == "look into it: sealed run -ti busybox sh"


def test_a_command_of_nothing_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(SpecError, match="exec\\(\\) was given no command\n  remedy: for example exec"):
        idle(sandbox).exec([])
    with pytest.raises(SpecError, match="is no list of strings"):
        idle(sandbox).exec("ls /")


@pytest.mark.parametrize("sandbox", ["single"], indirect=True)
@pytest.mark.parametrize("user", ["1000", "0:7"])
def test_in_single_id_mode_no_command_can_have_another_user(sandbox: Sandbox, user: str) -> None:
    container = idle(sandbox, name="web")
    with pytest.raises(SpecError) as caught:
        container.exec(["true"], user=user)
    uid, _, gid = user.partition(":")
    assert caught.value.message == ("exec in container 'web': in single-id mode a container has the ids of its own user only, "
                                    f"and not {uid}:{gid or 0}")
    assert "usermod --add-subuids" in caught.value.remedy


@pytest.mark.parametrize(("user", "why"), [("nosuch", "the container's /etc/passwd has no user 'nosuch'"),
                                           ("4294967295", "id 4294967295 is none of the container's, 0 to 65535")])
def test_an_unknown_user_is_refused(sandbox: Sandbox, user: str, why: str) -> None:
    with pytest.raises(SpecError) as caught:
        idle(sandbox, name="web").exec(["true"], user=user)
    assert caught.value.message == f"exec in container 'web': {why}"
    assert caught.value.remedy == "give user= a name of the image's /etc/passwd, or a number"


@pytest.mark.parametrize("user", ["", ":7", "nobody:", True, 1.5])
def test_what_is_no_user_is_not_taken_for_root(sandbox: Sandbox, user: Any) -> None:
    with pytest.raises(SpecError, match="is no user\n  remedy: for example user="):
        idle(sandbox).exec(["true"], user=user)


def test_a_working_directory_that_is_not_there_is_named(sandbox: Sandbox) -> None:
    with pytest.raises(ContainerFailed, match="exec in container 'web': the working directory '/nosuch' can't be entered"):
        idle(sandbox, name="web").exec(["true"], workdir="/nosuch")


def test_a_checked_command_that_fails_shows_what_it_said(sandbox: Sandbox) -> None:
    with pytest.raises(ContainerFailed) as caught:
        idle(sandbox, name="web").exec(["sh", "-c", "echo out; echo err >&2; exit 1"], check=True)
    assert caught.value.message == (
        "sh -c 'echo out; echo err >&2; exit 1' in container 'web' exited with code 1\n  it said:\n    err")


@EITHER_IDS
def test_a_command_whose_container_ends_is_killed(sandbox: Sandbox) -> None:
    container = sandbox.run("busybox", ["sh", "-c", "until [ -e /go ]; do :; done; exit 7"], name="web")
    result = container.exec(["sh", "-c", "echo going; touch /go; exec sleep 1000000"])
    assert (result.exit_code, result.stdout) == (128 + 9, "going\n")
    assert container.wait(60) == 7
    with pytest.raises(ContainerNotStarted, match="container web is stopped, not running"):
        container.exec(["true"])


@pytest.mark.usefixtures("several_ids")
def test_a_hostile_passwd_neither_hangs_nor_changes_a_commands_user(sandbox: Sandbox) -> None:
    container = idle(sandbox)
    sh(container, "rm /etc/passwd; mkfifo /etc/passwd; ln -sf /proc/1/fd/0 /etc/group")
    assert status(container, user="1000")["Uid"].split() == ["1000"] * 4   # `id` itself would wait for the FIFO
    with pytest.raises(SpecError, match="has no user 'root'"):
        container.exec(["true"], user="root", timeout=60)


def test_a_command_can_run_in_an_image_of_another_shape(sandbox: Sandbox) -> None:
    container = sandbox.run("python", FOREVER)
    assert container.exec(["python3", "-c", "import sys; print(sys.argv[1:])", "a b"]).stdout == "['a b']\n"
