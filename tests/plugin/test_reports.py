"""What the report of a failed test says of its containers, in every way that pytest shows it."""

from __future__ import annotations

import re
import shutil
from xml.etree import ElementTree

import pytest
from plugin_suites import run

from pytest_sealed import sandbox

FAILING = """
db = container_fixture(say("a line of the database", memory="64M", ports=[80]))
other = container_fixture(say("of another"))

def test_fails(db):
    assert db.status == "wrong"
"""


def section(text: str, name: str) -> str:
    """Return a container's section of a report."""
    match = re.search(rf"^-+ container {name} -+$(.*?)(?=^-{{5,}}|^={{5,}}|^sealed:|\Z)", text, re.MULTILINE | re.DOTALL)
    assert match, f"no section for {name} in:\n{text}"
    return match[1]


def says_it_all(text: str) -> None:
    block = section(text, "db")
    assert re.search(r"^image    busybox$", block, re.MULTILINE)
    assert re.search(r"^state    running$", block, re.MULTILINE)
    assert re.search(r"^memory   peak [\d.]+ [KM]iB of 64 MiB", block, re.MULTILINE)
    assert re.search(r"^ports    80 → 127.0.0.1:\d+$", block, re.MULTILINE)
    assert "    a line of the database" in block
    assert "of another" not in text


@pytest.mark.parametrize("arguments", [(), ("--tb=short",), ("--tb=native",), ("--tb=long",), ("--show-capture=no",), ("-s",), ("-q",),
                                       ("-n1",), ("-n2", "--tb=short", "--show-capture=no")], ids=" ".join)
def test_a_failed_test_shows_its_containers(pytester: pytest.Pytester, arguments: tuple[str, ...]) -> None:
    says_it_all(run(pytester, FAILING, *arguments, failed=1).stdout.str())


@pytest.mark.parametrize("arguments", [(), ("-n1",)], ids=" ".join)
def test_junit_xml_has_it_too(pytester: pytest.Pytester, arguments: tuple[str, ...]) -> None:
    run(pytester, FAILING, "--junit-xml=report.xml", *arguments, failed=1)
    failure = ElementTree.parse(pytester.path / "report.xml").find(".//failure")   # noqa: S314
    assert failure is not None
    assert failure.text is not None
    says_it_all(failure.text)


@pytest.mark.parametrize("arguments", [(), ("-n1", "--tb=short", "--show-capture=no")], ids=" ".join)
def test_a_failed_test_of_unittest_shows_them_too(pytester: pytest.Pytester, arguments: tuple[str, ...]) -> None:
    says_it_all(run(pytester, FAILING.partition("def test")[0] + """
import unittest

@pytest.mark.usefixtures("db")
class TestOrders(unittest.TestCase):
    def test_fails(self): self.assertEqual(1, 2)
    def test_skipped(self): self.skipTest("not today")
    def test_passes(self): pass
""", *arguments, failed=1, skipped=1, passed=1).stdout.str())


def test_a_test_that_passes_against_strict_expectations_shows_them_too(pytester: pytest.Pytester) -> None:
    text = run(pytester, FAILING.replace("wrong", "running").replace("def test", "@pytest.mark.xfail(strict=True)\ndef test"), failed=1)
    says_it_all(text.stdout.str())


def test_a_passed_test_shows_nothing(pytester: pytest.Pytester) -> None:
    assert "container db" not in run(pytester, FAILING.replace("wrong", "running")).stdout.str()


def test_skipped_and_expected_failures_show_nothing(pytester: pytest.Pytester) -> None:
    text = run(pytester, """
db = container_fixture(box())
def test_skipped(db): pytest.skip("not today")
@pytest.mark.xfail
def test_expected(db): assert 0
""", "-rA", skipped=1, xfailed=1).stdout.str()
    assert "container db" not in text


# ---------------------------------------------------------------- causes


def test_a_container_that_ended_tells_its_exit_code(pytester: pytest.Pytester) -> None:
    text = run(pytester, """
job = container_fixture(say("done", then="exit 7", wait=None))
def test_job(job):
    assert job.wait(5) == 0
""", failed=1).stdout.str()
    assert "state    stopped: exited with code 7" in section(text, "job")
    assert "    done" in section(text, "job")


