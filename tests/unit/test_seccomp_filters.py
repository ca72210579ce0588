"""The filters that ship: what libseccomp makes of their profiles today, no weaker than moby's, and the same for each number there is."""

from __future__ import annotations

import ctypes
import itertools
import re
from collections.abc import Callable

import bpf
import moby_profile as moby
import pytest
import seccomp_filters

from pytest_sealed.linux import libseccomp
from pytest_sealed.runtime.seccomp.filters import FilterRefused, chosen, ready
from pytest_sealed.runtime.seccomp.profile import FAMILIES
from pytest_sealed.seccomp import filters_of
from pytest_sealed.values import CAPABILITIES

MACHINES = pytest.mark.parametrize("machine", FAMILIES)

ALLOW, KILL, EPERM, ENOSYS, SUCCESS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026, 0x00050000
NEWEST = 456   # what the default profile names: futex_requeue, of Linux 6.7
HIGHEST = 1100
EVERY_BIT = AT_FDCWD = (1 << 32) - 1   # any descriptor
X32 = 0x40000000
AUDIT_I386, AUDIT_ARM, AUDIT_S390X = 0x40000003, 0x40000028, 0x80000016

STRICTER = {
    "modify_ldt": "for 16-bit and 32-bit segments, which only programs of the ABIs need that are refused",
    "epoll_ctl_old": "a name that no kernel gives a meaning to",
    "epoll_wait_old": "a name that no kernel gives a meaning to",
    **dict.fromkeys(("getxattrat", "listmount", "listxattrat", "mseal", "removexattrat", "setxattrat", "statmount"),
                    "newer than the libseccomp of the oldest system that the filters are made on: ENOSYS, as on an older kernel"),
    "sync_file_range2": "a second name of arm_sync_file_range, of the 32-bit ABI",
    "uretprobe": "newer, too; kernels let it through, whatever a filter says",
}
"""What moby's profile allows to a container like ours and ours denies, with the reason."""

STRICTER_FAMILIES = "of socket(2): Unix, IPv4, IPv6, netlink and packet sockets are what tests use; by the others kernels were broken into"


def shipped(machine: str, name: str = "default") -> list[bpf.Instruction]:
    return bpf.unpack(ready(machine)[name])


def says(machine: str, name: str = "default") -> Callable[..., int]:
    program, arch = shipped(machine, name), libseccomp.ARCHES[FAMILIES[machine][0]]
    return lambda number, *arguments: bpf.verdict(program, arch, number, arguments)


def call(machine: str, name: str) -> int:
    number = libseccomp.number(name, FAMILIES[machine][0])
    assert number is not None, name
    return number


def test_the_filters_that_ship_are_what_libseccomp_makes_of_their_profiles_today() -> None:
    made = seccomp_filters.shipped()
    assert {path: path.read_bytes() for path in seccomp_filters.FOLDER.glob("*/*.bpf")} == made, "run: python tests/seccomp_filters.py"
    assert len(made) >= 6


@MACHINES
def test_the_compact_filter_says_what_libseccomps_own_says(machine: str) -> None:
    ours, own = shipped(machine), seccomp_filters.compiled(seccomp_filters.FOLDER / "default.json", machine)
    assert len(ours) < len(own) / 3
    some = [(), (1,), (8,), (38,), (40,), (0x20008,), (0xFFFFFFFF,), (1 << 32,), (1 << 32 | 8,)]
    every = [*some, *((1 << bit,) for bit in range(64))]
    looked_at = {call(machine, name) for name in ("clone", "personality", "socket")}
    numbers = [*range(HIGHEST), X32, X32 + 59, X32 + 512, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF]
    for arch, number in itertools.product((*libseccomp.ARCHES.values(), AUDIT_S390X, 0), numbers):
        for given in every if number in looked_at else some[-1:]:
            assert bpf.verdict(ours, arch, number, given) == bpf.verdict(own, arch, number, given), (hex(arch), number, given)


def test_nothing_is_allowed_that_mobys_profile_denies_and_each_thing_more_that_is_denied_has_its_reason() -> None:
    stricter = set()
    for machine, (own, *_) in FAMILIES.items():
        ours = says(machine)
        held = frozenset().union(*(moby.BY_CAPABILITY.get(name, ()) for name in CAPABILITIES))
        theirs = moby.ALWAYS | moby.OF_MACHINE[machine] | held
        numbers = {name: libseccomp.number(name, own) for name in theirs}
        on_conditions = {call(machine, name) for name in ("clone", "personality", "socket")}
        allowed = {number for number in range(HIGHEST) if ours(number) == ALLOW} - on_conditions
        assert allowed <= set(numbers.values())
        stricter |= {name for name, number in numbers.items() if number is not None and number not in allowed}
        stricter |= {name for name in theirs if not name.startswith("riscv_") and all(   # on no machine: newer than the library
            libseccomp.number(name, arch) is None for arch in libseccomp.ARCHES)}
    for name in sorted(stricter):
        print(f"{name}: {STRICTER.get(name, 'no reason is given')}")
    assert stricter == STRICTER.keys()


