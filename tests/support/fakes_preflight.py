"""Evidence for the preflight's rules, from dictionaries: no image, no files."""

from __future__ import annotations

import posixpath
import struct
from collections.abc import Iterable, Mapping

from fleet.boards import BoardModel
from imagebuilder.disk.table import PartitionTable, TableEntry, TableKind
from imagebuilder.inspect import (
    BoardFacts,
    Dialect,
    Ext4Facts,
    FatFacts,
    ImageFacts,
    KernelFacts,
    RootReference,
    SystemFacts,
)
from imagebuilder.preflight import Entry, Evidence, Expected, Finding, Tree, check_image

SIGNATURE = "5ab1e0ff"
KERNEL = "6.12.0-test"
CMDLINE = b"console=tty1 root=PARTUUID=5ab1e0ff-02 rootwait cgroup_enable=memory\n"
CLOUD_CFG = "datasource_list: [NoCloud, None]\ndatasource: {NoCloud: {seedfrom: 'file:///boot/firmware/'}}\n"
SEED = {
    "/user-data": b"#cloud-config\nusers: [default]\n",
    "/meta-data": b"instance-id: one\nlocal-hostname: pi5-master-1.attic.internal\n",
}
Files = Mapping[str, bytes | str]


def fake_tree(files: Files) -> Tree:
    """A filesystem: path → content; text that starts with ``-> `` is a link, ``0644 `` sets a mode."""
    entries: dict[str, Entry] = {}
    content: dict[str, bytes] = {}
    for path, value in files.items():
        parent = posixpath.dirname(path)
        while parent not in entries and parent != "/":
            entries[parent] = Entry(mode=0o040755, size_bytes=0)
            parent = posixpath.dirname(parent)
        if isinstance(value, str) and value.startswith("-> "):
            entries[path] = Entry(mode=0o120777, size_bytes=0, target=value.removeprefix("-> "))
            continue
        mode, data = 0o100755, value.encode() if isinstance(value, str) else value
        if data[:1] == b"0" and data[4:5] == b" ":
            mode, data = 0o100000 | int(data[:4], 8), data[5:]
        entries[path], content[path] = Entry(mode=mode, size_bytes=len(data)), data

    def resolve(path: str) -> str:
        entry = entries.get(path)
        if entry is None or entry.target is None:
            return path
        return resolve(posixpath.normpath(posixpath.join(posixpath.dirname(path), entry.target)))

    def find(path: str, follow: bool) -> Entry | None:
        return entries.get(resolve(path) if follow else path)

    def names(path: str) -> tuple[str, ...]:
        top = path.rstrip("/") + "/"
        return tuple(sorted(p[len(top) :] for p in entries if p.startswith(top) and "/" not in p[len(top) :]))

    return Tree(find=find, read=lambda path: content.get(resolve(path)), names=names)


