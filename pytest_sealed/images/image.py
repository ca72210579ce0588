"""An image in the store, and what its containers do when nothing else is said."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from pytest_sealed import waits
    from pytest_sealed.images.recipe_config import ConfigChanges, HealthCheck
    from pytest_sealed.spec import Tmpfs

__all__ = ["DEFAULT_PATH", "Image", "ImageConfig", "change_config"]

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


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
    source: str = ""
    """Where it came from: the command that gets it again, or words; empty: it was built here."""


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
