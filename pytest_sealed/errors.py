"""Every error that users see: what happened, why, and the remedy.

Three families under one root, so that a reader knows at once where to look: the host can't do it
(`HostUnsupported`), what was asked for is wrong (`SpecError`, `ImageError`), a container failed
(`ContainerFailed` and its kin), or this project has a bug (`InternalError`).
"""

from __future__ import annotations

TYPE_CHECKING = False   # not imported: the supervisor starts without `typing`
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "ContainerExited",
    "ContainerFailed",
    "ContainerNotStarted",
    "ExecTimeout",
    "HostUnsupported",
    "ImageError",
    "ImageNotFound",
    "InternalError",
    "LimitUnavailable",
    "NetworkError",
    "NotReady",
    "RecipeError",
    "SealedError",
    "SealedWarning",
    "SpecError",
    "StoreError",
    "nearest",
    "no_linux",
]


class SealedError(Exception):
    """Root of all errors of this package.

    Args:
        message: what happened and why, one sentence or a short paragraph.
        remedy: an exact command, setting or page that mends it; empty where there is none.
    """

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  remedy: {self.remedy}" if self.remedy else self.message


class HostUnsupported(SealedError):
    """This host can't run containers, or not in the way that was asked for."""


class LimitUnavailable(HostUnsupported):
    """A limit was asked for that this host doesn't let us enforce; limits are never skipped."""


class SpecError(SealedError, ValueError):
    """A container, network or limit was described wrongly."""


class ImageError(SealedError):
    """An image, or the store that holds it, can't be used."""


class ImageNotFound(ImageError, LookupError):
    """The store has no image of this name; nothing is ever fetched or built by a test run."""


class RecipeError(ImageError):
    """A recipe is wrong; the message begins with `file:line`."""


class StoreError(ImageError):
    """The store's folder is full, read-only, or on a file system that can't hold layers."""


class NetworkError(SealedError):
    """A network, an address or a name on it can't be made or doesn't exist."""


class ContainerFailed(SealedError):
    """A container could not start, or failed while something waited for it.

    Attributes:
        exit_status: what a shell returns for a command that is not there (127) or can't be executed (126); None where that wasn't it.
    """

    exit_status: int | None = None


class ContainerExited(ContainerFailed):
    """A container ended while something waited for it."""


class ContainerNotStarted(ContainerFailed):
    """Something was asked of a container that has not started yet, or is gone."""


class NotReady(ContainerFailed, TimeoutError):
    """A time limit passed before a container was ready; names what was waited for."""


class ExecTimeout(ContainerFailed, TimeoutError):
    """A command run by `exec` was ended because its time limit passed."""


class SealedWarning(UserWarning):
    """It works, but at a cost that has a remedy."""


class InternalError(SealedError):
    """A bug of this project. Please report it with the text of this error."""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy or "this is a bug of pytest-sealed: please report it with this text")


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `", did you mean 'x'?"` for the known word nearest to `word`, else an empty string."""
    from difflib import get_close_matches
    close = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""


def no_linux() -> HostUnsupported | None:
    """Return the error for a system whose kernel isn't Linux's; None on Linux. Everything imports there, and nothing starts."""
    import sys
    if sys.platform == "linux":
        return None
    import platform
    system = {"darwin": "macOS", "win32": "Windows"}.get(sys.platform, platform.system() or sys.platform)
    return HostUnsupported(f"containers need a Linux kernel, and this is {system}",
                           remedy="run the tests in a Linux virtual machine or on a Linux CI runner" + (
                               ", or in WSL 2 (docs/how-to/hosts/wsl.md)" * (system == "Windows")))
