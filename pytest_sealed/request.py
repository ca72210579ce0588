"""From a spec and an image to the request that the supervisor carries out. Pure, but for the image's facts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pytest_sealed.errors import SpecError
from pytest_sealed.given import check_seen
from pytest_sealed.seccomp import filters_of
from pytest_sealed.secret import SECRETS
from pytest_sealed.spec import CAPABILITIES, ContainerSpec, Tmpfs

if TYPE_CHECKING:
    from pytest_sealed.images.store import Image

__all__ = ["argv_of", "ports_of", "run_request"]


def argv_of(spec: ContainerSpec[Any], image: Image) -> list[str]:
    """Return what is executed: entrypoint and command, as Docker combines them.

    An entrypoint in the spec drops the image's command, unless the spec gives one too.

    Raises:
        SpecError: neither says anything.
    """
    entrypoint = list(image.config.entrypoint) if spec.entrypoint is None else list(spec.entrypoint)
    if spec.command is not None:
        command = list(spec.command)
    else:
        command = list(image.config.command) if spec.entrypoint is None else []
    if not entrypoint + command:
        raise SpecError(f"image {image.reference!r} says no command to run", remedy='give command=["…"]')
    return entrypoint + command


def ports_of(spec: ContainerSpec[Any], image: Image) -> list[int]:
    """Return the ports that are forwarded from the start."""
    return sorted({*image.config.ports, *spec.ports})


def run_request(spec: ContainerSpec[Any], image: Image, *, container: str, name: str, networks: list[dict[str, Any]],
                ports: list[int], mounts: list[dict[str, Any]], terminal: tuple[int, int] | None = None,
                stdio: bool = False) -> dict[str, Any]:
    """Return the request `run` of the supervisor."""
    check_seen(spec, image)
    # In a folder of the host's, a file with capabilities, or with a set-user-ID bit, would have them outside too.
    writable = any(not mount.read_only for mount in spec.mounts)
    environment = {**({"container": "pytest-sealed"} if spec.nested else {}), **image.config.env, **dict(spec.env)}
    return {
        "id": container,
        "name": name,
        "image": image.reference,
        "layers": [str(layer) for layer in image.layers],
        "argv": argv_of(spec, image),
        "env": environment,
        "user": image.config.user if spec.user is None else spec.user,
        "volumes": [path for path in map(_shortest, image.config.volumes) if path != "/"],
        "workdir": _shortest(spec.workdir or image.config.workdir),
        "hostname": spec.hostname or name,
        "limits": {"memory": spec.limits.memory, "swap": spec.limits.swap, "cpus": spec.limits.cpus,
                   "cpu_shares": spec.limits.cpu_shares, "pids": spec.limits.pids, "pids_required": spec.limits.pids != 2048},
        "networks": networks,
        "ports": ports,
        "mounts": mounts,
        "files": bool(spec.files),
        "secrets": {"target": SECRETS, "names": [name for name, _ in spec.secrets]} if spec.secrets else None,   # their values go apart
        "tmpfs": [_tmpfs_row(item) for item in (*image.config.tmpfs, *spec.tmpfs)],
        "shm_size": spec.shm_size,
        "scratch": spec.scratch,
        "scratch_size": spec.scratch_size,
        "read_only": spec.read_only,
        "init": spec.init,
        "tty": terminal is not None,
        "window": terminal or (0, 0),
        "stdio": stdio,
        "rlimits": [list(row) for row in spec.ulimits],
        "sysctls": [list(row) for row in spec.sysctls],
        "capabilities": [CAPABILITIES[item] for item in spec.capabilities if not (writable and item == "SETFCAP")],
        "nested": spec.nested,
        "seccomp": filters_of(spec.seccomp, spec.capabilities, nested=spec.nested, writable=writable),
    }


def _shortest(path: str) -> str:
    """Return a path of the container in its shortest form: what is missing of one with `..` in it can be made."""
    return f"/{os.path.normpath(f'/{path}').lstrip('/')}"


def _tmpfs_row(item: Tmpfs) -> dict[str, Any]:
    return {"target": item.target, "size": item.size, "mode": item.mode, "user": item.user or ""}
