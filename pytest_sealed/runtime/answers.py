"""How the supervisor answers a request, on the channel that came with it; and what its children say to it."""

from __future__ import annotations

import os

from pytest_sealed.errors import SealedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pytest_sealed.runtime.protocol import Channel

__all__ = ["answer", "refuse", "take", "told"]

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


def take(sync: Channel, act: Callable[[dict[str, Any], list[int]], None]) -> str | None:
    """Have `act` do what a child's next message says; it takes out of the descriptors what it keeps.

    Return None; or, if the child says nothing more, why: empty at its end, which exec brings, too.
    """
    fds: list[int] = []
    try:
        received = sync.receive()
        if received is None:
            return ""
        message, fds = received
        act(message, fds)
        return None
    except OSError:
        return ""
    except Exception as error:   # no child of ours says that: it has become somebody else's, and fails alone
        return f"its process said what none says before its command runs: {error!r}"
    finally:
        for fd in fds:
            os.close(fd)


def told(error: Any) -> dict[str, Any]:
    """Return why a child's command did not run, of what the child says; it may lie.

    Raises:
        LookupError, TypeError, ValueError: it says what none says.
    """
    return {"kind": str(error["kind"]), "errno": int(error.get("errno", 0)), "text": str(error["text"])[:_LONGEST]}
