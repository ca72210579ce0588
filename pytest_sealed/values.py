"""Values that people write, checked and settled once: sizes, signals, names, limits, and the other container options.

Every refusal says what was given, why it can't be, and what to write instead.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pytest_sealed.errors import SpecError, nearest
from pytest_sealed.waits import WAITS, tcp

__all__ = ["CAPABILITIES", "CONVERTERS", "LIMITS", "check_file", "check_flag", "check_host", "check_mode", "check_name", "check_publish",
           "check_seconds", "check_target", "check_user", "is_file_name", "limit", "pairs", "parse_signal", "parse_size"]

MINIMUM_MEMORY = 8 << 20   # bytes; the runtime itself needs a part of it until the command runs
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_DIGITS = 20   # of the largest size, and its sign

CAPABILITIES = {
    "CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "FSETID": 4, "KILL": 5, "SETGID": 6, "SETUID": 7, "SETPCAP": 8,
    "NET_BIND_SERVICE": 10, "SYS_CHROOT": 18, "SETFCAP": 31,
}
"""The capabilities that a container may have, all within its own user namespace. See capabilities(7)."""


# ---------------------------------------------------------------- single values


def parse_size(value: int | str, what: str) -> int:
    """Return a number of bytes from `"64M"`, `"1.5g"`, `"512 KiB"` or an int. Units are powers of 1024, as in Docker.

    Raises:
        SpecError: no such unit, not a number, or not above zero; names `what`.
    """
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise SpecError(f"{what}={value!r} is no size", remedy=f'for example {what}="64M"')
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(-?\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", value, re.ASCII)
        unit = match[2].lower() if match else ""
        unit = unit[:1] if re.fullmatch(r"[kmgt](i?b)?", unit) else unit
        if match is None or unit not in _UNITS:
            raise SpecError(f"{what}={value!r} is no size: the units are b, k, m, g and t (powers of 1024)",
                            remedy=f'for example {what}="64M"')
        if "." in match[1] or len(match[1]) > _DIGITS:   # int() takes no text of any length, and no infinity
            size = int(max(-1.0, min(float(match[1]) * _UNITS[unit], float(1 << 63))))
        else:
            size = int(match[1]) * _UNITS[unit]
    else:
        size = value
    unlimited = " for no limit" if what == "memory" else ""   # the others have a size where none is given
    if size <= 0:
        raise SpecError(f"{what}={value!r} must be above zero", remedy=f'leave {what} out{unlimited}, or give "64M", say')
    if size >= 1 << 63:
        raise SpecError(f"{what}={value!r} is more than a kernel counts (2**63 bytes)", remedy=f"leave {what} out{unlimited}, or give less")
    return size


_SIGNALS = {item.name.removeprefix("SIG").lower(): int(item) for item in signal.Signals}
_SIGNALS |= {f"rtmin+{number}": 34 + number for number in range(1, 16)} | {f"rtmax-{number}": 64 - number for number in range(1, 15)}


def parse_signal(value: str | int) -> int:
    """Return the number of a signal from `"SIGINT"`, `"int"`, `"2"` or 2.

    Raises:
        SpecError: there is no such signal; names the nearest.
    """
    text = str(int(value) if isinstance(value, int) else value).strip()   # Python 3.10's str() of a Signals is its name
    number = int(text) if re.fullmatch(r"\d{1,3}", text, re.ASCII) else _SIGNALS.get(text.lower().removeprefix("sig"), 0)
    if not 1 <= number <= 64:
        raise SpecError(f"there is no signal {value!r}{nearest(text.upper(), [f'SIG{n.upper()}' for n in _SIGNALS])}",
                        remedy='give a name or number of signal(7), for example "SIGINT"')
    return number


_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")


def check_name(what: str, value: Any) -> str:
    """Return `value` if it can be a name on a network (RFC 1123's letters, and underscores)."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise SpecError(f"{what} {value!r} is no host name",
                        remedy="use letters, digits, '-', '_' and '.', at most 63, a letter or digit first and last")
    return value


