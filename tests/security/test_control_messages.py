"""What isn't said by our own side: requests of any shape to the supervisor, and a child that has become a container's before its time."""

from __future__ import annotations

import contextlib
import gc
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from boxes import FOREVER, NEEDS_ROOT, eventually, idle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from weakened import weakened

from pytest_sealed import Sandbox, SealedError, image
from pytest_sealed.request import run_request
from pytest_sealed.runtime.protocol import pair

MANY = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
FEW = settings(MANY, max_examples=25)

scalars = st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats() | st.text(max_size=20) | st.sampled_from(
    ["/", "..", "../../etc", "/proc/self/fd/3", "nobody", "\0", "\ud800"])
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
                      max_leaves=8)


def descriptors(pid: int) -> list[str]:
    """Return what a process's descriptors name, as in /proc/PID/fd."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
        except FileNotFoundError:
            continue
    return sorted(found)


class Victim:
    """A session of its own, and a container in it that all must leave alone."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.bystander = idle(sandbox, name="bystander")

    def lives(self) -> bool:
        return self.bystander.exec(["echo", "well"]).stdout == "well\n" and self.bystander.status == "running"

    def containers(self) -> list[str]:
        return [row["id"] for row in self.sandbox.session.request("list")[0]["containers"]]

    def ask(self, message: dict[str, Any], fds: list[int]) -> None:
        """Send a request, and wait for what comes first."""
        ours, theirs = pair()
        with ours:
            with theirs:
                self.sandbox.session._channel.send(message, [theirs.fileno(), *fds])
            ours.socket.settimeout(2)   # some have no answer: a start that waits for the rest, a command without an end
            try:
                received = ours.receive()
            except OSError:
                return
            for fd in received[1] if received else ():
                os.close(fd)


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    with Sandbox(name="victim") as sandbox:
        yield Victim(sandbox)


# ---------------------------------------------------------------- requests

OPS = ["hello", "upper", "list", "network", "drop_network", "socket", "listen", "publish", "run", "restart", "remove", "signal", "pause",
       "unpause", "stats", "flush", "exec", "files", "writable", "idmap"]
FIELDS = ["id", "name", "image", "layers", "argv", "env", "user", "volumes", "workdir", "hostname", "limits", "networks", "ports", "mounts",
          "tmpfs", "shm_size", "scratch", "scratch_size", "read_only", "init", "tty", "window", "stdio", "rlimits", "sysctls",
          "capabilities", "nested", "seccomp", "secrets",
          "container", "network", "subnet", "port", "signal", "action", "path", "uid", "gid", "backlog"]


def test_every_operation_is_attacked() -> None:
    from pytest_sealed.runtime import supervisor
    source = Path(supervisor.__file__).read_text()
    assert {line.split("(")[0].removeprefix("    def do_") for line in source.splitlines() if line.startswith("    def do_")} == set(OPS)


@MANY
@given(op=st.sampled_from(OPS), fields=st.dictionaries(st.sampled_from(FIELDS), values, max_size=8),
       fds=st.lists(st.sampled_from(["pipe", "null", "folder"]), max_size=3))
def test_a_request_of_any_fields_ends_nothing_but_itself(victim: Victim, op: str, fields: dict[str, Any], fds: list[str]) -> None:
    opened = [os.open({"pipe": "/dev/zero", "null": "/dev/null", "folder": "/"}[kind], os.O_RDONLY) for kind in fds]
    try:
        victim.ask({"op": op, **fields}, opened)
    finally:
        for fd in opened:
            os.close(fd)
    assert victim.lives()


@MANY
@given(key=st.sampled_from(FIELDS[:29]), value=values, also=st.none() | st.tuples(st.sampled_from(FIELDS[:29]), values))
def test_a_start_with_any_value_in_any_field_starts_or_fails_alone(
        victim: Victim, key: str, value: Any, also: tuple[str, Any] | None) -> None:
    request = run_request(image("busybox", command=FOREVER), victim.sandbox.store.get("busybox"), container="fuzzed", name="fuzzed",
                          ports=[], mounts=[], networks=[{"network": victim.sandbox.network().id, "names": ["fuzzed"]}])
    victim.ask({"op": "run", **request, key: value, **(dict([also]) if also else {})}, [])
    assert victim.lives()
    eventually(lambda: victim.containers() == [victim.bystander.id], "its handle is closed, and it is gone")


@NEEDS_ROOT
def test_afterwards_it_holds_no_more_than_before(victim: Victim) -> None:
    pid = victim.sandbox.session.pid
    before = len(descriptors(pid))
    for op in OPS:
        for fields in ({}, {"container": victim.bystander.id}, {"network": victim.sandbox.network().id}):
            if op not in ("signal", "remove", "drop_network", "pause", "restart"):
                null = os.open("/dev/null", os.O_RDONLY)
                victim.ask({"op": op, **fields}, [null])
                os.close(null)
    assert victim.lives()
    eventually(lambda: len(descriptors(pid)) <= before, "it has let go of all that it was given")


