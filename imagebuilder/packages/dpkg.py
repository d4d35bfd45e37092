"""dpkg's status database: which packages an image holds. Pure.

Source: dpkg(1) of 1.22, and deb-control(5) for the form of the stanzas.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

STATUS_PATH: Final = "/var/lib/dpkg/status"


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One stanza of the database."""

    name: str
    version: str
    architecture: str
    source: str
    source_version: str
    status: str
    maintainer: str
    homepage: str
    description: str

    @property
    def is_installed(self) -> bool:
        """Completely: unpacked and configured. A package on hold counts too."""
        return self.status.split()[1:] == ["ok", "installed"]


def parse_status(text: str) -> tuple[Package, ...]:
    """The packages of a status file that are installed in any degree, sorted by name and architecture."""
    packages = []
    for fields in _stanzas(text):
        status = fields.get("status", "")
        if "package" not in fields or status.endswith(("not-installed", "config-files")):
            continue
        version = fields.get("version", "")
        source, _, source_version = fields.get("source", fields["package"]).partition(" ")
        packages.append(
            Package(
                name=fields["package"],
                version=version,
                architecture=fields.get("architecture", ""),
                source=source,
                source_version=source_version.strip("()") or version,
                status=status,
                maintainer=fields.get("maintainer", ""),
                homepage=fields.get("homepage", ""),
                description=fields.get("description", ""),
            )
        )
    return tuple(sorted(packages, key=lambda package: (package.name, package.architecture)))


def changed_versions(before: str, after: str) -> dict[str, str]:
    """Package → version of what is installed in ``after`` and was not, or in another version, ``before``.

    Args:
        before, after: texts of status files.
    """
    old = {(package.name, package.architecture): package.version for package in parse_status(before)}
    return {
        package.name: package.version
        for package in parse_status(after)
        if old.get((package.name, package.architecture)) != package.version
    }


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    """Field (lower case) → first line of its value."""
    for stanza in text.split("\n\n"):
        fields: dict[str, str] = {}
        for line in stanza.splitlines():
            if line[:1] not in (" ", "\t", ""):
                name, _, value = line.partition(":")
                fields[name.lower()] = value.strip()
        if fields:
            yield fields