def check_host(what: str, value: Any) -> str:
    """Return `value` if it can be somebody's name on a network: one that resolvers ask for."""
    name = check_name(what, value)
    if name.lower() == "localhost" or ".." in name or re.fullmatch(r"[\d.]+", name, re.ASCII):
        raise SpecError(f"{what} {name!r} would lead nobody there: resolvers take it for something else", remedy='take one such as "db"')
    return name


_OURS = ("/dev", "/dev/null", "/proc", "/sys")


def check_target(what: str, path: Any) -> str:
    """Return `path` in its shortest form if something can be mounted there: absolute, and below the root."""
    if not isinstance(path, str) or not path.startswith("/") or not _passable(path):
        raise SpecError(f"{what} {path!r} is no absolute path", remedy="begin it with '/'")
    shortest = f"/{os.path.normpath(path).strip('/')}"
    if shortest == "/":
        raise SpecError(f"{what} {path!r} is the root itself", remedy="name a folder below it")
    if shortest in _OURS:
        raise SpecError(f"{what} {path!r} is what every container has of its own", remedy="mount it elsewhere")
    return shortest


def check_user(what: str, value: Any) -> str:
    """Return `value`, a name or number with or without a group, as text."""
    text = str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    if not re.fullmatch(r"[^\s:\0-]?[^\s:\0]+(:[^\s:\0]+)?|\d(:[^\s:\0]+)?", text):
        raise SpecError(f"{what}={value!r} is no user", remedy='for example user="postgres", user=1000 or user="1000:1000"')
    return text


def check_file(what: str, value: Any) -> str:
    """Return `value` if a file in a folder can have this name."""
    if not isinstance(value, str) or not is_file_name(value):
        raise SpecError(f"{what}={value!r} can't be the name of a file", remedy=f'for example {what}="http.sock"')
    return value


def is_file_name(name: str) -> bool:
    """Tell whether a file in a folder can have this name."""
    return _passable(name) and 0 < len(os.fsencode(name)) <= 255 and "/" not in name and name not in (".", "..")


def check_mode(what: str, value: Any) -> int:
    """Return `value` if it can be the mode of a file or folder."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 0o7777:
        raise SpecError(f"{what}={value!r} is no mode", remedy="for example 0o755")
    return value


def check_flag(what: str, value: Any) -> bool:
    """Return `value` if it is True or False."""
    if not isinstance(value, bool):
        raise SpecError(f"{what}={value!r} is neither True nor False", remedy=f"give {what}=True, or leave it out")
    return value


def _passable(text: str) -> bool:
    """Tell whether a system call takes it: without a NUL, and bytes once it is encoded."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


# ---------------------------------------------------------------- limits

LIMITS = ("memory", "swap", "cpus", "cpu_shares", "pids")
_RANGES = {"cpus": (0.01, 4096), "cpu_shares": (2, 262144), "pids": (1, 1 << 22)}


