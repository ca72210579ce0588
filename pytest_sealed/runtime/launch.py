"""Starts processes in the session's user namespace: the supervisor, and one-shot workers for the store."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from typing import Any

from pytest_sealed import errors
from pytest_sealed.errors import HostUnsupported, InternalError, SealedError
from pytest_sealed.runtime.idmap import IdMap, find_id_map
from pytest_sealed.runtime.protocol import Channel, pair

__all__ = ["run_inside", "start_supervisor"]

_BOOTSTRAP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bootstrap.py")


def _start(request: dict[str, Any], fds: list[int]) -> tuple[Channel, subprocess.Popen[bytes]]:
    ours, theirs = pair()
    interpreter = getattr(sys, "_base_executable", None) or sys.executable
    environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C.UTF-8"}
    with theirs:
        worker = subprocess.Popen(
            [os.path.realpath(interpreter), "-I", "-S", _BOOTSTRAP, str(theirs.fileno())],
            pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if request["role"] == "supervisor" else None,
            env=environment, cwd="/", start_new_session=request["role"] == "supervisor",
        )
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


def start_supervisor(config: dict[str, Any], *, writable: list[str], ids: IdMap, fds: list[int]) -> tuple[Channel, int, int]:
    """Start a session's supervisor; return its control channel, its pidfd and its pid.

    Raises:
        HostUnsupported: the host can't make a step's namespace or mount; names the step and the remedy.
    """
    request = {"role": "supervisor", "ids": ids.to_json(), "writable": writable}
    channel, launcher = _start(request, fds)
    try:
        answer = channel.receive()
        launcher.wait()
        if answer is None or "error" in answer[0]:
            raise translate(answer[0]["error"] if answer else {}, "supervisor")
        pid, pidfd = int(answer[0]["pid"]), answer[1][0]
    except BaseException:
        channel.close()
        raise
    channel.send(config)
    return channel, pidfd, pid


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
        return HostUnsupported(f"ids could not be mapped into a user namespace: {text}", remedy=(
            "check this account's rows in /etc/subuid and /etc/subgid, and that newuidmap is setuid root (`apt install uidmap`); "
            "or run with SEALED_IDS=single"))
    if step in ("make the session's namespaces", "prepare the session's mounts"):
        return HostUnsupported(f"this host denies what a container needs, at the step '{step}': {text}",
                               remedy=_user_namespace_remedy(code))
    if step.startswith("mount the"):
        return HostUnsupported(f"this host denies a /proc of our own: {text}", remedy=(
            "parts of /proc are masked here, as inside a Docker container: run it with --security-opt systempaths=unconfined"))
    return InternalError(f"{who} failed at the step '{step}': {text}\n{error.get('trace', '')}".rstrip())


def _user_namespace_remedy(code: int) -> str:
    if code == errno.ENOSPC or _reads("/proc/sys/user/max_user_namespaces", "0"):
        return "sudo sysctl -w user.max_user_namespaces=15000"
    if _reads("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"):
        return "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0   (or an AppArmor profile with `userns,` for this Python)"
    if _reads("/proc/sys/kernel/unprivileged_userns_clone", "0"):
        return "sudo sysctl -w kernel.unprivileged_userns_clone=1"
    return ("a seccomp or security policy forbids it: inside Docker or Podman run with "
            "--security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined")


def _reads(path: str, value: str) -> bool:
    try:
        with open(path) as file:
            return file.read().strip() == value
    except OSError:
        return False
