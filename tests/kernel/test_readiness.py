"""When a container is ready: by port, HTTP answer, log line, command, health check; and what is said when it never is."""

from __future__ import annotations

import dataclasses
import re
import shlex
import threading
from typing import Any

import pytest
from boxes import EITHER_IDS, FOREVER, eventually, idle, sh

from pytest_sealed import (
    Container,
    ContainerExited,
    NotReady,
    Sandbox,
    SpecError,
    all_of,
    any_of,
    command,
    healthy,
    http,
    image,
    log,
    probe,
    tcp,
)
from pytest_sealed.waits import Wait

LONG = 600.0   # seconds: who waits this long has missed something
ENTRYPOINT = ["sh", "-c", 'while [ "$(id -u)" = 0 ]; do sleep 0.1; done; exec sleep 1000000']
SLOWLY = ["sh", "-c", "until [ -e /go ]; do :; done; echo went; exec httpd -f -h /srv -p 80"]


def said(container: Container, condition: Wait, timeout: float = 0.2) -> str:
    """Return what is said of a condition that isn't met."""
    with pytest.raises(NotReady) as caught:
        container.wait_for(condition, timeout=timeout)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.remedy
    return caught.value.message


# ---------------------------------------------------------------- it becomes ready


@EITHER_IDS
@pytest.mark.parametrize("condition", [
    tcp(80), http(80, "/page"), http(80, "/", status=404), http(80, "/nosuch", status=(403, 404)),
    log("went"), log("^w..t$", stream="stdout"),
    command("test", "-e", "/go"), all_of(log("went"), tcp(80), command("true")), any_of(tcp(81), log("never"), tcp(80)),
    probe(lambda container: None if container.exec(["test", "-e", "/go"]).exit_code == 0 else "not yet", "the file"),
], ids=str)
def test_a_wait_ends_when_its_condition_holds_and_not_before(sandbox: Sandbox, condition: Wait) -> None:
    container = sandbox.run("busybox", SLOWLY, wait=None)
    container.write_text("/srv/page", "")
    said(container, condition, 0.02)
    waiter = threading.Thread(target=container.wait_for, args=[condition], kwargs={"timeout": LONG})
    waiter.start()
    container.write_text("/go", "")
    waiter.join(60)
    assert not waiter.is_alive()


def test_run_returns_once_it_is_ready_and_set_up(sandbox: Sandbox) -> None:
    seen = []

    def setup(container: Container) -> None:
        seen.append(sh(container, "wget -q -O - http://localhost/page"))
        container.write_text("/prepared", "yes")
    script = "echo content > /srv/page; exec httpd -f -h /srv -p 80"
    container = sandbox.run("busybox", ["sh", "-c", script], wait=http(80, "/page"), setup=setup)
    assert seen == ["content\n"]
    assert container.read_text("/prepared") == "yes"


def test_every_condition_need_only_have_held_once(sandbox: Sandbox) -> None:
    once = command("sh", "-c", "[ ! -e /seen ] && touch /seen")
    container = sandbox.run("busybox", ["sh", "-c", "until [ -e /seen ]; do :; done; echo second; exec sleep 1000000"],
                            wait=all_of(once, log("second")))
    assert container.exec(["sh", "-c", "[ ! -e /seen ]"]).exit_code == 1


def test_lines_are_counted_and_those_of_one_stream_if_wished(sandbox: Sandbox) -> None:
    script = "echo ready; echo ready >&2; until [ -e /go ]; do :; done; echo ready; exec sleep 1000000"
    container = sandbox.run("busybox", ["sh", "-c", script], wait=log("ready", times=2))
    container.wait_for(log("ready", stream="stderr"), timeout=60)
    assert "1 of 2 such lines; the last line was 'ready'" in said(container, log("ready", stream="stdout", times=2))
    container.write_text("/go", "")
    container.wait_for(log("ready", stream="stdout", times=2), timeout=60)
    container.wait_for_log("^ready$", times=3, timeout=60)