def test_a_container_that_was_killed_for_its_memory_says_so(pytester: pytest.Pytester) -> None:
    text = run(pytester, """
eater = container_fixture(image("busybox", command=["awk", 'BEGIN { s = "x"; while (1) s = s s }'], memory="16M"))
def test_eater(eater):
    eater.wait(20)
    assert not eater.oom_killed
""", failed=1).stdout.str()
    block = section(text, "eater")
    assert "after the kernel had killed a process of it for reaching its memory limit of 16 MiB" in block
    assert re.search(r"memory   peak 1[56][.\d]* MiB of 16 MiB", block)


@pytest.mark.parametrize("arguments", [(), ("-n1", "--tb=short", "--show-capture=no")], ids=" ".join)
def test_a_setup_that_failed_shows_its_container(pytester: pytest.Pytester, arguments: tuple[str, ...]) -> None:
    text = run(pytester, """
db = container_fixture(say("no such file", then="exit 3", wait=log("never")))
def test_db(db): pass
""", *arguments, errors=1).stdout.str()
    assert "ContainerExited" in text
    assert "state    stopped: exited with code 3" in section(text, "db")
    assert "    no such file" in section(text, "db")


def test_a_setup_that_timed_out_shows_its_container(pytester: pytest.Pytester) -> None:
    text = run(pytester, """
db = container_fixture(say("waking", wait=tcp(80), wait_timeout=0.2))
def test_db(db): pass
""", errors=1).stdout.str()
    assert "was not ready within 0.2 s: waited for port 80" in text
    assert "state    running" in section(text, "db")


def test_a_command_that_is_not_there_shows_that_it_never_started(pytester: pytest.Pytester) -> None:
    text = run(pytester, """
db = container_fixture(image("busybox", command=["postgress"]))
def test_db(db): pass
""", errors=1).stdout.str()
    assert "state    never started:" in section(text, "db")
    assert "pytest_sealed/" not in text.partition("ERRORS")[2]


def test_a_setup_function_that_failed_shows_its_container(pytester: pytest.Pytester) -> None:
    text = run(pytester, """
def migrate(handle):
    raise RuntimeError("no such table")
db = container_fixture(say("a line", setup=migrate))
def test_db(db): pass
""", errors=1).stdout.str()
    assert re.search("^E +RuntimeError: no such table$", text, re.MULTILINE)
    assert re.search("^sealed: 1 container started; nothing left behind$", text, re.MULTILINE)
    assert "    a line" in section(text, "db")


def test_a_fixture_that_was_not_found_shows_the_containers_that_were_started(pytester: pytest.Pytester) -> None:
    for arguments in ((), ("-n1",)):
        text = run(pytester, """
db = container_fixture(say("a line"))
def test_db(db, nonsense): pass
""", *arguments, errors=1).stdout.str()
        assert "fixture 'nonsense' not found" in text
        assert "    a line" in section(text, "db")


def test_a_failure_without_a_traceback_shows_them_too(pytester: pytest.Pytester) -> None:
    for arguments in ((), ("-n1",)):
        text = run(pytester, """
db = container_fixture(say("a line"))
def test_db(db): pytest.fail("just so", pytrace=False)
""", *arguments, failed=1).stdout.str()
        assert "just so" in text
        assert "    a line" in section(text, "db")


def test_a_teardown_that_failed_shows_the_containers_that_are_gone(pytester: pytest.Pytester) -> None:
    text = run(pytester, """
db = container_fixture(say("a line"))

@pytest.fixture
def rows(db):
    yield
    assert 0, "left open"

def test_db(rows): pass
""", passed=1, errors=1).stdout.str()
    assert "left open" in text
    assert "state    stopped" in section(text, "db")
    assert "    a line" in section(text, "db")


# ---------------------------------------------------------------- whose containers, which lines