@MACHINES
def test_of_socket_families_and_personalities_no_more_are_allowed_than_by_mobys(machine: str) -> None:
    ours = says(machine)
    families = {family for family in range(256) if ours(call(machine, "socket"), family) == ALLOW}
    assert families == {1, 2, 10, 16, 17} <= moby.SOCKET_FAMILIES
    assert {38, 40}.isdisjoint(families), "AF_ALG and AF_VSOCK"
    print(f"{machine}: families {sorted(moby.SOCKET_FAMILIES - families)} {STRICTER_FAMILIES}")
    values = [*range(1 << 12), *(1 << bit for bit in range(64)), 0x20008, 0x20009, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF]
    assert {value for value in values if ours(call(machine, "personality"), value) == ALLOW} == moby.PERSONALITIES


@MACHINES
def test_a_process_is_made_without_namespaces_only_and_clone3_is_not_there(machine: str) -> None:
    ours = says(machine)
    namespaces = {0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000}
    for bit in (1 << place for place in range(32)):
        assert ours(call(machine, "clone"), bit | 17) == (EPERM if bit in namespaces else ALLOW), hex(bit)
    assert ours(call(machine, "clone3")) == ENOSYS


@MACHINES
def test_calls_that_are_newer_than_the_profile_do_not_exist(machine: str) -> None:
    ours = says(machine)
    assert max(number for number in range(HIGHEST) if ours(number) != ENOSYS) == NEWEST
    assert all(ours(number) == ENOSYS for number in range(NEWEST + 1, HIGHEST))


@MACHINES
def test_every_other_abi_of_the_machines_family_and_any_is_ended(machine: str) -> None:
    program, own = shipped(machine), libseccomp.ARCHES[FAMILIES[machine][0]]
    for arch in {*libseccomp.ARCHES.values(), AUDIT_S390X, 0} - {own}:
        assert {bpf.verdict(program, arch, number) for number in (*range(HIGHEST), X32, X32 + 1, 0xFFFFFFFF)} == {KILL}, hex(arch)
    if machine == "x86_64":   # x32 is told by a bit of the number; -1 is no call of its
        assert {bpf.verdict(program, own, X32 + number) for number in range(HIGHEST)} == {KILL}
        assert bpf.verdict(program, own, 0xFFFFFFFF) == EPERM


@MACHINES
def test_every_call_that_libseccomp_knows_is_named_in_the_profile(machine: str) -> None:
    """What nobody has thought about would be denied all the same; but somebody shall think about it."""
    text = (seccomp_filters.FOLDER / "default.json").read_text()
    named = {libseccomp.number(name, FAMILIES[machine][0]) for name in re.findall(r'"(\w+)"', text)}
    resolve = ctypes.CDLL("libseccomp.so.2").seccomp_syscall_resolve_num_arch   # leaks a few bytes for each name
    resolve.restype = ctypes.c_void_p
    known = {number for number in range(NEWEST + 1) if resolve(ctypes.c_uint32(libseccomp.ARCHES[FAMILIES[machine][0]]), number)}
    assert len(known) > 300
    assert known <= named


@MACHINES
def test_nested_namespaces_and_mounts_can_be_made_and_the_kernel_itself_stays_out_of_reach(machine: str) -> None:
    nested = says(machine, "nested")
    for name in ("unshare", "setns", "mount", "umount2", "pivot_root", "open_tree", "move_mount", "mount_setattr", "clone3", "keyctl",
                 "sethostname", "seccomp", "pidfd_open"):
        assert nested(call(machine, name)) == ALLOW, name
    assert nested(call(machine, "clone"), 0x10000000) == ALLOW
    for name in ("bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "init_module", "kexec_load", "add_key", "open_by_handle_at",
                 "settimeofday", "reboot", "swapon"):
        assert nested(call(machine, name)) == EPERM, name
    assert [family for family in range(256) if nested(call(machine, "socket"), family) != ALLOW] == [38, 40]
    assert filters_of("default", list(CAPABILITIES), nested=True)["ready"] == ["nested"]


@MACHINES
def test_without_the_capability_chroot_is_denied(machine: str) -> None:
    assert says(machine)(call(machine, "chroot")) == ALLOW
    no_chroot = says(machine, "no-chroot")
    assert {number for number in range(HIGHEST) if no_chroot(number) != ALLOW} == {call(machine, "chroot")}
    assert no_chroot(call(machine, "chroot")) == EPERM
    assert filters_of("default", ["CHOWN"])["ready"] == ["default", "no-chroot"]
    assert filters_of("default", list(CAPABILITIES))["ready"] == ["default"]
    assert filters_of("unconfined", []) == {"ready": [], "program": ""}


