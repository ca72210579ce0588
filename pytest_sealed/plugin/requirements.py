"""`sealed_require`: a run that would do without what its suite must have ends before its first test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_sealed.errors import nearest, no_linux

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["check"]


def check(words: Iterable[str], store: Path | None) -> None:
    """Try what the words stand for.

    Args:
        words: see `pytest_sealed.doctor.requirements.WORDS`.
        store: folder of the image store; None: the account's.

    Raises:
        pytest.UsageError: an unknown word (names the nearest), or something that isn't there, with the remedy.
    """
    from pytest_sealed.doctor.requirements import WORDS, unmet
    words = list(words)
    for word in words:
        if word not in WORDS:
            raise pytest.UsageError(f"sealed_require has {word!r}, which is unknown{nearest(word, WORDS)}\n"
                                    f"  remedy: use some of {', '.join(WORDS)}")
    absent = no_linux()
    lines = [str(absent)] if absent is not None else [
        line for word, findings in unmet(words, store).items() for finding in findings
        for line in [f"{word}: {finding.found}", *(f"  remedy: {remedy}" for remedy in finding.remedy.lines)]]
    if lines:
        raise pytest.UsageError("\n".join([f"this run would do without what its suite requires (sealed_require = {', '.join(words)})",
                                           *(f"  {line}" for text in lines for line in text.splitlines()),
                                           "  `sealed doctor` tells more"]))
