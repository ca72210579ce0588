"""What can be asked of a container, and what is said of what can't: always what, why and a remedy."""

from __future__ import annotations

import dataclasses
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_sealed.errors import SpecError
from pytest_sealed.spec import (
    CAPABILITIES,
    ContainerOptions,
    Limits,
    Mount,
    Tmpfs,
    check_name,
    make_spec,
    parse_signal,
    parse_size,
)
from pytest_sealed.waits import all_of, any_of, command, healthy, http, log, tcp


def spec(**options: Any) -> Any:
    return make_spec("busybox", object, options)  # type: ignore[arg-type]


def refusal(**options: Any) -> SpecError:
    with pytest.raises(SpecError) as caught:
        spec(**options)
    assert caught.value.remedy, f"no remedy: {caught.value}"
    assert "remedy: " in str(caught.value)
    return caught.value


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize(("text", "size"), [
    ("64M", 64 << 20), ("64m", 64 << 20), ("64MB", 64 << 20), ("64 MiB", 64 << 20), ("1.5g", 3 << 29), ("512K", 512 << 10),
    ("100b", 100), ("100", 100), (4096, 4096), ("1t", 1 << 40), (" 8M ", 8 << 20),
])
def test_a_size_is_a_number_or_a_number_with_a_unit_of_1024(text: int | str, size: int) -> None:
    assert parse_size(text, "memory") == size


@given(st.integers(1, 1 << 60))
def test_a_size_in_bytes_means_the_same_as_text_and_as_a_number(size: int) -> None:
    assert parse_size(str(size), "memory") == parse_size(size, "memory") == size


@pytest.mark.parametrize("text", ["12Q", "M", "", "12 M B", "1e6", "0x10", "12,5M", "1M2", "\N{ARABIC-INDIC DIGIT ONE}M!"])
def test_a_size_with_an_unknown_unit_names_the_units(text: str) -> None:
    error = refusal(memory=text)
    assert error.message == f"memory={text!r} is no size: the units are b, k, m, g and t (powers of 1024)"
    assert error.remedy == 'for example memory="64M"'


@pytest.mark.parametrize("value", [True, 1.5, [64], b"64M"])
def test_a_size_that_is_neither_text_nor_a_whole_number_is_refused(value: object) -> None:
    assert refusal(memory=value).message == f"memory={value!r} is no size"


@pytest.mark.parametrize("value", [0, -1, "0", "-5M", "0.0G", "0.4b"])
def test_a_size_must_be_above_zero(value: int | str) -> None:
    error = refusal(memory=value)
    assert "must be above zero" in error.message
    assert error.remedy == 'leave memory out for no limit, or give "64M", say'


@pytest.mark.parametrize("key", ["swap", "shm_size", "scratch_size"])
def test_a_size_that_has_one_when_it_is_left_out_is_not_said_to_be_unlimited_then(key: str) -> None:
    assert refusal(memory="64M", **{key: -1}).remedy == f'leave {key} out, or give "64M", say'
    assert refusal(memory="64M", **{key: 1 << 70}).remedy == f"leave {key} out, or give less"


@pytest.mark.parametrize("text", ["9999999999T", "9" * 5000, "9" * 5000 + ".5g"], ids=["unit", "digits", "fraction"])
def test_a_size_that_no_kernel_can_hold_is_refused(text: str) -> None:
    assert "more than a kernel counts" in refusal(memory=text).message


def test_a_size_below_zero_may_have_any_number_of_digits() -> None:
    assert "must be above zero" in refusal(memory="-" + "9" * 5000).message


@pytest.mark.parametrize("key", ["memory", "swap", "shm_size", "scratch_size"])
def test_the_message_about_a_size_names_the_keyword(key: str) -> None:
    assert refusal(**{key: "12Q"}).message.startswith(f"{key}='12Q'")


# ---------------------------------------------------------------- limits


def test_less_memory_than_a_container_needs_to_start_is_refused() -> None:
    error = refusal(memory="1M")
    assert error.message == "memory='1M' is less than a container needs to start (8M)"
    assert error.remedy == 'give "8M" or more'
    assert spec(memory="8M").limits.memory == 8 << 20


