"""A layer: what a run of apt added, changed and removed in a base's tree, as values. Pure.

    layer.json           what it is, its entries and removals
    files/<sha256>       contents

Paths below ``/boot/firmware`` lie on the boot partition, which has neither owners nor links.
"""

from __future__ import annotations

import json
import posixpath
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

from imagebuilder.errors import ImageBuilderError, NotUnderstood

FILE_NAME: Final = "layer.json"
CONTENTS: Final = "files"
VERSION: Final = 1
BOOT_MOUNT: Final = "/boot/firmware"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One path that is there after apt, and was not, or was different, before.

    Attributes:
        path: absolute; bytes that are not UTF-8 are surrogates.
        mode: type and permissions, as stat(2) gives them.
        mtime: seconds since 1970.
        attributes: extended attributes, name → value.
        sha256: names the content of a regular file.
        target: where a symbolic link points.
        same_as: the other name of the same file (a hard link).
    """

    path: str
    mode: int
    uid: int
    gid: int
    mtime: int
    attributes: Mapping[str, bytes] = field(default_factory=dict)
    size_bytes: int = 0
    sha256: str | None = None
    target: str | None = None
    same_as: str | None = None

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_on_boot(self) -> bool:
        return is_on_boot(self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Everything about one run of apt.

    Attributes:
        key: the id of what went in: base, packages, sources, tools.
        packages: what was asked for.
        installed: package → version of what the run installed or upgraded.
        archives: release file → SHA-256: the state of the archives that apt saw.
        epoch: the newest date that they give, seconds since 1970; no file of the layer is younger.
    """

    key: str
    packages: tuple[str, ...]
    installed: Mapping[str, str]
    archives: Mapping[str, str]
    epoch: int
    entries: tuple[Entry, ...]
    removed: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        """Content on the root filesystem."""
        return sum(entry.size_bytes for entry in self.entries if not entry.is_on_boot)

    def render(self) -> str:
        """The text of ``layer.json``; equal layers give equal texts."""
        entries = [
            {
                key: value
                for key, value in asdict(entry).items()
                if value not in (None, {}) and not (key == "size_bytes" and entry.sha256 is None)
            }
            | ({"attributes": {k: v.hex() for k, v in entry.attributes.items()}} if entry.attributes else {})
            for entry in self.entries
        ]
        body = {
            "version": VERSION,
            "key": self.key,
            "packages": list(self.packages),
            "installed": dict(self.installed),
            "archives": dict(self.archives),
            "epoch": self.epoch,
            "entries": entries,
            "removed": list(self.removed),
        }
        return json.dumps(body, indent=1, sort_keys=True) + "\n"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what ``render`` wrote.

        Raises:
            NotUnderstood: something else.
        """
        try:
            body = json.loads(text)
            if body["version"] != VERSION:
                raise ValueError(f"version {body['version']}, expected {VERSION}")
            return cls(
                key=body["key"],
                packages=tuple(body["packages"]),
                installed=body["installed"],
                archives=body["archives"],
                epoch=int(body["epoch"]),
                entries=parse_entries(body["entries"]),
                removed=tuple(body["removed"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise NotUnderstood(
                f"{FILE_NAME} of a package layer cannot be read: {exc}",
                "Remove its directory from the cache and build again.",
            ) from exc


class LayerError(ImageBuilderError):
    """apt left something in the tree that cannot be put into an image."""


def parse_entries(items: Any) -> tuple[Entry, ...]:
    """The entries of ``changes.json`` or ``layer.json``."""
    return tuple(
        Entry(
            **{
                **item,
                "attributes": {
                    name: bytes.fromhex(value) for name, value in item.get("attributes", {}).items()
                },
            }
        )
        for item in items
    )


def is_on_boot(path: str) -> bool:
    """Whether a path of the tree lies on the boot partition."""
    return path == BOOT_MOUNT or path.startswith(f"{BOOT_MOUNT}/")


def require_placeable(layer: Layer) -> None:
    """Raise ``LayerError`` with every entry that has no place in an image."""
    problems = []
    for entry in layer.entries:
        if any(character in f"{entry.path}{entry.target or ''}" for character in '"\n\r'):
            problems.append(f"{entry.path!r}: a name with a quote or a line break, which debugfs cannot take")
        if entry.is_on_boot and not entry.is_directory and entry.sha256 is None:
            problems.append(f"{entry.path}: the boot partition is a FAT and holds only plain files")
    if problems:
        raise LayerError(
            "the packages left these in the image:\n" + "\n".join(problems),
            "Leave out the package that they belong to ('dpkg -S PATH' on a node says which), or install it "
            "at first boot: image.packages_at: first-boot.",
        )


def parents(path: str) -> list[str]:
    """The directories above an absolute path, outermost first, without the root."""
    above = []
    while (path := posixpath.dirname(path)) != "/":
        above.append(path)
    return above[::-1]
