"""Facts of the host that remedies depend on: its distribution, the account, and what it runs in."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

from pytest_sealed.runtime.launch import interpreter

__all__ = ["Host", "find_host"]

Manager = Literal["apt", "dnf", "apk", "pacman", "zypper", ""]
Place = Literal["", "container", "kubernetes", "wsl"]

_FAMILIES: dict[str, Manager] = {
    "debian": "apt", "ubuntu": "apt", "fedora": "dnf", "rhel": "dnf", "centos": "dnf", "alpine": "apk", "arch": "pacman",
    "suse": "zypper", "opensuse": "zypper", "sles": "zypper",
}
"""A word of ID or ID_LIKE in os-release(5) → the package manager."""

_INSTALL: dict[Manager, str] = {
    "apt": "apt-get install -y", "dnf": "dnf install -y", "apk": "apk add", "pacman": "pacman -S --noconfirm",
    "zypper": "zypper install -y",
}

_PACKAGES: dict[str, dict[Manager, str]] = {
    "newuidmap": {"apt": "uidmap", "dnf": "shadow-utils", "apk": "shadow-uidmap", "pacman": "shadow", "zypper": "shadow"},
    "usermod": {"apt": "passwd", "dnf": "shadow-utils", "apk": "shadow", "pacman": "shadow", "zypper": "shadow"},
    "systemd-run": {"apt": "systemd", "dnf": "systemd", "pacman": "systemd", "zypper": "systemd"},
    "user bus": {"apt": "dbus-user-session", "dnf": "dbus-daemon", "pacman": "dbus", "zypper": "dbus-1"},
    "ctypes": {"apt": "python3", "dnf": "python3-libs", "apk": "python3", "pacman": "python", "zypper": "python3"},
    "netem": {"dnf": "kernel-modules-extra", "zypper": "kernel-default-extra"},
}
"""What is wanted → its package's name in each family."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What this machine is, for the choice of words."""

    name: str
    """PRETTY_NAME of os-release(5), such as "Debian GNU/Linux 12 (bookworm)"; "macOS" or "Windows" off Linux."""
    manager: Manager
    """The package manager of its family; empty: unknown."""
    kernel: str
    account: str
    """The account's login name, or its uid where it has none."""
    uid: int
    python: str
    """Path of the interpreter that containers are started by."""
    place: Place = ""
    """What the account is in, if not on a machine of its own: a container of an engine, a pod, WSL."""
    systemd: bool = False
    """Whether systemd is PID 1. See sd_booted(3)."""
    ubuntu: bool = False

    def sudo(self, command: str) -> str:
        """Return the command as this account has to give it."""
        return command if self.uid == 0 else f"sudo {command}"

    def install(self, *wanted: str) -> str:
        """Return the command that installs what is wanted (see `_PACKAGES`); empty: this family is unknown or has no package."""
        if not self.manager:
            return ""
        names = [_PACKAGES[one].get(self.manager, "") for one in wanted]
        if self.ubuntu and "netem" in wanted:
            names.append('"linux-modules-extra-$(uname -r)"')
        names = list(dict.fromkeys(name for name in names if name))
        return self.sudo(f"{_INSTALL[self.manager]} {' '.join(names)}") if names else ""


def find_host(*, etc: str = "/etc", proc: str = "/proc", run: str = "/run", root: str = "/",
              environ: Mapping[str, str] = os.environ) -> Host:
    """Look at this machine. The roots of the file systems are parameters for tests."""
    release = _os_release(etc)
    uid = os.geteuid() if hasattr(os, "geteuid") else -1
    words = f"{release.get('ID', '')} {release.get('ID_LIKE', '')}".lower().replace("-", " ").split()
    system = platform.system()
    return Host(
        name={"Darwin": "macOS"}.get(system, system) if system != "Linux" else release.get("PRETTY_NAME", "an unknown Linux"),
        manager=next((_FAMILIES[word] for word in words if word in _FAMILIES), _by_command()), kernel=platform.release(),
        account=_account(uid), uid=uid, python=interpreter(), place=_place(proc, root, environ),
        systemd=os.path.isdir(f"{run}/systemd/system"), ubuntu="ubuntu" in words)


def _os_release(etc: str) -> dict[str, str]:
    """Return the assignments of os-release(5)."""
    import shlex
    found = {}
    try:
        with open(f"{etc}/os-release", encoding="utf-8", errors="replace") as file:
            for line in file:
                name, equals, value = line.strip().partition("=")
                if equals and not name.startswith("#"):
                    try:
                        found[name] = " ".join(shlex.split(value))
                    except ValueError:
                        continue
    except OSError:
        pass
    return found


def _by_command() -> Manager:
    commands: dict[str, Manager] = {"apt-get": "apt", "dnf": "dnf", "apk": "apk", "pacman": "pacman", "zypper": "zypper"}
    return next((manager for command, manager in commands.items() if shutil.which(command)), "")


def _account(uid: int) -> str:
    try:
        import pwd
        return pwd.getpwuid(uid).pw_name
    except (ImportError, KeyError):
        return str(uid)


def _place(proc: str, root: str, environ: Mapping[str, str]) -> Place:
    if environ.get("KUBERNETES_SERVICE_HOST"):
        return "kubernetes"
    if any(os.path.exists(os.path.join(root, name)) for name in (".dockerenv", "run/.containerenv")) or environ.get("container"):
        return "container"
    try:
        with open(f"{proc}/sys/kernel/osrelease") as file:
            return "wsl" if "microsoft" in file.read().lower() else ""
    except OSError:
        return ""
