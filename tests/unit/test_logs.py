"""The log's spool file: what the writer writes, the reader reads, whatever happens in between."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_sealed.runtime import logs
from pytest_sealed.runtime.forward import spool
from pytest_sealed.runtime.forward.loop import Loop
from pytest_sealed.runtime.forward.record import RECORD, SEGMENT, STREAMS
from pytest_sealed.runtime.forward.spool import LogPipe, Spool

STDOUT, STDERR = 0, 1
SMALLEST = SEGMENT.size + RECORD.size + 64 * 1024      # a segment holds at least the largest record


_OPENED: list[Spool] = []


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "log"
    while _OPENED:
        _OPENED.pop().close()


def opened(path: Path, *options: int) -> Spool:
    """Return a spool that is closed at the test's end, at the latest."""
    _OPENED.append(Spool(str(path), *options))
    return _OPENED[-1]


def texts(records: Sequence[logs.Record]) -> list[bytes]:
    return [record.data for record in records]


def test_records_come_back_in_order_with_stream_and_time(path: Path) -> None:
    log = opened(path)
    log.write(STDOUT, b"one\n")
    log.write(STDERR, b"two")
    log.write(STDOUT, b"\0\xff")
    records = logs.read(path)
    assert [(record.stream, record.data) for record in records] == [("stdout", b"one\n"), ("stderr", b"two"), ("stdout", b"\0\xff")]
    assert 1.6e9 < records[0].time <= records[1].time <= records[2].time
    assert records[-1].end == logs.position(path)


def test_a_log_that_is_not_there_yet_is_empty(path: Path) -> None:
    assert logs.read(path) == []
    assert logs.position(path) == 0
    opened(path).close()
    assert logs.read(path) == []


def test_a_position_gives_what_follows_it(path: Path) -> None:
    log = opened(path)
    log.write(STDOUT, b"before")
    seen = logs.position(path)
    assert logs.read(path, since=seen) == []
    log.write(STDOUT, b"after")
    assert texts(logs.read(path, since=seen)) == [b"after"]
    assert logs.read(path, since=logs.position(path) + 1000) == []


def test_a_position_survives_rotation(path: Path) -> None:
    log = opened(path, SMALLEST)
    expected = []
    for number in range(40):
        data = b"%d" % number * 1000
        log.write(STDOUT, data)
        expected.append((data, logs.position(path)))
    kept = logs.read(path)
    assert (path.parent / "log.1").exists()
    assert texts(kept) == [data for data, _ in expected[-len(kept):]]
    assert kept[-1].end - kept[0].end > SMALLEST / 2      # so both segments are read
    for number in range(len(kept)):
        since = expected[-1 - number][1]
        assert texts(logs.read(path, since=since)) == [data for data, end in expected if end > since]


def test_two_segments_bound_the_file_and_the_newest_output_is_kept(path: Path) -> None:
    log = opened(path, SMALLEST)
    for number in range(5000):
        log.write(STDOUT, b"%06d" % number * 50)
    assert path.stat().st_size <= SMALLEST
    older = path.parent / "log.1"
    assert older.stat().st_size <= SMALLEST
    numbers = [int(record.data[:6]) for record in logs.read(path)]
    assert numbers == list(range(numbers[0], 5000))
    assert len(numbers) * 300 > SMALLEST * 0.9
    assert sorted(os.listdir(path.parent)) == ["log", "log.1"]


def test_a_record_that_is_being_written_is_left_for_the_next_read(path: Path) -> None:
    log = opened(path)
    log.write(STDOUT, b"whole")
    whole = path.read_bytes()
    log.write(STDOUT, b"a second one")
    both = path.read_bytes()
    for size in range(len(whole), len(both)):
        path.write_bytes(both[:size])
        assert texts(logs.read(path)) == [b"whole"]
        in_middle = logs.position(path)
        path.write_bytes(both)
        assert texts(logs.read(path, since=in_middle)) == [b"a second one"]


def test_what_is_no_log_is_refused(path: Path) -> None:
    path.write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match="no segment of a log"):
        logs.read(path)


def test_output_that_looks_like_a_record_is_only_output(path: Path) -> None:
    log = opened(path)
    log.write(STDOUT, b"a")
    raw = path.read_bytes()[SEGMENT.size:]
    log.write(STDOUT, raw * 3)
    log.write(STDERR, b"b")
    seen = RECORD.size + 1
    assert texts(logs.read(path, since=seen)) == [raw * 3, b"b"]
    assert texts(logs.read(path, since=seen + RECORD.size)) == [raw * 3, b"b"]      # amid the fake records


