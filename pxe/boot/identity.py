"""Who is this board? Answered from what its bootloader says about itself, best source first.

1. DHCP option 97: the bootloaders of Pi 4 and later write model, revision, MAC and serial into it.
2. The directory in the names that it asks for over TFTP: the low half of the serial, or the MAC address.
3. The MAC address of the DHCP request, or of the lease behind an IP address.

Pure: no I/O, no clock.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum
from typing import Final

from fleet.boards import BoardError, MacAddress, Revision, Serial, Soc, decode_revision
from pxe.dhcp.wire import DhcpMessage, Option

# Option 97, 17 bytes: 0 type (0 = GUID) · 1–4 fourcc · 5–8 revision code LE · 9–12 last four octets of the
# MAC address · 13–16 low half of the serial LE. Source: Raspberry Pi EEPROM release note of 2020-03-11.
GUID: Final = struct.Struct("<B4sI4sI")
GUID_TYPE: Final = 0
ROM_GUID: Final = b"\x44" * 16  # constant of the Pi 3 boot ROM; it names no board
PXE_CLASS: Final = b"PXEClient"
HTTP_CLASS: Final = b"HTTPClient"
U_BOOT_CLASS: Final = b"U-Boot"
IPXE_USER_CLASS: Final = b"iPXE"
LEGACY_STYLE: Final = "serial ×4"

# "PXEClient:Arch:00011:UNDI:003000": the type that some firmwares write here and not into option 93.
_CLASS_ARCH: Final = re.compile(rb"(?:PXE|HTTP)Client:Arch:(\d{5})")
_SERIAL_DIRECTORY: Final = re.compile(r"[0-9a-fA-F]{8}(?:[0-9a-fA-F]{8})?")
_MAC_DIRECTORY: Final = re.compile(r"[0-9a-fA-F]{2}(?:-[0-9a-fA-F]{2}){5}")


class Firmware(StrEnum):
    """What speaks to the server, by what it can boot: it decides the form of the answer, never the answer."""

    NONE = "an operating system"
    PI = "a Raspberry Pi's bootloader"
    UEFI_PXE = "UEFI, PXE"
    UEFI_HTTP = "UEFI, HTTP boot"
    IPXE = "iPXE"
    U_BOOT = "U-Boot"
    FOREIGN = "a PXE client that is no arm64 machine"

    @property
    def takes_programs(self) -> bool:
        """Whether it is an arm64 boot program other than the Pi's, which is told one file to begin with."""
        return self in (Firmware.UEFI_PXE, Firmware.UEFI_HTTP, Firmware.IPXE, Firmware.U_BOOT)


class Arch(IntEnum):
    """Processor architecture types of option 93 that matter here. Source: IANA, "Processor Architecture
    Types"; RFC 4578 §2.1."""

    X86_BIOS = 0  # and every Raspberry Pi, the Pi 5 included
    ARM64_UEFI = 11
    ARM64_UEFI_HTTP = 19
    ARM64_U_BOOT = 22
    RASPBERRY_PI = 41


