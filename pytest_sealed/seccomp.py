"""From the option `seccomp` to the filters of system calls that the supervisor sets."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any

from pytest_sealed.errors import HostUnsupported, SpecError

__all__ = ["filters_of"]

_LARGEST_FILE = 1 << 20   # bytes; Docker's own has 17,000


def filters_of(choice: str, capabilities: Sequence[str], *, nested: bool = False, writable: bool = False) -> dict[str, Any]:
    """Return the part of a request that says which filters there are: names of those that ship, and a program of its own.

    Args:
        choice: `default`, `unconfined`, or the path of a profile or of a program.
        capabilities: of the container. Docker's default lets those call chroot(2) that have SYS_CHROOT, and so does ours.
        nested: whether the default is the one for sessions inside: their own containers have the usual one on top of it.
        writable: whether the container may write to a folder of the host's, where a set-user-ID file would be one of the account's.

    Raises:
        SpecError: the file can't be read, or is neither a profile nor a program.
        HostUnsupported: a profile can't be compiled here.
    """
    if choice == "unconfined":
        return {"ready": [], "program": ""}
    no_setuid = ["no-setuid"] if writable else []
    if choice == "default":
        no_chroot = ["no-chroot"] if "SYS_CHROOT" not in capabilities else []
        return {"ready": ["nested" if nested else "default", *no_chroot, *no_setuid], "program": ""}
    try:
        with open(choice, "rb") as file:
            data = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise SpecError(f"the seccomp profile {choice} can't be read: {error.strerror}", remedy=f"ls -l {choice}") from None
    return {"ready": no_setuid, "program": _program(choice, data, tuple(capabilities)).hex()}


@functools.lru_cache(maxsize=16)   # libseccomp takes as long as the rest of a start
def _program(path: str, data: bytes, capabilities: tuple[str, ...]) -> bytes:
    # few runs come here
    from pytest_sealed.linux.seccomp import INSTRUCTION, LARGEST_PROGRAM
    from pytest_sealed.runtime.seccomp.profile import FAMILIES, compile_profile

    what = f"the seccomp profile {path}"
    if data.lstrip()[:1] == b"{":
        machine = os.uname().machine
        if len(data) > _LARGEST_FILE:
            raise SpecError(f"{what} is larger than {_LARGEST_FILE >> 20} MiB", remedy="take one of fewer rules")
        if machine not in FAMILIES:
            raise HostUnsupported(f"{what} can't be compiled for this machine ({machine}), only for {', '.join(FAMILIES)}",
                                  remedy="give a program that is ready: a file of classic BPF")
        return compile_profile(data.decode(errors="replace"), what, machine=machine, capabilities=capabilities)
    if not data or len(data) % INSTRUCTION or len(data) > LARGEST_PROGRAM:
        raise SpecError(f"{what} is neither JSON nor a program of classic BPF: that has 1 to {LARGEST_PROGRAM // INSTRUCTION} "
                        f"instructions of {INSTRUCTION} bytes",
                        remedy="give a JSON object in the OCI's form; see docs/reference/seccomp.md")
    return data
