"""Patterns over the absolute paths of an image: `*` and `?` stay within a name, `**` crosses folders, `{a,b}` is either."""

from __future__ import annotations

import re

__all__ = ["Matcher", "translate"]

_PARTS = re.compile(r"/\*\*/|\*\*|[*?{},]|[^*?{},/]+|/")


def translate(pattern: str) -> re.Pattern[str]:
    """Return the regular expression of a pattern; it also matches all that lies below a folder that matches.

    A pattern without a leading `/` matches at any depth, like `**/pattern`.
    """
    text = pattern.strip().rstrip("/")
    if not text.startswith("/"):
        text = "/" + text if text.startswith("**") else "/**/" + text
    out, depth = "", 0
    for part in _PARTS.findall(text):
        if part == "{":
            out, depth = out + "(?:", depth + 1
        elif part == "}" and depth:
            out, depth = out + ")", depth - 1
        elif part == "," and depth:
            out += "|"
        else:
            out += {"/**/": "/(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(part) or re.escape(part)
    if depth:
        raise ValueError(f"{pattern!r}: a brace is open")
    return re.compile(out + r"(?:/.*)?", re.DOTALL)


class Matcher:
    """Several patterns, and a record of which of them have matched anything."""

    __slots__ = ("_joined", "_unused")

    def __init__(self, patterns: tuple[str, ...]) -> None:
        self._unused = {pattern: translate(pattern) for pattern in patterns}
        self._joined = re.compile("|".join(f"(?:{one.pattern})" for one in self._unused.values()), re.DOTALL) if patterns else None

    def __call__(self, path: str) -> bool:
        """Say whether the absolute `path` matches."""
        if self._joined is None or not self._joined.fullmatch(path):
            return False
        for pattern in [name for name, compiled in self._unused.items() if compiled.fullmatch(path)]:
            del self._unused[pattern]
        return True

    @property
    def unused(self) -> tuple[str, ...]:
        """The patterns that have matched nothing so far."""
        return tuple(self._unused)