class IdentifiedBy(StrEnum):
    """Where an identity comes from, as a person reads it."""

    OPTION_97 = "option 97"
    OPTION_97_LEGACY = "option 97, old style"
    SERIAL_DIRECTORY = "serial in the file name"
    MAC_DIRECTORY = "MAC address in the file name"
    MAC = "MAC address"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardIdentity:
    """What is known about one board.

    Args:
        mac: address of the interface that it boots from.
        serial_low: low 32 bits of the serial; None where unknown.
        revision: the decoded revision code.
        family: the chip, where option 97 names it.
        eeprom_style: the fourcc of option 97 as it stood on the wire ("RPi4", "5iPR"), `LEGACY_STYLE`, or "".
        is_pi: a Raspberry Pi's bootloader speaks.
        firmware: what speaks; other clients than boot firmware get a plain lease.
        how: the source of the identity.
    """

    mac: MacAddress | None = None
    serial_low: int | None = None
    revision: Revision | None = None
    family: Soc | None = None
    eeprom_style: str = ""
    is_pi: bool = False
    firmware: Firmware = Firmware.NONE
    how: IdentifiedBy = IdentifiedBy.NOTHING

    @property
    def serial_prefix(self) -> str | None:
        """Eight lower-case digits: the directory that this board asks for over TFTP."""
        return None if self.serial_low is None else f"{self.serial_low:08x}"

    @property
    def key(self) -> str:
        """One text that stands for the board in a timeline or a log: its serial, else its MAC address."""
        return self.serial_prefix or (str(self.mac) if self.mac else "unknown")

    def describe(self) -> str:
        """The board in words: ``Raspberry Pi 5 Model B 8 GB, serial …9ae1, EEPROM style 5iPR``."""
        words = [self._title()]
        if self.serial_prefix is not None:
            words.append(f"serial …{self.serial_prefix}")
        elif self.mac is not None:
            words.append(f"MAC {self.mac}")
        if self.eeprom_style:
            words.append(f"EEPROM style {self.eeprom_style}")
        return ", ".join(words)

    def _title(self) -> str:
        if self.revision is not None and self.revision.model is not None:
            memory_mib = self.revision.memory_mib
            size = "" if memory_mib is None else f" {memory_mib // 1024 or memory_mib} "
            unit = "" if memory_mib is None else "GB" if memory_mib >= 1024 else "MB"
            return f"{self.revision.model.title}{size}{unit}"
        if self.family is not None:
            return f"a Raspberry Pi with {self.family.name}"
        if self.firmware.takes_programs:
            return f"a machine with {self.firmware.value}"
        return "a Raspberry Pi" if self.is_pi else "a computer"


def identify_client(message: DhcpMessage) -> BoardIdentity | None:
    """The board that sent a DHCP message; None where its hardware address can not be one."""
    try:
        mac = MacAddress(message.chaddr)
    except BoardError:
        return None
    firmware = identify_firmware(message, mac)
    by_mac = BoardIdentity(mac=mac, how=IdentifiedBy.MAC, is_pi=firmware is Firmware.PI, firmware=firmware)
    guid = message.option(Option.CLIENT_GUID)
    if guid is None or len(guid) != GUID.size or guid[0] != GUID_TYPE or guid[1:] == ROM_GUID:
        return by_mac
    if guid[1:5] * 4 == guid[1:]:
        return _identify_legacy(by_mac, guid)
    return _identify_guid(by_mac, mac, guid) or by_mac


def identify_firmware(message: DhcpMessage, mac: MacAddress) -> Firmware:
    """What speaks, by options 60, 77 and 93. A Pi's own bootloader is told from a PC by its MAC address here:
    both say architecture 0. Its option 97, which is better evidence, is `identify_client`'s business.
    """
    vendor = message.vendor_class
    if not vendor:
        return Firmware.NONE
    arches = _arches(message)
    if vendor.startswith(U_BOOT_CLASS):
        return Firmware.U_BOOT
    if vendor.startswith(HTTP_CLASS):
        return Firmware.UEFI_HTTP if Arch.ARM64_UEFI_HTTP in arches else Firmware.FOREIGN
    if not vendor.startswith(PXE_CLASS):
        return Firmware.NONE
    if Arch.ARM64_U_BOOT in arches:
        return Firmware.U_BOOT
    if Arch.ARM64_UEFI in arches:
        user = message.option(Option.USER_CLASS) or b""
        return Firmware.IPXE if IPXE_USER_CLASS in user else Firmware.UEFI_PXE
    if not arches or arches[0] in (Arch.X86_BIOS, Arch.RASPBERRY_PI):
        return Firmware.PI if mac.is_raspberry_pi else Firmware.FOREIGN
    return Firmware.FOREIGN


def _arches(message: DhcpMessage) -> tuple[int, ...]:
    """The architecture types that a client names: those of option 60, where option 93 is missing or says 0
    as that of a Pi's UEFI may, else those of option 93."""
    value = message.option(Option.CLIENT_ARCH) or b""
    listed = tuple(
        int.from_bytes(value[at : at + 2], "big") for at in range(0, len(value) - len(value) % 2, 2)
    )
    if any(listed):
        return listed
    found = _CLASS_ARCH.match(message.vendor_class)
    return (int(found.group(1)),) if found else listed


