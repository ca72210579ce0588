"""What all processes of an account share: pipes, inotify instances, keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pytest_sealed.doctor.finding import Finding, Remedy
from pytest_sealed.doctor.inside import INSTANCES, PIPES

if TYPE_CHECKING:
    from pytest_sealed.doctor.host import Host
    from pytest_sealed.doctor.namespaces import Tried

__all__ = ["check"]

_KEYS = 50   # a container takes one


def check(host: Host, tried: Tried, *, proc: str = "/proc") -> Iterator[Finding]:
    """Say whether there is enough of each for a test run."""
    if tried.error is not None:
        return
    yield _pipes(host, tried.facts["pipes"], proc)
    yield _inotify(host, tried.facts["inotify"], proc)
    yield _keys(host, proc)


def _pipes(host: Host, good: int, proc: str) -> Finding:
    limit = _number(f"{proc}/sys/fs/pipe-user-pages-soft")
    said = f"of {PIPES} pipes, {good} were of a good size (fs.pipe-user-pages-soft = {limit})"
    if good == PIPES:
        return Finding(check="pipes", state="ok", found=said)
    return Finding(check="pipes", state="degraded", found=said,
                   effect="forwarded ports are slower: this account's processes hold many pipes",
                   remedy=Remedy(commands=(host.sudo("sysctl -w fs.pipe-user-pages-soft=65536"),)), page="how-to/hosts.md")


def _inotify(host: Host, failed: str, proc: str) -> Finding:
    limit = _number(f"{proc}/sys/fs/inotify/max_user_instances")
    if not failed:
        return Finding(check="inotify", state="ok", found=f"{INSTANCES} instances were made (fs.inotify.max_user_instances = {limit})")
    return Finding(check="inotify", state="degraded", found=f"{failed} (fs.inotify.max_user_instances = {limit})",
                   effect="programs in containers that watch files, such as tail -f and reloading servers, fail",
                   remedy=Remedy(commands=(host.sudo("sysctl -w fs.inotify.max_user_instances=1024"),)), page="how-to/hosts.md")


def _keys(host: Host, proc: str) -> Finding:
    """Read /proc/key-users, see keyrings(7): that a session's own keyring can be made, the worker's start has shown."""
    row = next((line.split() for line in _text(f"{proc}/key-users").splitlines() if line.split()[:1] == [f"{host.uid}:"]), None)
    if row is None or len(row) < 4:
        return Finding(check="keyrings", state="ok", found="this account holds no keys")
    used, _, most = row[3].partition("/")
    if int(most) - int(used) >= _KEYS:
        return Finding(check="keyrings", state="ok", found=f"a session's own keyring was made; {used} of {most} keys are taken")
    return Finding(check="keyrings", state="degraded", found=f"{used} of {most} keys of this account are taken",
                   effect="some containers of a test share a keyring, or no session can start", page="how-to/hosts.md",
                   remedy=Remedy(commands=(host.sudo(f"sysctl -w kernel.keys.{'root_' * (host.uid == 0)}maxkeys={int(used) + 2000}"),)))


def _number(path: str) -> str:
    return _text(path).strip() or "unknown"


def _text(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""
