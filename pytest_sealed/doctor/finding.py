"""What a check found, in a form for people, for scripts and for JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, final

__all__ = ["Finding", "Remedy", "State"]

State = Literal["ok", "degraded", "missing"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """What mends it."""

    commands: tuple[str, ...] = ()
    """Shell lines for this account and this distribution, in order."""
    text: str = ""
    """What no command on this host can do, or what else would help; one line."""

    @property
    def lines(self) -> tuple[str, ...]:
        """All of it, a line each."""
        return (*self.commands, *([self.text] if self.text else ()))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The answer of one check."""

    check: str
    """Its name, such as "user namespaces"."""
    state: State
    """"ok"; "degraded": it works, but less well; "missing": what needs it is refused."""
    found: str
    """What was done and what came of it, one line."""
    effect: str = ""
    """What that means for the user; empty where it is ok."""
    remedy: Remedy = field(default_factory=Remedy)
    page: str = ""
    """The page of the documentation, below docs/."""

    @property
    def ok(self) -> bool:
        """Whether there is nothing to mend."""
        return self.state == "ok"

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values; see docs/reference/doctor.md."""
        return {"check": self.check, "state": self.state, "found": self.found, "effect": self.effect,
                "remedy": {"commands": list(self.remedy.commands), "text": self.remedy.text}, "page": self.page}

    def render(self, width: int = 0) -> list[str]:
        """Return its lines for people; `width` characters for its name."""
        lines = [f"{self.state:9} {self.check:{width}}  {self.found}"]
        if self.effect:
            lines.append(f"{'':9} {self.effect}")
        lines += [f"{'':9} remedy: {line}" if number == 0 else f"{'':9}         {line}" for number, line in enumerate(self.remedy.lines)]
        if self.page and not self.ok:
            lines.append(f"{'':9} see docs/{self.page}")
        return lines
