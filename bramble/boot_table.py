"""Between the fleet and the boot server: states in, snapshot out; events in, reports out.

The two rooms do not know each other; this is the only place where their values meet.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import PurePosixPath
from typing import Any, Final

from bramble.boot_programs import find_efi_sources, make_programs
from fleet.boards import Serial
from fleet.boots import BootReport, BootStage, NodeBoot
from fleet.printable import printable
from fleet.timeline import Kind
from imagebuilder.build import Image
from pxe.boot.programs import EFI_PROGRAM
from pxe.boot.table import BootTable, BootTree, NodeBootState
from pxe.diagnosis.finding import Diagnosis, Finding
from pxe.events import BoardEvent, BootFile, ConsoleLine, TransferDone

INSTALLER_INITRAMFS: Final = "installer.img"
LAST_FILES: Final = frozenset((INSTALLER_INITRAMFS, EFI_PROGRAM, "boot.img"))
CONSOLES: Final = "console=serial0,115200 console=tty1"
PANIC_REBOOT_S: Final = 30
"""A kernel that panics in the installer starts the board again, and with it the same intent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlAddress:
    """How the installer finds the control server, and the SHA-256 of the certificate that proves it."""

    address: IPv4Address
    port: int
    pin: str

    @property
    def url(self) -> str:
        return f"https://{self.address}:{self.port}"


def make_boot_table(states: Iterable[NodeBoot], image: Image, control: ControlAddress) -> BootTable:
    """What every node may boot now, with the files that it gets."""
    nodes = []
    efi = find_efi_sources()
    config = (image.boot_tree / "config.txt").read_text("utf-8")
    for state in states:
        tree = BootTree()
        if state.install_intent is not None:
            words = render_words(state.name, state.install_intent, control)
            programs = make_programs(image, INSTALLER_INITRAMFS, words, efi, state.mac)
            tree = BootTree(
                root=image.boot_tree,
                rendered={
                    **programs.rendered,
                    "config.txt": render_config(state.name, config).encode(),
                    "cmdline.txt": render_cmdline(state.name, state.install_intent, control).encode(),
                },
                extra={INSTALLER_INITRAMFS: image.installer_initramfs, **programs.extra},
            )
        nodes.append(
            NodeBootState(
                name=state.name,
                mac=state.mac,
                serial=state.serial,
                address=state.address,
                install_intent=state.install_intent,
                intent_expires=state.expires,
                reason=state.reason,
                hold=state.hold,
                tree=tree,
            )
        )
    files = {f"{image.id}/{path.name}": path for path in (image.compressed, image.index)}
    return BootTable(nodes=tuple(nodes), images=files)


def render_config(node: str, image_config: str) -> str:
    """The installer's config.txt: the image's own, with the installer's initramfs instead of the system's."""
    kept = [line for line in image_config.splitlines() if not re.match(r"(auto_)?initramfs\b", line.strip())]
    ours = [
        f"# Bramble: the installer of node {node}",
        "[all]",
        f"initramfs {INSTALLER_INITRAMFS} followkernel",
    ]
    return "\n".join([*kept, "", *ours]) + "\n"


def render_cmdline(node: str, intent: int, control: ControlAddress) -> str:
    """The installer's kernel command line on a Raspberry Pi: one line, nothing secret."""
    return f"{CONSOLES} {render_words(node, intent, control)}\n"


def render_words(node: str, intent: int, control: ControlAddress) -> str:
    """What the installer has to be told, whatever firmware starts its kernel."""
    words = [
        f"panic={PANIC_REBOOT_S}",
        f"bramble.control={control.url}",
        f"bramble.pin={control.pin}",
        f"bramble.intent={intent}",
        f"bramble.node={node}",
    ]
    return " ".join(words)


def to_report(event: BoardEvent) -> BootReport:
    """A boot server's event as the fleet records it."""
    board = event.board
    stage, kind, hint, detail = BootStage.NOTE, Kind.BOOT, "", dict[str, Any]()
    if isinstance(event, Diagnosis):
        kind, hint, detail = Kind.DIAGNOSIS, event.hint, finding_json(event.finding)
    elif isinstance(event, ConsoleLine):
        kind = Kind.CONSOLE
    elif isinstance(event, BootFile | TransferDone) and PurePosixPath(event.name).name in LAST_FILES:
        # The last large file of the firmware's list: whoever has it starts the installer next.
        stage = BootStage.KERNEL
    elif board.is_pi or board.serial_low is not None or board.firmware.takes_programs:
        stage = BootStage.SEEN
    return BootReport(
        stage=stage,
        at=event.at,
        serial=Serial.parse(board.serial_prefix) if board.serial_prefix is not None else None,
        mac=board.mac,
        revision=board.revision,
        model=board.describe(),
        text=event.describe() if event.for_timeline else "",
        hint=hint,
        kind=kind,
        detail=detail,
    )


def finding_json(finding: Finding) -> dict[str, Any]:
    """A finding as JSON values; the evidence with its times."""
    return {
        "rule": finding.rule,
        "severity": finding.severity.value,
        "cause": finding.cause,
        "mend": finding.mend,
        "evidence": [{"at": evidence.at, "text": printable(evidence.text)} for evidence in finding.evidence],
    }
