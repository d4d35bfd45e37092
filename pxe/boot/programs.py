"""Which file a firmware is told to begin with, and under which name it finds it.

`pxe.boot.decision.decide` says whether a board may install; this module says in which form its firmware can
be told. A Raspberry Pi's bootloader knows its file names by itself and is told none. Every other name stands
in the directory of the board's MAC address, so that it names the board on TFTP and HTTP alike, whatever
address the client has by then.

    UEFI, PXE or HTTP   one EFI program: kernel, initramfs and command line in one file
    iPXE                a script that names kernel, initramfs and command line
    U-Boot              `pxe get` reads pxelinux.cfg/… beside the file that DHCP names

Pure: no I/O, no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from fleet.boards import MacAddress
from pxe.boot.decision import BootAnswer, Install
from pxe.boot.identity import BoardIdentity, Firmware
from pxe.boot.table import NodeBootState

EFI_PROGRAM: Final = "bramble.efi"
IPXE_SCRIPT: Final = "boot.ipxe"
U_BOOT_MARK: Final = "u-boot.txt"
"""The file that DHCP names to U-Boot. Only its directory matters: `pxe get` looks for pxelinux.cfg/ there."""
U_BOOT_CONFIGS: Final = "pxelinux.cfg/"
U_BOOT_CONFIG: Final = f"{U_BOOT_CONFIGS}default-arm"
"""The configuration that U-Boot asks for after those of its MAC and IP address."""
U_BOOT_SCRIPT: Final = "boot.scr.uimg"
"""The file that U-Boot's default boot commands ask for by themselves, whatever DHCP names."""
HTTP_PREFIX: Final = "/boot/"

_FIRST_FILES: Final = {
    Firmware.UEFI_PXE: EFI_PROGRAM,
    Firmware.UEFI_HTTP: EFI_PROGRAM,
    Firmware.IPXE: IPXE_SCRIPT,
    Firmware.U_BOOT: U_BOOT_MARK,
}


@dataclass(frozen=True, slots=True)
class Program:
    """The file that a firmware is to begin with.

    Args:
        mac: the board.
        name: below its directory.
    """

    mac: MacAddress
    name: str

    @property
    def tftp_name(self) -> str:
        """The name in a TFTP request."""
        return f"{self.mac.dashed}/{self.name}"

    def url(self, server: IPv4Address, port: int) -> str:
        """Where the content server has it."""
        return f"http://{server}:{port}{HTTP_PREFIX}{self.mac.dashed}/{self.name}"


def find_program(board: BoardIdentity, node: NodeBootState | None, answer: BootAnswer) -> Program | None:
    """The file for a board's firmware; None where it is to go on without one, or its node has none."""
    name = _FIRST_FILES.get(board.firmware)
    if name is None or node is None or board.mac is None or not isinstance(answer, Install):
        return None
    if name not in node.tree.rendered and name not in node.tree.extra:
        return None
    return Program(board.mac, name)


def missing_program(board: BoardIdentity, node: NodeBootState | None, answer: BootAnswer) -> str | None:
    """The file that a board's firmware would begin its install with, where its node does not have it."""
    if not board.firmware.takes_programs or not isinstance(answer, Install):
        return None
    return _FIRST_FILES[board.firmware] if find_program(board, node, answer) is None else None


def explain_answer(board: BoardIdentity, node: NodeBootState | None, answer: BootAnswer) -> str:
    """The decision in words for the timeline, with what keeps a firmware from following it."""
    if board.firmware in (Firmware.NONE, Firmware.FOREIGN):
        return ""
    said = answer.describe()
    if board.firmware.takes_programs and isinstance(answer, Install):
        missing = missing_program(board, node, answer)
        if missing is not None:
            return f"{said}, but there is no {missing} for {board.firmware.value}"
        return f"{said} as {_FIRST_FILES[board.firmware]}"
    return said
