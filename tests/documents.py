"""The project's pages: their examples and their links, for the tests of the documentation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FENCE", "ROOT", "Example", "anchors", "examples", "links", "pages", "projects"]

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# ((?:conftest|test_\w+)\.py)\b")


@dataclass(frozen=True)
class Example:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str:
        """The file that it is, as its first line says; empty for a fragment."""
        match = FILE.match(self.text)
        return match[1] if match else ""


def pages() -> list[Path]:
    """Return every Markdown page that readers get."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(ROOT).parts))


def examples(language: str) -> list[Example]:
    """Return the fenced blocks in this language, of all pages."""
    found = []
    for path in pages():
        text = path.read_text()
        for match in FENCE.finditer(text):
            if match[1] == language:
                found.append(Example(str(path.relative_to(ROOT)), text.count("\n", 0, match.start()) + 2, match[1], match[2]))
    return found


def projects() -> dict[str, dict[str, str]]:
    """Return page → file → text, of the pages whose examples make up a test suite. Blocks of one file are joined."""
    found: dict[str, dict[str, str]] = {}
    for example in examples("python"):
        if example.file:
            files = found.setdefault(example.page, {})
            files[example.file] = files.get(example.file, "") + example.text
    return {page: files for page, files in found.items() if any(name.startswith("test_") for name in files)}


def links(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, target) of a page's links that lead to this repository."""
    text = FENCE.sub(lambda match: "\n" * match[0].count("\n"), path.read_text())
    for match in re.finditer(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", match[1]):
            yield text.count("\n", 0, match.start()) + 1, match[1]


def anchors(path: Path) -> set[str]:
    """Return the fragments by which the headings of a page can be linked, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+?)\s*$", FENCE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
