"""An image in the store, and its config in the OCI form. See the OCI image specification, config.md."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from pytest_sealed import waits
from pytest_sealed.errors import ImageError, SpecError
from pytest_sealed.images.recipe_config import ConfigChanges, HealthCheck
from pytest_sealed.spec import Tmpfs, parse_signal

__all__ = ["Image", "ImageConfig", "config_from_oci", "config_to_oci"]

READY = "io.pytest-sealed.ready"
TMPFS = "io.pytest-sealed.tmpfs"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SECOND = 1_000_000_000


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """What containers of an image do when nothing else is said."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: dict[str, str]
    user: str = ""
    """`name`, `uid`, `name:group` or `uid:gid`; empty: root."""
    workdir: str = ""
    ports: tuple[int, ...] = ()
    """TCP ports that it serves."""
    volumes: tuple[str, ...] = ()
    labels: dict[str, str]
    stop_signal: int | None = None
    healthcheck: tuple[str, ...] | None = None
    """A command that exits with 0 while the container works."""
    health: HealthCheck | None = None
    """The same with its times."""
    ready: waits.Wait | None = None
    """When a container is ready; None: once its command runs."""
    tmpfs: tuple[Tmpfs, ...] = ()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image whose layers lie unpacked in the store."""

    reference: str
    digest: str
    """`sha256:…` of its OCI manifest."""
    layers: tuple[Path, ...]
    """Folders to mount one above the other, the lowest first."""
    config: ImageConfig
    size: int
    """Bytes of all layers as tars."""
    created: float
    """Seconds since the epoch."""


def config_to_oci(config: ImageConfig, *, architecture: str, diff_ids: list[str]) -> dict[str, Any]:
    """Return the OCI image config, from which `config_from_oci` makes the same again."""
    labels = dict(config.labels)
    if config.ready is not None:
        labels[READY] = json.dumps(_wait_to_json(config.ready), separators=(",", ":"))
    if config.tmpfs:
        labels[TMPFS] = json.dumps([asdict(item) for item in config.tmpfs], separators=(",", ":"))
    body: dict[str, Any] = {
        "Env": [f"{name}={value}" for name, value in config.env.items()],
        "Entrypoint": list(config.entrypoint), "Cmd": list(config.command), "User": config.user, "WorkingDir": config.workdir,
        "Labels": labels, "ExposedPorts": {f"{port}/tcp": {} for port in config.ports}, "Volumes": {path: {} for path in config.volumes},
    }
    if config.stop_signal is not None:
        body["StopSignal"] = str(config.stop_signal)
    if config.health is not None:
        check = config.health
        times = {"Interval": check.interval, "Timeout": check.timeout, "StartPeriod": check.start_period}
        body["Healthcheck"] = {"Test": ["CMD", *check.command], "Retries": check.retries,
                               **{key: int(seconds * _SECOND) for key, seconds in times.items()}}
    kept = {key: value for key, value in body.items() if value}
    return {"architecture": architecture, "os": "linux", "config": kept, "rootfs": {"type": "layers", "diff_ids": diff_ids}}


def config_from_oci(data: dict[str, Any]) -> ImageConfig:
    """Return the config that an OCI image config describes.

    Raises:
        ImageError: a value is of the wrong kind.
    """
    try:
        body = data.get("config") or {}
        labels = {str(key): str(value) for key, value in (body.get("Labels") or {}).items()}
        check = _health(body.get("Healthcheck"))
        signal = body.get("StopSignal")
        return ImageConfig(
            entrypoint=tuple(body.get("Entrypoint") or ()), command=tuple(body.get("Cmd") or ()),
            env=dict(item.split("=", 1) for item in body.get("Env") or [] if "=" in item),
            user=str(body.get("User") or ""), workdir=str(body.get("WorkingDir") or ""),
            ports=tuple(sorted(int(port.removesuffix("/tcp")) for port in body.get("ExposedPorts") or {} if not port.endswith("/udp"))),
            volumes=tuple(sorted(body.get("Volumes") or {})),
            labels={key: value for key, value in labels.items() if key not in (READY, TMPFS)},
            stop_signal=parse_signal(signal) if signal else None, health=check, healthcheck=check.command if check else None,
            ready=_wait_from_json(json.loads(labels[READY])) if READY in labels else None,
            tmpfs=tuple(Tmpfs(**row) for row in json.loads(labels.get(TMPFS, "[]"))),
        )
    except (KeyError, TypeError, ValueError, AttributeError, SpecError) as error:
        raise ImageError(f"an image's config can't be understood: {error}") from error


def change_config(config: ImageConfig, changes: ConfigChanges) -> ImageConfig:
    """Return `config` with what a recipe says."""
    def either(new: Any, old: Any) -> Any:
        return old if new is None else new
    health = either(changes.healthcheck, config.health)
    return ImageConfig(
        entrypoint=either(changes.entrypoint, config.entrypoint), command=either(changes.cmd, config.command),
        env={**config.env, **dict(changes.env)}, user=either(changes.user, config.user), workdir=either(changes.workdir, config.workdir),
        ports=tuple(sorted({*config.ports, *changes.ports})), volumes=tuple(sorted({*config.volumes, *changes.volumes})),
        labels={**config.labels, **dict(changes.labels)}, stop_signal=either(changes.stop_signal, config.stop_signal),
        health=health, healthcheck=health.command if health else None, ready=either(changes.ready, config.ready),
        tmpfs=either(changes.tmpfs, config.tmpfs),
    )


def _health(data: dict[str, Any] | None) -> HealthCheck | None:
    data = data or {}
    test = data.get("Test") or ["NONE"]
    if test[0] not in ("CMD", "CMD-SHELL") or len(test) < 2:
        return None
    command = tuple(test[1:]) if test[0] == "CMD" else ("/bin/sh", "-c", test[1])
    times = {name: data[key] / _SECOND for name, key in (("interval", "Interval"), ("timeout", "Timeout"), ("start_period", "StartPeriod"))
             if data.get(key)}
    return HealthCheck(command=command, retries=data.get("Retries") or 3, **times)


def _wait_to_json(wait: waits.Wait) -> dict[str, Any]:
    if isinstance(wait, (waits.AllOf, waits.AnyOf)):
        return {"all" if isinstance(wait, waits.AllOf) else "any": [_wait_to_json(part) for part in wait.conditions]}
    if isinstance(wait, waits.Tcp):
        return {"tcp": wait.port}
    if isinstance(wait, waits.Http):
        return {"http": {"port": wait.port, "path": wait.path, "status": list(wait.status)}}
    if isinstance(wait, waits.Log):
        return {"log": {"pattern": wait.pattern, "stream": wait.stream, "times": wait.times}}
    if isinstance(wait, waits.Command):
        return {"command": list(wait.argv)}
    return {"healthy": True}


def _wait_from_json(data: dict[str, Any]) -> waits.Wait:
    [(kind, value)] = data.items()
    if kind in ("all", "any"):
        parts = [_wait_from_json(part) for part in value]
        return waits.all_of(*parts) if kind == "all" else waits.any_of(*parts)
    if kind == "tcp":
        return waits.tcp(value)
    if kind == "http":
        return waits.http(value["port"], value.get("path", "/"), status=tuple(value.get("status", ())))
    if kind == "log":
        return waits.log(value["pattern"], stream=value.get("stream"), times=value.get("times", 1))
    if kind == "command":
        return waits.command(*value)
    if kind == "healthy":
        return waits.healthy()
    raise ImageError(f"an image waits for the unknown condition {kind!r}", remedy="upgrade pytest-sealed, or give wait= yourself")
