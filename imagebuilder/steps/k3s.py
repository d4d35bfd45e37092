"""The k3s release in the image: binary, its names, and the airgap images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from imagebuilder.disk.edits import Edit, PutFile, PutLink
from imagebuilder.k3s_release import K3sRelease
from imagebuilder.steps.step import Context, Json

BINARY_PATH: Final = "/usr/local/bin/k3s"
LINKS: Final = ("kubectl", "crictl", "ctr")
IMAGES_DIRECTORY: Final = "/var/lib/rancher/k3s/agent/images"

CACHE_PATH: Final = f"{IMAGES_DIRECTORY}/.cache.json"
"""Its presence makes k3s import an archive once instead of at every start (1.33.1, 1.32.5, 1.31.9, 1.30.13
and newer)."""


@dataclass(frozen=True, slots=True)
class K3sStep:
    """Puts a verified release into the image."""

    release: K3sRelease
    name: str = "k3s"

    def identity(self) -> Mapping[str, Json]:
        release = self.release
        return {
            "k3s": {
                "version": release.version,
                "simulator": release.simulator,
                "binary": release.binary.sha256,
                "airgap": [release.airgap.name, release.airgap.sha256] if release.airgap else None,
            }
        }

    def edits(self, context: Context) -> Sequence[Edit]:
        edits: list[Edit] = [PutFile(path=BINARY_PATH, content=self.release.binary.path, mode=0o755)]
        edits.extend(PutLink(path=f"/usr/local/bin/{name}", target="k3s") for name in LINKS)
        if self.release.airgap is not None:
            airgap = self.release.airgap
            edits.append(PutFile(path=f"{IMAGES_DIRECTORY}/{airgap.name}", content=airgap.path))
            edits.append(PutFile(path=CACHE_PATH, content=b""))
        return edits
