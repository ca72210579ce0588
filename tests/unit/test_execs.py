"""The supervisor's side of a command that can't be made."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_sealed.errors import ContainerFailed
from pytest_sealed.runtime import execs
from pytest_sealed.runtime.protocol import pair


@pytest.mark.parametrize(("limit", "now", "said"), [
    (4, 3, "the container's limit is reached (pids=4, and a command takes 2 to start)"), (2048, 3, "as many as it may have"),
    (None, None, "as many as it may have"),
])
def test_where_it_would_be_born_under_the_limit_the_refusal_is_the_same(monkeypatch: pytest.MonkeyPatch, limit: int | None, now: int | None,
                                                                       said: str) -> None:
    def full(*_: object, beside: bool) -> int:
        raise BlockingIOError
    monkeypatch.setattr(execs, "fork_in_group", full)
    request = {"name": "web", "limits": {"pids": limit}, "rlimits": [], "capabilities": [], "seccomp": {}, "hostname": "web"}
    group = SimpleNamespace(entry=lambda **_: (None, []), stats=lambda: {"pids_current": now})
    record = SimpleNamespace(request=request, state="running", group=group, pid=1, pidfd=-1)
    supervisor: Any = SimpleNamespace(containers=SimpleNamespace(alive=lambda _: record), ids=None)
    before = os.listdir("/proc/self/fd")
    ours, theirs = pair()
    with ours, theirs, pytest.raises(ContainerFailed) as caught:
        execs.Execs(supervisor).run({"container": "web"}, theirs, [])
    assert caught.value.message.startswith("exec in container 'web': no process could be made for the command: ")
    assert said in caught.value.message
    assert caught.value.remedy
    assert os.listdir("/proc/self/fd") == before
