"""The command ``bramble image inspect``: it parses, calls one function, and prints."""

from __future__ import annotations

import json
from pathlib import Path

import click

from imagebuilder.inspect import ImageFacts, inspect_image


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print all facts as JSON.")
def inspect(file: Path, as_json: bool) -> None:
    """Say what the raw disk image FILE is, from its content.

    Partitions, filesystems, installed system, how it takes its settings at first boot, and the kernel that
    each board would load. Exits with 1 where it is damaged or of an unknown
    kind, and says in which place.

    \b
    bramble image inspect raspios.img
    bramble image inspect raspios.img --json | jq .dialect
    """
    facts = inspect_image(file)
    if as_json:
        click.echo(json.dumps(facts.to_json(), indent=1))
        return
    for line in _lines(facts):
        click.echo(line)


def _lines(facts: ImageFacts) -> list[str]:
    system, boot, root = facts.system, facts.boot, facts.root
    lines = [
        f"system     {system.title} ({system.distribution} {system.release}, {system.architecture})",
        f"dialect    {facts.dialect.value}",
        f"disk       {facts.table.kind.value.upper()} {facts.table.disk_id}, {_mb(facts.size_bytes)}",
    ]
    for entry in facts.table.partitions:
        role = {boot.partition: "boot", root.partition: "root"}.get(entry.number, "")
        lines.append(
            f"  {entry.number}  {role:5} type {entry.type}, sector {entry.start_lba}, "
            f"{_mb(entry.size_bytes)}, PARTUUID {entry.partuuid}"
        )
    lines.append(
        f"boot       FAT32 {boot.label!r}, clusters of {boot.cluster_bytes} bytes, "
        f"{_mb(boot.free_bytes)} free"
    )
    lines.extend(f"           {fault}" for fault in boot.faults)
    lines.append(f"root       ext4 {root.label!r}, {_mb(root.size_bytes)}, {_mb(root.free_bytes)} free")
    lines.append(f"           {' '.join(root.features)}")
    if facts.os_prefix:
        tried = f", when trying {facts.tryboot_prefix}" if facts.tryboot_prefix else ""
        lines.append(f"os_prefix  {facts.os_prefix}{tried}")
    for kernel in facts.kernels:
        pages = f"{kernel.page_bytes // 1024} KiB pages" if kernel.page_bytes else "page size not told"
        lines.append(f"kernel     {kernel.path}: {kernel.version or 'version not told'}, {pages}")
    for board in facts.boards:
        loads = (
            f"{board.kernel}, {board.initramfs or 'no initramfs'}, {board.device_tree or 'no device tree'}"
        )
        lines.append(f"  {board.model.value:9}{board.problem or loads}")
    for reference in facts.references:
        target = "leads nowhere" if reference.partition is None else f"partition {reference.partition}"
        lines.append(f"mount      {reference.mount} by {reference.names} in {reference.place}: {target}")
    lines.append(f"seeds      {', '.join(facts.seed_files) or 'none'}")
    return lines


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.0f} MB"
