"""Starts processes in the session's user namespace: the supervisor, and one-shot workers for the store."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
import tempfile
from typing import Any

from pytest_sealed import errors
from pytest_sealed.errors import HostUnsupported, InternalError, SealedError
from pytest_sealed.runtime.cgroups.scope import COMMAND
from pytest_sealed.runtime.idmap import IdMap, find_id_map
from pytest_sealed.runtime.protocol import Channel, pair

__all__ = ["ScopeUnavailable", "confined", "interpreter", "run_inside", "start_supervisor", "try_limits"]

_HERE = os.path.dirname(os.path.abspath(__file__))
_BOOTSTRAP = os.path.join(_HERE, "bootstrap.py")
_TRIAL = os.path.join(_HERE, "cgroups", "trial.py")


def interpreter() -> str:
    """Return the interpreter behind a virtual environment: that one's own folder may not be readable in a user namespace."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C.UTF-8"}


def _start(request: dict[str, Any], fds: list[int], *, manager: dict[str, str] | None = None,
           errors_to: int | None = None) -> tuple[Channel, subprocess.Popen[bytes]]:
    ours, theirs = pair()
    with theirs:
        worker = subprocess.Popen(
            [*(COMMAND if manager is not None else ()), interpreter(), "-I", "-S", _BOOTSTRAP, str(theirs.fileno())],
            pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors_to,
            env={**_environment(), **(manager or {})}, cwd="/", start_new_session=request["role"] == "supervisor",
        )
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):   # it has ended already: there will be no answer
        ours.send(request, fds)
    return ours, worker


def run_inside(module: str, payload: dict[str, Any], *, fds: list[int] | None = None, network: bool = False,
               paths: list[str] | None = None, ids: IdMap | None = None) -> dict[str, Any]:
    """Run `module.main({**payload, "ids": …, "fds": […]})` in U0 with its own mount and PID namespace; return its result.

    There uid 0 is this account and uid 1 + x is the container id x (see `idmap`). `module` may import
    the standard library and this package only, or what lies in `paths`.

    Args:
        fds: duplicated into the worker, which finds their numbers under "fds".
        network: keep the host's network; otherwise the worker has an empty one.

    Raises:
        SealedError: the worker raised it, or the host can't make the namespaces (`HostUnsupported`).
        InternalError: the worker failed in another way, or died.
    """
    ids = ids or find_id_map()
    request = {"role": "worker", "ids": ids.to_json(), "module": module, "payload": payload, "network": network, "paths": paths or []}
    channel, worker = _start(request, fds or [])
    with channel:
        answer = channel.receive()
    status = worker.wait()
    if answer is None:
        raise InternalError(f"the worker {module} ended with status {status} and no answer")
    message = answer[0]
    if "error" in message:
        raise translate(message["error"], module)
    return dict(message["ok"])


class ScopeUnavailable(Exception):
    """systemd gave no scope; the text is what it said."""


def start_supervisor(config: dict[str, Any], *, writable: list[str], ids: IdMap, fds: list[int],
                     manager: dict[str, str] | None = None) -> tuple[Channel, int, int]:
    """Start a session's supervisor; return its control channel, its pidfd and its pid.

    Args:
        config: what the supervisor is told.
        manager: start it in a scope of this user manager's, see `cgroups.scope`; then config["hierarchy"] becomes that of the scope.

    Raises:
        HostUnsupported: the host can't make a step's namespace or mount; names the step and the remedy.
        ScopeUnavailable: systemd gave no scope.
    """
    scoped = manager is not None
    request = {"role": "supervisor", "ids": ids.to_json(), "writable": writable, "scoped": scoped}
    with tempfile.TemporaryFile() as words:   # systemd-run's; the supervisor has a log
        channel, launcher = _start(request, fds, manager=manager, errors_to=words.fileno() if scoped else subprocess.DEVNULL)
        try:
            try:
                answer = channel.receive()
            except ConnectionResetError:
                answer = None
            launcher.wait()
            words.seek(0)
            if answer is None and scoped:
                raise ScopeUnavailable(words.read(2000).decode(errors="replace").strip() or f"status {launcher.returncode}")
            if answer is None or "error" in answer[0]:
                raise translate(answer[0]["error"] if answer else {}, "supervisor")
            pid, pidfd = int(answer[0]["pid"]), answer[1][0]
        except BaseException:
            channel.close()
            raise
    if scoped:
        config["hierarchy"] = answer[0]["hierarchy"]
    channel.send(config)
    return channel, pidfd, pid


