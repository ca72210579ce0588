"""The Python of an image, asked by running it in the build room: what the host's own has to say counts for nothing.

Which packages a requirement stands for depends on the interpreter (environment markers, such as `python_version < "3.12"`), and
which wheels fit depends on its C library (platform tags).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import final

from pytest_sealed.errors import ImageError

__all__ = ["ASK", "Interpreter", "interpreter_from"]

# The names and values are those of "Dependency specifiers", environment markers (PyPA specifications).
_SCRIPT = """\
import json, os, platform, sys
version = sys.implementation.version
level = "" if version.releaselevel == "final" else version.releaselevel[0] + str(version.serial)
libc = os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in os.confstr_names else None
print(json.dumps({"libc": libc or "", "markers": {
    "implementation_name": sys.implementation.name, "implementation_version": "%d.%d.%d" % version[:3] + level, "os_name": os.name,
    "platform_machine": platform.machine(), "platform_python_implementation": platform.python_implementation(),
    "platform_release": platform.release(), "platform_system": platform.system(), "platform_version": platform.version(),
    "python_full_version": platform.python_version(), "python_version": ".".join(platform.python_version_tuple()[:2]),
    "sys_platform": sys.platform}}))"""

ASK = ("python3", "-I", "-S", "-c", _SCRIPT)
"""The command; the last line of its output is for `interpreter_from`."""

_NAMES = frozenset(re.findall(r'"(\w+)": ', _SCRIPT)) - {"libc", "markers"}
_LONGEST = 1 << 16   # bytes of an answer: an image may print what it likes


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """An image's python3."""

    markers: dict[str, str]
    """What environment markers compare with."""
    release: str
    """Such as "3.11.2", for "Requires-Python"."""
    glibc: int
    """Minor version of its C library, 36 for glibc 2.36; 0: it has another one."""

    @property
    def version(self) -> str:
        """Such as "3.11"."""
        return self.markers["python_version"]

    @property
    def platforms(self) -> list[str]:
        """The platform tags of wheels that run there, the best first. See PEP 600."""
        machine = self.markers["platform_machine"]
        manylinux = [f"manylinux_2_{minor}_{machine}" for minor in range(self.glibc, 4, -1)]
        return [*manylinux, *([f"manylinux2014_{machine}"] if self.glibc >= 17 else []), f"linux_{machine}"]


def interpreter_from(output: bytes) -> Interpreter:
    """Return what the output of `ASK` says.

    Raises:
        ImageError: it is no answer.
    """
    last = output.rstrip(b"\n").rpartition(b"\n")[2]
    try:
        if len(last) > _LONGEST:
            raise ValueError("too long")
        said = json.loads(last)
        markers, libc = said["markers"], re.fullmatch(r"glibc 2\.(\d{1,3})(?:\.\d+)*", said["libc"])
        if markers.keys() != _NAMES or not all(isinstance(value, str) for value in markers.values()):
            raise ValueError("not the names of markers")
        release = re.match(r"(\d\.\d{1,3})\.\d{1,3}(?![\d.])", markers["python_full_version"])
        if release is None or release[1] != markers["python_version"] or not re.fullmatch(r"\w+", markers["platform_machine"]):
            raise ValueError("no version or machine")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ImageError(f"the image's python3 does not tell what it is; it says {last[:200].decode('utf-8', 'replace')!r}",
                         remedy='[base] image = "python" has one that does') from error
    return Interpreter(markers=markers, release=release[0], glibc=int(libc[1]) if libc else 0)