def limit(key: str, value: Any) -> int | float | None:
    """Return the value of the limit `key`, in bytes, CPUs, shares or processes; None for no limit."""
    if value is None:
        return None
    if key == "memory":
        size = parse_size(value, key)
        if size < MINIMUM_MEMORY:
            raise SpecError(f"memory={value!r} is less than a container needs to start ({MINIMUM_MEMORY >> 20}M)",
                            remedy=f'give "{MINIMUM_MEMORY >> 20}M" or more')
        return size
    if key == "swap":
        none = value == "0" or (value == 0 and not isinstance(value, bool))
        return 0 if none else parse_size(value, key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SpecError(f"{key}={value!r} is no number", remedy=f"for example {key}={'0.5' if key == 'cpus' else '512'}")
    low, high = _RANGES[key]
    if not low <= value <= high:
        raise SpecError(f"{key}={value} is outside {low} to {high}", remedy=f"leave {key} out, or give a number in that range")
    if key != "cpus" and value != int(value):
        raise SpecError(f"{key}={value} is no whole number", remedy=f"for example {key}={round(value)}")
    return float(value) if key == "cpus" else int(value)


# ---------------------------------------------------------------- lists and maps


def _items(key: str, value: Any, example: str) -> list[Any]:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise SpecError(f"{key}={value!r} is no list", remedy=f"for example {key}={example}")
    return list(value)


def _mapping(key: str, value: Any, example: str) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise SpecError(f"{key}={value!r} is no mapping", remedy=f"for example {key}={example}")
    return dict(value)


def pairs(key: str, value: Any) -> dict[str, str]:
    """Return `value` if it maps names to strings, as an environment does."""
    example = '{"NAME": "value"}'
    for name, text in _mapping(key, value, example).items():
        if not isinstance(name, str) or not isinstance(text, str) or not name or "=" in name or not _passable(name + text):
            raise SpecError(f"{key}: {name!r}: {text!r} is no pair of strings", remedy=f"for example {key}={example}")
    return dict(value)


def _words(key: str, value: Any) -> tuple[str, ...]:
    words = tuple(value) if isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)) else None
    if words is None or not all(isinstance(word, str) and _passable(word) for word in words):
        raise SpecError(f"{key}={value!r} is no list of strings",
                        remedy=f'for example {key}=["redis-cli", "ping"]; for a shell line, ["sh", "-c", "…"]')
    return words


_ULIMITS = ("as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio",
            "rttime", "sigpending", "stack")


def _ulimits(key: str, value: Any) -> tuple[tuple[str, int, int], ...]:
    rows = []
    for name, amount in _mapping(key, value, '{"nofile": 1024}').items():
        if name not in _ULIMITS:
            raise SpecError(f"there is no ulimit {name!r}{nearest(str(name), _ULIMITS)}",
                            remedy=f"those there are: {', '.join(_ULIMITS)}; see getrlimit(2)")
        pair: tuple[Any, ...] = amount if isinstance(amount, tuple) and len(amount) == 2 else (amount, amount)
        soft, hard = pair
        whole = all(isinstance(number, int) and not isinstance(number, bool) and number >= -1 for number in (soft, hard))
        if not whole or (hard != -1 and not 0 <= soft <= hard):
            raise SpecError(f"ulimit {name}={amount!r} is neither a whole number nor a (soft, hard) pair, -1 for no limit",
                            remedy='for example ulimits={"nofile": (1024, 4096)}')
        rows.append((name, soft, hard))
    return tuple(sorted(rows))


def _sysctls(key: str, value: Any) -> tuple[tuple[str, str], ...]:
    given = _mapping(key, value, '{"net.core.somaxconn": "512"}')
    for name in given:
        if not re.fullmatch(r"(net|fs\.mqueue)(\.[\w/-]+)+|kernel\.(shm\w+|msg\w+|sem)", str(name)):
            raise SpecError(f"sysctl {name!r} is not one of a container's own namespaces",
                            remedy="net.*, fs.mqueue.*, kernel.shm*, kernel.msg* and kernel.sem can be set")
    return tuple(sorted((str(name), str(text)) for name, text in given.items()))


def _capabilities(key: str, value: Any) -> tuple[str, ...]:
    names = [str(name).upper().removeprefix("CAP_") for name in _items(key, value, '["CHOWN", "KILL"]')]
    for name in names:
        if name in ("NET_ADMIN", "NET_RAW"):
            raise SpecError(f"capability {name!r} would have no effect: a container's network belongs to its session",
                            remedy="leave it out: any user of a container may ping, and listen at ports below 1024")
        if name not in CAPABILITIES:
            raise SpecError(f"capability {name!r} can't be given to a container{nearest(name, CAPABILITIES)}",
                            remedy=f"those there are: {', '.join(CAPABILITIES)}")
    return tuple(sorted(set(names)))