def test_a_log_is_continued_by_a_new_writer(path: Path) -> None:
    log = opened(path)
    log.write(STDOUT, b"one")
    log.close()
    seen = logs.position(path)
    again = opened(path)
    again.write(STDOUT, b"two")
    assert texts(logs.read(path)) == [b"one", b"two"]
    assert texts(logs.read(path, since=seen)) == [b"two"]


def test_readers_during_rotation_see_no_gap_and_nothing_twice(path: Path) -> None:
    last = 30_000
    failures: list[BaseException] = []
    done = threading.Event()

    def write() -> None:
        log = opened(path, SMALLEST)
        for number in range(last + 1):
            log.write(STDOUT, b"%08d" % number * 16)
        done.set()

    def follow() -> None:
        try:
            seen, expected = 0, None
            while expected != last + 1:
                finished = done.is_set()
                records = logs.read(path, since=seen)
                numbers = [int(record.data[:8]) for record in records]
                if numbers:
                    assert numbers == list(range(numbers[0], numbers[-1] + 1))
                    assert expected is None or numbers[0] >= expected        # later only when it was dropped by the bound
                    expected, seen = numbers[-1] + 1, records[-1].end
                assert not finished or expected == last + 1
                whole = [int(record.data[:8]) for record in logs.read(path)]
                assert whole == list(range(whole[0], whole[-1] + 1)) if whole else True
                assert logs.position(path) >= seen
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write), threading.Thread(target=follow), threading.Thread(target=follow)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_reader_between_the_two_renames_of_a_rotation_sees_everything(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = opened(path, SMALLEST)
    log.write(STDOUT, b"older")
    log.write(STDOUT, b"x" * (64 * 1024 - 40))
    log.write(STDOUT, b"newer")
    os.rename(path, path.parent / "away")
    assert texts(logs.read(path))[0] == b"older"        # a writer that ended there leaves it so
    os.rename(path.parent / "away", path)
    real, missing = logs._segment, [str(path)]

    def once_missing(name: str) -> Any:
        if name in missing:
            missing.remove(name)
            return None
        return real(name)

    monkeypatch.setattr(logs, "_segment", once_missing)
    assert texts(logs.read(path))[-1] == b"newer"


class Disk:
    """Stands in for os in the writer: writes get as many bytes as there is `space` for."""

    def __init__(self) -> None:
        self.space: int = 1 << 60

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _take(self, size: int) -> int:
        taken = min(size, self.space)
        self.space -= taken
        if not taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        return taken

    def writev(self, fd: int, parts: Sequence[bytes]) -> int:
        data = b"".join(parts)
        return os.write(fd, data[: self._take(len(data))])

    def write(self, fd: int, data: bytes) -> int:
        return os.write(fd, data[: self._take(len(data))])


@pytest.mark.parametrize("space", [0, 1, RECORD.size - 1, RECORD.size, RECORD.size + 3])
def test_a_full_disk_loses_records_whole_and_says_how_much(path: Path, monkeypatch: pytest.MonkeyPatch, space: int) -> None:
    disk = Disk()
    monkeypatch.setattr(spool, "os", disk)
    log = opened(path)
    log.write(STDOUT, b"before")
    disk.space = space
    log.write(STDOUT, b"lost" * 10)
    assert texts(logs.read(path)) == [b"before"]
    disk.space = 0
    log.write(STDERR, b"lost too")
    disk.space = 1 << 60
    log.write(STDOUT, b"after")
    records = logs.read(path)
    assert texts(records) == [b"before", b"\n[sealed: 48 bytes of log lost: no space left for the spool]\n", b"after"]
    assert records[1].stream == "stderr"


def test_a_disk_too_full_for_a_new_segment_keeps_the_old_ones(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk()
    monkeypatch.setattr(spool, "os", disk)
    log = opened(path, SMALLEST)
    log.write(STDOUT, b"x" * 60_000)
    disk.space = SEGMENT.size - 1
    log.write(STDOUT, b"y" * 60_000)
    assert texts(logs.read(path)) == [b"x" * 60_000]
    assert os.listdir(path.parent) == ["log"]
    disk.space = 1 << 60
    log.close()
    assert texts(logs.read(path))[1:] == [b"\n[sealed: 60000 bytes of log lost: no space left for the spool]\n"]


def test_lines_are_put_together_by_stream(path: Path) -> None:
    log = opened(path)
    for stream, data in ((STDOUT, b"he"), (STDERR, b"err 1\nerr "), (STDOUT, b"llo\n\nwor"), (STDERR, b"2\n"), (STDOUT, b"ld")):
        log.write(stream, data)
    records = logs.read(path)
    lines = list(logs.lines(records))
    assert [(line.stream, line.data) for line in lines] == [
        ("stderr", b"err 1"), ("stdout", b"hello"), ("stdout", b""), ("stderr", b"err 2"), ("stdout", b"world")]
    assert lines[1].time == records[0].time
    assert lines[1].end == records[2].end
    assert [line.data for line in logs.lines(records, partial=False)] == [b"err 1", b"hello", b"", b"err 2"]


def test_text_shows_bytes_that_are_no_utf8_as_replacements(path: Path) -> None:
    opened(path).write(STDOUT, "grüße\n".encode() + b"\xff")
    assert logs.read(path)[0].text == "grüße\n\N{REPLACEMENT CHARACTER}"


class Fountain:
    """Stands in for a spool: whatever is read from the pipe is at once written to it again, as by a container that floods."""

    def __init__(self, write_end: int) -> None:
        self._write_end = write_end
        self.writes = 0

    def write(self, _stream: int, data: memoryview) -> None:
        self.writes += 1
        assert self.writes < 1000, "one pipe is read for ever"
        os.write(self._write_end, data)


def test_a_pipe_that_never_runs_dry_leaves_the_others_their_turn() -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, b"x" * 1000)
    loop, fountain = Loop(), Fountain(write_end)
    pipe = LogPipe(loop, read_end, STDOUT, fountain)  # type: ignore[arg-type]
    pipe.drain()
    assert fountain.writes == 1
    loop.later(0, loop.stop)
    loop.run()
    assert 1 < fountain.writes < 20
    pipe.close()
    loop.run()
    os.close(write_end)


class Clockwork:
    """Stands in for the loop: notes what is asked of it, for the test to carry out."""

    def __init__(self) -> None:
        self.event: Any = None
        self.next: list[Any] = []
        self.timers: list[tuple[float, Any]] = []

    def watch(self, _fd: int, _events: int, handler: Any) -> None:
        self.event = handler

    def again(self, callback: Any) -> None:
        self.next.append(callback)

    def later(self, seconds: float, callback: Any) -> None:
        self.timers.append((seconds, callback))


def test_a_pipe_that_floods_rests_and_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "_BURST", 6000)
    monkeypatch.setattr(spool, "_WINDOW", 60.0)
    read_end, write_end = os.pipe()
    os.write(write_end, b"x" * 1000)
    loop, fountain = Clockwork(), Fountain(write_end)
    LogPipe(loop, read_end, STDOUT, fountain)  # type: ignore[arg-type]
    loop.event(0)
    while loop.next:                  # the first burst: its window begins when it has ended, as nothing came before
        loop.next.pop()()
        loop.event(0)                 # changes nothing: its next round is due anyway
    (seconds, go_on), = loop.timers
    assert 59 < seconds <= 60
    assert fountain.writes == 12
    loop.event(0)
    assert fountain.writes == 12      # it rests
    go_on()
    assert fountain.writes == 16
    while loop.next:
        loop.next.pop()()
    assert 119 < loop.timers[1][0] <= 120      # counted from the end of its rest, where no time has passed here
    os.close(read_end)
    os.close(write_end)


