"""An image's config in the OCI form, both ways. See the OCI image specification, config.md."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pytest_sealed import waits
from pytest_sealed.errors import ImageError, SpecError
from pytest_sealed.images.image import ImageConfig
from pytest_sealed.images.recipe_config import HealthCheck
from pytest_sealed.spec import Tmpfs, parse_signal

__all__ = ["config_from_oci", "config_notes", "config_to_oci"]

READY = "io.pytest-sealed.ready"
TMPFS = "io.pytest-sealed.tmpfs"
_SECOND = 1_000_000_000
_MOST_PORTS = 256   # each is a listening socket of the session


def config_to_oci(config: ImageConfig, *, architecture: str, diff_ids: list[str], history: Sequence[str] = ()) -> dict[str, Any]:
    """Return the OCI image config, from which `config_from_oci` makes the same again.

    Args:
        history: what each layer was made by. Without times: the same image has the same digest.
    """
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
    return {"architecture": architecture, "os": "linux", "config": kept, "rootfs": {"type": "layers", "diff_ids": diff_ids},
            **({"history": [{"created_by": text} for text in history]} if history else {})}


def config_from_oci(data: dict[str, Any], *, ours: bool = True) -> ImageConfig:
    """Return the config that an OCI image config describes.

    Args:
        ours: it was built here. Else its readiness may be no log pattern: a regular expression of a stranger's can stall this process.

    Raises:
        ImageError: a value is of the wrong kind.
    """
    try:
        body = _body(data)
        json.dumps(body, ensure_ascii=False).encode()   # JSON can spell half characters, which no name or argument can hold
        labels = {str(key): str(value) for key, value in _table(body, "Labels").items()}
        check = _health(body)
        signal = body.get("StopSignal")
        return ImageConfig(
            entrypoint=_strings(body, "Entrypoint"), command=_strings(body, "Cmd"),
            env=dict(item.split("=", 1) for item in _strings(body, "Env") if item.find("=") > 0),
            user=_string(body, "User"), workdir=_string(body, "WorkingDir"),
            ports=_ports(body), volumes=tuple(sorted(_table(body, "Volumes"))),
            labels={key: value for key, value in labels.items() if key not in (READY, TMPFS)},
            stop_signal=parse_signal(signal) if signal else None, health=check, healthcheck=check.command if check else None,
            ready=_ready(labels, ours=ours),
            tmpfs=tuple(Tmpfs(**row) for row in json.loads(labels.get(TMPFS, "[]"))),
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, SpecError) as error:
        raise ImageError(f"an image's config can't be understood: {error}") from error


def config_notes(data: dict[str, Any]) -> list[str]:
    """Return what of an image config from elsewhere is left out, in words."""
    body, notes = _body(data), []
    if body.get("OnBuild"):
        notes.append("its ONBUILD instructions are ignored: they are meant for builds on top of it")
    labels = _table(body, "Labels")
    if READY in labels and _ready({READY: str(labels[READY])}, ours=False) is None:
        notes.append("its readiness is a log pattern, which is taken from images built here only: give wait= where you use it")
    return notes


def _body(data: dict[str, Any]) -> dict[str, Any]:
    body = data.get("config") or {}
    if not isinstance(body, dict):
        raise ImageError(f"an image's config can't be understood: {str(body)[:60]!r} is no object")
    return body


def _strings(body: dict[str, Any], key: str) -> tuple[str, ...]:
    """Return a list of strings; a single string is one, as for Docker."""
    value = body.get(key) or ()
    if not isinstance(value, (str, list, tuple)):
        raise ValueError(f"{key} is {str(value)[:60]!r}")
    rows = (value,) if isinstance(value, str) else tuple(value)
    for row in rows:
        if not isinstance(row, str) or "\0" in row:
            raise ValueError(f"{key} holds {str(row)[:60]!r}")
    return rows


def _string(body: dict[str, Any], key: str) -> str:
    value = body.get(key) or ""
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"{key} is {str(value)[:60]!r}")
    return value


def _table(body: dict[str, Any], key: str) -> dict[str, Any]:
    value = body.get(key) or {}
    if not isinstance(value, dict):
        raise ValueError(f"{key} is {str(value)[:60]!r}")
    return value


def _ports(body: dict[str, Any]) -> tuple[int, ...]:
    found = set()
    for text in _table(body, "ExposedPorts"):
        number, _, protocol = text.partition("/")
        if not (number.isascii() and number.isdigit() and len(number) < 6 and 1 <= int(number) <= 65535):
            raise ValueError(f"ExposedPorts holds {text[:40]!r}")
        if protocol in ("", "tcp"):
            found.add(int(number))
    if len(found) > _MOST_PORTS:
        raise ValueError(f"{len(found)} TCP ports; at most {_MOST_PORTS} are forwarded")
    return tuple(sorted(found))


def _health(body: dict[str, Any]) -> HealthCheck | None:
    data = _table(body, "Healthcheck")
    test = _strings(data, "Test")
    if len(test) < 2 or test[0] not in ("CMD", "CMD-SHELL"):
        return None
    command = test[1:] if test[0] == "CMD" else (*(_strings(body, "Shell") or ("/bin/sh", "-c")), test[1])
    times = {name: _number(data, key) / _SECOND for name, key in (
        ("interval", "Interval"), ("timeout", "Timeout"), ("start_period", "StartPeriod")) if data.get(key)}
    return HealthCheck(command=command, retries=int(_number(data, "Retries")) or 3, **times)


def _number(data: dict[str, Any], key: str) -> float:
    value = data.get(key) or 0
    if not isinstance(value, (int, float)) or not 0 <= value < 2**63:
        raise ValueError(f"Healthcheck has the {key} {str(value)[:40]!r}")
    return value


def _ready(labels: dict[str, str], *, ours: bool) -> waits.Wait | None:
    if READY not in labels:
        return None
    wait = _wait_from_json(json.loads(labels[READY]))
    return wait if ours or not _has_pattern(wait) else None


def _has_pattern(wait: waits.Wait) -> bool:
    if isinstance(wait, (waits.AllOf, waits.AnyOf)):
        return any(_has_pattern(part) for part in wait.conditions)
    return isinstance(wait, waits.Log)


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
