"""Reads typed values out of a TOML document, and says file, line and key when one is wrong."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import Any, NoReturn, final

from pytest_sealed.errors import RecipeError, nearest
from pytest_sealed.images.globs import translate

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Key", "Source", "Table"]

Key = tuple["str | int", ...]
"""Where a value stands in a document, for example `("step", 1, "run")`."""

_LARGEST = 1 << 20   # bytes; a recipe is a page


@final
@dataclass(frozen=True, slots=True)
class Source:
    """A TOML file: its path as shown in errors, and its text."""

    path: str
    text: str

    @classmethod
    def decode(cls, path: str, data: bytes, *, most: int = _LARGEST) -> Source:
        """Return the source of `data`, of at most so many bytes.

        Raises:
            RecipeError: too large, or no UTF-8.
        """
        if len(data) > most:
            raise RecipeError(f"{path}:1: has {len(data)} bytes; at most {most} are read")
        try:
            return cls(path, data.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise RecipeError(f"{path}:{line}: not UTF-8: {error.reason}", remedy="save the file as UTF-8") from error

    def parse(self) -> Table:
        """Return the document's top table.

        Raises:
            RecipeError: no TOML; names the line.
        """
        try:
            return Table(self, (), tomllib.loads(self.text))
        except tomllib.TOMLDecodeError as error:
            text = str(error)
            found = re.search(r" \(at line (\d+), column (\d+)\)$", text)
            line = int(found[1]) if found else self.text.count("\n") + 1
            reason = text[: found.start()] if found else re.sub(r" \(at end of document\)$", " at the end of the file", text)
            raise RecipeError(f"{self.path}:{line}: no TOML: {reason[:1].lower()}{reason[1:]}") from error
        except (RecursionError, ValueError) as error:
            raise RecipeError(f"{self.path}:1: no TOML: {type(error).__name__}: {error}") from error

    def line(self, key: Key) -> int:
        """Return the line (from 1) where `key` or the nearest table around it begins. A guess by text; never fails."""
        best, depth, table, seen = 1, 0, (), {}   # type: int, int, Key, dict[str, int]
        for number, line in enumerate(self.text.splitlines(), 1):
            header = re.match(r"\s*(\[\[?)\s*([^\[\]#]+?)\s*\]", line)
            if header:
                parts: Key = tuple(_words(header[2]))
                if header[1] == "[[":
                    seen[header[2]] = seen.get(header[2], -1) + 1
                    parts = (*parts, seen[header[2]])
                table = parts
                here = table
            else:
                pair = re.match(r"""\s*((?:"[^"]*"|'[^']*'|[\w-]+)(?:\s*\.\s*(?:"[^"]*"|'[^']*'|[\w-]+))*)\s*=""", line)
                if not pair:
                    continue
                here = (*table, *_words(pair[1]))
            common = _common(here, key)
            if common > depth and common == min(len(here), len(key)):
                best, depth = number, common
        return self._within(best, depth, key)

    def _within(self, line: int, depth: int, key: Key) -> int:
        """Go on inside an inline value: find the line at or below `line` that holds the rest of the key as a word."""
        lines = self.text.splitlines()
        for word in key[depth:]:
            if isinstance(word, int):
                continue
            for number in range(line, min(line + 60, len(lines)) + 1):
                text = lines[number - 1]
                if number > line and re.match(r"\s*\[{1,2}\s*[A-Za-z]", text):
                    break
                if re.search(rf"""(?<![\w-])["']?{re.escape(word)}["']?\s*=""", text):
                    line = number
                    break
        return line

    def error(self, key: Key, message: str, *, remedy: str = "") -> RecipeError:
        """Return the error that `message` is about the value at `key`."""
        return RecipeError(f"{self.path}:{self.line(key)}: {message}", remedy=remedy)


def _words(dotted: str) -> list[str]:
    return [a or b or c for a, b, c in re.findall(r""""([^"]*)"|'([^']*)'|([\w-]+)""", dotted)]


def _common(first: Key, second: Key) -> int:
    length = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        length += 1
    return length


@final
class Table:
    """One table of a document: typed access to its values. Every method raises RecipeError for a wrong value."""

    __slots__ = ("key", "source", "values")

    def __init__(self, source: Source, key: Key, values: dict[str, Any]) -> None:
        self.source, self.key, self.values = source, key, values

    def __contains__(self, name: str) -> bool:
        return name in self.values

    @property
    def title(self) -> str:
        return ".".join(str(part) for part in self.key)

    def fail(self, name: str | int | None, message: str, *, remedy: str = "") -> NoReturn:
        """Raise the error that `message` is about this table, or about its value `name`."""
        key = self.key if name is None else (*self.key, name)
        raise self.source.error(key, message, remedy=remedy)

    def only(self, *known: str) -> None:
        """Refuse any other key, and name the nearest known one."""
        for name in self.values:
            if name not in known:
                where = f" in [{self.title}]" if self.key else ""
                self.fail(name, f"unknown key {name!r}{where}{nearest(name, known)}", remedy=f"known keys{where}: {', '.join(known)}")

    def _typed(self, name: str, kind: type | tuple[type, ...], what: str, default: Any) -> Any:
        if name not in self.values:
            return default
        value = self.values[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self.fail(name, f"{name} must be {what}, not {_shown(value)}")
        if isinstance(value, str) and "\0" in value:
            self.fail(name, f"{name} holds a NUL byte")
        return value

    def string(self, name: str, default: str = "") -> str:
        return str(self._typed(name, str, "a string", default))

    def required(self, name: str) -> str:
        if name not in self.values:
            where = f"[{self.title}]" if self.key else "the recipe"
            self.fail(None, f"{where} needs the key {name!r}")
        value = self.string(name)
        if not value:
            self.fail(name, f"{name} is empty")
        return value

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        value = self._typed(name, int, "a whole number", default)
        if not low <= value <= high:
            self.fail(name, f"{name} = {value} is outside {low} to {high}")
        return int(value)

    def number(self, name: str, default: float) -> float:
        value = self._typed(name, (int, float), "a number", default)
        if not 0 <= value <= 1e6:
            self.fail(name, f"{name} = {value} is outside 0 to 1000000")
        return float(value)

    def choice(self, name: str, known: tuple[str, ...], default: str) -> str:
        value = self.string(name, default)
        if value not in known:
            self.fail(name, f"{name} = {value!r} is unknown{nearest(value, known)}", remedy=f"one of {', '.join(map(repr, known))}")
        return value

    def strings(self, name: str) -> tuple[str, ...]:
        """Return a list of strings without NUL bytes; absent: empty."""
        values = self._typed(name, list, "a list of strings", [])
        for value in values:
            if not isinstance(value, str) or not value or "\0" in value:
                self.fail(name, f"{name} must be a list of strings, and holds {_shown(value)}")
        return tuple(values)

    def patterns(self, name: str) -> tuple[str, ...]:
        """Return a list of path patterns. See `globs`."""
        values = self.strings(name)
        for value in values:
            try:
                translate(value)
            except ValueError as error:
                self.fail(name, f"{name}: {error}")
        return values

    def flag(self, name: str, default: bool) -> bool:
        return bool(self._typed(name, bool, "true or false", default))

    def items(self, name: str, what: str) -> list[Any]:
        """Return a list whose items the caller checks; `what` says what they are."""
        return list(self._typed(name, list, what, []))

    def words(self, name: str) -> tuple[str, ...]:
        """Return a command's words; a bare string is refused, because no shell reads it."""
        if isinstance(self.values.get(name), str):
            self.fail(name, f"{name} must be a list of words", remedy=f'{name} = ["sh", "-c", …] if a shell shall read it')
        values = self._typed(name, list, "a list of words", [])
        for value in values:
            if not isinstance(value, str) or "\0" in value:
                self.fail(name, f"{name} must be a list of words, and holds {_shown(value)}")
        return tuple(values)

    def commands(self, name: str) -> tuple[tuple[str, ...], ...]:
        """Return a list of commands, each a list of words."""
        rows = self._typed(name, list, "a list of commands", [])
        for row in rows:
            if not isinstance(row, list) or not row or not all(isinstance(word, str) and "\0" not in word for word in row) or not row[0]:
                self.fail(name, f"{name} must be a list of commands, each a list of words, and holds {_shown(row)}",
                          remedy=f'for example {name} = [["initdb", "-D", "/data"]]')
        return tuple(tuple(row) for row in rows)

    def pairs(self, name: str, *, environment: bool = False) -> tuple[tuple[str, str], ...]:
        """Return a table of strings in its order."""
        values = self._typed(name, dict, "a table of strings", {})
        for key, value in values.items():
            if not isinstance(value, str) or "\0" in value + key or not key or (environment and "=" in key):
                raise self.source.error((*self.key, name, key), f"{name}.{key} must be a string, not {_shown(value)}")
        return tuple((key, value) for key, value in values.items())

    def table(self, name: str) -> Table | None:
        values = self._typed(name, dict, "a table", None)
        return None if values is None else Table(self.source, (*self.key, name), values)

    def tables(self, name: str) -> list[Table]:
        """Return the tables of `[[name]]`."""
        rows = self._typed(name, list, f"written as [[{name}]]", [])
        if not all(isinstance(row, dict) for row in rows):
            self.fail(name, f"{name} must be written as [[{name}]]")
        return [Table(self.source, (*self.key, name, index), row) for index, row in enumerate(rows)]


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