def test_the_log_of_a_shared_container_is_cut_to_this_test(pytester: pytest.Pytester) -> None:
    text = run(pytester, """
db = container_fixture(say("of the start"), scope="session")

def tell(db, text):
    db.exec(["sh", "-c", f"echo {text} > /proc/1/fd/1"], check=True)
    db.wait_for_log(text)

def test_one(db): tell(db, "of-the-first")
def test_two(db):
    tell(db, "of-the-second")
    assert 0
""", passed=1, failed=1).stdout.str()
    block = section(text, "db")
    assert "    of-the-second" in block
    assert "of-the-first" not in block
    assert "    of the start" not in block


def test_a_shared_container_that_failed_to_start_is_shown_by_each_test_that_needs_it(pytester: pytest.Pytester) -> None:
    text = run(pytester, """
db = container_fixture(say("no such file", then="exit 3", wait=log("never")), scope="session")
def test_one(db): pass
def test_two(db): pass
""", errors=2).stdout.str()
    for name in ("test_one", "test_two"):
        of_test = text.partition(f"ERROR at setup of {name}")[2]
        assert "    no such file" in section(of_test, "db")


def test_a_shared_container_that_the_test_does_not_use_is_left_out(pytester: pytest.Pytester) -> None:
    text = run(pytester, """
db = container_fixture(say("of the database"), scope="session")
cache = container_fixture(say("of the cache"), scope="module")
def test_one(db, cache): pass
def test_two(db): assert 0
def test_three(): assert 0
""", passed=1, failed=2).stdout.str()
    assert "container cache" not in text
    assert text.count("- container db -") == 1


def test_what_was_run_by_hand_is_shown(pytester: pytest.Pytester) -> None:
    text = run(pytester, """
@pytest.fixture(scope="session")
def broker(sealed_session): return sealed_session.run(say("of the broker"), name="broker")

def test_one(broker): pass
def test_two(sealed, broker):
    sealed.run(say("of the test"), name="mine")
    gone = sealed.run(say("of the past"), name="gone")
    gone.remove()
    assert 0
def test_three(): assert 0
""", passed=1, failed=2).stdout.str()
    assert "    of the test" in section(text, "mine")
    assert "    of the past" in section(text, "gone")
    assert "state    running" in section(text, "broker")
    assert text.count("- container ") == 3


OF_UNITTEST = """
import unittest

class TestRun(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def take(self, sealed): self.sealed = sealed

    def test_run(self):
        self.sealed.run("busybox", ["postgress"])
"""


A_FUNCTION = """
def test_run(sealed):
    sealed.run("busybox", ["postgress"])
"""


@pytest.mark.parametrize("suite", [A_FUNCTION, OF_UNITTEST], ids=["function", "unittest"])
def test_an_error_of_ours_is_shown_without_our_frames(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, suite: str) -> None:
    monkeypatch.delitem(vars(sandbox), "__tracebackhide__", raising=False)   # of an earlier test's report, in this process
    text = run(pytester, suite, failed=1).stdout.str()
    assert re.search(r'^> +(self\.)?sealed\.run\("busybox", \["postgress"\]\)$', text, re.MULTILINE)
    assert "pytest_sealed/sandbox.py" not in text
    assert "pytest_sealed/sandbox.py" in run(pytester, suite, "--full-trace", failed=1).stdout.str()


def test_a_refused_connection_is_shown_without_our_frames(pytester: pytest.Pytester) -> None:
    text = run(pytester, """
db = container_fixture(say("there"))
def test_port(db): db.connect(81)
""", failed=1).stdout.str()
    assert ">   def test_port(db): db.connect(81)" in text
    assert re.search("^E +ConnectionRefusedError", text, re.MULTILINE)
    assert "pytest_sealed/" not in text


def test_an_error_in_our_own_code_is_shown_with_all_frames(pytester: pytest.Pytester) -> None:
    text = run(pytester, """
db = container_fixture(say("there"))
def test_bug(db, monkeypatch):
    from pytest_sealed import InternalError
    def bug(*args, **kwargs): raise InternalError("two and two are five")
    monkeypatch.setattr("pytest_sealed.execution.run_exec", bug)
    db.exec(["true"])
""", failed=1).stdout.str()
    assert "please report it with this text" in text
    assert "pytest_sealed/container.py" in text


