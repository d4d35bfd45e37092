"""The k3s release in the image: binary, its names, and the airgap images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from imagebuilder.disk.edits import Edit, PutFile, PutLink
from imagebuilder.k3s_release import K3sRelease, ReleaseFile
from imagebuilder.steps.step import Context, Json

BINARY_PATH: Final = "/usr/local/bin/k3s"
LINKS: Final = ("kubectl", "crictl", "ctr")
IMAGES_DIRECTORY: Final = "/var/lib/rancher/k3s/agent/images"

CACHE_PATH: Final = f"{IMAGES_DIRECTORY}/.cache.json"
"""Its presence makes k3s import an archive once instead of at every start (1.33.1, 1.32.5, 1.31.9, 1.30.13
and newer)."""


REGISTRIES_PATH: Final = "/etc/rancher/k3s/registries.yaml"


@dataclass(frozen=True, slots=True)
class K3sStep:
    """Puts a verified release into the image, and registries.yaml where there is anything to say in it."""

    release: K3sRelease
    registries: Mapping[str, Any] = field(default_factory=dict)
    name: str = "k3s"

    def identity(self) -> Mapping[str, Json]:
        release = self.release
        return {
            "k3s": {
                "version": release.version,
                "simulator": release.simulator,
                "binary": release.binary.sha256,
                "airgap": [release.airgap.name, release.airgap.sha256] if release.airgap else None,
                "registries": self.registries,
            }
        }

    def edits(self, context: Context) -> Sequence[Edit]:
        edits: list[Edit] = [_put(BINARY_PATH, self.release.binary, 0o755)]
        edits.extend(PutLink(path=f"/usr/local/bin/{name}", target="k3s") for name in LINKS)
        if self.release.airgap is not None:
            airgap = self.release.airgap
            edits.append(_put(f"{IMAGES_DIRECTORY}/{airgap.name}", airgap, 0o644))
            edits.append(PutFile(path=CACHE_PATH, content=b""))
        if self.registries:
            text = "# Written by Bramble from cluster.k3s.registries of cluster.yaml.\n"
            text += yaml.safe_dump(dict(self.registries), sort_keys=True)
            edits.append(PutFile(path=REGISTRIES_PATH, content=text.encode(), mode=0o600))
        return edits


def _put(path: str, file: ReleaseFile, mode: int) -> PutFile:
    return PutFile(path=path, content=file.path, mode=mode, sha256=file.sha256)
