"""The init of a container that asked for one: PID 1, which reaps orphans and passes signals on to the command."""

from __future__ import annotations

import os
import signal

from pytest_sealed.linux import process
from pytest_sealed.runtime.seccomp import filters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_sealed.runtime.protocol import Channel

__all__ = ["fork_under_init"]


def fork_under_init(sync: Channel, terminal: bool, programs: list[bytes]) -> None:
    """Fork: the parent stays PID 1, under the command's filters, and never returns; the child returns, and goes on to the command.

    Not before PID 1 has shut itself off: the command may be hostile, and has PID 1's ids.
    """
    # Signals are blocked, and taken one by one. PID 1 ignores what it neither handles nor blocks; and a handler of Python's
    # runs between system calls: one for a signal that comes just before a wait would wait with it.
    taken = signal.valid_signals()
    signal.pthread_sigmask(signal.SIG_SETMASK, taken)
    closed, gate = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(gate)
        os.read(closed, 1)
        os.close(closed)
        if terminal:   # Ctrl-C is for the command; PID 1 would pass it on a second time
            os.setpgid(0, 0)
            os.tcsetpgrp(0, os.getpgrp())   # SIGTTOU is blocked: see tcsetpgrp(3)
        return
    sync.close()
    process.set_name("sealed-init")
    process.set_command_line("/sealed-init")   # the host's paths are none of the container's business
    os.dup2(gate, 0)
    process.close_range(1)
    filters.set_filters(programs)
    os.close(0)
    while True:
        number = signal.sigwait(taken)
        if number == signal.SIGCHLD:
            _reap(child)
        else:
            _pass_on(child, number)


def _reap(child: int) -> None:
    """Take the status of everything that has ended; end with the command's own."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            # PID 1 can't end by a signal of its own namespace: the shells' 128 + n says it
            os._exit(code if code >= 0 else 128 - code)
        if pid == 0:
            return


def _pass_on(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