def test_swap_needs_a_memory_limit() -> None:
    error = refusal(swap="64M")
    assert error.message == "swap= needs memory="
    assert 'memory="64M", swap="64M"' in error.remedy
    assert spec(memory="64M", swap=0).limits.swap == 0
    assert spec(memory="64M").replace(swap="32M").limits == Limits(memory=64 << 20, swap=32 << 20)


@pytest.mark.parametrize(("key", "value"), [
    ("cpus", 0), ("cpus", -1), ("cpus", 0.001), ("cpus", float("nan")), ("cpus", float("inf")), ("cpu_shares", 1),
    ("cpu_shares", 262145), ("cpu_shares", -5), ("pids", 0), ("pids", -1), ("pids", 1 << 23),
])
def test_a_limit_outside_its_range_names_the_range(key: str, value: float) -> None:
    error = refusal(**{key: value})
    assert error.message.startswith(f"{key}={value} is outside ")
    assert "a number in that range" in error.remedy


@pytest.mark.parametrize("key", ["cpus", "cpu_shares", "pids"])
@pytest.mark.parametrize("value", [True, "1", [1]])
def test_a_limit_that_is_no_number_is_refused(key: str, value: object) -> None:
    assert refusal(**{key: value}).message == f"{key}={value!r} is no number"


def test_processes_and_weights_are_whole_numbers() -> None:
    assert refusal(pids=7.9).message == "pids=7.9 is no whole number"
    assert refusal(cpu_shares=2.5).remedy == "for example cpu_shares=2"
    assert spec(pids=8.0).limits.pids == 8


def test_limits_are_kept_when_another_one_is_changed() -> None:
    changed = spec(memory="64M", cpus=1).replace(cpus=0.5)
    assert changed.limits == Limits(memory=64 << 20, cpus=0.5)
    assert changed.limits.pids == 2048


@pytest.mark.parametrize(("key", "value"), [("memory", "64M"), ("cpus", 0.5), ("cpu_shares", 512), ("pids", 100), ("pids", 2048)])
def test_none_lifts_a_limit_and_what_is_not_given_stays(key: str, value: int | str) -> None:
    changed = spec(stop_timeout=1, **{"ulimits": {"nofile": 9}, key: value}).replace(**{key: None})
    assert getattr(changed.limits, key) is None
    assert changed.limits == dataclasses.replace(Limits(), **{key: None})
    assert (changed.stop_timeout, changed.ulimits) == (1, (("nofile", 9, 9),))


def test_swap_goes_with_memory() -> None:
    limited = spec(memory="64M", swap="32M")
    assert limited.replace(swap=None).limits == Limits(memory=64 << 20)
    assert limited.replace(memory=None, swap=None).limits == Limits()
    with pytest.raises(SpecError, match=r"swap= needs memory=\n  remedy: .*, or neither: swap=None"):
        limited.replace(memory=None)


# ---------------------------------------------------------------- keywords


@pytest.mark.parametrize(("wrong", "right"), [("memroy", "memory"), ("cpu_share", "cpu_shares"), ("environment", "env"),
                                              ("netwrok", "network"), ("volumes", "mounts"), ("port", "ports"), ("mem_limit", "memory"),
                                              ("working_dir", "workdir"), ("xyzzy", None)])
def test_an_unknown_keyword_names_the_nearest(wrong: str, right: str | None) -> None:
    error = refusal(**{wrong: 1})
    hint = f", did you mean {right!r}?" if right else ""
    assert error.message == f"there is no container option {wrong!r}{hint}"
    assert "ContainerOptions" in error.remedy


def test_an_image_needs_a_name() -> None:
    for nothing in ("", "  ", None, 5):
        with pytest.raises(SpecError, match="names no image") as caught:
            make_spec(nothing, object, {})  # type: ignore[type-var, arg-type]
        assert "sealed images" in caught.value.remedy


def test_the_networks_are_given_one_way() -> None:
    assert refusal(network="a", networks=["b"]).message == "both network= and networks= were given"
    assert spec().networks is None
    assert spec(network=None).networks == ()
    assert spec(network="a").networks == ("a",)
    assert spec(networks=["a", "b"]).networks == ("a", "b")


def test_the_same_network_twice_is_refused() -> None:
    assert refusal(networks=["a", "b", "a"]).message == "networks: 'a' is given twice"