@pytest.mark.parametrize("end", ["", "\\r\\n", "\\r\\r\\n", "\\r"])
def test_a_line_end_with_a_carriage_return_is_no_part_of_the_line(sandbox: Sandbox, end: str) -> None:
    container = sandbox.run("busybox", ["sh", "-c", f"printf '10%%\\rready{end}'; exec sleep 1000000"], wait=log("^10%\rready$"))
    assert container.logs() == "10%\rready" + end.encode().decode("unicode_escape")   # which is as it was written
    if end.endswith("n"):
        assert "the last line was '10%\\rready'" in said(container, log("never"))


def test_a_line_without_an_end_counts_too(sandbox: Sandbox) -> None:
    container = sandbox.run("busybox", ["sh", "-c", "printf 'user> '; exec sleep 1000000"], wait=log("user> $"))
    assert container.logs() == "user> "


def test_an_images_health_check_is_waited_for(sandbox: Sandbox) -> None:
    found = sandbox.store.get("busybox")
    config = dataclasses.replace(found.config, healthcheck=("sh", "-c", "echo sick >&2; test -e /healthy"))
    checked = dataclasses.replace(found, config=config)
    spec = image("busybox", command=["sh", "-c", "[ -e /go ] && sleep 0.3 && touch /healthy; exec sleep 1000000"])
    container = Container(sandbox.session, spec, checked, name="checked", networks=[])
    sandbox.containers.append(container)
    container.launch()
    answers = ((seconds, said(container, healthy(), seconds)) for seconds in (0.2, 2, 20))   # a busy machine may take longer for the first
    seconds, answer = next(pair for pair in answers if "exit code" in pair[1] or pair[0] == 20)
    assert answer.startswith(f"container 'checked' was not ready within {seconds:g} s: "
                             "waited for the image's health check; the last answer was: exit code 1: sick")
    container.write_text("/go", "")
    container.restart(timeout=0)   # which waits for what the image says
    assert container.exec(["test", "-e", "/healthy"]).exit_code == 0
    with pytest.raises(SpecError, match="image 'busybox' has no health check\n  remedy: wait for a port"):
        idle(sandbox, wait=healthy())


def test_a_handle_waits_for_what_one_likes(sandbox: Sandbox) -> None:
    container = sandbox.run("busybox", ["sh", "-c", "echo up; exec httpd -f -h /etc -p 80"])
    container.wait_for_port(80)
    container.wait_for_log("up")
    container.wait_for_http(80, "/hostname")
    container.wait_for_http(80, "/", status=404)
    container.wait_for_exec(["wget", "-q", "-O", "-", "http://localhost/hostname"])


# ---------------------------------------------------------------- several conditions


HANGS = ["sh", "-c", "nc -ll -p 80 -e sh -c 'echo >> /looks; exec sleep 1000000' & nc -ll -p 81 -e true & exec sleep 1000000"]
HANGING = command("sh", "-c", "echo >> /looks; exec sleep 1000000")


def counted(container: Container, needed: int) -> str | None:
    """Hold at the look after `needed` others, or after more if the slow one has not begun by then."""
    container.tries = tries = getattr(container, "tries", -1) + 1   # type: ignore[attr-defined]
    return None if tries >= needed and container.exec(["test", "-s", "/looks"]).exit_code == 0 else f"look {tries}"


@EITHER_IDS
@pytest.mark.parametrize("slow", [http(80), HANGING, all_of(tcp(81), http(80)), all_of(command("true"), HANGING), any_of(http(80), tcp(1)),
                                  any_of(any_of(HANGING))], ids=str)
@pytest.mark.parametrize("first", [True, False])
def test_a_look_that_takes_long_holds_up_no_other(sandbox: Sandbox, slow: Wait, first: bool) -> None:
    container = sandbox.run("busybox", HANGS, name="web", wait=tcp(81))
    quick = probe(lambda container: counted(container, 10), "ten looks")
    container.wait_for(any_of(slow, quick) if first else any_of(quick, slow), timeout=LONG)
    assert container.read_text("/looks") == "\n"   # all within the first of the slow ones
    if slow in (HANGING, any_of(any_of(HANGING))):
        eventually(lambda: "1000000" not in sh(container, "ps | grep -v sh | grep -v '1 root'"), "what was given up is killed")


