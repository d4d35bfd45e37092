"""What inspection would say of the small systems, without disks: for steps, which see facts and contents."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

from fakes_systems import BOOT, ROOT, SIGNATURE, SYSTEMS

from fleet.boards import BoardModel
from imagebuilder.disk.edit import DiskImage
from imagebuilder.disk.mbr import Mbr, Partition
from imagebuilder.disk.table import PartitionTable, TableEntry, TableKind
from imagebuilder.inspect.boards import BootFiles, describe_board
from imagebuilder.inspect.facts import (
    Dialect,
    Ext4Facts,
    FatFacts,
    ImageFacts,
    KernelFacts,
    RootReference,
    SystemFacts,
)
from imagebuilder.inspect.kernel import parse_kernel
from imagebuilder.steps.step import Context


@dataclass
class FakeDisk:
    """A disk as steps see it: names to contents, without the links of the tree."""

    boot: dict[str, bytes]
    root: dict[str, bytes]

    def mbr(self) -> Mbr:
        one = Partition(start_lba=2048, sectors=1000, type=0x0C)
        two = Partition(start_lba=4096, sectors=1000, type=0x83)
        return Mbr(signature=SIGNATURE, entries=(one, two, None, None))

    def read_boot(self, path: str) -> bytes | None:
        return self.boot.get(path.lstrip("/"))

    def read_root(self, path: str) -> bytes | None:
        return self.root.get(path.lstrip("/"))


def make_fake_disk(name: str) -> FakeDisk:
    """The system ``name`` of ``fakes_systems``."""
    system = SYSTEMS[name]
    root = {
        path: content.encode() if isinstance(content, str) else content
        for path, content in system.root.items()
        if not (isinstance(content, str) and content.startswith("-> "))
    }
    return FakeDisk(dict(system.boot), root)


def make_facts(name: str, disk: FakeDisk | None = None) -> ImageFacts:
    """The facts of the system ``name``, boards and command lines from ``disk``'s boot partition."""
    files = (disk or make_fake_disk(name)).boot

    def kernel(path: str) -> KernelFacts | None:
        found = parse_kernel(files[path], path)
        return KernelFacts(path=path, version=found.version, page_bytes=found.page_bytes, size_bytes=1)

    view = BootFiles(
        config=files["config.txt"].decode("utf-8", "replace"),
        exists=files.__contains__,
        read=lambda path: files[path].decode() if path in files else None,
        kernel=kernel,
    )
    boards = tuple(describe_board(view, model) for model in BoardModel)
    labelled = "ubuntu" in name
    one, two = ("LABEL=system-boot", "LABEL=writable") if labelled else (BOOT, ROOT)
    cmdlines = tuple(dict.fromkeys(board.cmdline for board in boards if board.cmdline))
    entry = TableEntry(number=1, start_lba=2048, sectors=1000, type="0x0c", partuuid=BOOT.partition("=")[2])
    second = replace(entry, number=2, start_lba=4096, type="0x83", partuuid=ROOT.partition("=")[2])
    return ImageFacts(
        size_bytes=1 << 22,
        table=PartitionTable(kind=TableKind.MBR, disk_id=f"{SIGNATURE:08x}", partitions=(entry, second)),
        boot=FatFacts(
            partition=1,
            offset=entry.offset,
            size_bytes=entry.size_bytes,
            label="bootfs",
            serial=1,
            cluster_bytes=512,
            free_bytes=1 << 20,
            faults=(),
        ),
        root=Ext4Facts(
            partition=2,
            offset=second.offset,
            size_bytes=second.size_bytes,
            label="rootfs",
            uuid="",
            block_bytes=4096,
            free_bytes=1 << 20,
            features=(),
        ),
        system=SystemFacts(
            distribution="debian", release="trixie", version="13", title="Debian", architecture="arm64"
        ),
        dialect=Dialect(name.removesuffix("-ab")),
        os_prefix=boards[0].os_prefix,
        tryboot_prefix=None,
        boards=boards,
        kernels=(),
        module_versions=(),
        cmdlines=cmdlines,
        references=(
            *(RootReference(place=path, mount="/", names=two, partition=2) for path in cmdlines),
            RootReference(place="/etc/fstab", mount="/boot/firmware", names=one, partition=1),
            RootReference(place="/etc/fstab", mount="/", names=two, partition=2),
        ),
        seed_files=(),
        python="/usr/bin/python3",
    )


def make_context(name: str = "debian", disk: FakeDisk | None = None) -> Context:
    """What a step sees of the system ``name``."""
    seen = disk or make_fake_disk(name)
    return Context(image_id="an-id", disk=cast(DiskImage, seen), facts=make_facts(name, seen))