def _seccomp(key: str, value: Any) -> str:
    if not isinstance(value, (str, os.PathLike)) or not _passable(text := str(os.fspath(value))):
        raise SpecError(f"{key}={value!r} is no profile", remedy=f'for example {key}="unconfined", or {key}="profile.json"')
    if text in ("default", "unconfined"):
        return text
    path = os.path.abspath(os.path.expanduser(text))
    if not os.path.isfile(path):
        raise SpecError(f"{key}={text!r} is neither default nor unconfined, and there is no file {path}"
                        f"{nearest(text, ('default', 'unconfined'))}", remedy=f'for example {key}="unconfined", or {key}="profile.json"')
    return path


def _ports(key: str, value: Any) -> tuple[int, ...]:
    return tuple(sorted({tcp(port).port for port in _items(key, value, "[80, 443]")}))


def _aliases(key: str, value: Any) -> tuple[str, ...]:
    return tuple(check_host("alias", alias) for alias in _items(key, value, '["db", "primary"]'))


def _networks(key: str, value: Any) -> tuple[Any, ...]:
    networks = _items(key, value, '["front", "back"]')
    for network in networks:
        _network(key, network)
        if networks.count(network) > 1:
            raise SpecError(f"{key}: {network!r} is given twice", remedy="give each network once")
    return tuple(networks)


def _network(key: str, value: Any) -> Any:
    if not isinstance(value, str) and not hasattr(value, "subnet"):
        raise SpecError(f"{key}: {value!r} is no network",
                        remedy='give a name, for example network="backend", or a Network; network=None for none')
    return check_name("network", value) if isinstance(value, str) else value


# ---------------------------------------------------------------- the rest


def _path(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value.startswith("/") or not _passable(value):
        raise SpecError(f"{key}={value!r} is no absolute path", remedy="begin it with '/'")
    return value


def check_seconds(key: str, value: Any) -> float:
    """Return `value` if it is a number of seconds; infinity is one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise SpecError(f"{key}={value!r} is no number of seconds", remedy=f"for example {key}=5")
    return float(value)


def check_publish(key: str, value: Any) -> str:
    return _one_of(key, value, ("loopback", "none"), "give 'none' for no port of the host, or leave it out")


def _scratch(key: str, value: Any) -> str:
    return _one_of(key, value, ("memory", "disk"), "give 'disk' for big data, or leave it out")


def _one_of(key: str, value: Any, words: tuple[str, ...], remedy: str) -> str:
    if value not in words:
        raise SpecError(f"{key}={value!r} is none of {', '.join(map(repr, words))}", remedy=remedy)
    return str(value)


def _wait(key: str, value: Any) -> Any:
    if value is not None and not isinstance(value, WAITS):
        raise SpecError(f"{key}={value!r} is nothing to wait for", remedy='for example wait=tcp(80), wait=log("ready"), or None')
    return value


def _setup(key: str, value: Any) -> Any:
    if value is not None and not callable(value):
        raise SpecError(f"{key}={value!r} can't be called", remedy="give a function that takes the container's handle")
    return value


CONVERTERS: dict[str, Callable[[str, Any], Any]] = {
    "command": _words,
    "entrypoint": _words,
    "user": check_user,
    "workdir": _path,
    "hostname": check_name,
    "name": lambda _, value: check_host("container name", value),
    "aliases": _aliases,
    "network": _network,
    "networks": _networks,
    "ports": _ports,
    "publish": check_publish,
    "shm_size": lambda key, value: parse_size(value, key),
    "scratch": _scratch,
    "scratch_size": lambda key, value: None if value is None else parse_size(value, key),
    "read_only": check_flag,
    "init": check_flag,
    "stop_signal": lambda _, value: parse_signal(value),
    "stop_timeout": check_seconds,
    "wait_timeout": check_seconds,
    "ulimits": _ulimits,
    "sysctls": _sysctls,
    "capabilities": _capabilities,
    "seccomp": _seccomp,
    "nested": check_flag,
    "wait": _wait,
    "setup": _setup,
}
"""What each option of `ContainerOptions` that stands for itself is turned into, given its name and its value."""
