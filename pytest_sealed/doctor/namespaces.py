"""Namespaces, mounts and system calls: a worker is started in a session's kind of namespaces, and tries things there."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from pytest_sealed.doctor.finding import Finding, Remedy
from pytest_sealed.errors import HostUnsupported, InternalError, SealedError
from pytest_sealed.images.folders import existing
from pytest_sealed.runtime.launch import confined

if TYPE_CHECKING:
    from pytest_sealed.doctor.host import Host

__all__ = ["Tried", "check", "try_inside"]

ENGINE_FLAGS = ("--security-opt seccomp=unconfined --security-opt apparmor=unconfined and --security-opt systempaths=unconfined (Docker) "
                "or --security-opt unmask=ALL (Podman)")
POD = "hostUsers: false and securityContext: {procMount: Unmasked, seccompProfile: {type: Unconfined}}"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What a worker found in a session's kind of namespaces; without any where it could not be started."""

    error: SealedError | None = None
    """Why no worker could be started."""
    facts: dict[str, Any] = field(default_factory=dict)
    """See `inside.main`."""


def try_inside(store: Path) -> Tried:
    """Start the worker and let it try; folders of its own are gone afterwards.

    Args:
        store: the store's folder; where nothing can be written there, no writable layer is tried on its disk.
    """
    from pytest_sealed.runtime.client import drop_run_root, run_root, site
    from pytest_sealed.runtime.launch import run_inside
    with contextlib.ExitStack() as stack:
        try:
            runs = run_root()
            stack.callback(drop_run_root, runs)   # last
        except SealedError:
            runs = Path(tempfile.gettempdir())
        made = stack.enter_context(tempfile.TemporaryDirectory(prefix="doctor.", dir=runs))
        for name in ("root", "memory"):
            os.mkdir(f"{made}/{name}")
        disk = stack.enter_context(_beside(store))
        try:
            facts = run_inside("pytest_sealed.doctor.inside", {"root": f"{made}/root", "memory": f"{made}/memory", "disk": disk},
                               paths=[site()])
        except SealedError as error:
            return Tried(error=error)
        return Tried(facts=facts)


@contextlib.contextmanager
def _beside(store: Path) -> Iterator[str]:
    """Yield a folder on the file system where the store is, or will be; "" where none can be made."""
    try:
        made = tempfile.mkdtemp(prefix=".sealed-doctor.", dir=existing(store))
    except OSError:
        yield ""
        return
    try:
        yield made
    finally:
        from pytest_sealed.runtime.scratch import remove_tree
        remove_tree(made)