@pytest.mark.parametrize("key", ["command", "entrypoint"])
@pytest.mark.parametrize("value", ["redis-cli ping", ["a", 1], ["a\0b"], ["\ud800"], None, 5, b"ls"])
def test_a_command_is_a_list_of_strings(key: str, value: object) -> None:
    refusal(**{key: value})


def test_a_command_as_one_string_says_how_to_write_it() -> None:
    error = refusal(command="redis-cli ping")
    assert error.message == "command='redis-cli ping' is no list of strings"
    assert error.remedy == 'for example command=["redis-cli", "ping"]; for a shell line, ["sh", "-c", "…"]'


@pytest.mark.parametrize("value", [{"": "x"}, {"A=B": "x"}, {"A": 1}, {1: "x"}, {"A": "x\0"}, {"A": "\ud800"}, "A=1", None, 3])
def test_an_environment_maps_names_to_strings(value: object) -> None:
    refusal(env=value)


def test_an_environment_is_added_to_and_everything_else_replaced() -> None:
    first = spec(env={"A": "1", "B": "2"}, labels={"x": "1"}, command=["a", "b"])
    second = first.replace(env={"B": "3"}, labels={"y": "2"}, command=["c"])
    assert dict(second.env) == {"A": "1", "B": "3"}
    assert dict(second.labels) == {"x": "1", "y": "2"}
    assert second.command == ("c",)
    assert dict(first.env) == {"A": "1", "B": "2"}


@pytest.mark.parametrize("name", ["", "-a", "a-", "a b", "a/b", "x" * 64, "ä", "a\n", None, 5])
@pytest.mark.parametrize("key", ["name", "hostname"])
def test_a_name_on_a_network_is_a_host_name(key: str, name: object) -> None:
    assert "at most 63" in refusal(**{key: name}).remedy


@given(st.from_regex(r"\A[a-z0-9]([a-z0-9_.-]{0,61}[a-z0-9])?\Z"))
def test_a_host_name_is_taken_as_it_is(name: str) -> None:
    assert check_name("name", name) == name


@pytest.mark.parametrize("name", ["localhost", "LocalHost", "10.89.0.7", "7", "a..b"])
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    for options in ({"name": name}, {"aliases": [name]}):
        error = refusal(**options)
        assert f"{name!r} would lead nobody there: resolvers take it for something else" in error.message
    assert spec(hostname=name).hostname == name


def test_one_bad_alias_is_named() -> None:
    assert refusal(aliases=["ok", "not ok"]).message == "alias 'not ok' is no host name"


@pytest.mark.parametrize("value", ["", "a:b:c", ":", "a b", "a\0"])
def test_a_user_is_a_name_or_a_number_and_maybe_a_group(value: str) -> None:
    assert refusal(user=value).remedy == 'for example user="postgres", user=1000 or user="1000:1000"'
    assert spec(user=0).user == "0"
    assert spec(user="www-data:adm").user == "www-data:adm"


@pytest.mark.parametrize("value", ["relative", "", None, 5, "/a\0", "/\ud800"])
def test_a_work_directory_is_an_absolute_path(value: object) -> None:
    assert refusal(workdir=value).remedy == "begin it with '/'"


@pytest.mark.parametrize("value", [0, 65536, -1, "80", True, 1.5, None])
def test_a_port_is_a_whole_number_up_to_65535(value: object) -> None:
    error = refusal(ports=[value])
    assert error.message == f"port {value!r} is no TCP port"
    assert error.remedy == "give a whole number from 1 to 65535"


def test_scratch_is_memory_or_disk() -> None:
    assert refusal(scratch="dsik").message == "scratch='dsik' is none of 'memory', 'disk'"
    assert spec(scratch="disk").scratch == "disk"


def test_a_size_of_a_layer_in_memory_contradicts_one_on_disk() -> None:
    error = refusal(scratch="disk", scratch_size="1G")
    assert error.message == 'scratch_size= is for a writable layer in memory, and scratch="disk" puts it on disk, which sets no size'
    assert error.remedy == "give one of them; where another set scratch_size, add scratch_size=None"
    for first, second in (({"scratch": "disk"}, {"scratch_size": "1G"}), ({"scratch_size": "1G"}, {"scratch": "disk"})):
        with pytest.raises(SpecError, match="scratch_size= is for a writable layer in memory"):
            spec(**first).replace(**second)
    assert spec(scratch_size="1G").replace(scratch="disk", scratch_size=None).scratch == "disk"
    assert spec(scratch="memory", scratch_size="1G").scratch_size == 1 << 30


