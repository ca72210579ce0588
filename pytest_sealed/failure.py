"""The words for what went wrong with a container."""

from __future__ import annotations

import errno
import shlex
import signal
import warnings
from typing import TYPE_CHECKING, Any

from pytest_sealed import errors
from pytest_sealed.errors import ContainerFailed, HostUnsupported, InternalError, SealedError, SealedWarning, SpecError

if TYPE_CHECKING:
    from pytest_sealed.container import Container
    from pytest_sealed.runtime.client import Session

__all__ = ["describe_end", "format_size", "report", "start_failed", "warn_of_copy", "warn_of_disk"]


_REMEDIES = {
    "command": "look into the image: sealed run -ti {image} sh",
    "missing": "look into the image: sealed run -ti {image} sh",
    "workdir": "look into the image: sealed run -ti {image} sh",
    "image": "mend the image: /dev, /proc, /sys and /etc are folders in one that containers can be made of",
    "scratch": 'give it more: scratch_size="1M" or memory=, of which half is for the writable layer',
    "ulimit": "give less: no more than `ulimit -a -H` shows on the host",
    "mount": "mount it elsewhere: `sealed run -ti {image} sh` shows what the image has there",
    "writable": "mount it read-only, or a folder of it that can be written",
    "files": "give it at another path: `sealed run -ti {image} sh` shows what the image has there",
    "secrets": "mend the image: /run/secrets is a folder, or missing, in one that gets secrets",
    "seccomp": 'run it without a filter: seccomp="unconfined"',
    "terminal": "",
    "network": "",
}
"""Kinds of failures of a start that no bug of ours is needed for."""

_STATUS = {"command": 126, "missing": 127}
"""What a shell returns for them. See "Exit Status for Commands" in POSIX, XCU 2.8.2."""


_OF_SIGNALS = {signal.SIGSYS: ": its filter of system calls does that to a program of another ABI, such as one of 32 bits"}


def format_size(size: float | None) -> str:
    """Return a number of bytes for people, for example "64 MiB"."""
    if size is None:
        return "unlimited"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if size == int(size) or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable")


def describe_end(name: str, argv: list[str], end: dict[str, Any] | None, limit: int | None) -> str:
    """Return one sentence on how a container ended: exit code or signal, out of memory, and the command."""
    command = shlex.join(argv)
    if end is None:
        return f"container {name!r} has not ended ({command})"
    if end["signal"] is not None:
        cause = f"was ended by {signal_name(end['signal'])}{_OF_SIGNALS.get(end['signal'], '')}"
    else:
        cause = f"exited with code {end['code']}"
    memory = f", after the kernel had killed a process of it for reaching its memory limit of {format_size(limit)}" if end["oom"] else ""
    return f"container {name!r} {cause}{memory} ({command})"


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def start_failed(container: Container, failure: dict[str, Any]) -> SealedError:
    """Return the error for a container that did not start."""
    kind, text, remedy = failure.get("kind", ""), failure.get("text", "no reason was given"), failure.get("remedy", "")
    what = f"container {container.name!r} ({container.image}) did not start"
    known = getattr(errors, kind, None)
    if isinstance(known, type) and issubclass(known, SealedError):
        return known(f"{what}: {text}", remedy=remedy)
    if failure.get("oom"):
        return ContainerFailed(f"{what}: its memory limit of {format_size(container.spec.limits.memory)} does not even hold the runtime",
                               remedy="give it more memory")
    if kind == "user":
        return SpecError(f"{what}: {text}", remedy="give user= a name of the image's /etc/passwd, or a number")
    if kind == "sysctl":
        return SpecError(f"{what}: {text}", remedy="`sysctl -a` shows the names that this kernel has, and the form of their values")
    if kind in _REMEDIES:
        failed = ContainerFailed(f"{what}: {text}", remedy=_REMEDIES[kind].format(image=container.image))
        failed.exit_status = _STATUS.get(kind)
        return failed
    if failure.get("errno") in (errno.EPERM, errno.ENOSYS):   # an outer engine's filter of system calls lets some through that we need
        return HostUnsupported(f"{what}: this host denies a step of the start: {text}", remedy="`sealed doctor` tries each, and says why")
    return InternalError(f"{what}: {text}")


def warn_of_copy(container: Container, copied: dict[str, Any], session: Session) -> None:
    """Say once for each image of a session what its copies cost."""
    if container.image in session.warned:
        return
    session.warned.add(container.image)
    cost = f"{format_size(copied['bytes'])} in {copied['seconds']:.1f} s"
    where = f"below {session.disk.parent}" if container.spec.scratch == "disk" else f"in memory here, nor below {session.disk.parent}"
    warnings.warn(SealedWarning(
        f"a container of {container.image!r} began with a copy of its image, {cost}, and so will each: "
        f"an overlay can't be written to {where}\n"
        "  remedy: set SEALED_STORE to a folder on ext4, xfs or btrfs, such as a volume"), stacklevel=2)


def warn_of_disk(session: Session) -> None:
    """Say once in a session that writable layers have no size here, if so."""
    if "scratch_size" in session.warned or session.request("hello")[0]["memory_upper"]:
        return
    session.warned.add("scratch_size")
    warnings.warn(SealedWarning(
        f"scratch_size= has no effect: memory can't hold a writable layer here, so each is below {session.disk.parent}, of any size\n"
        "  remedy: Linux 6.6 or later, or leave scratch_size= out"), stacklevel=2)


def report(container: Container, end: dict[str, Any] | None, failure: SealedError | None, since_logs: int) -> str:
    """Return the block of a failure report on one container."""
    rows = [f"image    {container.image}", f"command  {shlex.join(container.argv)}"]
    status = container.status
    if failure is not None:
        rows.append(f"state    never started: {failure.message}")
    elif end is not None:
        rows.append(f"state    stopped: {describe_end(container.name, container.argv, end, container.spec.limits.memory).split(' ', 2)[2]}")
    else:
        rows.append(f"state    {status}")
    if container.started_at is not None and failure is None:
        rows += _figures(container)
    if container.ports:
        rows.append("ports    " + ", ".join(f"{inside} → 127.0.0.1:{outside}" for inside, outside in sorted(container.ports.items())))
    if container.sockets:
        rows.append("sockets  " + ", ".join(f"{inside} → {path}" for path, inside in container.sockets.items()))
    try:
        text = container.logs(since=since_logs) if container.started_at is not None else ""
    except SealedError as error:   # the rest is worth telling
        return "\n".join([*rows, f"log      can't be told: {error.message}"])
    kept = text.splitlines()[-60:]
    if kept:
        rows.append(f"log      {'the last 60 lines ' if len(text.splitlines()) > 60 else ''}of this test:")
        rows += [f"    {line}" for line in kept]
    else:
        rows.append("log      nothing in this test")
    return "\n".join(rows)


def _figures(container: Container) -> list[str]:
    try:
        stats = container.stats()
    except SealedError:
        return []
    rows = []
    if stats.memory_peak is not None:
        share = f" ({stats.memory_peak / stats.memory_limit:.0%})" if stats.memory_limit else ""
        rows.append(f"memory   peak {format_size(stats.memory_peak)} of {format_size(stats.memory_limit)}{share}"
                    + (f", {stats.oom_kills} killed for reaching it" if stats.oom_kills else ""))
    if stats.cpu_seconds is not None:
        throttled = f", throttled for {stats.throttled_seconds:.2f} s" if stats.throttled_seconds else ""
        rows.append(f"cpu      {stats.cpu_seconds:.2f} s{throttled}")
    return rows
