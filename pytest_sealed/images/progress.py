"""What a build tells while it works. The command line shows it; by default nobody listens."""

from __future__ import annotations

__all__ = ["Progress"]


class Progress:
    """Listens to one build after the other. Every method may be overridden."""

    def begin(self, name: str) -> None:
        """An image is being built now."""

    def stage(self, text: str) -> None:
        """A part of the work begins, for example "unpacking 60 packages"."""

    def step(self, done: int, total: int, text: str) -> None:
        """`done` of `total` of the current stage; `text` is what is being worked on."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def end(self, name: str, *, built: bool, size: int, seconds: float, verb: str = "built") -> None:
        """An image is there: built, loaded or pulled now (`verb`), or up to date before. `size` in bytes."""
