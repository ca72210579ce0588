"""Classic BPF as seccomp(2) has it: what a program says to a call, and a smaller program that says the same.

A program is a list of instructions (code, jt, jf, k); see linux/filter.h, linux/bpf_common.h and linux/seccomp.h.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

__all__ = ["Instruction", "compact", "pack", "unpack", "verdict"]

Instruction = tuple[int, int, int, int]

LOAD, RETURN, JUMP, AND = 0x20, 0x06, 0x05, 0x54
EQUAL, ABOVE, AT_LEAST, SET = 0x15, 0x25, 0x35, 0x45
NUMBER, ARCH, ARGUMENTS = 0, 4, 16   # offsets in struct seccomp_data


def unpack(program: bytes) -> list[Instruction]:
    return list(struct.iter_unpack("=HBBI", program))


def pack(program: Sequence[Instruction]) -> bytes:
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def verdict(program: Sequence[Instruction], arch: int, number: int, arguments: Sequence[int] = ()) -> int:
    """Return the SECCOMP_RET value for a call with up to six arguments of 64 bits."""
    found, place = _run(program, arch, number, tuple([*arguments, 0, 0, 0, 0, 0, 0][:6]))
    assert found is not None, place
    return found


def _run(program: Sequence[Instruction], arch: int, number: int, arguments: tuple[int, ...] | None) -> tuple[int | None, int]:
    """Run a program until it returns, or, where the arguments are None, until it looks at one; return the verdict, and where."""
    data = struct.pack("=IIQ", number, arch, 0) + (struct.pack("=6Q", *arguments) if arguments is not None else b"")
    accumulator = place = 0
    while True:
        code, yes, no, k = program[place]
        if code == RETURN:
            return k, place
        if code == LOAD:
            if k >= len(data):
                return None, place
            [accumulator] = struct.unpack_from("=I", data, k)
        elif code == AND:
            accumulator &= k
        elif code == JUMP:
            place += k
        else:
            holds = {EQUAL: accumulator == k, ABOVE: accumulator > k, AT_LEAST: accumulator >= k, SET: bool(accumulator & k)}[code]
            place += yes if holds else no
        place += 1


def compact(program: Sequence[Instruction], arch: int) -> list[Instruction]:
    """Return a smaller program that says the same: a search among ranges of numbers that share their verdict.

    The kernel compiles a filter for each process that sets one, and the time that takes grows with its length; libseccomp's
    compares with each number. All ABIs other than `arch` get the verdict of the first program on one that there isn't.
    """
    edges = sorted({0, *(edge for code, _, _, k in program if code in (EQUAL, ABOVE, AT_LEAST) for edge in (k, k + 1) if edge < 1 << 32)})
    ranges: list[tuple[int, str]] = []   # where each begins, and the label of what is done there
    for edge in edges:
        said, place = _run(program, arch, edge, None)
        label = f"look {place}" if said is None else f"return {said}"
        if not ranges or ranges[-1][1] != label:
            ranges.append((edge, label))
    other, _ = _run(program, 0, 0, None)
    rows: list[tuple[str, int, int, str, str]] = [   # label, code, k, where to go if it holds, where else
        ("", LOAD, ARCH, "", ""), ("", EQUAL, arch, "number", f"return {other}"), ("number", LOAD, NUMBER, "", "")]

    def search(low: int, high: int) -> None:
        middle = (low + high) // 2
        rows.append((f"{low} {high}", AT_LEAST, ranges[middle][0], goal(middle, high), goal(low, middle)))
        for half in ((low, middle), (middle, high)):
            if half[1] - half[0] > 1:
                search(*half)

    def goal(low: int, high: int) -> str:
        return ranges[low][1] if high - low == 1 else f"{low} {high}"
    search(0, len(ranges))
    for said in sorted({int(label.split()[1]) for _, label in ranges if label.startswith("return")} | {int(other or 0)}):
        rows.append((f"return {said}", RETURN, said, "", ""))
    for place in _reachable(program, [int(label.split()[1]) for _, label in ranges if label.startswith("look")]):
        code, yes, no, k = program[place]
        if code == JUMP:
            rows.append((f"look {place}", code, 0, f"look {place + 1 + k}", ""))
        elif code in (EQUAL, ABOVE, AT_LEAST, SET):
            rows.append((f"look {place}", code, k, f"look {place + 1 + yes}", f"look {place + 1 + no}"))
        else:
            rows.append((f"look {place}", code, k, "", ""))
    at = {row[0]: index for index, row in enumerate(rows) if row[0]}
    smaller: list[Instruction] = []
    for index, (_, code, k, yes_label, no_label) in enumerate(rows):
        yes, no = (at[label] - index - 1 if label else 0 for label in (yes_label, no_label))
        smaller.append((code, 0, 0, yes) if code == JUMP else (code, yes, no, k))
    assert all(0 <= jump < 256 for _, yes, no, _ in smaller for jump in (yes, no))
    return smaller


def _reachable(program: Sequence[Instruction], places: list[int]) -> list[int]:
    """Return the places of all instructions that can be come to from some, in their order."""
    found: set[int] = set()
    while places:
        place = places.pop()
        if place not in found:
            found.add(place)
            code, yes, no, k = program[place]
            if code == JUMP:
                places.append(place + 1 + k)
            elif code in (EQUAL, ABOVE, AT_LEAST, SET):
                places += [place + 1 + yes, place + 1 + no]
            elif code != RETURN:
                places.append(place + 1)
    return sorted(found)
