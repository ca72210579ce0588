"""However a run ends, its containers end with it; and what tests do to their process harms nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from plugin_suites import PRELUDE, run, started

from pytest_sealed.runtime.client import run_root

# Notes, per container, the pid on the host of a process that bears a name of its own.
NOTE = '''
import os, uuid
from pathlib import Path

def marked():
    """A container whose command can be told from all others on this host."""
    mark = f"sealed-end-{uuid.uuid4().hex}"
    with open(Path(__file__).parent / "marks", "a") as file:
        print(mark, file=file)
    return image("busybox", command=["sh", "-c", "sleep 1000; exit", mark])

@container_fixture(scope="session")
def db(): return marked()

@container_fixture
def web(db): return marked()
'''


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it has not come about"
        time.sleep(0.01)


def marks(folder: Path) -> list[str]:
    file = folder / "marks"
    return file.read_text().split() if file.exists() else []


def running(folder: Path) -> list[str]:
    """Return which of a suite's containers have a process on this host."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().decode(errors="replace"))
        except OSError:   # it has ended
            continue
    return [mark for mark in marks(folder) if any(mark in line for line in lines)]


@pytest.fixture
def gone(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Give a check that a number of containers were there, and that they and their sessions are gone within two seconds."""
    folder = pytester.path / "run"   # else sessions of other workers of this run of tests come and go there too
    folder.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))

    def check(count: int) -> None:
        assert len(marks(pytester.path)) == count
        wait_until(lambda: not running(pytester.path), 2.0)
        wait_until(lambda: not list(run_root().iterdir()), 2.0)
    return check


def heed_signals() -> None:
    """Undo what is inherited from nohup, and from a script's `&`."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def start(pytester: pytest.Pytester, test: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a suite in a process of its own, and return once two of its containers run."""
    pytester.makepyfile(PRELUDE + NOTE + test)
    process = subprocess.Popen([sys.executable, "-m", "pytest", *arguments], cwd=pytester.path,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
                               preexec_fn=heed_signals)
    wait_until(lambda: (pytester.path / "there").exists() or process.poll() is not None)
    assert len(running(pytester.path)) == 2
    return process


WAITING = """
import time
def test_waits(db, web):
    Path(__file__).with_name("there").touch()
    time.sleep(100)
"""


def test_the_check_sees_a_container_that_runs(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(PRELUDE + NOTE + """
def test_running(db, web):
    Path(__file__).with_name("seen").write_text(str(sum(
        any(mark in path.read_bytes().decode(errors="replace") for path in Path("/proc").glob("[0-9]*/cmdline"))
        for mark in Path(__file__).with_name("marks").read_text().split())))
""")
    pytester.runpytest().assert_outcomes(passed=1)
    assert (pytester.path / "seen").read_text() == "2"


@pytest.mark.parametrize(("test", "arguments", "outcomes", "count"), [
    ("def test_a(db, web): pass\ndef test_b(db, web): pass", (), {"passed": 2}, 3),
    ("def test_a(db, web): assert 0\ndef test_b(db, web): pass", ("-x",), {"failed": 1}, 2),
    ("@pytest.fixture\ndef rows(web):\n    assert 0\ndef test_a(rows): pass", (), {"errors": 1}, 2),
    ("@pytest.fixture\ndef rows(web):\n    yield\n    assert 0\ndef test_a(rows): pass", (), {"passed": 1, "errors": 1}, 2),
    ("def test_a(web): pytest.exit('enough')", (), {}, 2),
    ("def test_a(web): raise KeyboardInterrupt", (), {}, 2),
    ("def test_a(web): raise SystemExit(3)", (), {"failed": 1}, 2),
], ids=["passed", "-x", "setup", "teardown", "exit", "interrupt", "SystemExit"])
def test_containers_end_with_the_run(pytester: pytest.Pytester, gone: Callable[[int], None], test: str, arguments: tuple[str, ...],
                                     outcomes: dict[str, int], count: int) -> None:
    pytester.makepyfile(PRELUDE + NOTE + test)
    result = pytester.runpytest_subprocess(*arguments)
    if outcomes:
        result.assert_outcomes(**outcomes)
    assert started(result) == count
    gone(count)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_a_signal_to_pytest_ends_its_containers(pytester: pytest.Pytester, gone: Callable[[int], None], number: signal.Signals) -> None:
    process = start(pytester, WAITING)
    process.send_signal(number)
    process.communicate(timeout=20)
    gone(2)


def test_ctrl_c_at_the_terminal_ends_them_once_pytest_has_torn_down(pytester: pytest.Pytester, gone: Callable[[int], None]) -> None:
    process = start(pytester, WAITING + """
@pytest.fixture(autouse=True)
def farewell(web):
    yield
    web.exec(["true"], check=True)   # it still runs
    print("FAREWELL")
""", "-s")
    os.killpg(process.pid, signal.SIGINT)   # what a terminal does: to the whole group
    output, _ = process.communicate(timeout=20)
    assert b"FAREWELL" in output
    gone(2)


def test_ctrl_c_under_xdist_ends_them(pytester: pytest.Pytester, gone: Callable[[int], None]) -> None:
    process = start(pytester, WAITING, "-n1")
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=20)
    gone(2)


def test_killing_the_controller_of_xdist_ends_the_containers_of_its_workers(
    pytester: pytest.Pytester, gone: Callable[[int], None]
) -> None:
    process = start(pytester, WAITING, "-n1")
    process.kill()
    process.wait(timeout=20)
    gone(2)   # though the worker is in its test still
    process.communicate(timeout=60)   # until that has ended too: execnet gives it ten seconds


def test_the_death_of_the_supervisor_is_an_error_of_the_tests_that_need_it(pytester: pytest.Pytester, gone: Callable[[int], None]) -> None:
    pytester.makepyfile(PRELUDE + NOTE + """
import signal
def test_killed(db, web, sealed):
    os.kill(sealed.session.pid, signal.SIGKILL)
    assert web.wait(5)

def test_after(web): pass
def test_other(): pass
""")
    result = pytester.runpytest_subprocess()
    assert "the supervisor of this session was killed" in result.stdout.str()
    assert "INTERNALERROR" not in result.stdout.str()
    result.assert_outcomes(passed=2, errors=1)
    gone(3)   # one of them was never started


# ---------------------------------------------------------------- what tests do to their process


def test_a_forked_child_that_exits_ends_nothing_of_its_parents(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(PRELUDE + """
import os
db = container_fixture(box(), scope="session")
web = container_fixture(box())

@pytest.mark.parametrize("way", ["_exit", "exit", "raise"])
def test_fork(db, web, way):
    child = os.fork()
    if child == 0:
        if way == "_exit":
            os._exit(0)
        if way == "exit":
            raise SystemExit(0)   # goes on in pytest, with the teardown and all, in the child
        raise RuntimeError
    os.waitpid(child, 0)
    with open("parent", "a") as file:
        print(db.status, web.status, db.exec(["echo", "there"]).stdout.strip(), file=file)

def test_after(db):
    with open("after", "a") as file:
        print(db.exec(["echo", "there"]).stdout.strip(), file=file)
""")
    result = pytester.runpytest_subprocess()
    assert result.ret == 0
    assert (pytester.path / "parent").read_text().splitlines()[-3:] == ["running running there"] * 3
    assert (pytester.path / "after").read_text().splitlines()[-1] == "there"


def test_handles_are_refused_in_a_forked_child(pytester: pytest.Pytester) -> None:
    run(pytester, """
import os
db = container_fixture(box())

def test_fork(db):
    child = os.fork()
    if child == 0:
        try:
            db.exec(["true"])
        except Exception as error:
            os._exit(7 if "this is a forked child of it" in str(error) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
""")


def test_tests_that_a_plugin_runs_in_forked_children_are_told_why_they_get_no_containers(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(PRELUDE + """
import os
from _pytest.runner import runtestprotocol
db = container_fixture(box())

def pytest_runtest_protocol(item):   # as pytest-forked does
    child = os.fork()
    if child == 0:
        with open(item.name, "w") as file:
            for report in runtestprotocol(item, log=False):
                print(report.when, report.outcome, report.longrepr, file=file)
        os._exit(0)
    os.waitpid(child, 0)
    return True
""")
    pytester.makepyfile("def test_db(db): pass\ndef test_by_hand(sealed): pass\ndef test_other(): pass")
    pytester.runpytest_subprocess(timeout=60)
    for name in ("test_db", "test_by_hand"):
        text = (pytester.path / name).read_text()
        assert text.startswith("setup failed")
        assert "this test runs in a forked child of it" in text
        assert "leave out --forked" in text
    assert "call passed" in (pytester.path / "test_other").read_text()


def test_processes_of_multiprocessing_reach_the_ports(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(PRELUDE + """
import multiprocessing, urllib.request
db = container_fixture(box())

def fetch(url):
    return urllib.request.urlopen(url).read().decode().strip()

@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_pool(db, method):
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(fetch, [db.url(80, "/hostname")] * 4) == ["db"] * 4
    assert db.status == "running"
""")
    pytester.runpytest_subprocess().assert_outcomes(passed=2)


def test_threads_start_and_use_containers_at_once(pytester: pytest.Pytester) -> None:
    run(pytester, """
from concurrent.futures import ThreadPoolExecutor
db = container_fixture(box())

def test_threads(db, sealed):
    with ThreadPoolExecutor(8) as pool:
        boxes = list(pool.map(lambda number: sealed.run(box(), name=f"box-{number}"), range(8)))
        assert set(pool.map(lambda one: reach(one, "db"), boxes)) == {"db"}
        assert list(pool.map(lambda one: reach(db, one.name), boxes)) == [one.name for one in boxes]
""")


def test_asyncio_code_uses_containers(pytester: pytest.Pytester) -> None:
    run(pytester, """
import asyncio
db = container_fixture(box())

async def ask(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /hostname HTTP/1.0\\r\\n\\r\\n")
    answer = await reader.read()
    writer.close()
    return answer.split()[-1]

def test_asyncio(db):
    async def main():
        return await asyncio.gather(*(ask(db.port(80)) for _ in range(20)))
    assert set(asyncio.run(main())) == {b"db"}
""")


def test_tests_may_change_directory_and_umask_and_environment(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(PRELUDE + """
import os
db = container_fixture(box())

@pytest.mark.parametrize("number", range(2))
def test_chdir(db, tmp_path, number):
    os.chdir(tmp_path)
    os.umask(0o277)   # an ordinary account's pytest can still enter what it makes
    for name in ("SEALED_STORE", "XDG_RUNTIME_DIR", "HOME", "PATH", "TMPDIR"):
        os.environ.pop(name, None)
    assert reach(db, "db") == "db"
""")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")   # not in this process, which would be changed
    result.assert_outcomes(passed=2)
    assert started(result) == 2


def test_a_store_given_by_a_relative_path_is_found_after_a_change_of_directory(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = os.environ["SEALED_STORE"]
    monkeypatch.delenv("SEALED_STORE")
    run(pytester, """
import os
@pytest.fixture(scope="session", autouse=True)
def elsewhere(tmp_path_factory):
    os.chdir(tmp_path_factory.mktemp("elsewhere"))

db = container_fixture(box())
def test_db(db): pass
""", f"--sealed-store={os.path.relpath(store, pytester.path)}")
