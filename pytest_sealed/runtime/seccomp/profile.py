"""Profiles: from JSON in the OCI's form, with Docker's additions, to a program for seccomp(2). See config-linux.md of runtime-spec.

Docker's additions are `archMap`, `includes` and `excludes`; rules are read as runc and Docker read them.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Iterable
from typing import Any

from pytest_sealed.errors import HostUnsupported, SpecError, nearest
from pytest_sealed.linux import libseccomp
from pytest_sealed.linux.seccomp import INSTRUCTION, LARGEST_PROGRAM

__all__ = ["FAMILIES", "compile_profile"]

FAMILIES = {"x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"), "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM")}
"""The ABIs of each machine that we know, its own first."""

_GO_NAMES = {"x86_64": "amd64", "aarch64": "arm64"}   # of Docker's `arches`
_ERRNO = 0x00050000
_ACTIONS = {"SCMP_ACT_KILL_PROCESS": 0x80000000, "SCMP_ACT_KILL_THREAD": 0, "SCMP_ACT_KILL": 0, "SCMP_ACT_TRAP": 0x00030000,
            "SCMP_ACT_ERRNO": _ERRNO, "SCMP_ACT_LOG": 0x7FFC0000, "SCMP_ACT_ALLOW": 0x7FFF0000}
_OPERATORS = {f"SCMP_CMP_{name}": number for number, name in enumerate(("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"), 1)}
_PERMISSIVE = (_ACTIONS["SCMP_ACT_LOG"], _ACTIONS["SCMP_ACT_ALLOW"])
_EPERM, _ENOSYS = 1, 38
_X32_BIT = 0x40000000


def compile_profile(text: str, what: str, *, machine: str, capabilities: Iterable[str]) -> bytes:
    """Return the program for a profile. Calls that are newer than all that it names fail with ENOSYS where it denies by errno.

    Args:
        text: the profile's JSON.
        what: names it in errors.
        machine: of `FAMILIES`.
        capabilities: of the container, without CAP_.

    Raises:
        SpecError: it is no such profile, or says what can't be done here.
        HostUnsupported: libseccomp isn't installed.
    """
    try:
        profile = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _bad(what, f"it is neither JSON nor a program for seccomp(2): {error}") from None
    profile = _object(what, "it", profile, ("defaultAction", "defaultErrnoRet", "architectures", "archMap", "syscalls", "comment"))
    default = _action(what, profile.get("defaultAction"), profile.get("defaultErrnoRet"))
    held = {f"CAP_{name}" for name in capabilities}
    try:
        with libseccomp.Rules(_arches(what, profile, machine), default, _ACTIONS["SCMP_ACT_KILL_PROCESS"]) as rules:
            newest = 0
            for row in _list(what, "syscalls", profile.get("syscalls", [])):
                rule = _object(what, "a rule", row, ("names", "name", "action", "errnoRet", "args", "includes", "excludes", "comment"))
                names = _texts(what, "names", rule.get("names") or ([rule["name"]] if rule.get("name") else []))
                newest = max([newest, *(libseccomp.number(name, FAMILIES[machine][0]) or 0 for name in names)])
                if _applies(what, rule, machine, held):
                    _add(what, rules, names, rule, default)
            program = rules.program()
    except OSError as error:
        if error.errno is None:   # the dynamic loader's
            raise HostUnsupported(f"{what}: a profile is compiled by libseccomp, which isn't here: {error}",
                                  remedy="sudo apt-get install libseccomp2, or give a program that is ready: a file of classic BPF"
                                  ) from None
        raise _bad(what, f"it can't be compiled: {error.strerror}") from None
    limit = LARGEST_PROGRAM // INSTRUCTION
    if default & 0xFFFF0000 == _ERRNO and default != _ERRNO | _ENOSYS:
        program = _newer_than(newest, FAMILIES[machine][0]) + program
    if len(program) > LARGEST_PROGRAM:
        raise _bad(what, f"it is too large: {len(program) // INSTRUCTION} instructions, and the kernel takes {limit}")
    return program


def _newer_than(newest: int, arch: str) -> bytes:
    """Return the program's beginning: of the machine's own ABI, calls of a higher number don't exist.

    So a C library that tries a new call falls back on an old one, as on an old kernel, where EPERM would be an answer.
    Jumps are relative and forward, so what follows is as it was. See linux/filter.h, linux/bpf_common.h.
    """
    load, equal, above, at_least, end = 0x20, 0x15, 0x25, 0x35, 0x06
    return b"".join(struct.pack("=HBBI", *row) for row in (
        (load, 0, 0, 4), (equal, 0, 4, libseccomp.ARCHES[arch]),   # seccomp_data.arch
        (load, 0, 0, 0), (at_least, 2, 0, _X32_BIT), (above, 0, 1, newest), (end, 0, 0, _ERRNO | _ENOSYS)))


def _arches(what: str, profile: dict[str, Any], machine: str) -> list[str]:
    """Return the ABIs that the rules are for: the machine's own, and which others of its family the profile names."""
    own, *others = FAMILIES[machine]
    named = set(_texts(what, "architectures", profile.get("architectures") or []))
    for row in _list(what, "archMap", profile.get("archMap") or []):
        entry = _object(what, "an entry of archMap", row, ("architecture", "subArchitectures"))
        if entry.get("architecture") == own:
            named |= set(_texts(what, "subArchitectures", entry.get("subArchitectures") or []))
    return [own, *(arch for arch in others if arch in named)]


