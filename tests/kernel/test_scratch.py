"""Removal of folders by processes that are root in a namespace: what they must never touch."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_sealed.linux import mounts, namespaces
from pytest_sealed.runtime.scratch import remove_tree


def in_child(action: Callable[[], object]) -> int:
    """Return the exit code of a forked child that runs `action` in a mount namespace of its own."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        namespaces.unshare(namespaces.CLONE_NEWNS)
        mounts.mount(None, "/", None, mounts.MS_SLAVE | mounts.MS_REC)
        action()
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root here")
def test_what_is_mounted_below_a_folder_outlives_its_removal(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    (precious / "etc").mkdir(parents=True)
    (precious / "etc/passwd").write_text("root")
    for name in ("run/a/b", "run/host"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "run/a/b/file").write_text("")

    def remove() -> None:
        mounts.mount(str(precious), str(tmp_path / "run/host"), None, mounts.MS_BIND)
        remove_tree(str(tmp_path / "run"))

    assert in_child(remove) == 0
    assert (precious / "etc/passwd").read_text() == "root"
    assert not (tmp_path / "run/a").exists()


def test_a_link_is_removed_and_what_it_leads_to_is_not(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("kept")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/link").symlink_to(precious)
    remove_tree(str(tmp_path / "run"))
    assert (precious / "file").read_text() == "kept"
    assert not (tmp_path / "run").exists()