def make_facts(
    dialect: Dialect = Dialect.RASPIOS_TRIXIE,
    *,
    seeds: Iterable[str] = (),
    page_bytes: int = 4096,
    problem: str | None = None,
    modules: tuple[str, ...] = (KERNEL,),
    references: tuple[RootReference, ...] | None = None,
    label: str = "bootfs",
) -> ImageFacts:
    def board(model: BoardModel) -> BoardFacts:
        return BoardFacts(
            model=model,
            os_prefix="",
            kernel="kernel8.img",
            page_bytes=page_bytes,
            initramfs="initramfs8",
            device_tree=model.dtb_names[0],
            cmdline="cmdline.txt",
            problem=problem,
        )

    entries = [
        TableEntry(number=n, start_lba=n * 100, sectors=100, type="0x0c", partuuid=f"{SIGNATURE}-{n:02}")
        for n in (1, 2)
    ]
    good = (
        RootReference(place="cmdline.txt", mount="/", names=f"PARTUUID={SIGNATURE}-02", partition=2),
        RootReference(
            place="/etc/fstab", mount="/boot/firmware", names=f"PARTUUID={SIGNATURE}-01", partition=1
        ),
        RootReference(place="/etc/fstab", mount="/", names=f"PARTUUID={SIGNATURE}-02", partition=2),
    )
    return ImageFacts(
        size_bytes=2**20,
        table=PartitionTable(kind=TableKind.MBR, disk_id=SIGNATURE, partitions=tuple(entries)),
        boot=FatFacts(
            partition=1,
            offset=51200,
            size_bytes=51200,
            label=label,
            serial=1,
            cluster_bytes=512,
            free_bytes=0,
            faults=(),
        ),
        root=Ext4Facts(
            partition=2,
            offset=102400,
            size_bytes=51200,
            label="rootfs",
            uuid="0",
            block_bytes=4096,
            free_bytes=0,
            features=(),
        ),
        system=SystemFacts(
            distribution="debian", release="trixie", version="13", title="Debian", architecture="arm64"
        ),
        dialect=dialect,
        os_prefix="",
        tryboot_prefix=None,
        boards=tuple(board(model) for model in BoardModel),
        kernels=(KernelFacts(path="kernel8.img", version=KERNEL, page_bytes=page_bytes, size_bytes=1),),
        module_versions=modules,
        cmdlines=("cmdline.txt",),
        references=good if references is None else references,
        seed_files=tuple(sorted(seeds)),
        python="/usr/bin/python3",
    )


def make_evidence(
    *,
    boot: Files | None = None,
    root: Files | None = None,
    facts: ImageFacts | None = None,
    bootargs: str = "",
    models: tuple[BoardModel, ...] = (BoardModel.PI4,),
    expected: Expected | None = None,
    dialect: Dialect = Dialect.RASPIOS_TRIXIE,
) -> Evidence:
    """An image on which nothing is wrong, but for what is given: files replace and add to the good ones."""
    files: dict[str, bytes | str] = {"/cmdline.txt": CMDLINE, **(SEED if dialect.has_cloud_init else {})}
    files.update(boot or {})
    system: dict[str, bytes | str] = {"/etc/cloud/cloud.cfg": CLOUD_CFG} if dialect.has_cloud_init else {}
    system.update(root or {})
    present = [path[1:] for path in files if path != "/cmdline.txt" and path.count("/") == 1]
    return Evidence(
        facts=facts or make_facts(dialect, seeds=present),
        boot=fake_tree(files),
        root=fake_tree(system),
        bootargs={model.dtb_names[0]: bootargs for model in BoardModel},
        models=models,
        expected=expected,
    )


def faults(evidence: Evidence) -> list[Finding]:
    """Errors and warnings."""
    return [finding for finding in check_image(evidence) if finding.severity.value != "note"]


def rules(evidence: Evidence) -> set[str]:
    """Which rules found an error or a warning."""
    return {finding.rule for finding in faults(evidence)}


def make_device_tree(bootargs: str | None) -> bytes:
    """A flattened device tree with /chosen, and a node before it that has a property of the same name."""
    strings = b"bootargs\0model\0"

    def node(name: bytes, body: bytes) -> bytes:
        padded = name + b"\0" * (4 - len(name) % 4)
        return struct.pack(">I", 1) + padded + body + struct.pack(">I", 2)

    def prop(at: int, value: bytes) -> bytes:
        return struct.pack(">III", 3, len(value), at) + value + b"\0" * (-len(value) % 4)

    chosen = b"" if bootargs is None else prop(0, bootargs.encode() + b"\0")
    body = (
        prop(9, b"Pi\0")
        + node(b"other", prop(0, b"wrong\0"))
        + struct.pack(">I", 4)
        + node(b"chosen", chosen)
    )
    structure = node(b"", body) + struct.pack(">I", 9)
    total = 40 + len(structure) + len(strings)
    header = struct.pack(">10I", 0xD00DFEED, total, 40, 40 + len(structure), 40, 17, 16, 0, len(strings), 0)
    return header + structure + strings
