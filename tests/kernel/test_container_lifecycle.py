"""From a plan to nothing left: starts, exit codes and signals, stop and kill, removal."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from boxes import EITHER_IDS, EITHER_SCRATCH, FOREVER, NEEDS_ROOT, OBEDIENT, Scratch, eventually, host_pid, idle, logged, sh

from pytest_sealed import Container, ContainerNotStarted, Sandbox, SpecError, image, log

READY = log("^ready$")


# ---------------------------------------------------------------- the start


def test_a_plan_has_facts_and_runs_nothing(sandbox: Sandbox) -> None:
    container = sandbox.run("busybox", FOREVER, start=False, ports=[80], name="web")
    assert (container.name, container.status, container.image, container.argv) == ("web", "creating", "busybox", FOREVER)
    assert container.url(80, "health") == f"http://127.0.0.1:{container.port(80)}/health"
    assert (container.exit_code, container.exit_signal, container.oom_killed) == (None, None, False)
    assert (container.started_at, container.start_seconds) == (None, None)


@pytest.mark.parametrize("action", [
    lambda container: container.exec(["true"]), lambda container: container.wait(1), lambda container: container.stop(),
    lambda container: container.signal(15), lambda container: container.pause(), lambda container: container.unpause(),
    lambda container: container.stats(), lambda container: container.read_text("/etc/passwd"), lambda container: container.address,
    lambda container: container.wait_for_port(80), lambda container: container.restart(),
], ids=range(11))
def test_a_plan_can_only_be_read_and_started(sandbox: Sandbox, action: object) -> None:
    container = sandbox.run("busybox", FOREVER, start=False, name="web")
    with pytest.raises(ContainerNotStarted) as caught:
        action(container)  # type: ignore[operator]
    assert "container 'web' " in caught.value.message
    assert caught.value.remedy
    container.start()
    assert container.status == "running"


def test_a_container_starts_once(sandbox: Sandbox) -> None:
    container = idle(sandbox, name="web")
    with pytest.raises(SpecError, match="container 'web' was started already\n  remedy: restart"):
        container.start()
    assert container.status == "running"
    assert container.start_seconds is not None


@EITHER_IDS
@EITHER_SCRATCH
@pytest.mark.parametrize("init", [False, True])
@pytest.mark.parametrize("code", [0, 1, 3, 127, 255])
def test_the_exit_code_is_the_commands(sandbox: Sandbox, scratch: Scratch, init: bool, code: int) -> None:
    container = sandbox.run("busybox", ["sh", "-c", f"exit {code}"], init=init, scratch=scratch)
    assert container.wait(60) == code
    assert container.wait() == code   # as often as one likes
    assert (container.status, container.exit_code, container.exit_signal, container.oom_killed) == ("stopped", code, None, False)


def test_the_command_is_pid_1_with_its_arguments_as_given(sandbox: Sandbox) -> None:
    words = ["a b", "$HOME", "*", "", "'\"", "\N{SNOWMAN}", "\n"]
    text = logged(sandbox, words, entrypoint=["sh", "-c", 'echo $$; for word; do printf "%s|" "$word"; done', "sh"])
    assert text == "1\n" + "|".join(words) + "|"


# ---------------------------------------------------------------- as what it runs: Docker's rules at work


@EITHER_IDS
def test_home_and_path_are_set_and_what_is_given_wins(sandbox: Sandbox) -> None:
    assert sh(idle(sandbox), "echo $HOME $HOSTNAME").split() == ["/root", "busybox"]
    assert sh(idle(sandbox, user="nobody"), "echo $HOME").split() == ["/nonexistent"]
    assert sh(idle(sandbox, user="4711"), "echo $HOME; id -u").split() == ["/", "4711"]
    assert sh(idle(sandbox, env={"HOME": "/srv", "EMPTY": ""}), "echo $HOME ${EMPTY-unset}").split() == ["/srv"]


def test_the_images_environment_and_stop_signal_are_used(sandbox: Sandbox) -> None:
    script = "import signal, sys, os\nprint(os.environ['PYTHONUNBUFFERED'], os.environ['LANG'])\n"
    script += "try: signal.pause()\nexcept KeyboardInterrupt: sys.exit(7)"
    container = sandbox.run("python", ["python3", "-c", script], env={"LANG": "C"}, wait=log("1 C"))
    container.stop()
    assert container.exit_code == 7


def test_the_working_directory_is_where_the_command_starts(sandbox: Sandbox) -> None:
    assert logged(sandbox, "pwd", workdir="/usr/bin") == "/usr/bin\n"
    assert logged(sandbox, "pwd") == "/\n"


@EITHER_IDS
@pytest.mark.parametrize("options", [{}, {"read_only": True}, {"init": True}, {"scratch": "disk"}, {"tmpfs": ["/srv"]}], ids=str)
def test_a_working_directory_that_is_missing_is_made_for_root(sandbox: Sandbox, options: Any) -> None:
    assert logged(sandbox, "pwd; stat -c '%u:%g %a' . ..", workdir="/srv/app/new/", **options) == "/srv/app/new\n0:0 755\n0:0 755\n"
    assert logged(sandbox, "ls -a /srv") == ".\n..\n"   # the image stays as it was


@pytest.mark.usefixtures("several_ids")
def test_another_user_starts_in_a_working_directory_that_was_made_but_can_write_nothing_there(sandbox: Sandbox) -> None:
    assert logged(sandbox, "pwd; touch new 2>/dev/null || echo no", workdir="/srv/new", user="nobody") == "/srv/new\nno\n"


@EITHER_IDS
def test_a_working_directory_of_very_many_names_is_made(sandbox: Sandbox) -> None:
    assert logged(sandbox, "pwd", workdir="/a" * 1500) == "/a" * 1500 + "\n"


def test_a_working_directory_may_be_given_by_a_way_round(sandbox: Sandbox) -> None:
    assert logged(sandbox, "pwd; ls -d /no 2>/dev/null || echo no", workdir="/no/../srv/./new") == "/srv/new\nno\n"


def test_a_relative_program_is_found_in_the_working_directory(sandbox: Sandbox) -> None:
    assert logged(sandbox, ["./echo", "here"], workdir="/usr/bin") == "here\n"
    assert logged(sandbox, ["there"], workdir="/usr", entrypoint=["bin/echo"]) == "there\n"


def test_the_program_is_looked_for_in_the_path_of_the_environment(sandbox: Sandbox) -> None:
    base = idle(sandbox)
    sh(base, "mkdir /opt/bin; printf '#!/bin/sh\\necho ours' > /opt/bin/id; chmod 755 /opt/bin/id")
    assert base.exec(["id"], env={"PATH": "/nowhere:/opt/bin:/bin"}).stdout == "ours\n"
    assert base.exec(["id", "-u"]).stdout == "0\n"


@EITHER_IDS
@pytest.mark.parametrize(("user", "uid", "gid"), [("nobody", "65534", "65534"), ("65534", "65534", "65534"), ("1000", "1000", "0"),
                                                  ("1000:1001", "1000", "1001"), ("nobody:0", "65534", "0")])
def test_the_user_is_found_in_the_containers_own_files(sandbox: Sandbox, user: str, uid: str, gid: str) -> None:
    assert logged(sandbox, "id -u; id -g; id -G", user=user).split() == [uid, gid, gid]


# ---------------------------------------------------------------- stop, signal, kill


@EITHER_IDS
@pytest.mark.parametrize("init", [False, True])
def test_stop_asks_by_the_stop_signal_and_the_command_may_finish(sandbox: Sandbox, init: bool) -> None:
    container = sandbox.run("busybox", OBEDIENT, wait=READY, init=init)
    container.stop()
    assert (container.status, container.exit_code) == ("stopped", 5)
    assert container.logs() == "ready\nbye\n"
    container.stop()   # no error


@EITHER_IDS
@pytest.mark.parametrize("name", ["USR1", "INT", "QUIT", "HUP"])
def test_the_stop_signal_can_be_another(sandbox: Sandbox, name: str) -> None:
    script = f"trap 'exit 6' {name}; trap '' TERM; echo ready; sleep 1000000 & wait"
    container = sandbox.run("busybox", ["sh", "-c", script], wait=READY, stop_signal=f"SIG{name}")
    container.stop()
    assert container.exit_code == 6


@EITHER_IDS
@pytest.mark.parametrize("init", [False, True])
def test_whoever_ignores_the_stop_signal_is_killed_after_the_grace(sandbox: Sandbox, init: bool) -> None:
    container = sandbox.run("busybox", ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1000; done"], wait=READY, init=init)
    container.stop(timeout=0.05)
    assert (container.status, container.exit_signal) == ("stopped", signal.SIGKILL)
    short = sandbox.run("busybox", FOREVER, stop_timeout=0.05)
    short.stop()   # PID 1 has no default action for TERM: see pid_namespaces(7)
    assert (short.exit_signal, short.exit_code, short.wait()) == (signal.SIGKILL, None, 128 + signal.SIGKILL)


def test_a_signal_reaches_pid_1(sandbox: Sandbox) -> None:
    script = "trap 'echo got HUP' HUP; trap 'echo got USR2; exit 0' USR2; echo ready; while :; do sleep 1000 & wait; done"
    container = sandbox.run("busybox", ["sh", "-c", script], wait=READY)
    container.signal("SIGHUP")
    container.wait_for_log("got HUP")
    container.signal(signal.SIGUSR2)
    assert container.wait(60) == 0
    assert container.logs() == "ready\ngot HUP\ngot USR2\n"
    with pytest.raises(ContainerNotStarted, match="is stopped, not running"):
        container.signal("HUP")
    with pytest.raises(SpecError, match="there is no signal 'SIGHUB', did you mean 'SIGHUP'"):
        container.signal("SIGHUB")


@NEEDS_ROOT
def test_kill_ends_every_process_of_it(sandbox: Sandbox) -> None:
    container = idle(sandbox)
    sh(container, "for i in 1 2 3; do setsid sleep 1000000 & done")
    namespace = os.readlink(f"/proc/{host_pid(container)}/ns/pid")
    assert len(_processes(namespace)) == 4
    container.kill()
    assert _processes(namespace) == []
    container.kill()   # no error
    assert (container.exit_signal, container.status) == (signal.SIGKILL, "stopped")


def _processes(namespace: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(path / "ns/pid") == namespace:
                found.append(path.name)
        except OSError:   # it has ended meanwhile
            continue
    return found


def test_whoever_waits_too_short_is_told(sandbox: Sandbox) -> None:
    container = idle(sandbox, name="web")
    with pytest.raises(TimeoutError, match=r"^container 'web' still runs after 0\.01 s$"):
        container.wait(timeout=0.01)
    assert container.status == "running"


# ---------------------------------------------------------------- the end


@pytest.mark.parametrize("timeout", [-1, float("nan"), "5", True])
def test_a_time_that_is_none_is_refused(sandbox: Sandbox, timeout: Any) -> None:
    container = idle(sandbox)
    for action in (container.wait, container.stop, container.restart, lambda timeout: container.exec(["true"], timeout=timeout),
                   lambda timeout: container.wait_for_log("x", timeout=timeout)):
        with pytest.raises(SpecError, match=f"timeout={timeout!r} is no number of seconds\n  remedy: for example timeout=5"):
            action(timeout)
    assert container.status == "running"


def test_a_time_may_be_without_end(sandbox: Sandbox) -> None:
    container = sandbox.run("busybox", OBEDIENT, wait=log("ready"), wait_timeout=math.inf, stop_timeout=math.inf)
    assert container.exec(["true"], timeout=math.inf).exit_code == 0
    container.wait_for_log("ready", timeout=math.inf)
    container.stop()
    assert container.wait(math.inf) == 5


def test_a_container_that_is_gone_gets_no_port(sandbox: Sandbox) -> None:
    container = idle(sandbox)
    known = container.port(80)
    container.remove()
    assert container.port(80) == known
    for _ in range(2):
        with pytest.raises(ContainerNotStarted, match="is removed"):
            container.port(81)
    assert list(container.ports) == [80]


@EITHER_IDS
@EITHER_SCRATCH
def test_after_its_removal_there_is_nothing_but_memories(sandbox: Sandbox, scratch: Scratch) -> None:
    container = sandbox.run("busybox", OBEDIENT, wait=READY, scratch=scratch, memory="64M", name="web")
    address = container.address
    container.write_text("/file", "x")
    container.remove()
    container.remove()   # no error
    assert container.status == "stopped"
    assert container.logs() == "ready\n"
    for action in (lambda: container.exec(["true"]), lambda: container.read_text("/file"), container.restart, container.stop):
        with pytest.raises(ContainerNotStarted, match="container 'web' is removed"):
            action()
    session = sandbox.session
    eventually(lambda: not (session.disk / container.id).exists(), "its writable layer is gone")
    assert not any(Path(base, f"sealed-{session.name}", container.id).exists() for base in session.hierarchy.bases.values())
    again = idle(sandbox, name="web")
    assert again.address == address
    assert again.exec(["test", "-e", "/file"]).exit_code == 1


def test_containers_end_with_their_sandbox(root_sandbox: Sandbox) -> None:
    with Sandbox(parent=root_sandbox, name="short") as sandbox:
        running, planned = idle(sandbox, name="one"), sandbox.plan(image("busybox", name="two"))
        paused = idle(sandbox)
        paused.pause()
    assert {running.status, planned.status, paused.status} == {"stopped"}
    rows = root_sandbox.session.request("list")[0]["containers"]
    assert not {running.id, planned.id, paused.id} & {row["id"] for row in rows}
    with pytest.raises(SpecError, match="the sandbox 'short' is closed"):
        sandbox.run("busybox", FOREVER)
    sandbox.close()   # no error


def test_a_container_that_ended_by_itself_tells_its_last_figures(sandbox: Sandbox) -> None:
    container = sandbox.run("busybox", ["sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; exit 4"], memory="64M")
    assert container.wait(60) == 4
    stats = container.stats()
    assert stats.cpu_seconds is not None
    assert stats.cpu_seconds > 0
    assert stats.memory_limit == 64 << 20
    assert stats.memory_peak is not None
    assert 0 < stats.memory_peak <= 64 << 20
    assert "container 'busybox' exited with code 4 (sh -c " in container.obituary()
    assert "state    stopped: exited with code 4" in container.report()


@NEEDS_ROOT
def test_what_comes_and_goes_leaves_the_supervisor_as_it_was(root_sandbox: Sandbox) -> None:
    folder = Path(f"/proc/{root_sandbox.session.pid}/fd")

    def one() -> None:
        with Sandbox(parent=root_sandbox, name="one") as sandbox:
            ended: Container = sandbox.run("busybox", ["true"])
            ended.wait(60)
            sh(idle(sandbox, ports=[80]), "true")
    one()
    eventually(lambda: not root_sandbox.session.request("list")[0]["containers"], "nothing runs")
    before = len(list(folder.iterdir()))
    for _ in range(5):
        one()
    eventually(lambda: len(list(folder.iterdir())) <= before, "its descriptors are those that it had")
