"""Makes this interpreter one of macOS or Windows, as far as imports and names go: `become("darwin")`, `become("win32")`.

What Python's own modules and pytest import is imported first, by the caller, since those would not work any more; then the names
that such a Python lacks are taken away. Also a program: `python other_systems.py SYSTEM` imports all that users import, and prints
what failed, a line each.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import sys

_LINUX_ONLY = {
    os: ("O_PATH", "memfd_create", "pidfd_open", "setns", "unshare", "splice", "getxattr", "setxattr", "listxattr",
         "removexattr", "sched_getaffinity", "pipe2", "eventfd", "copy_file_range", "posix_fadvise"),
    select: ("epoll", "EPOLLIN", "EPOLLOUT", "EPOLLHUP", "EPOLLERR", "EPOLLRDHUP", "EPOLLPRI", "EPOLLET"),
    socket: ("SO_PEERCRED", "SOCK_CLOEXEC", "MSG_CMSG_CLOEXEC", "AF_NETLINK", "AF_VSOCK"),
}
_UNIX_ONLY = {
    os: ("O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY", "geteuid", "getuid", "getegid", "getgid", "fork", "mknod",
         "mkfifo", "chown", "lchown", "fchown", "fchmod", "chroot", "setsid", "killpg", "statvfs", "WNOHANG", "wait", "fchdir", "getgroups",
         "setgroups", "readv", "writev", "pread", "pwrite"),
    select: ("poll", "POLLIN", "POLLHUP", "POLLERR"),
    signal: ("SIGKILL", "SIGHUP", "SIGCHLD", "SIGPIPE", "SIGQUIT", "SIGALRM", "SIGCONT", "SIGSTOP", "pthread_sigmask"),
    socket: ("AF_UNIX", "SCM_RIGHTS", "CMSG_SPACE", "CMSG_LEN", "socketpair"),
}
_UNIX_MODULES = ("fcntl", "grp", "pwd", "pty", "resource", "termios", "tty")


def become(system: str) -> None:
    """Take away what `system`, a value of `sys.platform`, lacks."""
    for table in (_LINUX_ONLY, _UNIX_ONLY) if system == "win32" else (_LINUX_ONLY,):
        for module, names in table.items():
            for name in names:
                module.__dict__.pop(name, None)
    if system == "win32":
        sys.modules.update(dict.fromkeys(_UNIX_MODULES))  # type: ignore[arg-type]  # None: an import fails

        class PyDLL(ctypes.PyDLL):
            def __init__(self, name: str | None, *arguments: object, **options: object) -> None:
                if name is None:
                    raise TypeError("LoadLibrary() argument 1 must be str, not None")
                super().__init__(None, use_errno=True)
        ctypes.PyDLL = PyDLL  # type: ignore[misc]
    sys.platform = system


def failures() -> list[str]:
    """Import every public name, the plugin, the services and each command; return what failed."""
    import contextlib
    import importlib
    import io

    import pytest_sealed
    failed = []

    def tried(what: str, module: str, attribute: str = "") -> None:
        try:
            value = importlib.import_module(module)
            if attribute:
                getattr(value, attribute)
        except Exception as error:
            failed.append(f"{what}: {error!r}")
    for name in pytest_sealed.__all__:
        tried(name, "pytest_sealed", name)
    for module in ("pytest_sealed.plugin", "pytest_sealed.services", "pytest_sealed.cli"):
        tried(module, module)
    from pytest_sealed.cli import COMMANDS, main
    for command in ("", *COMMANDS):
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
            try:
                main([command, "--help"] if command else ["--help"])
            except Exception as error:
                failed.append(f"sealed {command} --help: {error!r}")
        if not out.getvalue().startswith("usage: sealed"):
            failed.append(f"sealed {command} --help printed {out.getvalue()!r}")
    return failed


if __name__ == "__main__":
    import argparse  # noqa: F401  (before the system changes)
    import asyncio  # noqa: F401
    import shutil  # noqa: F401
    import subprocess  # noqa: F401
    import tarfile  # noqa: F401
    import tempfile  # noqa: F401
    import urllib.request  # noqa: F401

    import filelock  # noqa: F401
    import pytest  # noqa: F401
    become(sys.argv[1])
    print("\n".join(failures()))
