"""Who is who: the maps of a session and of its containers, on accounts of every kind."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_sealed.errors import HostUnsupported
from pytest_sealed.runtime.idmap import WANTED, IdMap, find_id_map, is_hosts_root

WHOLE = "         0          0 4294967295\n"
ROOT = IdMap("root", 0, 0, 1879048192, 1879048192, WANTED)
SUBIDS = IdMap("subids", 1000, 1001, 100000, 200000, WANTED)
SINGLE = IdMap("single", 1000, 1001)


class Machine:
    """The files of a machine that say which ids an account has."""

    def __init__(self, path: Path) -> None:
        self.proc, self.etc, self.bin = path / "proc", path / "etc", path / "bin"
        for folder in (self.proc / "self", self.etc, self.bin):
            folder.mkdir(parents=True)
        self.own_map(WHOLE)

    def own_map(self, uids: str, gids: str = "") -> None:
        (self.proc / "self/uid_map").write_text(uids)
        (self.proc / "self/gid_map").write_text(gids or uids)

    def subids(self, uids: str, gids: str | None = None) -> None:
        (self.etc / "subuid").write_text(uids)
        (self.etc / "subgid").write_text(uids if gids is None else gids)

    def tools(self, *names: str) -> None:
        for name in names:
            (self.bin / name).write_text("#!/bin/sh\n")
            (self.bin / name).chmod(0o755)

    def find(self) -> IdMap:
        return find_id_map(str(self.proc), str(self.etc))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path)
    monkeypatch.setenv("PATH", str(machine.bin))
    monkeypatch.delenv("SEALED_IDS", raising=False)
    return machine


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "getegid", lambda: 0)


@pytest.fixture
def as_user(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    monkeypatch.setattr(os, "getegid", lambda: 65533)
    return pwd.getpwuid(65534).pw_name


# ---------------------------------------------------------------- the maps


def test_a_session_maps_the_account_to_its_root_and_the_range_above() -> None:
    assert SUBIDS.session_map() == [(0, 1000, 1), (1, 100000, WANTED)]
    assert SUBIDS.session_map(gids=True) == [(0, 1001, 1), (1, 200000, WANTED)]
    assert SINGLE.session_map() == [(0, 1000, 1)]
    assert SINGLE.session_map(gids=True) == [(0, 1001, 1)]


@pytest.mark.parametrize("ids", [ROOT, SUBIDS])
def test_a_containers_root_is_nobody_on_the_host(ids: IdMap) -> None:
    assert ids.container_map(70) == f"0 1 {WANTED}\n"
    _, outside, _ = ids.session_map()[1]
    own = {ids.uid, ids.gid, 0}
    assert not own & set(range(outside, outside + WANTED))


def test_every_extent_of_a_containers_map_lies_in_one_extent_of_the_sessions() -> None:
    inside, start, count = map(int, SUBIDS.container_map(0).split())
    assert inside == 0
    assert any(first <= start and start + count <= first + length for first, _, length in SUBIDS.session_map())


@pytest.mark.parametrize("user", [0, 70, 65534])
def test_in_single_id_mode_a_container_has_its_users_id_alone(user: int) -> None:
    assert SINGLE.container_map(user) == f"{user} 0 1\n"
    assert SINGLE.outer(user) == 0


@given(st.integers(0, WANTED - 1))
def test_an_id_inside_lies_one_higher_in_the_session(inside: int) -> None:
    assert SUBIDS.outer(inside) == inside + 1


@pytest.mark.parametrize("inside", [-1, WANTED, 4294967295])
def test_an_id_that_a_container_does_not_have_is_refused(inside: int) -> None:
    with pytest.raises(ValueError, match=f"id {inside} is outside a container's ids, 0 to 65535"):
        SUBIDS.outer(inside)


@pytest.mark.parametrize("ids", [ROOT, SUBIDS, SINGLE])
def test_a_map_travels_as_json(ids: IdMap) -> None:
    assert IdMap.from_json(ids.to_json()).to_json() == ids.to_json()


# ---------------------------------------------------------------- root


@pytest.mark.usefixtures("as_root")
def test_root_takes_a_high_range_of_its_own(machine: Machine) -> None:
    found = machine.find()
    assert found.to_json() == ROOT.to_json()


@pytest.mark.usefixtures("as_root")
def test_root_takes_its_subordinate_range_if_it_has_one(machine: Machine) -> None:
    machine.subids("other:1:65536\nroot:300000:65536\n", "0:400000:65536\n")
    found = machine.find()
    assert (found.mode, found.uid_start, found.gid_start, found.count) == ("root", 300000, 400000, WANTED)


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("rows", ["root:300000:1000\n", "root:0:65536\n", "root:4294940000:65536\n"])
def test_roots_subordinate_range_must_be_large_enough_and_its_own(machine: Machine, rows: str) -> None:
    machine.subids(rows)
    assert machine.find().uid_start == 1879048192


@pytest.mark.usefixtures("as_root")
def test_the_range_lies_in_the_namespace_that_root_is_in(machine: Machine) -> None:
    machine.own_map("0 100000 200000\n", "0 100000 150000\n")
    found = machine.find()
    assert (found.uid_start, found.gid_start, found.count) == (200000 - WANTED, 150000 - WANTED, WANTED)


@pytest.mark.usefixtures("as_root")
def test_inside_a_rootless_container_the_range_is_what_there_is(machine: Machine) -> None:
    machine.own_map("0 1000 1\n1 100000 65536\n")
    found = machine.find()
    assert (found.mode, found.uid_start, found.count) == ("root", 2, 65535)
    first, length = 1, 65536
    assert first < found.uid_start
    assert found.uid_start + found.count <= first + length


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("own", ["0 1000 1\n", "0 1000 1000\n", ""])
def test_root_of_a_namespace_with_few_ids_has_one_id(machine: Machine, own: str) -> None:
    machine.own_map(own)
    assert machine.find().mode == "single"


# ---------------------------------------------------------------- an ordinary account


def test_an_account_uses_its_largest_subordinate_range(machine: Machine, as_user: str) -> None:
    machine.tools("newuidmap", "newgidmap")
    machine.subids(f"other:1:99999\n{as_user}:200000:70000\n{as_user}:500000:10\n", f"{as_user}:300000:65536\n65534:400000:70000\n")
    assert machine.find().to_json() == IdMap("subids", 65534, 65533, 200000, 400000, WANTED).to_json()


@pytest.mark.parametrize("rows", ["{0}:100000:x\n", "{0}:100000\n", "{0}\n", "\n", "#{0}:1:65536\n", "{0}x:1:65536\n", "{0}:-1:65536\n"])
def test_a_row_that_is_nonsense_or_anothers_is_passed_over(machine: Machine, as_user: str, rows: str) -> None:
    machine.tools("newuidmap", "newgidmap")
    machine.subids(rows.format(as_user))
    assert machine.find().mode == "single"


@pytest.mark.usefixtures("as_user")
def test_without_a_range_there_is_one_id(machine: Machine) -> None:
    machine.tools("newuidmap", "newgidmap")
    assert machine.find().to_json() == IdMap("single", 65534, 65533).to_json()


@pytest.mark.parametrize("tools", [(), ("newuidmap",), ("newgidmap",)])
def test_without_the_tools_that_write_the_maps_there_is_one_id(machine: Machine, as_user: str, tools: tuple[str, ...]) -> None:
    machine.tools(*tools)
    machine.subids(f"{as_user}:100000:65536\n")
    assert machine.find().mode == "single"


# ---------------------------------------------------------------- the wish


@pytest.mark.usefixtures("as_root")
def test_where_nothing_gains_privileges_newuidmap_gains_none(machine: Machine, as_user: str) -> None:
    machine.subids(f"{as_user}:100000:65536\n")
    machine.tools("newuidmap", "newgidmap")
    (machine.proc / "self/status").write_text("NoNewPrivs:\t0\n")
    assert machine.find().mode == "subids"
    (machine.proc / "self/status").write_text("NoNewPrivs:\t1\n")
    assert machine.find().mode == "single"


@pytest.mark.parametrize(("own", "uid", "root"), [
    (WHOLE, 0, True), (WHOLE, 1000, False), ("0 0 1\n", 0, True), ("0 1000 1\n", 0, False), ("0 1 65536\n", 0, False),
    ("70 0 1\n", 70, True), ("0 1000 1\n1 0 1\n", 1, True), ("", 0, False),
])
def test_who_may_be_the_hosts_root_is_told_by_the_map(machine: Machine, own: str, uid: int, root: bool) -> None:
    machine.own_map(own)
    assert is_hosts_root(uid, str(machine.proc)) is root


def test_single_id_mode_can_be_asked_for(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALED_IDS", "single")
    assert machine.find().mode == "single"


def test_another_wish_is_refused_with_the_remedy(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALED_IDS", "signle")
    with pytest.raises(HostUnsupported) as caught:
        machine.find()
    assert str(caught.value) == "SEALED_IDS='signle' is unknown\n  remedy: unset it, or set SEALED_IDS=single"