def test_what_takes_long_counts_when_it_holds(sandbox: Sandbox) -> None:
    container = sandbox.run("busybox", FOREVER)
    slowly = command("sh", "-c", "sleep 0.5; echo done > /done")
    container.wait_for(any_of(tcp(80), slowly, log("never")), timeout=LONG)
    assert container.read_text("/done") == "done\n"


def test_of_several_each_last_answer_is_told(sandbox: Sandbox) -> None:
    container = sandbox.run("busybox", HANGS, name="web", wait=tcp(81))
    answers = said(container, any_of(http(80), tcp(1), all_of(tcp(81), HANGING)), 0.5).splitlines()[0].split("the last answer was: ")[1]
    assert re.fullmatch(r"port 80: timed out; port 1: Connection refused; it had not ended after 0\.\d+ s, and was killed", answers)


# ---------------------------------------------------------------- it ends first


@EITHER_IDS
@pytest.mark.parametrize("condition", [tcp(80), http(80), log("never"), command("false"), any_of(tcp(80), log("never"))], ids=str)
def test_a_container_that_exits_is_waited_for_no_longer(sandbox: Sandbox, condition: Wait) -> None:
    script = "for i in $(seq 1 30); do echo line $i; done; echo broken >&2; exit 3"
    with pytest.raises(ContainerExited) as caught:
        sandbox.run("busybox", ["sh", "-c", script], wait=condition, wait_timeout=LONG, name="web")
    lines = caught.value.message.splitlines()
    assert lines[0] == f"container 'web' exited with code 3 (sh -c '{script}') while {condition} was waited for"
    assert lines[1] == "  last log lines of web:"
    assert lines[2:] == [f"    line {number}" for number in range(12, 31)] + ["    broken"]
    assert caught.value.remedy == f"run it by hand: sealed run busybox sh -c {shlex.quote(script)}"


@EITHER_IDS
def test_an_end_by_memory_is_told_as_one(sandbox: Sandbox) -> None:
    with pytest.raises(ContainerExited) as caught:
        sandbox.run("busybox", ["tail", "/dev/zero"], memory="16M", wait=tcp(80), wait_timeout=LONG, name="hog")
    assert caught.value.message == (
        "container 'hog' was ended by SIGKILL, after the kernel had killed a process of it for reaching its memory limit of 16 MiB "
        "(tail /dev/zero) while port 80 was waited for")


def test_an_end_by_a_signal_names_it(sandbox: Sandbox) -> None:
    container = sandbox.run("busybox", ["sh", "-c", "echo up; exec sleep 1000000"], name="web", wait=log("up"))
    killer = threading.Thread(target=container.kill)

    def look(_: Container) -> str:
        if killer.ident is None:
            killer.start()
        return "nothing"
    with pytest.raises(ContainerExited) as caught:
        container.wait_for(probe(look, "the end"), timeout=LONG)
    killer.join()
    assert caught.value.message == (
        "container 'web' was ended by SIGKILL (sh -c 'echo up; exec sleep 1000000') while the end was waited for\n"
        "  last log lines of web:\n    up")


@EITHER_IDS
def test_what_has_done_what_was_waited_for_may_end(sandbox: Sandbox) -> None:
    container = sandbox.run("busybox", ["sh", "-c", "echo done"], wait=log("done"), wait_timeout=LONG)
    assert container.wait(60) == 0


def test_what_holds_only_once_it_has_ended_is_asked_for_a_last_time(sandbox: Sandbox) -> None:
    def look(container: Container) -> str | None:
        if container.status == "stopped":
            return None
        container.write_text("/go", "")
        return "it runs"
    container = sandbox.run("busybox", ["sh", "-c", "until [ -e /go ]; do :; done; exit 3"], wait=probe(look, "its end"), wait_timeout=LONG)
    assert container.exit_code == 3