def _applies(what: str, rule: dict[str, Any], machine: str, held: set[str]) -> bool:
    def met(key: str) -> list[bool]:
        conditions = _object(what, key, rule.get(key) or {}, ("caps", "arches", "minKernel"))
        found = []
        if conditions.get("arches"):
            found.append(_GO_NAMES[machine] in _texts(what, "arches", conditions["arches"]))
        if conditions.get("caps"):
            caps = set(_texts(what, "caps", conditions["caps"]))
            found.append(caps <= held if key == "includes" else bool(caps & held))
        if conditions.get("minKernel"):
            found.append(_version(what, os.uname().release) >= _version(what, conditions["minKernel"]))
        return found
    return all(met("includes")) and not any(met("excludes"))


def _version(what: str, text: Any) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", str(text))
    if match is None:
        raise _bad(what, f"minKernel {text!r} is no version of a kernel, such as 4.8")
    return int(match[1]), int(match[2])


def _add(what: str, rules: libseccomp.Rules, names: list[str], rule: dict[str, Any], default: int) -> None:
    action = _action(what, rule.get("action"), rule.get("errnoRet"))
    comparisons = [_comparison(what, row) for row in _list(what, "args", rule.get("args") or [])]
    # Of several conditions on one argument any will do, as in runc: libseccomp takes one for each argument.
    arguments = [item.argument for item in comparisons]
    alternatives = [comparisons] if len(set(arguments)) == len(arguments) else [[item] for item in comparisons]
    for name in names:
        for alternative in alternatives if action != default else []:   # what is so by default needs no rule, and must have none
            if not rules.add(name, action, alternative) and default in _PERMISSIVE and action not in _PERMISSIVE:
                raise _bad(what, f"it denies {name}, which libseccomp {libseccomp.version()} doesn't know")


def _comparison(what: str, row: Any) -> libseccomp.Comparison:
    argument = _object(what, "an argument", row, ("index", "value", "valueTwo", "op"))
    operator = argument.get("op")
    if not isinstance(operator, str) or operator not in _OPERATORS:
        raise _bad(what, f"op {operator!r} of an argument is none of {', '.join(_OPERATORS)}")
    index, value, other = (argument.get(key, 0) for key in ("index", "value", "valueTwo"))
    if any(type(number) is not int or not 0 <= number < 1 << 64 for number in (index, value, other)) or index > 5:
        raise _bad(what, f"an argument has an index of 0 to 5, and a value and valueTwo of at most 64 bits: {row!r}")
    return libseccomp.Comparison(index, _OPERATORS[operator], value, other)


def _action(what: str, name: Any, errno_ret: Any) -> int:
    if name in ("SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE"):
        raise _bad(what, f"{name} needs somebody who listens, and nobody does")
    if not isinstance(name, str) or name not in _ACTIONS:
        raise _bad(what, f"action {name!r} is none of {', '.join(_ACTIONS)}")
    if name != "SCMP_ACT_ERRNO":
        return _ACTIONS[name]
    number = _EPERM if errno_ret is None else errno_ret
    if type(number) is not int or not 0 <= number <= 4095:
        raise _bad(what, f"errno {errno_ret!r} is no number of 0 to 4095")
    return _ERRNO | number


def _object(what: str, part: str, value: Any, known: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _bad(what, f"{part} is no JSON object: {value!r:.60}")
    for key in value:
        if key not in known:
            raise _bad(what, f"{part} has the key {key!r:.60}, which nothing is done with{nearest(key, known)}")
    return value


def _list(what: str, part: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise _bad(what, f"{part} is no list: {value!r:.60}")
    return value


def _texts(what: str, part: str, value: Any) -> list[str]:
    for text in _list(what, part, value):
        if not isinstance(text, str) or not text.isascii() or "\0" in text:
            raise _bad(what, f"{text!r:.60} of {part} is no name")
    return list(value)


def _bad(what: str, text: str) -> SpecError:
    return SpecError(f"{what}: {text}", remedy="the page on seccomp profiles says what can be in one: docs/reference/seccomp.md")