def try_limits(manager: dict[str, str] | None = None) -> dict[str, Any]:
    """Try every limit, in a process of its own; see `cgroups.trial`.

    Args:
        manager: try it in a scope of this user manager's, see `cgroups.scope`.

    Returns:
        {"hierarchy": see `Hierarchy.to_json`, "limits": option → [] or [why not, the remedy]}.

    Raises:
        ScopeUnavailable: systemd gave no scope.
        InternalError: it failed in another way.
    """
    done = subprocess.run([*(COMMAND if manager is not None else ()), interpreter(), "-I", "-S", _TRIAL], stdin=subprocess.DEVNULL,
                          capture_output=True, env={**_environment(), **(manager or {})}, cwd="/", check=False)
    try:
        return dict(json.loads(done.stdout))
    except ValueError:
        text = done.stderr.decode(errors="replace").strip()
        if manager is not None and "Traceback" not in text:
            raise ScopeUnavailable(text or f"status {done.returncode}") from None
        raise InternalError(f"the trial of limits failed with status {done.returncode}\n{text}") from None


def translate(error: dict[str, Any], who: str) -> SealedError:
    """Turn a failure inside the namespaces into an error with the remedy for this host."""
    kind = getattr(errors, error.get("kind") or "", None)
    if kind is not None:
        return kind(error["text"], remedy=error.get("remedy", "")) if issubclass(kind, SealedError) else InternalError(error["text"])
    step, code, text = error.get("step", "start"), error.get("errno", 0), error.get("text", "it ended without a word")
    if step == "make a user namespace":
        return HostUnsupported(f"this host lets this account make no user namespace: {text}", remedy=_user_namespace_remedy(code))
    if step == "leave the host's keyring":
        return HostUnsupported(f"a keyring for the session could not be made: {text}",
                               remedy="sudo sysctl -w kernel.keys.maxkeys=2000; /proc/key-users shows how many keys there are")
    if step == "write the id maps":
        written = "could not be written" not in text   # then to become its root takes the first capabilities, which AppArmor may deny
        return HostUnsupported(f"ids could not be mapped into a user namespace: {text}", remedy=(_apparmor_remedy() if written else "") or (
            "check this account's rows in /etc/subuid and /etc/subgid, and that newuidmap is setuid root (`apt install uidmap`); "
            "or run with SEALED_IDS=single"))
    if step in ("make the session's namespaces", "prepare the session's mounts"):
        return HostUnsupported(f"this host denies what a container needs, at the step '{step}': {text}",
                               remedy=_user_namespace_remedy(code))
    if step.startswith("mount the"):
        return HostUnsupported(f"this host denies a /proc of our own: {text}", remedy=(
            "parts of /proc are masked here, as inside a container: run it with --security-opt systempaths=unconfined (Docker), "
            "--security-opt unmask=ALL (Podman) or nested=True (pytest-sealed)"))
    return InternalError(f"{who} failed at the step '{step}': {text}\n{error.get('trace', '')}".rstrip())


def _user_namespace_remedy(code: int) -> str:
    if code == errno.ENOSYS and "\nSeccomp:\t0\n" in _reads("/proc/self/status"):   # no filter that could say so instead of the kernel
        return f"Linux 5.14 or later is needed, and this is {os.uname().release}"
    for kind in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup"):
        if _reads(f"/proc/sys/user/max_{kind}_namespaces") == "0":
            return f"sudo sysctl -w user.max_{kind}_namespaces=15000"
    if code == errno.ENOSPC:
        return "sudo sysctl -w user.max_user_namespaces=15000"
    if _reads("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        return "sudo sysctl -w kernel.unprivileged_userns_clone=1"
    return _apparmor_remedy() or (
        "a seccomp or security policy forbids it: inside Docker or Podman run with "
        "--security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined; "
        "inside a container of pytest-sealed give it nested=True")


def _apparmor_remedy() -> str:
    """Return what mends it where AppArmor restricts this account's user namespaces, or this Python; empty: it does neither."""
    if _reads("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1" and os.geteuid() != 0:
        return "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0   (or an AppArmor profile with `userns,` for this Python)"
    profile = confined()
    if profile:
        return (f"this Python runs under the AppArmor profile {profile}: `sealed doctor` prints a profile of its own for it; "
                "inside Docker or Podman run with "
                "--security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined")
    return ""


def confined() -> str:
    """Return the AppArmor profile that this process runs under; empty: none that denies anything. See aa_getcon(2)."""
    label = _reads("/proc/self/attr/apparmor/current")
    return "" if label.endswith("unconfined") or label.endswith("(unconfined)") else label.partition(" (")[0]


def _reads(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""
