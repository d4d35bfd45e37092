"""First-boot data: cloud-init's seed on the boot partition, and the slots that each node's delta fills.

user-data is the cluster's and final. meta-data, network-config and node.json are placeholders of fixed size:
with them alone the image boots, uses DHCP and waits; it never takes another node's identity.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from imagebuilder.disk.edits import Edit, PutBootFile, PutFile
from imagebuilder.slots import (
    META_DATA_BYTES,
    META_DATA_PATH,
    NETWORK_CONFIG_BYTES,
    NETWORK_CONFIG_PATH,
    NODE_JSON_BYTES,
    NODE_JSON_PATH,
    placeholder,
)
from imagebuilder.steps.step import Context, Json

IMAGE_JSON_PATH: Final = "/etc/bramble/image.json"
META_DATA: Final = "instance-id: bramble-image\ndsmode: local\n"
NETWORK_CONFIG: Final = 'network:\n  version: 2\n  ethernets:\n    "e*":\n      dhcp4: true\n'
NODE_JSON: Final = "{}\n"


@dataclass(frozen=True, slots=True)
class SeedStep:
    """Writes user-data, the slots, and the record of which image this is."""

    cluster: str
    user_data: str = field(repr=False)
    simulated_k3s: bool = False
    name: str = "first-boot data"

    def identity(self) -> Mapping[str, Json]:
        return {
            "seed": {
                "cluster": self.cluster,
                "user_data": self.user_data,
                "simulated_k3s": self.simulated_k3s,
                "meta_data": [META_DATA_BYTES, META_DATA],
                "network_config": [NETWORK_CONFIG_BYTES, NETWORK_CONFIG],
                "node_json": [NODE_JSON_BYTES, NODE_JSON],
            }
        }

    def edits(self, context: Context) -> Sequence[Edit]:
        image = {
            "version": 1,
            "image_id": context.image_id,
            "cluster": self.cluster,
            "k3s_simulator": self.simulated_k3s,
        }
        return [
            PutBootFile(path="/user-data", content=self.user_data.encode()),
            PutBootFile(path=META_DATA_PATH, content=placeholder(META_DATA_BYTES, META_DATA)),
            PutBootFile(path=NETWORK_CONFIG_PATH, content=placeholder(NETWORK_CONFIG_BYTES, NETWORK_CONFIG)),
            PutFile(path=NODE_JSON_PATH, content=placeholder(NODE_JSON_BYTES, NODE_JSON), mode=0o600),
            PutFile(path=IMAGE_JSON_PATH, content=json.dumps(image, indent=1).encode() + b"\n"),
        ]
