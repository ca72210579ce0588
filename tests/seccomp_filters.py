"""Makes the filters that ship from their profiles, by libseccomp; `python tests/seccomp_filters.py` writes them into the package."""

from __future__ import annotations

from pathlib import Path

import bpf

import pytest_sealed.runtime.seccomp
from pytest_sealed.linux import libseccomp
from pytest_sealed.runtime.seccomp.profile import FAMILIES, compile_profile
from pytest_sealed.values import CAPABILITIES

__all__ = ["FOLDER", "compiled", "shipped"]

FOLDER = Path(pytest_sealed.runtime.seccomp.__file__).parent


def compiled(path: Path, machine: str) -> list[bpf.Instruction]:
    """Return what libseccomp makes of a profile for a machine."""
    program = compile_profile(path.read_text(), path.name, machine=machine, capabilities=CAPABILITIES)
    return bpf.unpack(program)


def shipped() -> dict[Path, bytes]:
    """Return the filters that ship, by the file that each belongs in: as compact as may be, where one ABI is let in."""
    found = {}
    for path in sorted(FOLDER.glob("*.json")):
        for machine, (own, *_) in FAMILIES.items():
            program = compiled(path, machine)
            if path.stem == "default":
                program = bpf.compact(program, libseccomp.ARCHES[own])
            found[FOLDER / machine / f"{path.stem}.bpf"] = bpf.pack(program)
    return found


if __name__ == "__main__":
    for path, program in shipped().items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(program)
        print(path.relative_to(FOLDER), len(program) // 8, "instructions")
