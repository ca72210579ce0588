"""`sealed run`: streams, exit codes, and a real terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from boxes import eventually

from pytest_sealed import Sandbox
from pytest_sealed.runtime.cgroups.cpu import weight_from_shares

SEALED = [sys.executable, "-m", "pytest_sealed.cli"]
PATIENCE = 20.0   # seconds until a missing answer is a failure


def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([*SEALED, "run", *arguments], input=stdin, capture_output=True, text=True, timeout=60)


class Typist:
    """Somebody at a terminal in which `sealed run` runs."""

    def __init__(self, *arguments: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execv(SEALED[0], [*SEALED, "run", *arguments])  # noqa: S606
        self.seen = ""
        self.modes = termios.tcgetattr(self.fd)[:4]   # before anything has changed them
        self.size(24, 80)

    def size(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def expect(self, pattern: str) -> str:
        """Wait for a match in what has come since the last one, and return it."""
        deadline = time.monotonic() + PATIENCE
        while not (found := re.search(pattern, self.seen)):
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.seen!r}"
            if select.select([self.fd], [], [], 0.2)[0]:
                try:
                    self.seen += os.read(self.fd, 4096).decode("utf-8", "replace")
                except OSError:   # the terminal's other side is closed
                    raise AssertionError(f"no {pattern!r} in {self.seen!r}, and no more to come") from None
        self.seen = self.seen[found.end():]
        return found[0]

    def command(self, text: str, answer: str) -> str:
        self.type(f"{text}\n")
        return self.expect(answer)

    def ended(self) -> int:
        """Take what still comes, and return the exit code."""
        while True:
            try:
                if not os.read(self.fd, 4096):
                    break
            except OSError:
                break
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self) -> None:
        os.close(self.fd)
        try:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


@pytest.fixture
def shell() -> Iterator[Typist]:
    typist = Typist("-ti", "busybox", "sh")
    try:
        typist.expect(r"# ")
        yield typist
    finally:
        typist.close()


def test_streams_and_the_exit_code_are_the_commands() -> None:
    done = run("busybox", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)


def test_the_standard_input_is_passed_with_i_alone() -> None:
    assert run("-i", "busybox", "cat", stdin="line\n" * 50_000).stdout == "line\n" * 50_000
    assert run("busybox", "cat", stdin="line\n").stdout == ""


def test_much_output_is_read_while_the_input_waits() -> None:
    done = run("-i", "busybox", "sh", "-c", "yes | head -c 5000000; wc -c >&2", stdin="x" * 3_000_000)
    assert (len(done.stdout), done.stderr, done.returncode) == (5_000_000, "3000000\n", 0)


def test_input_that_nobody_reads_is_no_error() -> None:
    assert run("-i", "busybox", "sh", "-c", "exec <&-; sleep 0.2; exit 3", stdin="x" * 3_000_000).returncode == 3


def test_options_reach_the_container(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("from the host")
    tmp_path.chmod(0o755)   # the user in the container is another than this account
    done = run("-e", "A=b c", "-u", "65534", "-w", "/tmp", "-v", f"{tmp_path}:/data", "--name", "box", "busybox",
               "sh", "-c", "echo $A; id -u; pwd; cat /data/f; echo; hostname")
    assert done.stdout.splitlines() == ["b c", "65534", "/tmp", "from the host", "box"], done.stderr


def test_what_else_docker_run_takes_reaches_the_container(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("# settings\n\n  A=of the file\nB='as it stands' # all of it\nC=\n")
    done = run("--env-file", str(tmp_path / "env"), "-e", "A=of the line", "--hostname", "web", "--tmpfs", "/cache", "--shm-size", "1M",
               "--ulimit", "nofile=100:200", "--cpu-shares", "512", "busybox", "sh", "-c",
               "echo $A; echo $B; echo ${C-unset}; hostname; ulimit -Sn; ulimit -Hn; df -k /cache /dev/shm | awk '{print $2}'")
    assert done.stdout.splitlines() == [
        "of the line", "'as it stands' # all of it", "", "web", "100", "200", "1K-blocks", "65536", "1024"], done.stderr


@pytest.mark.parametrize(("arguments", "says"), [
    (("--env-file", "nosuch"), "--env-file nosuch can't be read: No such file or directory"),
    (("--env-file", "env"), "env:2: B has no value; nothing of the host's environment enters a container"),
    (("--ulimit", "nofile"), "--ulimit nofile is not NAME=SOFT or NAME=SOFT:HARD"),
    (("--ulimit", "nofiles=1"), "there is no ulimit 'nofiles', did you mean 'nofile'?"),
    (("--tmpfs", "cache"), "tmpfs target 'cache' is no absolute path"),
    (("--shm-size", "1Q"), "shm_size='1Q' is no size"),
])
def test_what_they_cannot_mean_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], says: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "env").write_text("A=1\n B\n")
    done = run(*arguments, "busybox", "true")
    assert done.returncode == 125
    assert done.stderr.startswith(f"sealed: {says}")
    assert "\n  remedy: " in done.stderr


def test_limits_and_what_else_is_run_reach_it(sandbox: Sandbox) -> None:
    version = sandbox.describe().cgroup
    files = {"v1": ("memory/memory.limit_in_bytes", "cpu/cpu.cfs_quota_us", "pids/pids.max", "cpu/cpu.shares"),
             "v2": ("memory.max", "cpu.max", "pids.max", "cpu.weight")}[version]
    shares = {"v1": "512", "v2": str(weight_from_shares(512))}[version]
    done = run("-m", "32M", "--cpus", "0.5", "--cpu-shares", "512", "--pids", "50", "--read-only", "--init", "--network", "none",
               "--entrypoint", "sh", "busybox", "-c",
               f"cd /sys/fs/cgroup; cat {' '.join(files)}; tr -d '\\0' < /proc/1/cmdline; echo; ls /sys/class/net; touch /file")
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        str(32 << 20), "50000", "50", shares, "/sealed-init", "lo"], done.stderr
    assert (done.returncode, done.stderr) == (1, "touch: /file: Read-only file system\n")


def test_a_port_is_printed_and_leads_to_it() -> None:
    process = subprocess.Popen([*SEALED, "run", "-p", "80", "busybox", "httpd", "-f", "-h", "/etc", "-p", "80"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        found = re.fullmatch(r"port 80 → (127\.0\.0\.1:\d+)\n", process.stderr.readline())
        assert found
        eventually(lambda: answers(f"http://{found[1]}/hostname") == "busybox\n", "the port leads to the container")
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGTERM


def answers(url: str) -> str:
    """Return what a server sends; nothing while there is none."""
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as response:  # noqa: S310
            return str(response.read().decode())
    except OSError:
        return ""


def test_a_wrong_image_names_the_nearest_and_the_command() -> None:
    done = run("bussybox", "true")
    assert done.returncode == 125
    assert "busybox" in done.stderr
    assert "sealed build" in done.stderr
    assert "Traceback" not in done.stderr


def test_t_without_a_terminal_is_refused() -> None:
    done = run("-t", "busybox", "sh")
    assert done.returncode == 125
    assert "-t needs a terminal" in done.stderr


@pytest.mark.parametrize(("arguments", "code", "says"), [
    (["busybox", "nosuch"], 127, "there is no 'nosuch' in the image"),
    (["--init", "busybox", "/no/such"], 127, "there is no '/no/such' in the image"),
    (["busybox", ""], 127, "the first word of the command [''] is empty"),
    (["busybox", "/etc/passwd"], 126, "/etc/passwd is not executable"),
    (["busybox", "/etc"], 126, "/etc is not executable"),
    (["-m", "1", "busybox", "true"], 125, "memory='1' is less than a container needs"),
    (["-u", "nobody2", "busybox", "true"], 125, "has no user 'nobody2'"),
    (["-w", "/etc/passwd", "busybox", "true"], 125, "there is a file in the way"),
    (["--network", "none", "-p", "80", "busybox", "true"], 125, "-p 80 leads nowhere with --network none"),
    (["-p", "8080:80", "busybox", "true"], 125, "-p 8080:80 is not one port of the container\n  remedy: for example -p 80: a free port"),
    (["-p", "0", "busybox", "true"], 125, "port 0 is no TCP port"),
    (["--cpus", "many", "busybox", "true"], 125, "argument --cpus: invalid float value: 'many'"),
    (["--nosuch", "busybox"], 125, "unrecognized arguments: --nosuch"),
    ([], 125, "usage: sealed run"),
], ids=str)
def test_what_runs_no_command_has_an_exit_code_of_its_own(arguments: list[str], code: int, says: str) -> None:
    done = run(*arguments)
    assert says in done.stderr
    assert (done.returncode, done.stdout) == (code, "")


@pytest.mark.parametrize("code", [1, 2, 125, 126, 127, 255])
def test_the_commands_exit_code_is_its_own_whatever_it_is(code: int) -> None:
    assert run("--rm", "busybox", "sh", "-c", f"exit {code}").returncode == code   # as with Docker; it is never kept


def test_help_is_no_failure() -> None:
    assert run("--help").returncode == 0


def test_a_shell_has_job_control(shell: Typist) -> None:
    shell.command("tty", r"/dev/pts/0\r\n")
    shell.command("sh -c 'echo going; exec sleep 1000'", r"\ngoing\r\n")   # printed once it is in the foreground
    shell.type("\x1a")
    shell.expect(r"Stopped")
    shell.command("jobs", r"Stopped\s+sh -c")
    shell.command("fg", r"\r\nsh -c .*sleep 1000\"\r\n")
    shell.type("\x03")
    shell.expect(r"# ")
    shell.command("jobs; echo none", r"\nnone")


def test_the_windows_size_is_the_containers_and_follows(shell: Typist) -> None:
    shell.command("stty size", r"\b24 80\b")
    shell.size(40, 132)
    os.kill(shell.pid, signal.SIGWINCH)
    shell.command("until stty size | grep -q 132; do :; done; stty size", r"\b40 132\b")


def test_the_windows_size_is_there_from_the_first_moment() -> None:
    typist = Typist("-ti", "busybox", "stty", "size")
    try:
        typist.expect(r"\b24 80\r\n")
        assert typist.ended() == 0
    finally:
        typist.close()


def test_the_exit_code_comes_through_a_terminal(shell: Typist) -> None:
    shell.type("exit 9\n")
    assert shell.ended() == 9


def test_the_escape_keys_end_a_container_that_ignores_everything(shell: Typist) -> None:
    shell.command("trap '' INT TERM HUP QUIT TSTP; stty raw -echo; echo deaf; while :; do sleep 1; done", r"\ndeaf")
    shell.type("\x03\x1c\x1a")
    shell.type("\x10\x11")
    assert shell.ended() == 137


def test_the_escape_keys_end_a_container_that_does_not_read_its_terminal(shell: Typist) -> None:
    shell.command("stty raw -echo; echo de''af; exec sleep 1000000", r"deaf")   # not what the terminal echoes: that comes before
    for _ in range(500):   # more than a terminal keeps for whoever doesn't read it
        shell.type("x" * 1000)
    shell.type("\x10\x11")
    assert shell.ended() == 137


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_sealed_run_ends_the_container_and_mends_the_terminal(shell: Typist, number: signal.Signals) -> None:
    shell.command("stty raw -echo; echo raw", r"raw")
    assert not termios.tcgetattr(shell.fd)[3] & (termios.ECHO | termios.ICANON)
    os.kill(shell.pid, number)
    assert shell.ended() == 128 + number
    assert termios.tcgetattr(shell.fd)[:4] == shell.modes


def test_an_interrupt_is_passed_on_and_a_second_one_kills() -> None:
    command = ["busybox", "sh", "-c", "trap 'echo caught' INT; echo ready; while :; do sleep 0.05; done"]
    process = subprocess.Popen([*SEALED, "run", *command], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "caught\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 137


def test_a_secret_comes_from_a_file_and_is_one_inside(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("hush")
    given = ["--secret", f"id=db_password,src={tmp_path}/password", "--secret", "id=other,src=/dev/null", "-u", "1000"]
    result = run(*given, "busybox", "sh", "-c", "cd /run/secrets; stat -c '%n %a %u' *; cat db_password")
    assert (result.returncode, result.stdout) == (0, "db_password 400 1000\nother 400 1000\nhush")
    explained = run(*given, "--explain", "busybox", "true")
    assert "names=('db_password', 'other')" in explained.stdout
    assert "hush" not in explained.stdout


@pytest.mark.parametrize(("text", "says"), [
    ("db_password=hush", "--secret takes id=NAME,src=FILE: values on a command line are seen by everybody"),
    ("id=db_password", "--secret takes id=NAME,src=FILE: values on a command line are seen by everybody"),
    ("id=db_password,src=", "--secret takes id=NAME,src=FILE: values on a command line are seen by everybody"),
    ("id=x,src=/dev/null,id=x", "--secret takes id=NAME,src=FILE: values on a command line are seen by everybody"),
    ("id=x,src=/no/hush", "the file of the secret 'x' can't be read: No such file or directory"),
    ("id=x,src=/dev/zero", "secrets have more than the 1 MiB that they may have together"),
    ("id=../x,src=/dev/null", "secrets: '../x' can't be the name of a file"),
    ("id=taken,src=/dev/null", "the secret 'taken' is given twice"),
])
def test_no_error_shows_what_may_be_a_secret(text: str, says: str) -> None:
    result = run("--secret", "id=taken,src=/dev/null", "--secret", text, "busybox", "true")
    assert result.returncode == 125
    assert result.stderr.splitlines()[0] == f"sealed: {says}"
    assert "  remedy: " in result.stderr
    assert "hush" not in result.stderr


def test_explain_prints_the_steps_and_runs_nothing() -> None:
    done = run("--explain", "busybox", "sh", "-c", "echo no")
    assert done.returncode == 0
    for step in ("EnterCgroup", "Overlay", "Kernel", "Masked path='/proc/kcore'", "Pivot", "enter a user namespace"):
        assert step in done.stdout
    assert "no\n" not in done.stdout
