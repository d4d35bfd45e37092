"""Values of the rooms as the composition root meets them, and commands that end in every way."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

import click

from bramble.boot_table import ControlAddress
from bramble.kept_images import KeptImage, kept_image
from fleet.boards import MacAddress, Serial
from fleet.boots import NodeBoot
from fleet.spec.model import ClusterSpec
from imagebuilder.build import Image
from imagebuilder.manifest import BaseRecord, K3sRecord, Manifest, Output
from imagebuilder.slots import Extent, Slot, SlotMap

IMAGE_ID = "ab" * 20
INDEX_SHA256 = "cd" * 32
SIZE_BYTES = 1 << 20
NODE_JSON_AT = 0x40000
CONFIG = """\
# the image's own
arm_64bit=1
auto_initramfs=1
initramfs initramfs8 followkernel
[pi4]
dtoverlay=vc4-kms-v3d
  initramfs other followkernel
[all]
enable_uart=1
"""
CONTROL = ControlAddress(address=IPv4Address("10.77.0.1"), port=7443, pin="ef" * 32)


def node_boot(
    name: str = "pi5-1", *, intent: int | None = 1, hold: bool = False, image_id: str | None = None
) -> NodeBoot:
    """What the fleet says of one node."""
    return NodeBoot(
        name=name,
        mac=MacAddress.parse("2c:cf:67:00:00:01"),
        serial=Serial.parse("c0ffee0010000001"),
        address=IPv4Address("10.77.0.11"),
        install_intent=intent,
        expires=None if intent is None else 1_800_000_000.0,
        hold=hold,
        reason="never installed" if intent is not None else "installed",
        image_id=image_id,
    )


def make_slots() -> SlotMap:
    """Slots that do not overlap, in the order of the disk."""

    def slot(name: str, offset: int, length: int) -> Slot:
        return Slot(name, (Extent(offset, length),))

    return SlotMap(
        disk_signature=slot("disk signature", 440, 4),
        partuuids=(slot("PARTUUID", 0x10010, 8),),
        files=(
            slot("meta-data", 0x20000, 1024),
            slot("network-config", 0x30000, 4096),
            slot("node-json", NODE_JSON_AT, 8192),
        ),
    )


@dataclass
class FakeImageStore:
    """Images by id, and which one a cluster.yaml's is once it is built."""

    images: dict[str, Image] = field(default_factory=dict)
    built: Image | None = None
    asked: list[ClusterSpec] = field(default_factory=list)

    def open(self, image_id: str) -> Image | None:
        return self.images.get(image_id)

    def ids(self) -> list[str]:
        return list(self.images)

    def kept(self) -> list[KeptImage]:
        return [kept_image(image.manifest, 0.0) for image in self.images.values()]

    def built_for(self, spec: ClusterSpec) -> Image | None:
        self.asked.append(spec)
        return self.built


def make_image(
    root: Path, *, image_id: str = IMAGE_ID, cluster: str = "attic", k3s: str = "v1.33.5+k3s1"
) -> Image:
    """An image entry with a boot tree and a disk of zeros; nothing in it boots."""
    (root / "boot").mkdir(parents=True)
    (root / "boot" / "config.txt").write_text(CONFIG, "utf-8")
    with (root / "disk.img").open("wb") as disk:
        disk.truncate(SIZE_BYTES)
    manifest = Manifest(
        image_id=image_id,
        cluster=cluster,
        base=BaseRecord(id="debian-trixie-1", name="debian-trixie", kernel="6.12", packages={}),
        k3s=K3sRecord(version=k3s, simulator=True, airgap_images=None),
        size_bytes=SIZE_BYTES,
        mapped_bytes=SIZE_BYTES,
        compressed_bytes=1000,
        slots=make_slots(),
        tools={},
        changes=(),
        outputs=(Output(path="index.json", size_bytes=2, sha256=INDEX_SHA256),),
    )
    return Image(id=image_id, root=root, manifest=manifest)


def ending_in(outcome: BaseException | int | None) -> click.Command:
    """A command that raises, or that gives its exit code back."""

    def end() -> int | None:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return click.command(name="end")(end)