WRITES = st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(min_size=1, max_size=400), st.integers(1, 150)), max_size=60)


@settings(deadline=None, max_examples=60)
@given(writes=WRITES)
def test_whatever_is_written_is_read_back_as_far_as_the_bound_allows(tmp_path_factory: pytest.TempPathFactory,
                                                                     writes: list[tuple[int, bytes, int]]) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    log = Spool(str(path), SMALLEST)
    expected, positions = [], [0]
    for stream, data, times in writes:
        log.write(stream, data * times)
        expected.append((STREAMS[stream], data * times))
        positions.append(logs.position(path))
    log.close()
    records = logs.read(path)
    kept = [(record.stream, record.data) for record in records]
    assert kept == expected[len(expected) - len(kept):]
    assert len(kept) == len(expected) or sum(len(data) + RECORD.size for _, data in kept) > SMALLEST / 2
    for number, since in enumerate(positions):
        assert texts(logs.read(path, since=since)) == [data for _, data in expected[max(number, len(expected) - len(kept)):]]


@settings(deadline=None)
@given(pieces=st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(max_size=20))))
def test_lines_lose_and_invent_nothing(pieces: list[tuple[Any, bytes]]) -> None:
    records = [logs.Record(stream=stream, time=float(number), data=data, end=number) for number, (stream, data) in enumerate(pieces)]
    for name in ("stdout", "stderr"):
        whole = b"".join(record.data for record in records if record.stream == name)
        lines = [line.data for line in logs.lines(records) if line.stream == name]
        assert lines == (whole.split(b"\n") if not whole.endswith(b"\n") and whole else whole.split(b"\n")[:-1])
