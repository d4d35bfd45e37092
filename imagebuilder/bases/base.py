"""A finished base, and what is written down about it in its entry of the store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from imagebuilder.digests import DigestCache
from imagebuilder.errors import StoreError
from imagebuilder.still import FileState

KIND: Final = "bases"
DISK_NAME: Final = "disk.img"
INFO_NAME: Final = "base.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionInfo:
    """A partition of the base. ``start_lba`` and ``sectors`` count 512-byte sectors."""

    number: int
    type: int
    start_lba: int
    sectors: int
    filesystem: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseInfo:
    """What is in a base; its ``base.json``.

    ``kernel_version`` is what ``uname -r`` says on it, ``packages`` maps package → version,
    ``disk_signature`` is the MBR's; it is 0 on a GPT disk, and so is the ``type`` of its partitions. A base
    that we made says in ``recipe`` what from and in ``built_with`` with which tools and archive suites; of a
    stock image both are empty, and where it came from stands in its origins. ``disk_sha256`` is the digest of
    the whole disk; bases made before it was recorded have none.
    """

    id: str
    name: str
    distribution: str
    suite: str
    architecture: str
    kernel_version: str
    packages: Mapping[str, str]
    layout: tuple[PartitionInfo, ...]
    size_bytes: int
    disk_signature: int
    recipe: Mapping[str, Any]
    built_with: Mapping[str, Any]
    disk_sha256: str = ""

    def render(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A finished base: a raw, sparse disk image that nobody writes to, and what is in it."""

    id: str
    name: str
    disk: Path
    info: BaseInfo

    @property
    def content_id(self) -> str:
        """Names the bytes of the disk: what is made of them and kept is found by this.

        ``id`` of a base that is made here names its recipe, and the same recipe gives other bytes when the
        archive has moved on.
        """
        return f"sha256-{self.info.disk_sha256}" if self.info.disk_sha256 else self.id

    def require_intact(self, digests: DigestCache) -> FileState:
        """The state of the disk, in which it is what the base's record says.

        It is read only if its size or its time of change are not those of its first use here.

        Raises:
            StoreError: somebody has written to it since.
        """
        state = FileState.of(self.disk)
        expected = self.info.disk_sha256
        if not expected:
            return state
        digests.expect(self.disk, expected)
        found = digests.sha256(self.disk)
        if found != expected:
            raise StoreError(
                f"{self.disk}: somebody has written to the cached base: its sha256 is {found}, it was "
                f"{expected}",
                f"Bases are never changed. Remove it and get it again: bramble base remove {self.name}, then "
                "'bramble base fetch NAME' (or 'bramble base build NAME').",
            )
        return state


def parse_info(text: str) -> BaseInfo:
    """Read the text of a ``base.json``.

    Raises:
        ValueError, KeyError, TypeError: it is not one.
    """
    values = json.loads(text)
    layout = tuple(PartitionInfo(**part) for part in values.pop("layout"))
    return BaseInfo(**values, layout=layout)


def load_base(directory: Path, name: str | None = None) -> Base:
    """The base in a store entry.

    Args:
        directory: the entry.
        name: what the base is called here; None: as when it was made. One stock image may have several names.

    Raises:
        StoreError: the entry is damaged.
    """
    try:
        info = parse_info((directory / INFO_NAME).read_text())
        disk = directory / DISK_NAME
        if disk.stat().st_size != info.size_bytes:
            raise ValueError(
                f"{DISK_NAME} has {disk.stat().st_size} bytes, {INFO_NAME} says {info.size_bytes}"
            )
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise StoreError(
            f"{directory}: the cached base is damaged: {exc}",
            f"Remove that directory and make the base again: rm -r {directory}, then 'bramble base fetch "
            "NAME' (or 'bramble base build NAME').",
        ) from exc
    return Base(id=info.id, name=name or info.name, disk=disk, info=replace(info, name=name or info.name))
