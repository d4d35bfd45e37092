"""What a reply tells a boot firmware: which server, which file, and in which of several dialects.

A Raspberry Pi is told in three ways that this is its boot server (options 43 and 66, and siaddr), because
EEPROM versions differ in which one they read; a file name it ignores. Other arm64 firmware gets the file's
name when its node may install, and otherwise nothing at all: it then goes on to its next boot device.

Sources: Raspberry Pi documentation, "Network booting"; RFC 2132 §9.4, §9.5; UEFI specification 2.10 §24.7
(HTTP boot: option 60 comes back as HTTPClient, option 67 holds the URI); iPXE documentation, "DHCP options".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pxe.boot.identity import HTTP_CLASS, PXE_CLASS, BoardIdentity, Firmware
from pxe.boot.programs import Program
from pxe.dhcp.replies import DhcpSettings, echoed_guid
from pxe.dhcp.vendor import NAMED_FILE_OPTION_43, PI_BOOT_OPTION_43
from pxe.dhcp.wire import FILE_SIZE, DhcpMessage, Option

Options = tuple[tuple[int, bytes], ...]

IPXE_NO_PROXY: Final = bytes((176, 1, 1))
"""Sub-option 176: do not wait for the offer of a boot server beside this one."""


@dataclass(frozen=True, slots=True)
class BootWords:
    """The part of a reply that is for a boot firmware.

    Args:
        options: in the order of the wire.
        names_server: `siaddr` names this server.
        file: the field of that name.
    """

    options: Options = ()
    names_server: bool = False
    file: bytes = b""


NOTHING: Final = BootWords()


def boot_words(
    request: DhcpMessage, board: BoardIdentity, program: Program | None, settings: DhcpSettings
) -> BootWords:
    """What a reply says about booting.

    Args:
        request: whose option 97 is echoed.
        board: who asks.
        program: the file to begin with; None where there is none for it.
        settings: where this server is.
    """
    if board.firmware is Firmware.PI:
        options: Options = (
            (Option.VENDOR_CLASS, PXE_CLASS),
            *echoed_guid(request),
            (Option.VENDOR_SPECIFIC, PI_BOOT_OPTION_43),
            (Option.TFTP_SERVER, str(settings.server).encode()),
        )
        return BootWords(options, names_server=True)
    if program is None:
        return NOTHING
    url = program.url(settings.server, settings.http_port).encode("ascii")
    if board.firmware is Firmware.UEFI_HTTP:
        return BootWords(((Option.VENDOR_CLASS, HTTP_CLASS), *echoed_guid(request), (Option.BOOT_FILE, url)))
    if board.firmware is Firmware.IPXE:
        options = ((Option.VENDOR_CLASS, PXE_CLASS), *echoed_guid(request), (Option.IPXE, IPXE_NO_PROXY))
        return BootWords((*options, (Option.BOOT_FILE, url)), names_server=True)
    name = program.tftp_name.encode("ascii")
    options = (
        (Option.TFTP_SERVER, str(settings.server).encode()),
        (Option.BOOT_FILE, name),
    )
    if board.firmware is Firmware.UEFI_PXE:
        options = (
            (Option.VENDOR_CLASS, PXE_CLASS),
            *echoed_guid(request),
            (Option.VENDOR_SPECIFIC, NAMED_FILE_OPTION_43),
            *options,
        )
    return BootWords(options, names_server=True, file=name if len(name) < FILE_SIZE else b"")
