"""The [config] of a recipe: what containers of the image do when nothing else is said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from pytest_sealed import waits
from pytest_sealed.errors import SpecError
from pytest_sealed.images.schema import Table
from pytest_sealed.spec import Tmpfs, parse_signal

__all__ = ["ConfigChanges", "HealthCheck", "parse_config", "parse_ready"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """A command that exits with 0 while the container works."""

    command: tuple[str, ...]
    interval: float = 30.0
    """Seconds between two checks."""
    timeout: float = 30.0
    """Seconds after which a check has failed."""
    start_period: float = 0.0
    """Seconds from the start in which failures don't count."""
    retries: int = 3


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigChanges:
    """What a recipe says; None: as in the image that it continues."""

    cmd: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    user: str | None = None
    workdir: str | None = None
    stop_signal: int | None = None
    env: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    ports: tuple[int, ...] = ()
    volumes: tuple[str, ...] = ()
    tmpfs: tuple[Tmpfs, ...] | None = None
    ready: waits.Wait | None = None
    healthcheck: HealthCheck | None = None


_KEYS = ("cmd", "entrypoint", "user", "env", "workdir", "ports", "tmpfs", "ready", "stop_signal", "healthcheck", "volumes", "labels")


def parse_config(top: Table) -> ConfigChanges:
    """Return the recipe's [config].

    Raises:
        RecipeError: names file, line and key.
    """
    table = top.table("config")
    if table is None:
        return ConfigChanges()
    table.only(*_KEYS)
    ready = table.table("ready")
    return ConfigChanges(
        cmd=table.words("cmd") if "cmd" in table else None,
        entrypoint=table.words("entrypoint") if "entrypoint" in table else None,
        user=table.required("user") if "user" in table else None,
        workdir=_path(table, "workdir", table.string("workdir")) if "workdir" in table else None,
        stop_signal=_signal(table), env=table.pairs("env", environment=True), labels=table.pairs("labels"),
        ports=_ports(table), volumes=tuple(_path(table, "volumes", path) for path in table.strings("volumes")),
        tmpfs=_tmpfs(table), ready=parse_ready(ready) if ready else None, healthcheck=_healthcheck(table),
    )


def _path(table: Table, name: str, value: str) -> str:
    if not value.startswith("/") or ".." in value.split("/"):
        table.fail(name, f"{name}: {value!r} is no absolute path")
    return value


def _signal(table: Table) -> int | None:
    if "stop_signal" not in table:
        return None
    value = table.values["stop_signal"]
    try:
        return parse_signal(value if isinstance(value, (int, str)) else repr(value))
    except SpecError as error:
        table.fail("stop_signal", error.message, remedy=error.remedy)


def _ports(table: Table) -> tuple[int, ...]:
    values = table.items("ports", "a list of ports")
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65535:
            table.fail("ports", f"{value!r} is no TCP port", remedy="whole numbers from 1 to 65535")
    return tuple(sorted(set(values)))


def _tmpfs(table: Table) -> tuple[Tmpfs, ...] | None:
    if "tmpfs" not in table:
        return None
    rows = table.items("tmpfs", "a list of paths or tables")
    return tuple(_tmpfs_row(table, index, row) for index, row in enumerate(rows))


def _tmpfs_row(config: Table, index: int, row: Any) -> Tmpfs:
    if isinstance(row, str):
        row = {"path": row}
    if not isinstance(row, dict):
        config.fail("tmpfs", f"tmpfs must be a list of paths or tables, and holds {row!r}")
    table = Table(config.source, (*config.key, "tmpfs", index), row)
    table.only("path", "size", "mode", "user")
    mode = table.string("mode", "1777")
    if not mode or not set(mode) <= set("01234567") or len(mode) > 5:
        table.fail("mode", f"mode = {mode!r} is no mode", remedy='for example mode = "0755"')
    size = row.get("size", "64M")
    try:
        return Tmpfs(target=table.required("path"), size=size, mode=int(mode, 8), user=table.string("user") or None)
    except SpecError as error:
        key = next((key for key in ("size", "mode", "user") if f"tmpfs {key}=" in error.message), "path")
        table.fail(key, error.message, remedy=error.remedy)


def parse_ready(table: Table) -> waits.Wait:
    """Return the condition that a `ready` table describes: one of tcp, http, log, command, all and any.

    Raises:
        RecipeError: names file, line and key.
    """
    kinds = ("tcp", "http", "log", "command", "healthy", "all", "any")
    table.only(*kinds)
    if len(table.values) != 1:
        table.fail(None, f"ready needs exactly one of {', '.join(kinds)}")
    [kind] = table.values
    try:
        if kind in ("all", "any"):
            rows = [parse_ready(row) for row in table.tables(kind)]
            return waits.all_of(*rows) if kind == "all" else waits.any_of(*rows)
        if kind == "tcp":
            return waits.tcp(table.integer("tcp", 0, 1, 65535))
        if kind == "command":
            return waits.command(*table.words("command"))
        if kind == "healthy":
            return waits.healthy()
        if kind == "log":
            return waits.log(table.required("log"))
        row = table.table("http") or table
        row.only("port", "path", "status")
        status = row.integer("status", 0, 0, 599)
        return waits.http(row.integer("port", 80, 1, 65535), row.string("path", "/"), status=status or ())
    except SpecError as error:
        table.fail(kind, f"ready: {error.message}", remedy=error.remedy)


def _healthcheck(config: Table) -> HealthCheck | None:
    table = config.table("healthcheck")
    if table is None:
        return None
    table.only("command", "interval", "timeout", "start_period", "retries")
    command = table.words("command")
    if not command:
        table.fail(None, "healthcheck needs a command")
    return HealthCheck(command=command, interval=table.number("interval", 30), timeout=table.number("timeout", 30),
                       start_period=table.number("start_period", 0), retries=table.integer("retries", 3, 1, 1000))
