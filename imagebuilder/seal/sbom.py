"""What is in an image, as an SPDX 2.3 document. Pure; the same image gives the same text.

The image is described as one package that is generated from its base and contains the Debian packages that
its own dpkg database names, k3s, and the node agent. Licences are not judged: NOASSERTION says so.

Source: SPDX specification 2.3 (packages, relationships); package URLs from purl-spec, type deb.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from imagebuilder.disk.edits import EPOCH
from imagebuilder.packages.dpkg import Package

FILE_NAME: Final = "sbom.spdx.json"
_NAMESPACE: Final = uuid.UUID("6f1d3c52-8a0e-5c0b-9b51-2d6f6a1f0c77")
_DOCUMENT: Final = "SPDXRef-DOCUMENT"
_IMAGE: Final = "SPDXRef-Image"
_NO_WORD: Final = "NOASSERTION"
_NOT_IN_IDS: Final = re.compile(r"[^A-Za-z0-9.-]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """Something that Bramble put in or started from. ``sha256`` is that of its one file, if it has one."""

    name: str
    version: str
    sha256: str | None
    comment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What the document tells. ``distribution`` is the image's (``debian``), ``release`` its codename."""

    image_id: str
    cluster: str
    distribution: str
    release: str
    base: Component
    parts: tuple[Component, ...]
    packages: tuple[Package, ...]


def render_sbom(contents: Contents) -> str:
    """The document as JSON text."""
    base = _component(contents.base, "SPDXRef-Base", purpose="OPERATING-SYSTEM")
    parts = [_component(part, f"SPDXRef-{_id(part.name)}") for part in contents.parts]
    debs = list(_debs(contents))
    image = {
        "SPDXID": _IMAGE,
        "name": f"{contents.cluster} node image",
        "versionInfo": contents.image_id,
        "primaryPackagePurpose": "OPERATING-SYSTEM",
        **_unjudged(),
    }
    contained = [*parts, *debs]
    document = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": _DOCUMENT,
        "name": f"bramble-image-{contents.image_id}",
        "documentNamespace": f"urn:uuid:{uuid.uuid5(_NAMESPACE, contents.image_id)}",
        "creationInfo": {
            "created": datetime.fromtimestamp(EPOCH, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "creators": ["Tool: bramble"],
            "comment": "The time is fixed, so that the same image gives the same document.",
        },
        "documentDescribes": [_IMAGE],
        "packages": [image, base, *contained],
        "relationships": [
            _relationship(_DOCUMENT, "DESCRIBES", _IMAGE),
            _relationship(_IMAGE, "GENERATED_FROM", base["SPDXID"]),
            *(_relationship(_IMAGE, "CONTAINS", one["SPDXID"]) for one in contained),
        ],
    }
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _debs(contents: Contents) -> Iterator[dict[str, Any]]:
    for package in contents.packages:
        purl = (
            f"pkg:deb/{quote(contents.distribution)}/{quote(package.name)}@{quote(package.version, safe='')}"
        )
        qualifiers = [f"arch={quote(package.architecture)}"]
        if contents.release:
            qualifiers.append(f"distro={quote(contents.release)}")
        yield {
            "SPDXID": f"SPDXRef-deb-{_id(f'{package.name}-{package.architecture}')}",
            "name": package.name,
            "versionInfo": package.version,
            "sourceInfo": f"built from {package.source} {package.source_version}",
            **({"supplier": f"Organization: {package.maintainer}"} if package.maintainer else {}),
            **({"homepage": package.homepage} if _is_url(package.homepage) else {}),
            **({"summary": package.description} if package.description else {}),
            "externalRefs": [
                {
                    "referenceCategory": "PACKAGE-MANAGER",
                    "referenceType": "purl",
                    "referenceLocator": f"{purl}?{'&'.join(qualifiers)}",
                }
            ],
            **_unjudged(),
        }


def _component(component: Component, spdx_id: str, purpose: str = "APPLICATION") -> dict[str, Any]:
    sums = [{"algorithm": "SHA256", "checksumValue": component.sha256}] if component.sha256 else []
    return {
        "SPDXID": spdx_id,
        "name": component.name,
        "versionInfo": component.version,
        "comment": component.comment,
        "primaryPackagePurpose": purpose,
        **({"checksums": sums} if sums else {}),
        **_unjudged(),
    }


def _unjudged() -> dict[str, Any]:
    return {
        "downloadLocation": _NO_WORD,
        "filesAnalyzed": False,
        "licenseConcluded": _NO_WORD,
        "licenseDeclared": _NO_WORD,
        "copyrightText": _NO_WORD,
    }


def _relationship(one: str, kind: str, other: str) -> dict[str, str]:
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}


def _id(text: str) -> str:
    """``text`` as a part of an SPDX identifier; different texts stay different."""
    plain = _NOT_IN_IDS.sub("-", text)
    return plain if plain == text else f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _is_url(text: str) -> bool:
    return text.startswith(("http://", "https://")) and " " not in text


def installed_only(packages: Iterable[Package]) -> tuple[Package, ...]:
    """The packages that are completely installed: what an image holds, not what it once held."""
    return tuple(package for package in packages if package.is_installed)