def _identify_legacy(by_mac: BoardIdentity, guid: bytes) -> BoardIdentity:
    """DHCP_OPTION97=0 and EEPROMs before 2020-03: the serial four times. Any GUID could look like it."""
    serial_low = int.from_bytes(guid[1:5], "little")
    if not serial_low or not by_mac.is_pi:
        return by_mac
    return replace(
        by_mac, serial_low=serial_low, eeprom_style=LEGACY_STYLE, how=IdentifiedBy.OPTION_97_LEGACY
    )


# With such a GUID it is the bootloader of a Pi, even where the MAC address is a user's own or option 60 is
# missing, as in the REQUEST of early EEPROMs. The second stage of a Pi (UEFI, U-Boot) stays what it is.
_PI_MAY_SAY: Final = (Firmware.PI, Firmware.FOREIGN, Firmware.NONE)


def _identify_guid(by_mac: BoardIdentity, mac: MacAddress, guid: bytes) -> BoardIdentity | None:
    """The GUID of a Pi 4 or later, or None where it is somebody else's.

    The MAC part must agree with the hardware address. EEPROMs before 2020-03-16 left it zero; with a fourcc
    of the user's own (DHCP_OPTION97) only an agreeing MAC part makes the GUID believable.
    """
    _kind, fourcc, code, mac_part, serial_low = GUID.unpack(guid)
    family = next((soc for soc in Soc if fourcc in soc.option97_prefixes), None)
    mac_agrees = mac_part == mac.octets[2:]
    if not mac_agrees and not (family is not None and not any(mac_part)):
        return None
    try:
        revision = decode_revision(code)
    except BoardError:
        revision = None
    if family is None and revision is None:
        return None
    return replace(
        by_mac,
        serial_low=serial_low or None,
        revision=revision,
        family=revision.soc if revision is not None and revision.soc is not None else family,
        # Four bytes of the user's own may be anything; the text goes into timelines.
        eeprom_style="".join(chr(byte) if 0x20 < byte < 0x7F else f"\\x{byte:02x}" for byte in fourcc),
        is_pi=by_mac.firmware in _PI_MAY_SAY,
        firmware=Firmware.PI if by_mac.firmware in _PI_MAY_SAY else by_mac.firmware,
        how=IdentifiedBy.OPTION_97,
    )


def identify_directory(name: str) -> BoardIdentity | None:
    """The board that a directory in a file name stands for, or None where it is an ordinary directory.

    Bootloaders write eight lower-case digits of the serial; all sixteen, capitals, and the dashed MAC address
    of TFTP_PREFIX=2 are understood as well.
    """
    if _SERIAL_DIRECTORY.fullmatch(name) and int(name, 16):
        low = Serial.parse(name).low
        return BoardIdentity(serial_low=low, is_pi=True, how=IdentifiedBy.SERIAL_DIRECTORY) if low else None
    if _MAC_DIRECTORY.fullmatch(name):
        try:
            return BoardIdentity(mac=MacAddress.parse(name), is_pi=True, how=IdentifiedBy.MAC_DIRECTORY)
        except BoardError:
            return None
    return None


def merge(said: BoardIdentity, known: BoardIdentity | None) -> BoardIdentity:
    """What a board says now, completed by what is known of the client behind its address.

    Knowledge about another serial is left out, except the MAC address: that one is the network's word, and
    `pxe.boot.decision.decide` compares it with the declared one.
    """
    if known is None:
        return said
    if said.serial_low is not None and known.serial_low not in (None, said.serial_low):
        return replace(said, mac=said.mac or known.mac)
    return replace(
        said,
        mac=said.mac or known.mac,
        serial_low=said.serial_low if said.serial_low is not None else known.serial_low,
        revision=said.revision or known.revision,
        family=said.family or known.family,
        eeprom_style=said.eeprom_style or known.eeprom_style,
        is_pi=said.is_pi or known.is_pi,
        firmware=known.firmware if said.firmware is Firmware.NONE else said.firmware,
    )
