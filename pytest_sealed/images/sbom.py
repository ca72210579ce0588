"""What an image holds, in the forms that others read: a bill of materials (CycloneDX 1.6), and a list of sources."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final
from urllib.parse import quote

__all__ = ["Package", "bill_of_materials", "list_of_sources"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A package in an image."""

    kind: str
    """`deb`, `apk` or `pypi`, as package URLs have it."""
    name: str
    version: str
    architecture: str
    source: str
    """What it was built from,"""
    source_version: str
    """and of which version."""
    licences: dict[str, str]
    """File name → text."""

    def url(self, distribution: str, codename: str) -> str:
        """Return the package URL. See the purl specification."""
        place = f"{quote(distribution, safe='')}/" if self.kind != "pypi" and distribution else ""
        more = {"arch": self.architecture, "distro": codename} if self.kind != "pypi" else {}
        qualifiers = "&".join(f"{key}={quote(value, safe='')}" for key, value in more.items() if value)
        return f"pkg:{self.kind}/{place}{quote(self.name, safe='')}@{quote(self.version, safe='')}" + f"?{qualifiers}" * bool(qualifiers)


def bill_of_materials(name: str, version: str, digest: str, packages: Sequence[Package], distribution: str, codename: str) -> bytes:
    """Return the bill as JSON; the same image has the same."""
    components: list[dict[str, Any]] = []
    for package in packages:
        url = package.url(distribution, codename)
        row: dict[str, Any] = {"type": "library", "bom-ref": url, "name": package.name, "version": package.version, "purl": url}
        if package.kind != "pypi":
            row["properties"] = [{"name": "io.pytest-sealed.source", "value": f"{package.source} {package.source_version}"}]
        components.append(row)
    body = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
            "metadata": {"component": {"type": "container", "bom-ref": digest, "name": name, "version": version,
                                       "hashes": [{"alg": "SHA-256", "content": digest.removeprefix("sha256:")}]}},
            "components": list({row["bom-ref"]: row for row in components}.values())}
    return json.dumps(body, indent=1).encode()


def list_of_sources(packages: Sequence[Package]) -> str:
    """Return a line for each package: kind, name and version; the source's name and version."""
    return "".join(f"{one.kind} {one.name} {one.version} from {one.source} {one.source_version}\n" for one in packages)
