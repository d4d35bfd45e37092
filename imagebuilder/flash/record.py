"""One record per card: what was written on what, and how it went. A JSON file each, never changed.

{"version": 1, "at": "2026-11-25T20:00:00Z", "node": …, "image_id": …, "intent": …,
 "medium": {"path", "model", "serial", "size_bytes", "transport"},
 "outcome": {…} or "error": "…"}
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from imagebuilder.errors import ImageBuilderError
from imagebuilder.flash.devices import Disk
from imagebuilder.flash.writer import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class FlashRecord:
    """How one flash ended; ``error`` is None for a good one. ``at`` is UTC seconds since 1970."""

    at: float
    node: str | None
    image_id: str
    intent: int | None
    path: Path
    disk: Disk | None
    size_bytes: int
    outcome: Outcome | None
    error: str | None

    def as_json(self) -> dict[str, Any]:
        disk = self.disk
        return {
            "version": 1,
            "at": datetime.fromtimestamp(self.at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "node": self.node,
            "image_id": self.image_id,
            "intent": self.intent,
            "medium": {
                "path": os.fspath(self.path),
                "model": disk.model if disk else None,
                "serial": disk.serial if disk else None,
                "transport": disk.transport if disk else "file",
                "size_bytes": self.size_bytes,
            },
            "outcome": None if self.outcome is None else asdict(self.outcome),
            "error": self.error,
        }


def write_record(directory: Path, record: FlashRecord) -> Path:
    """Keep the record below ``directory``, under a name with time and node.

    Raises:
        ImageBuilderError: it cannot be written.
    """
    values = record.as_json()
    stamp = re.sub(r"[-:]", "", values["at"])
    name = f"{stamp}-{record.node or record.image_id[:12]}-{record.path.name}.json"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=directory, suffix=".part", delete=False) as file:
            file.write(json.dumps(values, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        place = directory / re.sub(r"[^A-Za-z0-9._-]", "_", name)
        Path(file.name).replace(place)
    except OSError as exc:
        raise ImageBuilderError(
            f"{directory}: the record of the card cannot be kept there: {exc.strerror}",
            "The card itself is written. Make the directory writable.",
        ) from exc
    return place
