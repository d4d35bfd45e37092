"""What an image is made of, as records: for the manifest, the SBOM and the provenance."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final
from urllib.parse import quote

from imagebuilder.bases import Base
from imagebuilder.inspect import ImageFacts
from imagebuilder.k3s_release import K3sRelease
from imagebuilder.manifest import InputRecord
from imagebuilder.packages.dpkg import STATUS_PATH, parse_status
from imagebuilder.packages.install import StoredLayer
from imagebuilder.packages.volumes import open_volumes
from imagebuilder.seal.sbom import FILE_NAME, Component, Contents, installed_only, render_sbom

AGENT: Final = "bramble-agent"
K3S: Final = "k3s"
K3S_IMAGES: Final = "k3s-airgap-images"
LAYER: Final = "package-layer"


def input_records(
    base: Base, base_sha256: str, release: K3sRelease, agent_archive: bytes, layer: StoredLayer | None
) -> tuple[InputRecord, ...]:
    """Everything that the image's bytes come from, with its digest."""
    k3s = (
        "urn:bramble:k3s-simulator"
        if release.simulator
        else f"pkg:github/k3s-io/k3s@{quote(release.version)}"
    )
    agent = hashlib.sha256(agent_archive).hexdigest()
    records = [
        InputRecord(
            name=base.name, uri=f"pkg:generic/{quote(base.name)}@{quote(base.id)}", sha256=base_sha256
        ),
        InputRecord(name=K3S, uri=k3s, sha256=release.binary.sha256),
        InputRecord(name=AGENT, uri=f"pkg:generic/{AGENT}@{agent[:12]}", sha256=agent),
    ]
    if release.airgap is not None:
        uri = f"{k3s}#{quote(release.airgap.name)}"
        records.append(InputRecord(name=K3S_IMAGES, uri=uri, sha256=release.airgap.sha256))
    if layer is not None:
        uri = f"urn:bramble:layer:{layer.layer.key}"
        records.append(InputRecord(name=LAYER, uri=uri, sha256=layer.sha256))
        records.extend(
            InputRecord(name=f"apt:{name}", uri=f"urn:bramble:apt-release:{quote(name)}", sha256=digest)
            for name, digest in sorted(layer.layer.archives.items())
        )
    return tuple(records)


def write_sbom(
    into: Path,
    disk: Path,
    facts: ImageFacts,
    *,
    image_id: str,
    cluster: str,
    base: Base,
    release: K3sRelease,
    inputs: tuple[InputRecord, ...],
) -> None:
    """Write the SBOM of a finished image into its directory; the packages are read from the image itself."""
    digests = {record.name: record.sha256 for record in inputs}
    with open_volumes(disk) as volumes:
        packages = installed_only(parse_status(volumes.read_text(STATUS_PATH)))
    stands_in = " A stand-in for tests and demonstrations, not k3s." if release.simulator else ""
    parts = [
        Component(
            name=K3S,
            version=release.version,
            sha256=digests[K3S],
            comment=f"/usr/local/bin/k3s.{stands_in}",
        ),
        Component(
            name=AGENT,
            version=digests[AGENT][:12],
            sha256=digests[AGENT],
            comment="/usr/lib/bramble/agent.pyz",
        ),
    ]
    if release.airgap is not None:
        comment = f"{release.airgap.name}: container images that k3s imports at its first start."
        parts.append(
            Component(name=K3S_IMAGES, version=release.version, sha256=digests[K3S_IMAGES], comment=comment)
        )
    contents = Contents(
        image_id=image_id,
        cluster=cluster,
        distribution=facts.system.distribution,
        release=facts.system.release,
        base=Component(
            name=base.name, version=base.id, sha256=digests[base.name] or None, comment="The stock image."
        ),
        parts=tuple(parts),
        packages=packages,
    )
    (into / FILE_NAME).write_text(render_sbom(contents), encoding="utf-8")
