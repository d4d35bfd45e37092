"""The manifest of an image: what it was made from, each file that was changed, digests of what came out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

from imagebuilder.disk.edits import Written
from imagebuilder.errors import NotUnderstood
from imagebuilder.slots import SlotMap

FILE_NAME: Final = "manifest.json"
VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseRecord:
    """The base. ``packages`` maps package → version."""

    id: str
    name: str
    kernel: str
    packages: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class K3sRecord:
    """The k3s release; with ``simulator`` it is not k3s but a stand-in, and whoever shows it must say so."""

    version: str
    simulator: bool
    airgap_images: str | None

    @property
    def title(self) -> str:
        """What to show."""
        return f"k3s {self.version}{' (simulator)' if self.simulator else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRecord:
    """Something that the image's bytes come from: a short name, a URI that says what it is, its digest."""

    name: str
    uri: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A file of the image's directory. ``path`` is relative to it."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything that is known of a finished image.

    ``mapped_bytes`` of the ``size_bytes`` of the disk mean something. ``outputs`` has no line for disk.img:
    the index proves each of its mapped chunks, and the rest is zeros. ``packages`` were asked for and
    installed at build time. Images of before ``inputs`` were recorded have none.
    """

    image_id: str
    cluster: str
    base: BaseRecord
    k3s: K3sRecord
    size_bytes: int
    mapped_bytes: int
    compressed_bytes: int
    slots: SlotMap
    tools: Mapping[str, str]
    changes: tuple[Written, ...]
    outputs: tuple[Output, ...]
    packages: tuple[str, ...] = ()
    inputs: tuple[InputRecord, ...] = ()

    def output(self, path: str) -> Output:
        """The record of one file.

        Raises:
            KeyError: there is none of that name.
        """
        return {output.path: output for output in self.outputs}[path]

    def render(self) -> str:
        """The manifest as JSON text."""
        body = {
            "version": VERSION,
            **{
                key: getattr(self, key)
                for key in ("image_id", "cluster", "size_bytes", "mapped_bytes", "compressed_bytes")
            },
            "base": asdict(self.base),
            "k3s": asdict(self.k3s),
            "slots": self.slots.to_json(),
            "tools": dict(self.tools),
            "changes": [asdict(change) for change in self.changes],
            "outputs": [asdict(output) for output in self.outputs],
            "packages": list(self.packages),
            "inputs": [asdict(one) for one in self.inputs],
        }
        return json.dumps(body, indent=1, sort_keys=True) + "\n"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what ``render`` wrote.

        Raises:
            NotUnderstood: something else, or of another version.
        """
        try:
            body = json.loads(text)
            if body["version"] != VERSION:
                raise ValueError(f"version {body['version']}, expected {VERSION}")
            return cls(
                image_id=body["image_id"],
                cluster=body["cluster"],
                base=BaseRecord(**body["base"]),
                k3s=K3sRecord(**body["k3s"]),
                size_bytes=body["size_bytes"],
                mapped_bytes=body["mapped_bytes"],
                compressed_bytes=body["compressed_bytes"],
                slots=SlotMap.from_json(body["slots"]),
                tools=body["tools"],
                changes=tuple(Written(**change) for change in body["changes"]),
                outputs=tuple(Output(**output) for output in body["outputs"]),
                packages=tuple(body.get("packages", ())),
                inputs=tuple(InputRecord(**one) for one in body.get("inputs", ())),
            )
        except (ValueError, KeyError, TypeError) as exc:
            raise NotUnderstood(f"{FILE_NAME} cannot be read: {exc}", "Build the image again.") from exc


def load_manifest(directory: Path) -> Manifest:
    """The manifest of the image in ``directory``."""
    return Manifest.parse((directory / FILE_NAME).read_text(encoding="utf-8"))
