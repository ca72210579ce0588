"""What an export keeps of an image beyond what OCI says: its exact name, where it's from, and which steps of recipes made its layers."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from pytest_sealed.images.reference import parse_reference

if TYPE_CHECKING:
    from pytest_sealed.images.layers import Chain
    from pytest_sealed.images.store import Store

__all__ = ["Origin"]

_NAME = "io.pytest-sealed.name"
_RECORD = "io.pytest-sealed.record"
_STEPS = "io.pytest-sealed.steps"
_FACTS: dict[str, tuple[type, ...]] = {   # of a record
    "key": (str,), "source": (str,), "index": (str,), "tagged": (str,), "snapshot": (str,), "wheel": (str,), "inputs": (list,),
    "created": (int, float)}
_STEP = re.compile("[0-9a-f]{64}")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """An image's, as annotations of its descriptor carry it."""

    name: str
    facts: dict[str, Any]
    """What its record says besides the digests."""
    steps: dict[str, int]
    """Hash of a recipe's step → how many of the image's layers there are with it."""

    @classmethod
    def find(cls, store: Store, name: str, chain: Chain) -> Origin:
        """Return that of an image of the store."""
        record, steps = store.records.get(name), {}
        for path in store.folders.steps.glob("*.json"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                made = tuple(json.loads(path.read_text())["diff_ids"])
                if made and chain.diff_ids[:len(made)] == made:
                    steps[path.stem] = len(made)
        return cls(name=name, facts={key: record[key] for key in _FACTS if key in record}, steps=steps)

    @classmethod
    def parse(cls, annotations: Mapping[str, str]) -> Origin | None:
        """Return what the annotations say; what can't be is left out. None: they say no name.

        Raises:
            SpecError: the name is none.
        """
        name = annotations.get(_NAME, "")
        if not name:
            return None
        parse_reference(name)
        facts = {key: value for key, value in _object(annotations, _RECORD).items() if isinstance(value, _FACTS.get(key, ()))}
        steps = {key: value for key, value in _object(annotations, _STEPS).items() if _STEP.fullmatch(key) and isinstance(value, int)}
        return cls(name=name, facts=facts, steps=steps)

    def annotations(self) -> dict[str, str]:
        """Return it as `parse` reads it; the same image has the same."""
        return {_NAME: self.name, _RECORD: json.dumps(self.facts, sort_keys=True), _STEPS: json.dumps(self.steps, sort_keys=True)}

    def keep(self, store: Store, chain: Chain) -> None:
        """Write it down in a store that has the image under its name."""
        store.records.put(self.name, {**store.records.get(self.name), **self.facts})
        for step, count in self.steps.items():
            record = store.folders.steps / f"{step}.json"
            if 0 < count <= len(chain.diff_ids) and not record.exists():
                fresh = record.with_suffix(f".{os.getpid()}")
                fresh.write_text(json.dumps({"diff_ids": chain.diff_ids[:count]}))
                os.replace(fresh, record)


def _object(annotations: Mapping[str, str], key: str) -> dict[str, Any]:
    try:
        value = json.loads(annotations.get(key, "{}"))
    except (ValueError, RecursionError):
        value = {}
    return value if isinstance(value, dict) else {}
