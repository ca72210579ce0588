"""Profiles of the user's: read as Docker and runc read them, compiled by libseccomp, and refused in words."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import bpf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_sealed import Container
from pytest_sealed.errors import HostUnsupported, SpecError
from pytest_sealed.linux import libseccomp
from pytest_sealed.runtime.seccomp.profile import compile_profile
from pytest_sealed.seccomp import filters_of
from pytest_sealed.spec import make_spec
from pytest_sealed.values import CAPABILITIES

ALLOW, KILL, EPERM, ENOSYS, LOG = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026, 0x7FFC0000
X86_64, I386, AARCH64 = 0xC000003E, 0x40000003, 0xC00000B7
READ, PTRACE, KCMP, SOCKET, MKDIR, UNSHARE, OPENAT2, CLONE3 = 0, 101, 312, 41, 83, 272, 437, 435   # on x86_64


def compiled(profile: Any, *, machine: str = "x86_64", capabilities: tuple[str, ...] = ()) -> list[bpf.Instruction]:
    text = profile if isinstance(profile, str) else json.dumps(profile)
    return bpf.unpack(compile_profile(text, "the profile", machine=machine, capabilities=capabilities))


def says(program: list[bpf.Instruction], number: int, *arguments: int, arch: int = X86_64) -> int:
    return bpf.verdict(program, arch, number, arguments)


def allowing(*rules: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"action": "SCMP_ACT_ALLOW", **rule} for rule in rules], **more}


def argument(index: int, value: int, operator: str = "SCMP_CMP_EQ") -> dict[str, Any]:
    return {"index": index, "value": value, "op": operator}


def test_names_and_actions_are_those_of_the_oci() -> None:
    program = compiled({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 30},
        {"names": ["unshare"], "action": "SCMP_ACT_KILL_PROCESS"},
        {"name": "kcmp", "action": "SCMP_ACT_LOG"}, {"names": ["socket"], "action": "SCMP_ACT_ERRNO"}]})
    assert [says(program, number) for number in (READ, MKDIR, UNSHARE, KCMP, SOCKET, 5000)] == [ALLOW, 0x0005001E, KILL, LOG, EPERM, ALLOW]


def test_where_it_denies_by_an_errno_calls_newer_than_it_names_do_not_exist() -> None:
    program = compiled(allowing({"names": ["read", "openat2"]}))
    assert [says(program, number) for number in (READ, MKDIR, OPENAT2, OPENAT2 + 1, 5000)] == [ALLOW, EPERM, ALLOW, ENOSYS, ENOSYS]
    ended = compiled({**allowing({"names": ["read"]}), "defaultAction": "SCMP_ACT_KILL_PROCESS"})
    assert says(ended, 5000) == KILL


def test_of_several_conditions_on_one_argument_any_will_do_and_on_several_all_must_hold() -> None:
    any_of = compiled(allowing({"names": ["socket"], "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"},
                                                              {"index": 0, "value": 10, "op": "SCMP_CMP_GE"}]}))
    assert [says(any_of, SOCKET, family) for family in (0, 1, 2, 10, 11)] == [EPERM, ALLOW, EPERM, ALLOW, ALLOW]
    all_of = compiled(allowing({"names": ["socket"], "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"},
                                                              {"index": 1, "value": 0xF, "valueTwo": 1, "op": "SCMP_CMP_MASKED_EQ"}]}))
    assert [says(all_of, SOCKET, 1, kind) for kind in (1, 2, 0x801)] == [ALLOW, EPERM, ALLOW]
    assert says(all_of, SOCKET, 2, 1) == EPERM


def test_dockers_conditions_are_met_by_machine_capability_and_kernel() -> None:
    profile = allowing(
        {"names": ["read"], "includes": {"arches": ["amd64"]}}, {"names": ["mkdir"], "includes": {"arches": ["arm64", "s390x"]}},
        {"names": ["chroot"], "includes": {"caps": ["CAP_SYS_CHROOT"]}}, {"names": ["kcmp"], "excludes": {"caps": ["CAP_SYS_CHROOT"]}},
        {"names": ["ptrace"], "includes": {"minKernel": "4.8"}}, {"names": ["unshare"], "includes": {"minKernel": "100.0"}})
    chroot = 161
    without, with_it = compiled(profile), compiled(profile, capabilities=("SYS_CHROOT",))
    numbers = (READ, MKDIR, PTRACE, UNSHARE, chroot, KCMP)
    assert [says(without, number) for number in numbers] == [ALLOW, EPERM, ALLOW, EPERM, EPERM, ALLOW]
    assert [says(with_it, number) for number in numbers] == [ALLOW, EPERM, ALLOW, EPERM, ALLOW, EPERM]


@pytest.mark.parametrize("more", [
    {"architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_MIPS"]},
    {"archMap": [{"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
                 {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
                 {"architecture": "SCMP_ARCH_RISCV64", "subArchitectures": None}]},
])
def test_other_abis_are_let_in_where_the_profile_names_them(more: dict[str, Any]) -> None:
    alone, with_i386 = compiled(allowing({"names": ["mkdir"]})), compiled(allowing({"names": ["mkdir"]}, **more))
    mkdir_of_i386 = 39
    assert says(alone, mkdir_of_i386, arch=I386) == KILL
    assert says(with_i386, mkdir_of_i386, arch=I386) == ALLOW
    assert says(with_i386, 40, arch=I386) == EPERM
    assert says(with_i386, 5000, arch=AARCH64) == KILL


def test_it_is_compiled_for_the_machine_that_is_asked_for() -> None:
    program = compiled(allowing({"names": ["mkdirat", "mkdir", "clone3"]}), machine="aarch64")
    assert [says(program, number, arch=AARCH64) for number in (34, 83, 435, 436)] == [ALLOW, EPERM, ALLOW, ENOSYS]
    assert says(program, 34) == KILL


@pytest.mark.parametrize(("profile", "said"), [
    ("{", "the profile: it is neither JSON nor a program for seccomp(2): "),
    ("[]", "the profile: it is no JSON object: []"),
    ({}, "the profile: action None is none of SCMP_ACT_KILL_PROCESS, "),
    ({"defaultAction": "SCMP_ACT_ALOW"}, "the profile: action 'SCMP_ACT_ALOW' is none of SCMP_ACT_KILL_PROCESS, "),
    ({"defaultAction": "SCMP_ACT_NOTIFY"}, "the profile: SCMP_ACT_NOTIFY needs somebody who listens, and nobody does"),
    (allowing(syscals=[]), "the profile: it has the key 'syscals', which nothing is done with, did you mean 'syscalls'?"),
    (allowing(flags=["SECCOMP_FILTER_FLAG_LOG"]), "the profile: it has the key 'flags', which nothing is done with"),
    (allowing(syscalls={}), "the profile: syscalls is no list: {}"),
    (allowing({"names": "read"}), "the profile: names is no list: 'read'"),
    (allowing({"names": ["read", None]}), "the profile: None of names is no name"),
    (allowing({"names": ["re\0ad"]}), "the profile: 're\\x00ad' of names is no name"),
    ("[" * 100_000, "the profile: it is neither JSON nor a program for seccomp(2): "),
    (allowing({"names": ["read"], "errno": 1}), "the profile: a rule has the key 'errno', which nothing is done with"),
    (allowing({"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4096}), "the profile: errno 4096 is no number of 0 to 4095"),
    (allowing({"names": ["read"], "args": [argument(0, 0, "EQ")]}), "the profile: op 'EQ' of an argument is none of SCMP_CMP_NE, "),
    (allowing({"names": ["read"], "args": [argument(6, 0)]}), "the profile: an argument has an index of 0 to 5, "),
    (allowing({"names": ["read"], "args": [argument(0, -1)]}), "the profile: an argument has an index of 0 to 5, "),
    (allowing({"names": ["read"], "includes": {"minKernel": "new"}}), "the profile: minKernel 'new' is no version of a kernel, such as "),
    ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdri"], "action": "SCMP_ACT_ERRNO"}]},
     f"the profile: it denies mkdri, which libseccomp {libseccomp.version()} doesn't know"),
])
def test_what_is_no_profile_is_refused_in_words(profile: Any, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        compiled(profile)
    assert caught.value.message.startswith(said)
    assert caught.value.remedy == "the page on seccomp profiles says what can be in one: docs/reference/seccomp.md"


def test_a_name_that_is_allowed_and_unknown_is_left_out() -> None:
    assert says(compiled(allowing({"names": ["read", "call_of_2040"]})), READ) == ALLOW


def test_a_profile_of_too_many_rules_is_refused() -> None:
    rules = [{"names": ["socket"], "args": [argument(index, value)]} for index in range(6) for value in range(0, 1 << 44, 1 << 35)]
    with pytest.raises(SpecError, match=r"^the profile: it is too large: \d+ instructions, and the kernel takes 4096"):
        compiled(allowing(*rules))


def test_without_libseccomp_a_profile_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")
    monkeypatch.setattr("ctypes.CDLL", no_library)
    with pytest.raises(HostUnsupported) as caught:
        compiled(allowing({"names": ["read"]}))
    assert str(caught.value) == (
        "the profile: a profile is compiled by libseccomp, which isn't here: libseccomp.so.2: cannot open shared object file: No such file "
        "or directory\n  remedy: sudo apt-get install libseccomp2, or give a program that is ready: a file of classic BPF")


_LEAF = st.none() | st.booleans() | st.integers(-1, 1 << 65) | st.floats() | st.text(max_size=4) | st.sampled_from([
    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ARCH_X86", "SCMP_CMP_EQ", "SCMP_CMP_MASKED_EQ", "read", "socket", "amd64", "4.8"])
_KEY = st.text(max_size=3) | st.sampled_from([
    "defaultAction", "defaultErrnoRet", "architectures", "archMap", "syscalls", "names", "name", "action", "errnoRet", "args", "includes",
    "excludes", "caps", "arches", "minKernel", "index", "value"])
_ANY = st.recursive(_LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEY, inner, max_size=4), max_leaves=12)


@settings(max_examples=150, deadline=None)
@given(default=_LEAF | st.just("SCMP_ACT_ERRNO"), more=st.dictionaries(_KEY, _ANY, max_size=3),
       rule=st.dictionaries(_KEY, _ANY, max_size=4),
       key=st.sampled_from(["names", "args", "includes", "excludes", "errnoRet", "action"]), value=_ANY)
def test_whatever_a_profile_says_it_is_compiled_or_refused(default: Any, more: dict[str, Any], rule: dict[str, Any], key: str,
                                                           value: Any) -> None:
    for profile in ({"defaultAction": default, **more}, {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]},
                    allowing({"names": ["read", "socket"], key: value})):
        with contextlib.suppress(SpecError):
            assert compiled(profile)


# ---------------------------------------------------------------- the option


def settled(value: Any) -> str:
    return make_spec("box", Container, {"seccomp": value}).seccomp


def test_the_option_is_a_word_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text("{}")
    assert [settled("default"), settled("unconfined")] == ["default", "unconfined"]
    assert settled("mine.json") == settled(tmp_path / "mine.json") == str(tmp_path / "mine.json")


@pytest.mark.parametrize(("value", "said"), [
    (None, "seccomp=None is no profile"), (True, "seccomp=True is no profile"), ("a\0b", "seccomp='a\\x00b' is no profile"),
    ("unconfned", "seccomp='unconfned' is neither default nor unconfined, and there is no file {}/unconfned, did you mean 'unconfined'?"),
    ("mine.json", "seccomp='mine.json' is neither default nor unconfined, and there is no file {}/mine.json"),
])
def test_another_value_is_refused(value: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError) as caught:
        settled(value)
    assert caught.value.message == said.format(tmp_path)
    assert caught.value.remedy == 'for example seccomp="unconfined", or seccomp="profile.json"'


def test_a_file_is_a_profile_or_a_program(tmp_path: Path) -> None:
    program = struct.pack("=HBBI", 6, 0, 0, ALLOW)
    (tmp_path / "program").write_bytes(program)
    assert filters_of(str(tmp_path / "program"), []) == {"ready": [], "program": program.hex()}
    (tmp_path / "profile").write_text("\n" + json.dumps(allowing({"names": ["chroot"], "includes": {"caps": ["CAP_SYS_CHROOT"]}})))
    without, with_it = (filters_of(str(tmp_path / "profile"), held)["program"] for held in ([], list(CAPABILITIES)))
    assert without
    assert without != with_it


@pytest.mark.parametrize(("data", "said"), [
    (b"", " is neither JSON nor a program of classic BPF: that has 1 to 4096 instructions of 8 bytes"),
    (b"1234567", " is neither JSON nor a program of classic BPF: that has 1 to 4096 instructions of 8 bytes"),
    (b"\0" * 8 * 4097, " is neither JSON nor a program of classic BPF: that has 1 to 4096 instructions of 8 bytes"),
    (b"{" + b" " * (1 << 20), " is larger than 1 MiB"),
])
def test_a_file_of_something_else_is_refused(data: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "profile"
    path.write_bytes(data)
    with pytest.raises(SpecError) as caught:
        filters_of(str(path), [])
    assert caught.value.message == f"the seccomp profile {path}{said}"
    assert caught.value.remedy


def test_a_file_that_is_gone_by_the_start_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        filters_of(str(tmp_path / "gone"), [])
    assert str(caught.value) == (f"the seccomp profile {tmp_path}/gone can't be read: No such file or directory\n"
                                 f"  remedy: ls -l {tmp_path}/gone")