@MACHINES
def test_with_a_host_folder_to_write_to_no_set_user_id_file_can_be_made(machine: str) -> None:
    default, no_setuid = says(machine), says(machine, "no-setuid")
    create, unnamed, write = 0o100, 0o20200000, 0o1
    calls = [("fchmod", (3,)), ("fchmodat", (AT_FDCWD, 0)), ("fchmodat2", (AT_FDCWD, 0)), ("mknodat", (AT_FDCWD, 0)),
             ("openat", (AT_FDCWD, 0, create | write)), ("openat", (AT_FDCWD, 0, unnamed | write))]
    if machine == "x86_64":
        calls += [("chmod", (0,)), ("creat", (0,)), ("mknod", (0,)), ("open", (0, create)), ("open", (0, unnamed))]
    for name, before in calls:
        for mode in (0o4755, 0o2755, 0o6777, 0o104000):
            assert default(call(machine, name), *before, mode) == ALLOW
            assert no_setuid(call(machine, name), *before, mode) == EPERM, (name, oct(mode))
        for mode in (0o755, 0o1777, 0):
            assert no_setuid(call(machine, name), *before, mode) == ALLOW, (name, oct(mode))
    assert no_setuid(call(machine, "openat"), AT_FDCWD, 0, write, 0o4755) == ALLOW   # it makes no file: the mode is anything
    assert no_setuid(call(machine, "openat2")) == ENOSYS
    touched = {call(machine, name) for name, _ in calls} | {call(machine, "openat2")}
    assert {number for number in range(HIGHEST) if no_setuid(number, *[EVERY_BIT] * 6) != ALLOW} == touched
    assert filters_of("default", list(CAPABILITIES), writable=True)["ready"] == ["default", "no-setuid"]
    assert filters_of("unconfined", [], writable=True)["ready"] == []


@MACHINES
def test_with_one_id_changes_of_owners_and_ids_seem_to_succeed_and_nothing_else_does(machine: str) -> None:
    one_id = says(machine, "one-id")
    names = {name for name in ("chown", "lchown", "fchown", "fchownat", "setuid", "setgid", "setreuid", "setregid", "setresuid",
                               "setresgid", "setfsuid", "setfsgid", "setgroups")
             if libseccomp.number(name, FAMILIES[machine][0]) is not None}
    assert {number for number in range(HIGHEST) if one_id(number) != ALLOW} == {call(machine, name) for name in names}
    assert {one_id(call(machine, name)) for name in names} == {SUCCESS}
    for arch, name in ((AUDIT_I386, "SCMP_ARCH_X86"), (AUDIT_ARM, "SCMP_ARCH_ARM")):
        if name in FAMILIES[machine]:   # for a profile of the user's that lets this ABI in
            number = libseccomp.number("setuid32", name)
            assert number is not None
            assert bpf.verdict(shipped(machine, "one-id"), arch, number) == SUCCESS
            assert bpf.verdict(shipped(machine, "one-id"), arch, 1) == ALLOW


PROGRAMS = {"default": b"d", "one-id": b"1", "no-chroot": b"n"}


@pytest.mark.parametrize(("capabilities", "single_root", "names", "wanted"), [
    (CAPABILITIES, False, ["default"], b"d"), (CAPABILITIES, True, ["default"], b"d1"), (("CHOWN", "SETUID"), True, ["default"], b"d"),
    (CAPABILITIES, True, [], b""),
])
def test_the_filter_of_one_id_is_for_its_root_who_may_change_ids_and_has_a_filter_at_all(
        capabilities: tuple[str, ...], single_root: bool, names: list[str], wanted: bytes) -> None:
    request = {"seccomp": {"ready": names, "program": ""}, "capabilities": [CAPABILITIES[name] for name in capabilities]}
    assert b"".join(chosen(request, PROGRAMS, single_root=single_root)) == wanted


def test_a_program_of_the_users_stands_alone() -> None:
    request = {"seccomp": {"ready": [], "program": b"own".hex()}, "capabilities": list(CAPABILITIES.values())}
    assert chosen(request, PROGRAMS, single_root=False) == [b"own"]
    assert chosen(request, PROGRAMS, single_root=True) == [b"own", b"1"]


def test_on_a_machine_that_no_filter_ships_for_the_default_is_refused() -> None:
    request = {"seccomp": {"ready": ["default"], "program": ""}, "capabilities": []}
    with pytest.raises(FilterRefused, match=r"no filter of system calls ships for this machine \("):
        chosen(request, ready("riscv64"), single_root=False)
