"""The folders that sessions need: for their run directories, and for images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_sealed.doctor.finding import Finding, Remedy
from pytest_sealed.errors import StoreError
from pytest_sealed.images.folders import file_system, free_space, try_store
from pytest_sealed.runtime.client import drop_run_root, run_root

if TYPE_CHECKING:
    from pytest_sealed.doctor.host import Host

__all__ = ["check"]

_ROOM = 1 << 30   # bytes: a few images


def check(host: Host, store: Path) -> Iterator[Finding]:
    """Make a run directory and write to the store's file system."""
    yield _run_directory()
    yield _store(store)


def _run_directory() -> Finding:
    try:
        made = run_root()
    except StoreError as error:
        return Finding(check="run directory", state="missing", found=error.message, effect="no container can be started",
                       remedy=Remedy(text=error.remedy), page="how-to/hosts.md")
    drop_run_root(made)
    return Finding(check="run directory", state="ok", found=f"{made} on {file_system(made) or 'an unknown file system'}")


def _store(store: Path) -> Finding:
    kind, there = file_system(store) or "an unknown file system", "" if store.exists() else " (not made yet)"
    try:
        try_store(store)
    except StoreError as error:
        readable = (store.is_dir() and os.access(store, os.R_OK))
        return Finding(check="image store", state="degraded" if readable else "missing", found=error.message,
                       effect="images can't be built" + ("" if readable else ", and none are there"), remedy=Remedy(text=error.remedy),
                       page="how-to/images.md")
    free = free_space(store)
    if free < _ROOM:
        return Finding(check="image store", state="degraded", found=f"{store}{there} on {kind} has {free >> 20} MiB free",
                       effect="an image of a few hundred MB can't be built",
                       remedy=Remedy(text="`sealed images` and `sealed rm NAME` free space; or set SEALED_STORE to another folder"),
                       page="how-to/images.md")
    return Finding(check="image store", state="ok", found=f"{store}{there} on {kind}, {free >> 30} GiB free")
