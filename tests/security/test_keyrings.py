"""The kernel's keyrings, which user namespaces do not part: a container has none of the host's keys, nor of another's.

The filter of system calls denies keys altogether, so these containers have none.
"""

from __future__ import annotations

import subprocess
import sys

# In a process of its own, whose session keyring is new: the test's own account keeps what it has.
HOST = """
import ctypes, sys
from pytest_sealed import Sandbox

KEYCTL, ADD_KEY = (250, 248) if sys.argv[1] == "x86_64" else (219, 217)
SESSION = ctypes.c_int(-3)
LOOK = f'''
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def found(name):
    return libc.syscall({KEYCTL}, 10, ctypes.c_int(-3), b"user", name, 0) > 0
print("host's", found(b"of-the-host"), "another's", found(b"of-a-container"))
libc.syscall({ADD_KEY}, b"user", b"of-a-container", b"x", ctypes.c_size_t(1), ctypes.c_int(-3))
print("own", found(b"of-a-container"))
'''
libc = ctypes.CDLL(None, use_errno=True)
assert libc.syscall(KEYCTL, 1, None) > 0
assert libc.syscall(ADD_KEY, b"user", b"of-the-host", b"secret", ctypes.c_size_t(6), SESSION) > 0
with Sandbox() as sandbox:
    for name in ("one", "two"):
        container = sandbox.run("python", ["sleep", "1000000"], name=name, seccomp="unconfined")
        for user in ("0", "1000"):
            print(container.exec(["python3", "-c", LOOK], user=user, check=True).stdout, end="")
        own = sandbox.run("python", ["python3", "-c", LOOK], name=f"{name}-own", seccomp="unconfined")
        own.wait(30)
        print(own.logs(), end="")
assert libc.syscall(KEYCTL, 10, SESSION, b"user", b"of-the-host", 0) > 0
assert libc.syscall(KEYCTL, 10, SESSION, b"user", b"of-a-container", 0) < 0
"""


def test_a_container_finds_neither_the_hosts_keys_nor_another_containers() -> None:
    import platform
    result = subprocess.run([sys.executable, "-c", HOST, platform.machine()], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["host's False another's False", "own True"] * 6
