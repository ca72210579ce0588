"""Patterns over the absolute paths of an image: `*` and `?` stay within a name, `**` crosses folders."""

from __future__ import annotations

import re

__all__ = ["Matcher", "translate"]


def translate(pattern: str) -> re.Pattern[str]:
    """Return the regular expression of a pattern; it also matches all that lies below a folder that matches.

    A pattern without a leading `/` matches at any depth, like `**/pattern`.
    """
    text = pattern.strip()
    if not text.startswith("/"):
        text = "/" + text if text.startswith("**") else "/**/" + text
    out, index = "", 0
    while index < len(text):
        if text.startswith("/**/", index):
            out, index = out + "/(?:.*/)?", index + 4
        elif text.startswith("**", index):
            out, index = out + ".*", index + 2
        elif text[index] == "*":
            out, index = out + "[^/]*", index + 1
        elif text[index] == "?":
            out, index = out + "[^/]", index + 1
        else:
            out, index = out + re.escape(text[index]), index + 1
    return re.compile(out.rstrip("/") + r"(?:/.*)?", re.DOTALL)


class Matcher:
    """Several patterns, and a record of which of them have matched anything."""

    __slots__ = ("_joined", "_patterns", "_unused")

    def __init__(self, patterns: tuple[str, ...]) -> None:
        self._patterns = [(pattern, translate(pattern)) for pattern in patterns]
        self._joined = re.compile("|".join(f"(?:{compiled.pattern})" for _, compiled in self._patterns), re.DOTALL) if patterns else None
        self._unused = {pattern: compiled for pattern, compiled in self._patterns}

    def __call__(self, path: str) -> bool:
        """Say whether the absolute `path` matches."""
        if self._joined is None or not self._joined.fullmatch(path):
            return False
        if self._unused:
            for pattern in [name for name, compiled in self._unused.items() if compiled.fullmatch(path)]:
                del self._unused[pattern]
        return True

    @property
    def unused(self) -> tuple[str, ...]:
        """The patterns that have matched nothing so far."""
        return tuple(self._unused)
