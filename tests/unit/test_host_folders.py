"""Host folders: what an account with a range of ids can't do with them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_sealed import Mount, SpecError, image
from pytest_sealed.copying import open_mounts
from pytest_sealed.runtime.idmap import IdMap


def opened(folder: Path, *, read_only: bool) -> tuple[list[dict[str, Any]], list[int]]:
    session: Any = SimpleNamespace(ids=IdMap("subids", 1000, 1000, 100000, 100000, 65536), shared=set())
    busybox: Any = SimpleNamespace(config=SimpleNamespace(user=""), layers=[folder])
    spec = image("busybox", mounts=[Mount(source=str(folder), target="/data", read_only=read_only)])
    with contextlib.ExitStack() as passed:
        return open_mounts(session, spec, busybox, passed)


def test_a_folder_is_bound_read_only(tmp_path: Path) -> None:
    assert opened(tmp_path, read_only=True) == ([{"source": str(tmp_path), "target": "/data", "read_only": True, "passed": False}], [])


def test_a_writable_one_is_refused_with_the_ways_out(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"the folder .* can't be mounted writable: this account can't map its own id into a container\n"
                                        r".*mount it read-only, copy with put\(\) and get\(\), or run with SEALED_IDS=single"):
        opened(tmp_path, read_only=False)
