"""What a container's command writes: both streams, in order, bounded, and by whichever user."""

from __future__ import annotations

import pytest
from boxes import EITHER_IDS, EITHER_SCRATCH, Scratch, idle, logged, sh

from pytest_sealed import ContainerNotStarted, Sandbox, SpecError, log

MIB = 1 << 20


@EITHER_IDS
def test_both_streams_are_kept_and_told_apart(sandbox: Sandbox) -> None:
    container = sandbox.run("busybox", ["sh", "-c", "echo one; echo two >&2; echo three"])
    container.wait(60)
    assert sorted(container.logs().splitlines()) == ["one", "three", "two"]
    assert container.logs(stream="stdout") == "one\nthree\n"
    assert container.logs(stream="stderr") == "two\n"


@EITHER_IDS
def test_one_stream_is_in_order_and_complete(sandbox: Sandbox) -> None:
    text = logged(sandbox, "i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done")
    assert text.splitlines() == [f"line {number}" for number in range(5000)]


def test_two_streams_are_in_order_where_the_command_waits_between_them(sandbox: Sandbox) -> None:
    script = "for i in 1 2 3; do echo out $i; until [ -e /o$i ]; do :; done; echo err $i >&2; until [ -e /e$i ]; do :; done; done"
    container = sandbox.run("busybox", ["sh", "-c", script])
    for number in (1, 2, 3):
        for stream in ("out", "err"):
            container.wait_for_log(f"{stream} {number}")
            container.write_text(f"/{stream[0]}{number}", "")
    assert container.wait(60) == 0
    assert container.logs().splitlines() == ["out 1", "err 1", "out 2", "err 2", "out 3", "err 3"]


def test_bytes_that_are_no_text_and_lines_without_an_end_are_kept(sandbox: Sandbox) -> None:
    container = sandbox.run("busybox", ["printf", r"\377\000\n\303"])
    container.wait(60)
    assert b"".join(record.data for record in container.log_records()) == b"\xff\0\n\xc3"
    assert container.logs() == "\ufffd\0\n\ufffd"


def test_a_character_is_never_torn_apart(sandbox: Sandbox) -> None:
    text = logged(sandbox, "yes '\N{SNOWMAN} \N{PILE OF POO}x' | head -n 100000")
    assert text == "\N{SNOWMAN} \N{PILE OF POO}x\n" * 100_000


@EITHER_IDS
def test_a_flood_is_bounded_and_its_end_is_kept(sandbox: Sandbox) -> None:
    lines = 2_000_000
    container = sandbox.run("busybox", ["sh", "-c", f"seq 1 {lines} && seq 1 {lines} && echo the end"])
    assert container.wait(120) == 0
    text = container.logs()
    assert 4 * MIB < len(text) < 24 * MIB   # of 30 MiB
    assert text.endswith(f"{lines - 1}\n{lines}\nthe end\n")
    kept = [int(line) for line in text.splitlines()[1:-1]]   # the first may have lost its beginning
    last = kept[kept.index(1):] if 1 in kept else kept
    assert last == list(range(last[0], lines + 1))
    folder = container._session.run_dir / "logs"
    assert sum(path.stat().st_size for path in folder.iterdir() if path.name.startswith(container.id)) < 24 * MIB


@EITHER_IDS
@pytest.mark.parametrize("user", ["root", "nobody", "1000:1001"])
@pytest.mark.parametrize("init", [False, True])
def test_its_user_may_open_the_streams_again_as_files(sandbox: Sandbox, user: str, init: bool) -> None:
    container = sandbox.run("busybox", ["sh", "-c", "echo out > /dev/stdout; echo err > /dev/stderr; echo three > /proc/self/fd/1"],
                            user=user, init=init)
    assert container.wait(60) == 0, container.logs()
    assert (container.logs(stream="stdout"), container.logs(stream="stderr")) == ("out\nthree\n", "err\n")


@EITHER_IDS
def test_a_link_to_the_streams_works_as_log_file(sandbox: Sandbox) -> None:
    script = "ln -s /dev/stdout /var/access.log; ln -s /proc/1/fd/2 /var/error.log; echo hit >> /var/access.log; echo bad >> /var/error.log"
    container = sandbox.run("busybox", ["sh", "-c", script])
    assert container.wait(60) == 0, container.logs()
    assert (container.logs(stream="stdout"), container.logs(stream="stderr")) == ("hit\n", "bad\n")


def test_a_command_beside_can_write_to_the_log_of_pid_1(sandbox: Sandbox) -> None:
    container = idle(sandbox)
    sh(container, "echo from beside > /proc/1/fd/1; echo not in the log")
    assert container.logs() == "from beside\n"


@EITHER_SCRATCH
def test_what_was_before_a_position_is_left_out_and_only_the_tail_if_wished(sandbox: Sandbox, scratch: Scratch) -> None:
    container = sandbox.run("busybox", ["sh", "-c", "seq 1 5; until [ -e /go ]; do :; done; seq 6 10"], wait=log("^5$"), scratch=scratch)
    position = container.log_position()
    assert container.logs(since=position) == ""
    assert container.logs(tail=2) == "4\n5"
    container.write_text("/go", "")
    assert container.wait(60) == 0
    assert container.logs(since=position).split() == ["6", "7", "8", "9", "10"]
    assert container.logs(since=position, tail=1) == "10"
    assert container.logs(tail=100).split() == container.logs().split() == [str(number) for number in range(1, 11)]
    assert container.logs(tail=0) == ""


def test_a_stream_that_there_is_not_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(SpecError) as caught:
        idle(sandbox).logs(stream="err")  # type: ignore[arg-type]
    assert caught.value.message == "logs(stream='err') is none of 'stdout', 'stderr'"
    assert caught.value.remedy == "leave stream out for both"


def test_records_tell_when_they_were_written(sandbox: Sandbox) -> None:
    container = sandbox.run("busybox", ["sh", "-c", "echo one; until [ -e /go ]; do :; done; echo two"], wait=log("one"))
    container.write_text("/go", "")
    container.wait(60)
    one, two = container.log_records()
    assert container.started_at is not None
    assert container.started_at <= one.time <= two.time
    assert container.log_records(since=one.end) == [two]


def test_the_log_outlives_the_end_a_restart_and_the_removal(sandbox: Sandbox) -> None:
    container = sandbox.run("busybox", ["sh", "-c", "echo run"])
    container.wait(60)
    container.restart()
    container.wait(60)
    container.remove()
    assert container.logs() == "run\nrun\n"


def test_a_log_that_went_with_its_sandbox_is_an_error_and_not_empty() -> None:
    with Sandbox() as sandbox:
        container = sandbox.run("busybox", ["echo", "run"])
        container.wait(60)
        assert container.logs() == "run\n"
    with pytest.raises(ContainerNotStarted) as caught:
        container.logs()
    assert caught.value.message == "the log of container 'busybox' went with its sandbox, which is closed"
    assert caught.value.remedy == "read it within the sandbox's `with` block or fixture"


def test_a_container_that_writes_nothing_has_an_empty_log(sandbox: Sandbox) -> None:
    container = idle(sandbox)
    assert (container.logs(), container.logs(tail=5), container.log_records()) == ("", "", [])
    assert "log      nothing in this test" in container.report()


def test_a_command_that_closes_its_streams_goes_on(sandbox: Sandbox) -> None:
    container = sandbox.run("busybox", ["sh", "-c", "echo last words; exec > /dev/null 2>&1; touch /closed; exec sleep 1000000"])
    container.wait_for_exec(["test", "-e", "/closed"])
    assert container.logs() == "last words\n"
    assert container.status == "running"
