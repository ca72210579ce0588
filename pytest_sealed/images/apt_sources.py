"""Where Debian packages come from: this host's own apt sources, or SEALED_DEBIAN_MIRROR.

Nothing here knows a mirror by name: a host that can install packages can build images.
"""

from __future__ import annotations

import glob
import os
import re
import subprocess

from pytest_sealed.errors import ImageError

__all__ = ["acquire_options", "mirrors_for", "sources_for"]

_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_POCKETS = ("", "-updates", "-security")
_KEPT = re.compile(r"^Acquire::(?:\w+::)*(?:Proxy(?:-Auto-Detect)?|Proxy::.*|CaInfo|Verify-(?:Peer|Host)|Check-Valid-Until|Check-Date|"
                   r"Retries|Timeout|ForceIPv4)\b", re.IGNORECASE)


def sources_for(suite: str, etc: str = "/etc") -> str:
    """Return a sources.list(5) in deb822 form for the main component of a Debian release.

    Raises:
        ImageError: this host has no apt source for Debian, and SEALED_DEBIAN_MIRROR isn't set.
    """
    mirror = os.environ.get("SEALED_DEBIAN_MIRROR", "")
    if mirror:
        return _stanza(mirror, suite, f"Signed-By: {_KEYRING}" if os.path.exists(_KEYRING) else "")
    stanzas = _host_stanzas(f"{etc}/apt")
    own = _codename(f"{etc}/os-release")
    for wanted in (suite, own):   # a mirror of the host's own release has the other releases too
        found = [
            _stanza(uri, f"{suite}{pocket}", signed)
            for uri, suites, signed in stanzas for pocket in _POCKETS if wanted and f"{wanted}{pocket}" in suites
        ]
        if found:
            return "\n".join(dict.fromkeys(found))
    raise ImageError(f"this host's apt sources have no Debian, so packages of {suite} can't be fetched", remedy=(
        "set SEALED_DEBIAN_MIRROR to a Debian mirror's address (its key ring: `apt install debian-archive-keyring`)"))


def mirrors_for(suite: str) -> list[str]:
    """Return the addresses, without a final slash, below which packages of a Debian release are looked for.

    Raises:
        ImageError: as `sources_for`.
    """
    return list(dict.fromkeys(word.rstrip("/") for line in re.findall(r"(?m)^URIs: (.+)$", sources_for(suite)) for word in line.split()))


def _stanza(uri: str, suite: str, signed: str) -> str:
    return f"Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\n{signed}".rstrip() + "\n"


def _codename(path: str) -> str:
    try:
        with open(path) as file:
            values = dict(line.strip().split("=", 1) for line in file if "=" in line)
    except OSError:
        return ""
    return values.get("VERSION_CODENAME", "").strip('"') if values.get("ID", "").strip('"') == "debian" else ""


def _host_stanzas(apt: str) -> list[tuple[str, list[str], str]]:
    """Return (URI, suites, Signed-By line) of each of the host's sources that has the component main."""
    found: list[tuple[str, list[str], str]] = []
    for path in [f"{apt}/sources.list", *sorted(glob.glob(f"{apt}/sources.list.d/*.list"))]:
        for line in _read(path).splitlines():
            match = re.match(r"\s*deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#]*)", line)
            if match and "main" in match[4].split():
                key = re.search(r"signed-by=(\S+)", match[1] or "")
                found.append((match[2], [match[3]], f"Signed-By: {key[1]}" if key else ""))
    for path in sorted(glob.glob(f"{apt}/sources.list.d/*.sources")):
        for block in re.split(r"\n\s*\n", _read(path)):
            text = "\n".join(line for line in block.splitlines() if not line.startswith("#"))
            fields = {key.lower(): value for key, value in re.findall(r"(?m)^([\w-]+):[ \t]*(.*(?:\n[ \t].*)*)", text)}
            of_use = "deb" in fields.get("types", "").split() and "main" in fields.get("components", "").split()
            if of_use and fields.get("enabled", "yes") != "no":
                signed = f"Signed-By: {fields['signed-by']}" if "signed-by" in fields else ""
                found.extend((uri, fields.get("suites", "").split(), signed) for uri in fields.get("uris", "").split())
    return found


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def acquire_options() -> str:
    """Return the host's apt settings for proxies, certificates and dates as apt.conf(5) lines."""
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout
    return "".join(f"{line}\n" for line in dump.splitlines() if _KEPT.match(line))