def check(host: Host, tried: Tried) -> Iterator[Finding]:
    """Say whether the namespaces, file systems and system calls of a container can be had."""
    if tried.error is not None:
        yield _refused(host, tried.error)
        return
    restricted = _reads("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1"
    yield Finding(check="namespaces", state="ok", found="user, mount, PID and network namespaces were made, ids mapped, /proc mounted" + (
        "; AppArmor restricts unprivileged user namespaces, but not this Python's" * (restricted and host.uid != 0)))
    failed = {kind: text for kind, text in tried.facts["mounts"].items() if text}
    if tried.facts["overlay"]:
        failed["overlay"] = tried.facts["overlay"]
    if failed:
        yield Finding(check="file systems", state="missing", found="; ".join(failed.values()), effect="no container can be started",
                      remedy=_mount_remedy(host, failed), page=_page(host))
    else:
        yield Finding(check="file systems", state="ok", found=f"{', '.join(sorted([*tried.facts['mounts'], 'overlay']))} were mounted")
    yield _calls(host, tried.facts["calls"])
    yield _filter(tried.facts["seccomp"])


def _calls(host: Host, failed: str) -> Finding:
    filtered = _status_field("Seccomp") == "2"
    under = "under a seccomp filter" if filtered else "under no seccomp filter"
    if not failed:
        return Finding(check="system calls", state="ok", found=f"those that a container needs are there, {under}")
    return Finding(
        check="system calls", state="missing", found=f"{failed} ({under}, Linux {host.kernel})", effect="no container can be started",
        remedy=_outside(host) if filtered else Remedy(text="a kernel of 5.14 or later"), page=_page(host))


def _filter(failed: str) -> Finding:
    if not failed:
        return Finding(check="seccomp", state="ok", found="a container's filter of system calls was set, and denied what it shall")
    return Finding(check="seccomp", state="missing", found=failed, effect='containers start with seccomp="unconfined" only',
                   remedy=Remedy(text="a kernel with CONFIG_SECCOMP_FILTER, on x86_64 or aarch64"), page="how-to/hosts.md")


def _refused(host: Host, error: SealedError) -> Finding:
    commands: tuple[str, ...] = ()
    text = error.remedy
    page = _page(host)
    if isinstance(error, InternalError):
        text = "this is a bug of pytest-sealed, or of this Python: please report it with this text"
        if "ctypes" in error.message:
            commands, text = (host.install("ctypes"),), ""
    elif "apparmor_restrict_unprivileged_userns" in text:
        commands, page = _apparmor(host), "how-to/hosts/ubuntu.md"
        text = "or, until the next boot: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    elif text.startswith("sudo sysctl"):
        command, _, more = text.partition(";")
        commands, text = (host.sudo(command.removeprefix("sudo ")),), more.strip()
    elif host.place and "--security-opt" in text:
        outside = _outside(host)
        commands, text = outside.commands, outside.text
    elif confined():
        commands, page = _apparmor(host), "how-to/hosts/ubuntu.md"
        text = f"or let the AppArmor profile {confined()}, which this Python runs under, allow `userns,` and capabilities"
    elif isinstance(error, HostUnsupported) and "newuidmap" in text:
        commands = tuple(filter(None, [host.install("newuidmap")]))
    return Finding(check="namespaces", state="missing", found=error.message, effect="no container can be started",
                   remedy=Remedy(commands=commands, text=text), page=page)


def _apparmor(host: Host) -> tuple[str, ...]:
    """Return the commands that give this Python a profile in which user namespaces stay allowed. See apparmor.d(5)."""
    profile = f"abi <abi/4.0>,\\ninclude <tunables/global>\\nprofile pytest-sealed {host.python} flags=(unconfined) {{\\n  userns,\\n}}\\n"
    path = "/etc/apparmor.d/pytest-sealed"
    return (f"printf '{profile}' | {host.sudo(f'tee {path}')}", host.sudo(f"apparmor_parser -r {path}"))


def _mount_remedy(host: Host, failed: dict[str, str]) -> Remedy:
    if "overlay" in failed and len(failed) == 1 and not host.place:
        if failed["overlay"].startswith(f"[Errno {errno.EPERM}]"):
            return Remedy(text="Linux 5.14 or later; before 5.11, user namespaces can't mount overlayfs at all")
        return Remedy(commands=(host.sudo("modprobe overlay"),))
    return _outside(host) if host.place else Remedy(text="a security policy of this host forbids it; ask who set it up")


def _outside(host: Host) -> Remedy:
    """Return what has to be said to whatever this account is in."""
    if host.place == "kubernetes":
        return Remedy(text=f"give the pod {POD}")
    return Remedy(text=f"start the outer container with {ENGINE_FLAGS}; one of pytest-sealed with nested=True")


def _page(host: Host) -> str:
    return {"kubernetes": "how-to/hosts/gitlab-kubernetes.md", "container": "how-to/hosts/containers.md",
            "wsl": "how-to/hosts/wsl.md"}.get(host.place, "how-to/hosts.md")


def _reads(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""


def _status_field(name: str) -> str:
    return next((line.split()[1] for line in _reads("/proc/self/status").splitlines() if line.startswith(f"{name}:")), "")
