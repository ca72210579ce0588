"""The terminal that `sealed run -t` was started from: what runs in a container can't type into it."""

from __future__ import annotations

import os
import pty
import re
import select
import sys
import time

import pytest

SEALED = [sys.executable, "-m", "pytest_sealed.cli", "run", "-ti", "--seccomp", "unconfined"]
PATIENCE = 30.0   # seconds until a missing line is a failure

# CVE-2017-5226 and its kin: characters that are pushed into a terminal are taken for its user's once the sandbox has ended. See
# ioctl_tty(2): a kernel may want CAP_SYS_ADMIN for it.
PUSH = """
import fcntl, os, termios
fd = os.open("/dev/tty", os.O_RDWR)
try:
    for character in b"pushed\\n":
        fcntl.ioctl(fd, termios.TIOCSTI, bytes([character]))
    print("all of it")
except OSError as error:
    print("refused:", error)
"""
SHELL = 'stty -echo; "$@"; echo over; read -r line; echo "took $line."'


def taken_by_the_shell(*command: str) -> str:
    """Run a command in a shell that has a terminal; return the line that the shell reads afterwards, when its user types "typed"."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execv("/bin/sh", ["sh", "-c", SHELL, "sh", *command])  # noqa: S606
    seen, deadline, typed = "", time.monotonic() + PATIENCE, False
    try:
        while not (found := re.search(r"took (\w+)\.", seen)):
            assert time.monotonic() < deadline, seen
            if select.select([fd], [], [], 0.2)[0]:
                seen += os.read(fd, 4096).decode("utf-8", "replace")
            if "over" in seen and not typed:
                os.write(fd, b"typed\n")
                typed = True
        assert re.search("all of it|refused: ", seen), f"it wasn't tried: {seen}"
        return found[1]
    finally:
        os.close(fd)
        os.waitpid(pid, 0)


@pytest.mark.parametrize("user", ["0", "1000"])
def test_what_a_container_pushes_into_its_terminal_stays_there(user: str) -> None:
    assert taken_by_the_shell(*SEALED, "-u", user, "python", "python3", "-c", PUSH) == "typed"


@pytest.mark.skipif(os.geteuid() != 0, reason="kernels may want CAP_SYS_ADMIN of whoever pushes: dev.tty.legacy_tiocsti")
def test_in_the_same_terminal_it_is_taken_for_the_users() -> None:
    assert taken_by_the_shell(sys.executable, "-c", PUSH) == "pushed"