# ---------------------------------------------------------------- a child that lies

# A child of the supervisor's says who it is before its command runs. Here it says what the container's environment has first.
SAY = ("sync.socket.sendmsg([bytes.fromhex(request['env']['LIE'])], [(1, 1, bytes(4) * int(request['env']['FDS']))]) "
       "if 'LIE' in request['env'] else None")
LYING = (("spawn.py", "        _enter_user_namespace(account, context, sync)\n",
          f"        {SAY}\n        _enter_user_namespace(account, context, sync)\n"),
         ("spawn.py", "        _execute(request, account, _filters(", f"        {SAY}\n        _execute(request, account, _filters("))
BELIEVE = ("execs.py", "            if status is None and not _belongs(", "            if False and not _belongs(")
FALL = ("answers.py", "    except Exception as error:   # no child of ours says that", "    except AssertionError as error:   #")

packets = st.binary(max_size=64) | st.sampled_from([b"", b"M", b"J", b"J[]", b"J" + b"[" * 60_000]) | st.builds(
    lambda message: b"J" + json.dumps(message).encode(),
    st.dictionaries(st.sampled_from(["map", "writable", "terminal", "exec", "error", "pid", "kind", "text", "errno"]), values, min_size=1,
                    max_size=3))


@pytest.fixture(scope="module")
def liars(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    with weakened(tmp_path_factory.mktemp("liars"), *LYING) as sandbox:
        yield Victim(sandbox)


def lie(packet: bytes, fds: int = 0) -> dict[str, str]:
    return {"LIE": packet.hex(), "FDS": str(fds)}


def said(victim: Victim, packet: bytes, fds: int) -> None:
    """Start a container and a command, each of which says a packet, and may fail for it."""
    with Sandbox(parent=victim.sandbox) as inner, contextlib.suppress(SealedError):
        inner.run("busybox", ["true"], env=lie(packet, fds)).wait(30)
    with contextlib.suppress(SealedError):
        victim.bystander.exec(["true"], env=lie(packet, fds), timeout=2)
    assert victim.lives()


@FEW
@given(packet=packets, fds=st.integers(0, 3))
def test_a_child_that_says_anything_at_all_fails_alone(liars: Victim, packet: bytes, fds: int) -> None:
    said(liars, packet, fds)


@NEEDS_ROOT
def test_what_a_liar_hands_over_is_closed(liars: Victim) -> None:
    said(liars, b"J{}", 0)
    before = descriptors(liars.sandbox.session.pid)
    for packet in (b"J{}", b"x", b"", b'J{"terminal":1}', b'J{"map":[0,0],"writable":true}', b'J{"map":0}',
                   b'J{"error":{}}', b'J{"pid":1}'):
        said(liars, packet, 3)
    eventually(lambda: len(descriptors(liars.sandbox.session.pid)) <= len(before), "it has let go of all that it was given")


def others(victim: Victim) -> list[int]:
    """Return pids, as the supervisor sees them, of processes that no command in a container is, the bystander's fourth."""
    return [1, 2, 3, *(row["pid"] for row in victim.sandbox.session.request("list")[0]["containers"])]


def test_a_command_that_says_it_is_another_process_has_that_ended_nowhere(liars: Victim) -> None:
    with Sandbox(parent=liars.sandbox) as inner:
        attacker = idle(inner)
        for pid in others(liars)[:-1]:
            with pytest.raises(SealedError):
                attacker.exec(FOREVER, env=lie(b'J{"pid":%d}' % pid), timeout=0.2)
        assert attacker.status == "running"
    assert liars.lives()


def test_where_it_is_believed_its_end_is_that_of_another(tmp_path: Path) -> None:
    with weakened(tmp_path, *LYING, BELIEVE) as sandbox:
        victim = Victim(sandbox)
        with Sandbox(parent=sandbox) as inner:
            attacker = idle(inner)
            pid = others(victim)[3]
            for _ in range(10):   # on a busy machine it may be ended before it has said so
                with contextlib.suppress(SealedError):
                    attacker.exec(FOREVER, env=lie(b'J{"pid":%d}' % pid), timeout=1)
                if victim.bystander.status != "running":
                    break
        assert victim.bystander.wait(30) == 128 + 9


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")   # what the session's handles hold goes with them
def test_where_lies_are_not_expected_one_ends_the_session(tmp_path: Path) -> None:
    with weakened(tmp_path, *LYING, FALL) as sandbox:
        victim = Victim(sandbox)
        with pytest.raises(SealedError):
            sandbox.run("busybox", ["true"], env=lie(b"x"))
        with pytest.raises(SealedError, match="the supervisor of this session failed"):
            victim.lives()
    del victim, sandbox
    gc.collect()