# ---------------------------------------------------------------- it never is


@pytest.mark.parametrize(("condition", "answer"), [
    (tcp(80), "waited for port 80; the last answer was: port 80: Connection refused"),
    (http(81, "/health"), "waited for GET :81/health; the last answer was: port 81: Connection refused"),
    (http(82, "/nosuch"), "waited for GET :82/nosuch; the last answer was: HTTP status 404"),
    (http(82, "/hostname", status=(500, 503)), "waited for GET :82/hostname with status 500 or 503; the last answer was: HTTP status 200"),
    (http(83), "waited for GET :83/; the last answer was: no HTTP answer, but 'SSH-2.0-none'"),
    (log("ready", times=2), "waited for log line /ready/ 2 times; the last answer was: 0 of 2 such lines; the last line was 'starting'"),
    (log("ready", stream="stderr"), "waited for log line /ready/; the last answer was: no output yet"),
    (command("sh", "-c", "echo no; echo because >&2; exit 4"),
     "waited for command 'sh -c echo no; echo because >&2; exit 4'; the last answer was: exit code 4: because"),
    (command("false"), "waited for command 'false'; the last answer was: exit code 1"),
    (all_of(log("starting"), tcp(80)), "waited for log line /starting/ and port 80; the last answer was: port 80: Connection refused"),
    (any_of(tcp(80), log("x", stream="stderr")),
     "waited for port 80 or log line /x/; the last answer was: port 80: Connection refused; no output yet"),
    (probe(lambda _: "a shrug", "an answer"), "waited for an answer; the last answer was: a shrug"),
], ids=range(12))
def test_a_wait_that_is_over_names_what_was_waited_for_and_the_last_answer(sandbox: Sandbox, condition: Wait, answer: str) -> None:
    script = "httpd -h /etc -p 82; nc -ll -p 83 -e echo SSH-2.0-none & echo starting; exec sleep 1000000"
    container = sandbox.run("busybox", ["sh", "-c", script], name="web", wait=all_of(tcp(82), tcp(83), log("starting")))
    seconds = 2 if "command" in answer else 0.2   # which a busy machine needs to start a program
    assert said(container, condition, seconds).splitlines() == [
        f"container 'web' was not ready within {seconds} s: {answer}", "  last log lines of web:", "    starting"]


def test_a_container_that_is_never_ready_can_be_looked_into(sandbox: Sandbox) -> None:
    with pytest.raises(NotReady, match="raise wait_timeout="):
        sandbox.run("busybox", FOREVER, wait=tcp(80), wait_timeout=0.1, name="web")
    [container] = sandbox.containers
    assert (container.status, container.start_seconds) == ("running", None)
    assert sh(container, "hostname") == "web\n"


@EITHER_IDS
@pytest.mark.parametrize(("options", "loops"), [({"entrypoint": ENTRYPOINT}, True), ({"entrypoint": ENTRYPOINT, "user": "root:70"}, True),
                                                ({"entrypoint": ENTRYPOINT, "user": "70"}, False), ({"command": ENTRYPOINT}, False)])
def test_an_entrypoint_that_cannot_stop_being_root_is_told_of(sandbox: Sandbox, options: dict[str, Any], loops: bool) -> None:
    """As official images have it; gosu seems to succeed in single-id mode."""
    with pytest.raises(NotReady) as caught:
        sandbox.run(image("busybox", **options), wait=tcp(80), wait_timeout=0.1)
    assert ("single-id mode: give it the user that it would become" in str(caught.value.remedy)) == (
        loops and sandbox.describe().mode == "single")


def test_a_command_that_cannot_run_ends_a_wait_at_once(sandbox: Sandbox) -> None:
    with pytest.raises(Exception, match="there is no 'nosuch' in the image"):
        idle(sandbox, wait=command("nosuch"), wait_timeout=LONG)