@pytest.mark.parametrize("alone", [{"network": None}, {"networks": []}])
def test_ports_need_a_network(alone: dict[str, object]) -> None:
    error = refusal(ports=[80, 443], **alone)
    assert error.message == "ports=[80, 443] lead nowhere without a network"
    assert error.remedy == "leave network=None out, or, where another set the ports, add ports=[]"
    with pytest.raises(SpecError, match=r"ports=\[80\] lead nowhere"):
        spec(ports=[80]).replace(**alone)
    with pytest.raises(SpecError, match=r"ports=\[80\] lead nowhere"):
        spec(**alone).replace(ports=[80])
    assert spec(ports=[80]).replace(ports=[], **alone).networks == ()


@pytest.mark.parametrize("key", ["stop_timeout", "wait_timeout"])
@pytest.mark.parametrize("value", [-1, "5", None, True, float("nan")])
def test_a_time_is_a_number_of_seconds(key: str, value: object) -> None:
    assert refusal(**{key: value}).remedy == f"for example {key}=5"


@pytest.mark.parametrize("value", ["SIGINT", "sigint", "int", "2", 2])
def test_a_signal_has_a_name_and_a_number(value: int | str) -> None:
    assert parse_signal(value) == signal.SIGINT


@pytest.mark.parametrize("value", ["SIGITN", 0, -1, 65, "", "9.5"])
def test_an_unknown_signal_is_refused(value: int | str) -> None:
    assert refusal(stop_signal=value).message.startswith(f"there is no signal {value!r}")


def test_an_unknown_signal_names_the_nearest() -> None:
    assert "did you mean 'SIGINT'?" in refusal(stop_signal="SIGITN").message


def test_a_ulimit_has_a_known_name_and_whole_numbers() -> None:
    assert spec(ulimits={"nofile": 1024, "core": (0, -1)}).ulimits == (("core", 0, -1), ("nofile", 1024, 1024))
    assert refusal(ulimits={"nofiles": 1}).message == "there is no ulimit 'nofiles', did you mean 'nofile'?"
    for bad in ({"nofile": "many"}, {"nofile": (1, 2, 3)}, {"nofile": (10, 5)}, {"nofile": -2}, {"nofile": True}, "nofile", None):
        refusal(ulimits=bad)


def test_only_sysctls_of_a_container_s_own_namespaces_can_be_set() -> None:
    assert spec(sysctls={"net.core.somaxconn": "512"}).sysctls == (("net.core.somaxconn", "512"),)
    for foreign in ("kernel.panic", "vm.swappiness", "net/../kernel/panic", "", "net."):
        refusal(sysctls={foreign: "1"})


def test_no_capability_beyond_the_eleven_can_be_given() -> None:
    assert len(CAPABILITIES) == 11
    assert spec(capabilities=["cap_chown", "KILL"]).capabilities == ("CHOWN", "KILL")
    assert spec(capabilities=[]).capabilities == ()
    error = refusal(capabilities=["SYS_ADMIN"])
    assert error.message.startswith("capability 'SYS_ADMIN' can't be given to a container")
    assert "CHOWN" in error.remedy
    for name in ("NET_ADMIN", "cap_net_raw"):
        assert refusal(capabilities=["KILL", name]).message == (
            f"capability {name.upper().removeprefix('CAP_')!r} would have no effect: a container's network belongs to its session")


# ---------------------------------------------------------------- mounts


def test_a_mount_whose_source_is_missing_says_how_to_make_it(tmp_path: Path) -> None:
    missing = tmp_path / "data"
    with pytest.raises(SpecError) as caught:
        Mount(source=str(missing), target="/data")
    assert caught.value.message == f"mount source {missing} does not exist"
    assert caught.value.remedy == f"mkdir -p {missing}"


def test_a_mount_source_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Mount(source="data", target="/data").source == str(tmp_path / "data")
    assert Mount(source="~/data", target="/data").source == str(tmp_path / "data")
    assert Mount(source="data", target="/data").read_only


