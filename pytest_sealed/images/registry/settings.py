"""What users have configured for Docker and Podman already: mirrors, registries without TLS, certificates, proxies.

See containers-registries.conf(5), containers-certs.d(5).
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]  # not in typeshed

from pytest_sealed.errors import ImageError, SpecError
from pytest_sealed.images.reference import Reference

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Endpoint", "Settings", "is_loopback", "proxy_for", "tls_context"]

_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a repository can be reached."""

    host: str
    """With its port, if there is one."""
    path: str
    """The repository there."""
    insecure: bool = False
    """It may have no TLS, or a certificate that nobody has signed."""

    @property
    def plain(self) -> bool:
        """Whether http will do."""
        return self.insecure or is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Say whether a host, with or without a port, is this machine by its name."""
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


@final
class Settings:
    """What registries.conf says: `CONTAINERS_REGISTRIES_CONF`, else the account's, else the system's; and the files of registries.conf.d.

    Args:
        etc: for tests.

    Raises:
        ImageError: one can't be read.
    """

    def __init__(self, etc: Path = Path("/etc")) -> None:
        home = _config_home() / "containers"
        given = os.environ.get("CONTAINERS_REGISTRIES_CONF", "")
        files = [Path(given)] if given else []
        if not given:
            files += [path for path in (home / "registries.conf", etc / "containers/registries.conf") if path.exists()][:1]
            for folder in (etc / "containers/registries.conf.d", home / "registries.conf.d"):
                files += sorted(folder.glob("*.conf"))
        self._rows: dict[str, dict[str, Any]] = {}
        self._search: list[str] = []
        self._certificates = [home / "certs.d", etc / "containers/certs.d", etc / "docker/certs.d"]
        for file in files:
            self._read(file)

    def _read(self, file: Path) -> None:
        try:
            data = tomllib.loads(file.read_text())
            self._search = [str(host) for host in data.get("unqualified-search-registries", self._search)]
            for row in data.get("registry", []):
                self._rows[str(row.get("prefix") or row["location"])] = row
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ImageError(f"{file} can't be understood: {error}", remedy="see containers-registries.conf(5)") from error

    def qualified(self, reference: Reference) -> Reference:
        """Return the reference with a registry.

        Raises:
            SpecError: none was named, and there isn't exactly one that is configured.
        """
        if reference.host:
            return reference
        if len(self._search) != 1:
            raise SpecError(f"{str(reference)!r} names no registry", remedy=(
                f"write HOST/{reference}; or let registries.conf name one: unqualified-search-registries = [\"registry.example\"]"))
        host, _, path = self._search[0].partition("/")
        return Reference(host=host, path=f"{path}/{reference.path}" if path else reference.path, tag=reference.tag, digest=reference.digest)

    def endpoints(self, reference: Reference, *, mirrors: bool = True) -> list[Endpoint]:
        """Return where the repository is to be looked for, mirrors first.

        Raises:
            ImageError: it's blocked.
        """
        row = self._row(reference.name)
        if row is None:
            return [Endpoint(host=reference.host, path=reference.path)]
        prefix = str(row.get("prefix") or row["location"])
        if row.get("blocked"):
            raise ImageError(f"registries.conf blocks {prefix}")
        found = []
        for mirror in row.get("mirror", []) if mirrors else ():
            only = mirror.get("pull-from-mirror", "digest-only" if row.get("mirror-by-digest-only") else "all")
            if only == "all" or (only == "digest-only") == bool(reference.digest):
                found.append(_endpoint(mirror, prefix, reference))
        return [*found, _endpoint(row, prefix, reference)]

    def insecure(self, host: str) -> bool:
        """Say whether a host may be without TLS, or with a certificate that nobody has signed."""
        row = self._row(host)
        return bool(row and row.get("insecure"))

    def _row(self, name: str) -> dict[str, Any] | None:
        """Return the row with the longest prefix of a repository; `*.example.com` is one of its host."""
        best: tuple[int, dict[str, Any]] | None = None
        for prefix, row in self._rows.items():
            host = name.partition("/")[0]
            if prefix.startswith("*."):
                matches = host.endswith(prefix[1:]) and "/" not in prefix
            else:
                matches = name == prefix or name.startswith((f"{prefix}/", f"{prefix}:"))
            if matches and (best is None or len(prefix) > best[0]):
                best = len(prefix), row
        return best[1] if best else None

    def certificates(self, host: str) -> list[Path]:
        """Return the folders of certificates for a host, the one that counts first."""
        return [folder / host for folder in self._certificates if (folder / host).is_dir()]


def _endpoint(row: dict[str, Any], prefix: str, reference: Reference) -> Endpoint:
    location = str(row.get("location") or prefix)
    if prefix.startswith("*."):
        whole = reference.name if not row.get("location") else f"{location}/{reference.path}"
    else:
        whole = location + reference.name.removeprefix(prefix)
    host, _, path = whole.partition("/")
    return Endpoint(host=host, path=path, insecure=bool(row.get("insecure")))


def _config_home() -> Path:
    value = os.environ.get("XDG_CONFIG_HOME", "")
    return Path(value if os.path.isabs(value) else os.path.expanduser("~/.config"))


def tls_context(settings: Settings, host: str, *, insecure: bool) -> ssl.SSLContext:
    """Return how a host's certificate is checked: by the system's authorities (or SSL_CERT_FILE, SSL_CERT_DIR) and its certs.d folder.

    Raises:
        ImageError: a certificate can't be read.
    """
    context = ssl.create_default_context()
    if not context.cert_store_stats()["x509_ca"] and "SSL_CERT_FILE" not in os.environ:   # a Python that looks elsewhere than this system
        for bundle in _BUNDLES:
            if os.path.exists(bundle):
                context.load_verify_locations(cafile=bundle)
                break
    for folder in settings.certificates(host)[:1]:
        for path in sorted(folder.iterdir()):
            try:
                if path.suffix == ".crt":
                    context.load_verify_locations(cafile=path)
                elif path.suffix == ".cert":
                    context.load_cert_chain(path, path.with_suffix(".key"))
            except (OSError, ssl.SSLError) as error:
                raise ImageError(f"the certificate {path} can't be used: {error}", remedy="see containers-certs.d(5)") from error
    if insecure:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def proxy_for(scheme: str, host: str) -> str:
    """Return the URL of the proxy that the environment names for a host; empty: none. Loopback is reached directly."""
    if is_loopback(host) or proxy_bypass_environment(host):
        return ""
    proxies = getproxies_environment()
    return proxies.get(scheme, "") or proxies.get("all", "")
