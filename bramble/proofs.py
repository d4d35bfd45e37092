"""The record of which images of the store were proven: an entry per image, made by ``bramble build --prove``.

An image has its name in the store whether it is proven or not; who wants the gate asks for it (``bramble
serve
--proven-only``). The image's id covers everything that it is made from, so a proof never outlives what it
proves.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from imagebuilder.errors import ImageBuilderError
from imagebuilder.store import Store

KIND: Final = "proofs"
FILE_NAME: Final = "proof.json"


class NotProven(ImageBuilderError):
    """The image was never booted on a virtual board."""


def record_proof(proofs: Store, image_id: str, node: str, seconds: float) -> None:
    """Keep that an image was proven, as one of its nodes."""
    with proofs.create(KIND, image_id) as entry:
        text = json.dumps({"node": node, "seconds": round(seconds, 1)})
        (entry / FILE_NAME).write_text(text + "\n", encoding="utf-8")


def is_proven(proofs: Store, image_id: str) -> bool:
    return proofs.find(KIND, image_id) is not None


def require_proven(proofs: Store, image_id: str, cluster: Path) -> None:
    """Raise ``NotProven`` unless the image was proven."""
    if not is_proven(proofs, image_id):
        raise NotProven(
            f"the image {image_id[:12]} was not proven", f"Prove it: bramble build --prove {cluster}"
        )