@pytest.mark.parametrize("target", ["data", "", "/", "/..", "//", "/a/..", "/a\0b", "/\ud800", None])
def test_a_target_is_an_absolute_path_below_the_root(target: Any, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        Mount(source=str(tmp_path), target=target)
    assert caught.value.remedy
    with pytest.raises(SpecError):
        Tmpfs(target=target)


@pytest.mark.parametrize("target", ["/dev", "/proc/", "//sys", "/dev/../dev/null"])
def test_what_every_container_has_of_its_own_is_no_target(target: str, tmp_path: Path) -> None:
    for make in (lambda: Mount(source=str(tmp_path), target=target), lambda: Tmpfs(target=target)):
        with pytest.raises(SpecError, match="is what every container has of its own\n  remedy: mount it elsewhere"):
            make()
    assert Tmpfs(target="/dev/cache").target == "/dev/cache"


def test_a_mount_is_read_only_or_not(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="read_only='no' is neither True nor False"):
        Mount(source=str(tmp_path), target="/data", read_only="no")  # type: ignore[arg-type]


def test_a_tmpfs_has_a_mode_and_an_owner() -> None:
    assert Tmpfs(target="/a", user=1000) == Tmpfs(target="/a", user="1000")
    for mode in (-1, 0o10000, "0755", True, None):
        with pytest.raises(SpecError, match="is no mode\n  remedy: for example 0o755"):
            Tmpfs(target="/a", mode=mode)  # type: ignore[arg-type]
    for user in ("", "a:b:c", True, 1.5):
        with pytest.raises(SpecError, match=r"tmpfs user=.* is no user\n  remedy: "):
            Tmpfs(target="/a", user=user)  # type: ignore[arg-type]


def test_a_tmpfs_is_a_path_or_a_tmpfs() -> None:
    assert spec(tmpfs=["/a", Tmpfs(target="/b", size="1M")]).tmpfs == (Tmpfs(target="/a"), Tmpfs(target="/b", size=1 << 20))
    assert Tmpfs(target="/a").size == 64 << 20
    refusal(tmpfs=["relative"])
    refusal(tmpfs=[5])
    refusal(tmpfs="/a")
    with pytest.raises(SpecError, match="tmpfs size='12Q' is no size"):
        Tmpfs(target="/a", size="12Q")


def test_a_mount_is_a_mount(tmp_path: Path) -> None:
    error = refusal(mounts=[(str(tmp_path), "/data")])
    assert error.message == f"mounts: {(str(tmp_path), '/data')!r} is no Mount"
    assert error.remedy == 'for example Mount(source="data", target="/data")'


def test_two_mounts_at_the_same_place_are_refused(tmp_path: Path) -> None:
    mount = Mount(source=str(tmp_path), target="/data")
    assert refusal(mounts=[mount, Mount(source="/", target="/data/")]).message == "two mounts at '/data'"
    assert refusal(mounts=[mount], tmpfs=["/data"]).message == "two mounts at '/data'"
    assert refusal(tmpfs=["/a", "/a"]).remedy == "give each a target of its own"


# ---------------------------------------------------------------- waits


@pytest.mark.parametrize("port", [0, 65536, -1, "80", True, None])
def test_a_wait_for_a_port_needs_a_port(port: Any) -> None:
    for wait in (tcp, http):
        with pytest.raises(SpecError, match="is no TCP port") as caught:
            wait(port)
        assert caught.value.remedy


def test_an_http_path_starts_with_a_slash() -> None:
    with pytest.raises(SpecError) as caught:
        http(80, "health")
    assert caught.value.message == "http path 'health' does not start with '/'"
    assert caught.value.remedy == "write '/health'"


@pytest.mark.parametrize("path", ["/a b", "/\r\nHost: b", "/ä"])
def test_an_http_path_is_one_that_a_request_can_have(path: str) -> None:
    with pytest.raises(SpecError, match="is not what a request can ask for\n  remedy: quote it"):
        http(80, path)


@pytest.mark.parametrize("status", ["200", 0, 20, 9999, (200, "404"), None])
def test_an_http_status_is_one_or_several_numbers(status: Any) -> None:
    with pytest.raises(SpecError, match=r"http status .* is none\n  remedy: for example status=204"):
        http(80, status=status)


def test_a_log_pattern_is_a_regular_expression() -> None:
    with pytest.raises(SpecError, match=r"log pattern '\(' is no regular expression: ") as caught:
        log("(")
    assert "re.escape" in caught.value.remedy
    for pattern in (5, b"ready", re.compile("ready")):
        with pytest.raises(SpecError, match=r"is no text\n  remedy: flags are written into it"):
            log(pattern)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="can never be met"):
        log("ready", times=0)
    with pytest.raises(SpecError, match=r"log\(stream='out'\) is none of 'stdout', 'stderr'"):
        log("ready", stream="out")  # type: ignore[arg-type]