# ---------------------------------------------------------------- the summary


def test_the_summary_counts_starts_and_gives_the_median(pytester: pytest.Pytester) -> None:
    result = run(pytester, """
db = container_fixture(box())
@pytest.mark.parametrize("number", range(3))
def test_db(db, number, sealed): sealed.run("busybox", ["true"])
""", passed=3)
    assert re.search(r"^sealed: 6 containers started, median start \d+ ms; nothing left behind$", result.stdout.str(), re.MULTILINE)


def test_the_summary_adds_up_the_workers(pytester: pytest.Pytester) -> None:
    result = run(pytester, """
db = container_fixture(box())
@pytest.mark.parametrize("number", range(6))
def test_db(db, number): pass
""", "-n2", passed=6)
    assert re.search(r"^sealed: 6 containers started, median start \d+ ms; nothing left behind$", result.stdout.str(), re.MULTILINE)


@pytest.mark.parametrize("arguments", [(), ("-n1",)], ids=" ".join)
def test_what_is_left_behind_is_named(pytester: pytest.Pytester, arguments: tuple[str, ...]) -> None:
    result = run(pytester, """
from filelock import FileLock
def test_left(sealed):
    sealed.run("busybox", ["sleep", "1000"])
    session, close = sealed.session, sealed.session.close
    def incomplete():
        close()
        session.run_dir.mkdir(parents=True, exist_ok=True)   # as if its removal had failed
        lock.acquire()   # no other session sweeps it meanwhile
    session.close = incomplete
    lock = FileLock(session.run_dir / "lock", is_singleton=False)
    with open("left", "w") as file:
        file.write(str(session.run_dir))
""", *arguments)
    left = (pytester.path / "left").read_text()
    shutil.rmtree(left, ignore_errors=True)   # or whoever has swept it just now
    result.stdout.fnmatch_lines(["sealed: 1 container started, *; left behind:", f"  folder {left}", "  remedy: sealed sweep"])


def test_an_end_that_fails_is_told_and_fails_no_test(pytester: pytest.Pytester) -> None:
    result = run(pytester, """
def test_end(sealed):
    close = sealed.session.close
    def failing():
        close()
        raise OSError("no way")
    sealed.session.close = failing
""")
    result.stdout.fnmatch_lines(["sealed: 0 containers started; left behind:", "  the end of the session failed: no way"])


SECRETIVE = """
import os
from pytest_sealed import InternalError
from pytest_sealed.lifecycle import Lifecycle

@container_fixture
def db():
    return say("ready", secrets={"db_password": os.environ["HUSH"], "other": "x"})

@pytest.mark.sealed("db", secrets={"db_password": os.environ["HUSH"]})
def test_fails(db, sealed):
    assert db.spec == "wrong"

def test_fails_to_start(sealed, monkeypatch):
    def fail(self):
        raise InternalError("a bug of ours")   # whose report has all frames and their arguments
    monkeypatch.setattr(Lifecycle, "take_start", fail)
    sealed.run("busybox", secrets={"db_password": os.environ["HUSH"]})

def test_fails_to_end(db, sealed):
    db.exec(["cat", "/run/secrets/nothing"], check=True)

def test_other_words(sealed):
    sealed.run(say("ready", secrets={"db_password": os.environ["HUSH"]}), tmpfs=["/run/secrets"])
"""


@pytest.mark.parametrize("arguments", [(), ("-n1",)], ids=" ".join)
def test_no_report_shows_a_secret(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    monkeypatch.setenv("HUSH", "hush" * 3)
    result = run(pytester, SECRETIVE, "--full-trace", "--showlocals", "-vv", "-rA", "--junit-xml=report.xml", *arguments, failed=4)
    text = result.stdout.str() + result.stderr.str() + (pytester.path / "report.xml").read_text()
    assert "<secret>" in text
    assert "which are the files of /run/secrets" in text
    assert "hush" * 3 not in text
