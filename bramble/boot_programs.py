"""What boots the installer on arm64 firmware that is not a Raspberry Pi's: UEFI, iPXE, U-Boot.

Names are those of `pxe.boot.programs`. All of it is rendered or linked for one node; the kernel and the
initramfs are the image's own files.
"""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final

from fleet.boards import MacAddress
from imagebuilder.build import Image
from imagebuilder.errors import ImageBuilderError
from imagebuilder.uki import CODE_READ_EXECUTE, MAXIMUM_STUB_BYTES, Payload, is_efi_program, link_uki
from pxe.boot.programs import (
    EFI_PROGRAM,
    IPXE_SCRIPT,
    U_BOOT_CONFIG,
    U_BOOT_CONFIGS,
    U_BOOT_MARK,
    U_BOOT_SCRIPT,
)
from pxe.boot.table import Source

log = logging.getLogger(__name__)

KERNEL: Final = "kernel8.img"
EFI_STUBS: Final = (Path("/usr/lib/systemd/boot/efi/linuxaa64.efi.stub"),)
"""Of the package systemd-boot-efi on an arm64 server, or unpacked there by hand."""
IPXE_PROGRAMS: Final = (Path("/usr/lib/ipxe/ipxe-arm64.efi"), Path("/boot/ipxe-arm64.efi"))
"""Of the package ipxe (Debian 13): takes the place of a program of our own where there is no stub."""
HEAD_BYTES: Final = 4096
U_BOOT_HEADER: Final = struct.Struct(">7I4B32s")
U_BOOT_MAGIC: Final = 0x27051956
U_BOOT_KIND: Final = (5, 22, 6, 0)
"""Linux, arm64, script, not compressed."""
U_BOOT_COMMANDS: Final = "setenv autoload no\ndhcp\npxe get\npxe boot\n"
CMDLINE_STEP_BYTES: Final = 512


@dataclass(frozen=True, slots=True)
class ProgramFiles:
    """Additions to a node's boot tree: rendered files, and files in pieces."""

    rendered: Mapping[str, bytes] = field(default_factory=dict)
    extra: Mapping[str, tuple[Source, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EfiSources:
    """What an EFI program can be made of on this machine.

    Args:
        stub: systemd's stub for arm64, or None.
        ipxe: iPXE as an EFI program for arm64, or None.
    """

    stub: Path | None = None
    ipxe: Path | None = None


def find_efi_sources() -> EfiSources:
    """What is installed here."""
    return EfiSources(
        stub=next((path for path in EFI_STUBS if path.is_file()), None),
        ipxe=next((path for path in IPXE_PROGRAMS if path.is_file()), None),
    )


def make_programs(
    image: Image, initramfs_name: str, cmdline: str, sources: EfiSources, mac: MacAddress | None = None
) -> ProgramFiles:
    """The files that boot the installer of one node.

    Args:
        image: whose kernel and installer initramfs they are.
        initramfs_name: the installer's initramfs in the boot tree.
        cmdline: words for the kernel, without consoles: firmware says which there are.
        sources: what an EFI program can be made of.
        mac: the node's, where known: U-Boot asks by it first, and is spared nine questions.
    """
    rendered = {
        U_BOOT_MARK: b"Bramble. 'pxe get' reads pxelinux.cfg/ beside this file.\n",
        U_BOOT_CONFIG: render_u_boot(initramfs_name, cmdline).encode(),
        U_BOOT_SCRIPT: encode_u_boot_script(U_BOOT_COMMANDS),
        IPXE_SCRIPT: render_ipxe(initramfs_name, cmdline).encode(),
    }
    if mac is not None:
        rendered[f"{U_BOOT_CONFIGS}01-{mac.dashed}"] = rendered[U_BOOT_CONFIG]
    program = _efi_program(image, cmdline, sources)
    return ProgramFiles(rendered, {EFI_PROGRAM: program} if program else {})


def render_u_boot(initramfs_name: str, cmdline: str) -> str:
    """A configuration for `pxe boot`; names are looked up beside the file that DHCP named."""
    lines = ["default bramble", "prompt 0", "label bramble", f"  kernel {KERNEL}"]
    return "\n".join([*lines, f"  initrd {initramfs_name}", f"  append {cmdline}"]) + "\n"


def encode_u_boot_script(commands: str) -> bytes:
    """Commands as U-Boot's `source` takes them: a legacy image of one script.

    Layout, big endian: 0 magic · 4 checksum of the header · 8 time · 12 size · 16 load address · 20 entry
    point · 24 checksum of the contents · 28 system · 29 processor · 30 kind · 31 compression · 32–63 name;
    then the contents: the size of each script, a zero, the scripts. Source: U-Boot, include/image.h.
    """
    text = commands.encode("ascii")
    contents = struct.pack(">II", len(text), 0) + text
    fields = [U_BOOT_MAGIC, 0, 0, len(contents), 0, 0, zlib.crc32(contents), *U_BOOT_KIND, b"bramble"]
    fields[1] = zlib.crc32(U_BOOT_HEADER.pack(*fields))
    return U_BOOT_HEADER.pack(*fields) + contents


def render_ipxe(initramfs_name: str, cmdline: str) -> str:
    """A script; names are looked up beside it. A download that fails is tried again: power comes back to
    servers and boards alike at the same moment."""
    lines = [
        "#!ipxe",
        ":again",
        f"kernel {KERNEL} initrd=installer {cmdline} || goto later",
        f"initrd --name installer {initramfs_name} || goto later",
        "boot || goto later",
        ":later",
        "imgfree",
        "sleep 5",
        "goto again",
    ]
    return "\n".join(lines) + "\n"


def _efi_program(image: Image, cmdline: str, sources: EfiSources) -> tuple[Source, ...]:
    """One EFI program, in pieces; empty where there is nothing to make it of."""
    kernel, initramfs = image.boot_tree / KERNEL, image.installer_initramfs
    stub = _load_stub(sources.stub)
    if stub is not None and _is_program(kernel):
        words = cmdline.encode()
        # Of one size for all nodes: then the headers are too, and the snapshots share them.
        words = words.ljust(-(-len(words) // CMDLINE_STEP_BYTES) * CMDLINE_STEP_BYTES)
        payloads = (
            Payload(name=".cmdline", size_bytes=len(words), contents=words),
            Payload(name=".initrd", size_bytes=initramfs.stat().st_size, contents=initramfs),
            Payload(
                name=".linux",
                size_bytes=kernel.stat().st_size,
                contents=kernel,
                flags=CODE_READ_EXECUTE,
            ),
        )
        try:
            head, *rest = link_uki(stub, payloads)
            return (_shared(head), *rest)
        except ImageBuilderError as exc:
            log.warning("no EFI program can be made", extra={"reason": exc.message})
    return (sources.ipxe,) if sources.ipxe is not None else ()


@lru_cache(maxsize=16)
def _shared(piece: Source) -> Source:
    """One object for equal values: a boot table goes to other processes with each object once."""
    return piece


@lru_cache(maxsize=4)
def _load_stub(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            return file.read(MAXIMUM_STUB_BYTES + 1)
    except OSError as exc:
        log.warning("EFI stub not read", extra={"path": str(path), "error": exc.strerror})
        return None


def _is_program(kernel: Path) -> bool:
    """Whether a kernel starts under UEFI: a compressed one, as some distributions install it, does not."""
    with kernel.open("rb") as file:
        return is_efi_program(file.read(HEAD_BYTES))