def test_an_empty_wait_is_refused() -> None:
    for empty in (command, all_of, any_of):
        with pytest.raises(SpecError) as caught:
            empty()
        assert caught.value.remedy.startswith("for example ")


def test_a_part_of_a_wait_is_one() -> None:
    for several in (all_of, any_of):
        with pytest.raises(SpecError, match="'ready' is nothing to wait for\n  remedy: for example a"):
            several(tcp(80), "ready")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match=r"command\(\) needs the program and its arguments, not "):
        command(["pg_isready", "-q"])  # type: ignore[arg-type]


def test_a_wait_says_what_it_waits_for() -> None:
    assert str(tcp(5432)) == "port 5432"
    assert str(http(80, "/health", status=(200, 204))) == "GET :80/health with status 200 or 204"
    assert str(http(80)) == "GET :80/"
    assert str(log("ready", times=2)) == "log line /ready/ 2 times"
    assert str(command("pg_isready", "-q")) == "command 'pg_isready -q'"
    assert str(any_of(all_of(tcp(1), healthy()), log("x"))) == "port 1 and the image's health check or log line /x/"


def test_a_wait_is_a_wait_or_none() -> None:
    assert spec(wait=None).wait is None
    assert spec(wait=tcp(80)).wait == tcp(80)
    error = refusal(wait="ready")
    assert error.message == "wait='ready' is nothing to wait for"
    assert error.remedy == 'for example wait=tcp(80), wait=log("ready"), or None'


def test_setup_is_a_function() -> None:
    assert refusal(setup="migrate").message == "setup='migrate' can't be called"


# ---------------------------------------------------------------- the whole


def test_equal_options_make_equal_specs_that_can_be_keys() -> None:
    first, second = (spec(env={"B": "1", "A": "2"}, ports=[2, 1], memory=size) for size in ("64M", 64 << 20))
    assert first == second
    assert hash(first) == hash(second)
    assert first != first.replace(memory="65M")


ODD = [None, True, -1, 0, 7, 1.5, "", "x", "a\0b", b"x", [], [1], ["x"], [None], {}, {"a": 1}, {1: 2}, {"a": None}, object(), {1}]


@pytest.mark.parametrize("key", sorted(ContainerOptions.__annotations__))
def test_whatever_is_given_is_taken_or_refused_with_a_remedy(key: str) -> None:
    for value in ODD:
        try:
            taken = spec(**{key: value})
        except SpecError as error:
            remedy = error.remedy
        else:
            remedy = "none needed"
            assert taken == spec(**{key: value})
            hash(taken)
        assert remedy, f"{key}={value!r}"


def test_an_init_and_one_process_do_not_go_together() -> None:
    ways: list[Callable[[], object]] = [
        lambda: spec(init=True, pids=1), lambda: spec(init=True).replace(pids=1), lambda: spec(pids=1).replace(init=True)]
    for make in ways:
        with pytest.raises(SpecError, match=r"init=True needs two processes, and pids=1 allows one\n  remedy: give pids=2"):
            make()
    assert spec(init=True, pids=2).init


# ---------------------------------------------------------------- what leads to it


def test_ports_are_not_asked_for_where_nothing_is_published() -> None:
    found = refusal(ports=[80, 443], publish="none")
    assert found.message == "ports=[80, 443] would be published, and publish= is 'none'"
    assert found.remedy == ("leave ports= out, and use unix_socket() or connect(); or, where another set one of them, "
                            "give ports=[] or publish='loopback'")
    with pytest.raises(SpecError, match="would be published"):
        spec(ports=[80]).replace(publish="none")
    assert spec(ports=[80]).replace(publish="none", ports=[]).publish == "none"
    assert spec(publish="none").replace(ports=[80], publish="loopback").ports == (80,)
    assert spec().publish is None
    assert refusal(publish="all").message == "publish='all' is none of 'loopback', 'none'"
