"""Fresh, isolated containers for every test, in milliseconds."""

from __future__ import annotations

TYPE_CHECKING = False   # not imported: the supervisor starts without `typing`

if TYPE_CHECKING:
    from pytest_sealed.container import Container, ExecResult, Stats, image
    from pytest_sealed.errors import (
        ContainerExited,
        ContainerFailed,
        ContainerNotStarted,
        ExecTimeout,
        HostUnsupported,
        ImageError,
        ImageNotFound,
        InternalError,
        LimitUnavailable,
        NetworkError,
        NotReady,
        RecipeError,
        SealedError,
        SealedWarning,
        SpecError,
        StoreError,
    )
    from pytest_sealed.network import Network
    from pytest_sealed.plugin.fixtures import container_fixture, network_fixture
    from pytest_sealed.sandbox import Sandbox
    from pytest_sealed.spec import ContainerChanges, ContainerOptions, ContainerSpec, Limits, Mount, Tmpfs, make_spec
    from pytest_sealed.waits import all_of, any_of, command, healthy, http, log, probe, tcp

_HOMES = {
    "container": ("Container", "ExecResult", "Stats", "image"),
    "errors": ("ContainerExited", "ContainerFailed", "ContainerNotStarted", "ExecTimeout", "HostUnsupported", "ImageError",
               "ImageNotFound", "InternalError", "LimitUnavailable", "NetworkError", "NotReady", "RecipeError", "SealedError",
               "SealedWarning", "SpecError", "StoreError"),
    "network": ("Network",),
    "plugin.fixtures": ("container_fixture", "network_fixture"),
    "sandbox": ("Sandbox",),
    "spec": ("ContainerChanges", "ContainerOptions", "ContainerSpec", "Limits", "Mount", "Tmpfs", "make_spec"),
    "waits": ("all_of", "any_of", "command", "healthy", "http", "log", "probe", "tcp"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Container",
    "ContainerChanges",
    "ContainerExited",
    "ContainerFailed",
    "ContainerNotStarted",
    "ContainerOptions",
    "ContainerSpec",
    "ExecResult",
    "ExecTimeout",
    "HostUnsupported",
    "ImageError",
    "ImageNotFound",
    "InternalError",
    "LimitUnavailable",
    "Limits",
    "Mount",
    "Network",
    "NetworkError",
    "NotReady",
    "RecipeError",
    "Sandbox",
    "SealedError",
    "SealedWarning",
    "SpecError",
    "Stats",
    "StoreError",
    "Tmpfs",
    "all_of",
    "any_of",
    "command",
    "container_fixture",
    "healthy",
    "http",
    "image",
    "log",
    "make_spec",
    "network_fixture",
    "probe",
    "tcp",
]


def __getattr__(name: str) -> object:
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module 'pytest_sealed' has no attribute {name!r}")
    from importlib import import_module
    value = getattr(import_module(f"pytest_sealed.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
