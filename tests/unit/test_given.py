"""What can be given as files, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_sealed import SpecError, image


def test_paths_are_settled_and_a_change_replaces_them_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = image("busybox", files={"/srv//x/": Path("pages"), "/etc/a": b"a"})
    assert spec.files == (("/etc/a", b"a"), ("/srv/x", tmp_path / "pages"))
    assert spec.replace(files={"/b": b""}).files == (("/b", b""),)
    assert hash(spec) == hash(spec.replace())


@pytest.mark.parametrize(("files", "message", "remedy"), [
    ([("/a", b"")], "files=[('/a', b'')] is no mapping", 'for example files={"/etc/app.toml"'),
    ({"/a": "settings.toml"}, "files: '/a' gets 'settings.toml', which is neither bytes nor a Path", "text.encode()"),
    ({"/a": 7}, "files: '/a' gets 7, which", "Path(…)"),
    ({"/a": "x" * 1000}, f"files: '/a' gets '{'x' * 76}…, which", "Path(…)"),
    ({"etc/a": b""}, "files: the path 'etc/a' is no absolute path", "begin it with '/'"),
    ({"/": b""}, "files: the path '/' is the root itself", "name a folder"),
    ({7: b""}, "files: the path 7 is no absolute path", "begin it"),
    ({"/a": b"", "/b/../a": b""}, "files: '/a' is given twice", "once"),
    ({"/etc/hosts": b""}, "files: '/etc/hosts' is written by the runtime", "aliases= and networks= name what is in it"),
    ({"/etc/hostname": b""}, "files: '/etc/hostname' is written by the runtime", "hostname= says what is in it"),
])
def test_what_cannot_be_given_is_refused(files: Any, message: str, remedy: str) -> None:
    with pytest.raises(SpecError) as caught:
        image("busybox", files=files)
    assert caught.value.message.startswith(message)
    assert remedy in (caught.value.remedy or "")
