"""First-boot data: cloud-init's user-data where there is a cloud-init, and the slots that each node's delta
fills.

user-data is the cluster's and final. The slots are placeholders of fixed size: with them alone the image
boots, uses DHCP and waits; it never takes another node's identity.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from imagebuilder.dialects import MANNERS
from imagebuilder.disk.edits import Edit, PutBootFile, PutFile
from imagebuilder.slots import SlotFile, Volume
from imagebuilder.steps.step import Context, Json

IMAGE_JSON_PATH: Final = "/etc/bramble/image.json"
USER_DATA_PATH: Final = "/user-data"


@dataclass(frozen=True, slots=True)
class SeedStep:
    """Writes user-data, the slots, and the record of which image this is.

    ``user_data`` maps a dialect's template folder to its text: the base decides which one is written.
    """

    cluster: str
    user_data: Mapping[str, str] = field(repr=False)
    simulated_k3s: bool = False
    name: str = "first-boot data"

    def identity(self) -> Mapping[str, Json]:
        slots = {slot.path: slot for manner in MANNERS.values() for slot in manner.slots}
        return {
            "seed": {
                "cluster": self.cluster,
                "user_data": dict(self.user_data),
                "simulated_k3s": self.simulated_k3s,
                "slots": {
                    path: [slot.size_bytes, slot.mode, slot.placeholder] for path, slot in slots.items()
                },
            }
        }

    def edits(self, context: Context) -> Sequence[Edit]:
        image = {
            "version": 1,
            "image_id": context.image_id,
            "cluster": self.cluster,
            "dialect": context.facts.dialect.value,
            "k3s_simulator": self.simulated_k3s,
        }
        edits: list[Edit] = [_put(slot) for slot in context.manner.slots]
        if context.manner.templates is not None:
            text = self.user_data[context.manner.templates]
            edits.append(PutBootFile(path=USER_DATA_PATH, content=text.encode()))
        edits.append(PutFile(path=IMAGE_JSON_PATH, content=json.dumps(image, indent=1).encode() + b"\n"))
        return edits


def _put(slot: SlotFile) -> Edit:
    if slot.volume is Volume.BOOT:
        return PutBootFile(path=slot.path, content=slot.content)
    return PutFile(path=slot.path, content=slot.content, mode=slot.mode)
