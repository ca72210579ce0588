"""How the supervisor answers a request, on the channel that came with it."""

from __future__ import annotations

from pytest_sealed.errors import SealedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_sealed.runtime.protocol import Channel

__all__ = ["answer", "refuse", "told"]

_LONGEST = 16_000   # characters: a text may name two paths, of 4,096 bytes each


def answer(reply: Channel, result: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
    """Send a request's result and close its channel; a caller that has gone doesn't mind."""
    try:
        reply.send({"ok": result}, fds)
    except OSError:
        pass
    reply.close()


def refuse(reply: Channel, error: BaseException) -> None:
    """Send an error as a request's answer and close its channel."""
    kind = type(error).__name__ if isinstance(error, SealedError) else "InternalError"
    text = error.message if isinstance(error, SealedError) else f"{type(error).__name__}: {error}"
    try:
        reply.send({"error": {"kind": kind, "text": text, "remedy": getattr(error, "remedy", "")}})
    except OSError:
        pass
    reply.close()


def told(error: Any) -> dict[str, Any]:
    """Return why a child's command did not run, of what the child says; it may lie.

    Raises:
        LookupError, TypeError, ValueError: it says what none says.
    """
    return {"kind": str(error["kind"]), "errno": int(error.get("errno", 0)), "text": str(error["text"])[:_LONGEST]}
