"""The boards that Bramble knows, and the three values that identify one: revision code, MAC address, serial.

Pure data and arithmetic: no I/O, no clock. Every other room asks this catalogue instead of comparing names.

Sources: Raspberry Pi documentation, "Raspberry Pi boot EEPROM" (boot modes, BOOT_ORDER) and "New-style
revision codes" (read 2026-11); device tree names of the Raspberry Pi kernel tree (rpi-6.12.y).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum, StrEnum
from typing import Final, Self

from fleet.errors import InputError


class BoardError(InputError, ValueError):
    """A text or number that names no board, MAC address or serial."""


class DiskKind(StrEnum):
    """Where a node's root filesystem can be. On a Compute Module with eMMC, `sd` is that eMMC."""

    NVME = "nvme"
    SD = "sd"
    USB = "usb"

    @property
    def label(self) -> str:
        """The disk's name in a sentence."""
        return {"nvme": "NVMe", "sd": "SD card or eMMC", "usb": "USB disk"}[self.value]


class BootMode(IntEnum):
    """One nibble of BOOT_ORDER, which the bootloader reads from the least significant end."""

    SD = 0x1
    NETWORK = 0x2
    RPIBOOT = 0x3
    USB_MSD = 0x4
    BCM_USB_MSD = 0x5
    NVME = 0x6
    HTTP = 0x7
    STOP = 0xE
    RESTART = 0xF


class Soc(Enum):
    """The system on chip: it decides the firmware's family, the kernel and the fourcc in DHCP option 97."""

    BCM2711 = 3
    BCM2712 = 4

    @property
    def option97_fourcc(self) -> bytes:
        """The four bytes that open the GUID of DHCP option 97, in the spelling of old EEPROMs.

        A BCM2712 board with an EEPROM from before 2023-10-30 sends the fourcc of the BCM2711.
        """
        return b"RPi4" if self is Soc.BCM2711 else b"RPi5"

    @property
    def option97_prefixes(self) -> tuple[bytes, bytes]:
        """Both byte orders in which EEPROMs send the fourcc (the newer ones reverse it)."""
        return self.option97_fourcc, self.option97_fourcc[::-1]

    @property
    def default_kernel(self) -> str:
        """Kernel file that the firmware takes when config.txt names none."""
        return "kernel8.img" if self is Soc.BCM2711 else "kernel_2712.img"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    title: str
    compatible: str
    soc: Soc
    type_code: int
    dtb_names: tuple[str, ...]
    disks: tuple[DiskKind, ...]
    boot_modes: tuple[BootMode, ...]
    revision_codes: tuple[int, ...]


class BoardModel(Enum):
    """A model of board; the value is its name in cluster.yaml."""

    PI4 = "pi4"
    PI400 = "pi400"
    CM4 = "cm4"
    PI5 = "pi5"
    PI500 = "pi500"
    CM5 = "cm5"
    CM5_LITE = "cm5-lite"

    @property
    def yaml_name(self) -> str:
        return self.value

    @property
    def title(self) -> str:
        """The model as its device tree says it, without the "Rev …" at the end."""
        return _CATALOGUE[self].title

    @property
    def compatible(self) -> str:
        """First string of the device tree's `compatible`."""
        return _CATALOGUE[self].compatible

    @property
    def soc(self) -> Soc:
        return _CATALOGUE[self].soc

    @property
    def type_code(self) -> int:
        """The eight type bits of a new-style revision code."""
        return _CATALOGUE[self].type_code

    @property
    def dtb_names(self) -> tuple[str, ...]:
        """Device tree files that a boot tree needs for this model: one per stepping or carrier board."""
        return _CATALOGUE[self].dtb_names

    @property
    def disks(self) -> tuple[DiskKind, ...]:
        """Disks that this model can have and boot from, the preferred one first."""
        return _CATALOGUE[self].disks

    @property
    def boot_modes(self) -> tuple[BootMode, ...]:
        return _CATALOGUE[self].boot_modes

    @property
    def option97_prefixes(self) -> tuple[bytes, bytes]:
        return self.soc.option97_prefixes

    @property
    def revision_codes(self) -> tuple[int, ...]:
        """Revision codes in use, oldest board revision and smallest memory first."""
        return _CATALOGUE[self].revision_codes

    @property
    def memory_choices_mib(self) -> tuple[int, ...]:
        """Memory sizes in MiB that this model was made with, ascending."""
        return tuple(sorted({_memory_mib(code) or 0 for code in self.revision_codes}))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the name that cluster.yaml uses, tolerant of case, spaces and underscores.

        Raises:
            BoardError: No such model.
        """
        wanted = re.sub(r"[\s_-]+", "", text.casefold())
        for model in cls:
            if model.value.replace("-", "") == wanted:
                return model
        names = ", ".join(model.value for model in cls)
        raise BoardError(f"{text!r} is not a board that Bramble knows", f"Write one of: {names}.")


_BCM2712_BOOT = (
    BootMode.SD,
    BootMode.NETWORK,
    BootMode.RPIBOOT,
    BootMode.USB_MSD,
    BootMode.NVME,
    BootMode.HTTP,
)
_BCM2711_BOOT = (
    BootMode.SD,
    BootMode.NETWORK,
    BootMode.RPIBOOT,
    BootMode.USB_MSD,
    BootMode.BCM_USB_MSD,
    BootMode.HTTP,
)

_CATALOGUE: Final[Mapping[BoardModel, _Facts]] = {
    BoardModel.PI4: _Facts(
        title="Raspberry Pi 4 Model B",
        compatible="raspberrypi,4-model-b",
        soc=Soc.BCM2711,
        type_code=0x11,
        dtb_names=("bcm2711-rpi-4-b.dtb",),
        disks=(DiskKind.SD, DiskKind.USB),
        boot_modes=_BCM2711_BOOT,
        revision_codes=(
            *(0xA03111, 0xB03111, 0xC03111, 0xB03112, 0xC03112, 0xB03114, 0xC03114, 0xD03114),
            *(0xB03115, 0xC03115, 0xD03115),
        ),
    ),
    BoardModel.PI400: _Facts(
        title="Raspberry Pi 400",
        compatible="raspberrypi,400",
        soc=Soc.BCM2711,
        type_code=0x13,
        dtb_names=("bcm2711-rpi-400.dtb",),
        disks=(DiskKind.SD, DiskKind.USB),
        boot_modes=_BCM2711_BOOT,
        revision_codes=(0xC03130,),
    ),
    BoardModel.CM4: _Facts(
        title="Raspberry Pi Compute Module 4",
        compatible="raspberrypi,4-compute-module",
        soc=Soc.BCM2711,
        type_code=0x14,
        dtb_names=("bcm2711-rpi-cm4.dtb", "bcm2711-rpi-cm4-io.dtb"),
        disks=(DiskKind.NVME, DiskKind.SD, DiskKind.USB),
        boot_modes=(*_BCM2711_BOOT[:-1], BootMode.NVME, BootMode.HTTP),
        revision_codes=(0xA03140, 0xB03140, 0xC03140, 0xD03140, 0xA03141, 0xB03141, 0xC03141, 0xD03141),
    ),
    BoardModel.PI5: _Facts(
        title="Raspberry Pi 5 Model B",
        compatible="raspberrypi,5-model-b",
        soc=Soc.BCM2712,
        type_code=0x17,
        # Stepping C1, and D0 of the later and the 2 GB boards.
        dtb_names=("bcm2712-rpi-5-b.dtb", "bcm2712d0-rpi-5-b.dtb"),
        disks=(DiskKind.NVME, DiskKind.SD, DiskKind.USB),
        boot_modes=_BCM2712_BOOT,
        revision_codes=(0xB04170, 0xC04170, 0xD04170, 0xA04171, 0xB04171, 0xC04171, 0xD04171, 0xE04171),
    ),
    BoardModel.PI500: _Facts(
        title="Raspberry Pi 500",
        compatible="raspberrypi,500",
        soc=Soc.BCM2712,
        type_code=0x19,
        dtb_names=("bcm2712-rpi-500.dtb",),
        # Only the 500+ (e04190) carries an NVMe slot. Both share one name, so a spec cannot tell them apart.
        disks=(DiskKind.SD, DiskKind.NVME, DiskKind.USB),
        boot_modes=_BCM2712_BOOT,
        revision_codes=(0xD04190, 0xE04190),
    ),
    BoardModel.CM5: _Facts(
        title="Raspberry Pi Compute Module 5",
        compatible="raspberrypi,5-compute-module",
        soc=Soc.BCM2712,
        type_code=0x18,
        dtb_names=("bcm2712-rpi-cm5-cm5io.dtb", "bcm2712-rpi-cm5-cm4io.dtb"),
        disks=(DiskKind.NVME, DiskKind.SD, DiskKind.USB),
        boot_modes=_BCM2712_BOOT,
        revision_codes=(0xB04180, 0xC04180, 0xD04180, 0xE04180),
    ),
    BoardModel.CM5_LITE: _Facts(
        title="Raspberry Pi Compute Module 5 Lite",
        # No published document gives the Lite a string of its own.
        compatible="raspberrypi,5-compute-module",
        soc=Soc.BCM2712,
        type_code=0x1A,
        dtb_names=("bcm2712-rpi-cm5l-cm5io.dtb", "bcm2712-rpi-cm5l-cm4io.dtb"),
        disks=(DiskKind.NVME, DiskKind.SD, DiskKind.USB),
        boot_modes=_BCM2712_BOOT,
        revision_codes=(0xB041A0, 0xC041A0, 0xD041A0, 0xE041A0),
    ),
}

_MODEL_BY_TYPE: Final = {model.type_code: model for model in BoardModel}
_MANUFACTURERS: Final = ("Sony UK", "Egoman", "Embest", "Sony Japan", "Embest", "Stadium")
_NEW_STYLE_FLAG: Final = 1 << 23
_MEMORY_OTHER: Final = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """A decoded new-style revision code.

    Attributes:
        model: None for a board that Bramble does not install (a Pi 3, a CM4S, a CM0, one that came later).
        memory_mib: None where the code says "other": the size then stands only in the device tree.
        soc: None for a processor that cannot be in a supported board.
        board_rev: The board's revision, "1.4" for the PCB revision 4.
    """

    code: int
    model: BoardModel | None
    type_code: int
    soc: Soc | None
    memory_mib: int | None
    manufacturer: str
    board_rev: str

    def __str__(self) -> str:
        name = self.model.title if self.model else f"unsupported board type {self.type_code:#04x}"
        memory = "memory size unknown" if self.memory_mib is None else f"{self.memory_mib} MiB"
        return f"{name} Rev {self.board_rev}, {memory}, {self.manufacturer} ({self.code:x})"


def _memory_mib(code: int) -> int | None:
    exponent = code >> 20 & 0x7
    return None if exponent == _MEMORY_OTHER else 256 << exponent


def decode_revision(code: int) -> Revision:
    """Read a board's 32-bit revision code.

    Layout, most significant bit first, `NOQuuuWuFMMMCCCCPPPPTTTTTTTTRRRR`:

        31 N over-voltage disallowed · 30 O OTP program disallowed · 29 Q OTP read disallowed
        25 W warranty void · 23 F 1 = new style · 22–20 M memory, 256 MiB << M, 7 = other
        19–16 C manufacturer · 15–12 P processor · 11–4 T type · 3–0 R revision

    Raises:
        BoardError: Not 32 bits, or an old-style code (boards before the Pi 2), which has no such fields.
    """
    if not 0 <= code <= 0xFFFF_FFFF:
        raise BoardError(f"revision code {code:#x} does not fit in 32 bits")
    if not code & _NEW_STYLE_FLAG:
        raise BoardError(
            f"revision code {code:x} is not a new-style code (bit 23 is 0)",
            "Every supported board has one; read it on the board with 'cat /proc/cpuinfo'.",
        )
    type_code, manufacturer, processor = code >> 4 & 0xFF, code >> 16 & 0xF, code >> 12 & 0xF
    known_maker = manufacturer < len(_MANUFACTURERS)
    return Revision(
        code=code,
        model=_MODEL_BY_TYPE.get(type_code),
        type_code=type_code,
        soc=next((soc for soc in Soc if soc.value == processor), None),
        memory_mib=_memory_mib(code),
        manufacturer=_MANUFACTURERS[manufacturer] if known_maker else f"manufacturer {manufacturer}",
        board_rev=f"1.{code & 0xF}",
    )


# IEEE assignments to Raspberry Pi, plus 88:a2:9e as seen on boards since 2025. A hint only: MAC_ADDRESS in
# the EEPROM and USB adapters put other addresses on a Pi, and 28:cd:c1 is on the Pico W as well.
_RASPBERRY_PI_OUIS: Final = frozenset(
    bytes.fromhex(oui) for oui in ("b827eb", "dca632", "e45f01", "d83add", "28cdc1", "2ccf67", "88a29e")
)
_MAC_HINT: Final = "Read it on the node with 'ip link show eth0'."
_SERIAL_HINT: Final = (
    "Read it on the node with 'cat /proc/device-tree/serial-number', or from the bootloader's screen."
)


@dataclass(frozen=True, slots=True, order=True)
class MacAddress:
    """The address of an Ethernet interface of one board: six octets, no group address, not all zero."""

    octets: bytes

    def __post_init__(self) -> None:
        if len(self.octets) != 6:
            raise BoardError(f"{self} has {len(self.octets)} octets, a MAC has 6", _MAC_HINT)
        if self.octets[0] & 1:
            raise BoardError(f"{self} is a group address, an interface has an individual one", _MAC_HINT)
        if not any(self.octets):
            raise BoardError(f"{self} is no interface's address", _MAC_HINT)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `dc:a6:32:01:02:03`, `DC-A6-32-01-02-03`, `dca6.3201.0203` or `dca632010203`.

        Raises:
            BoardError: Not a MAC address of one interface.
        """
        bare = text.strip().lower()
        if re.fullmatch(r"[0-9a-f]{12}", bare) or re.fullmatch(r"([0-9a-f]{4}\.){2}[0-9a-f]{4}", bare):
            return cls(bytes.fromhex(bare.replace(".", "")))
        groups = re.split(r"[:-]", bare)
        for group in groups:
            if not re.fullmatch(r"[0-9a-f]{1,2}", group):
                raise BoardError(
                    f"{text!r} is not a MAC: {group!r} is not an octet of two hexadecimal digits", _MAC_HINT
                )
        if len(groups) != 6:
            count = f"{len(groups)} octet{'s' if len(groups) > 1 else ''}"
            raise BoardError(f"{text!r} has {count}, a MAC has 6", _MAC_HINT)
        return cls(bytes(int(group, 16) for group in groups))

    @property
    def dashed(self) -> str:
        """`dc-a6-32-01-02-03`, the directory name of TFTP_PREFIX=2."""
        return self.octets.hex("-")

    @property
    def is_raspberry_pi(self) -> bool:
        """Whether the first three octets are assigned to Raspberry Pi: a hint, not a proof."""
        return self.octets[:3] in _RASPBERRY_PI_OUIS

    def __str__(self) -> str:
        return self.octets.hex(":")


@dataclass(frozen=True, slots=True, order=True)
class Serial:
    """A board's serial number.

    Attributes:
        text: 16 lower-case hexadecimal digits. A high half of zeros says that only the low half is known.
    """

    text: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{16}", self.text):
            raise BoardError(f"{self.text!r} is not a serial of 16 hexadecimal digits", _SERIAL_HINT)
        if not int(self.text, 16):
            raise BoardError("a serial of zeros names no board", "Declare the node by its mac instead.")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read 16 digits, or the 8 low ones that the bootloader shows and asks for over TFTP.

        Raises:
            BoardError: Not a serial.
        """
        bare = text.strip().lower().removeprefix("0x")
        if stray := re.search(r"[^0-9a-f]", bare):
            raise BoardError(
                f"{text!r} is not a serial: {stray.group()!r} is not a hexadecimal digit", _SERIAL_HINT
            )
        if len(bare) not in (8, 16):
            raise BoardError(
                f"{text!r} has {len(bare)} digits, a serial has 16 (or its last 8)", _SERIAL_HINT
            )
        return cls(bare.zfill(16))

    @property
    def prefix(self) -> str:
        """Low 32 bits as 8 digits: the directory that the board asks for over TFTP."""
        return self.text[8:]

    @property
    def low(self) -> int:
        """Low 32 bits: what DHCP option 97 carries."""
        return int(self.prefix, 16)

    @property
    def is_short(self) -> bool:
        """Whether only the low half is known."""
        return self.text.startswith("00000000")

    def matches(self, other: Serial) -> bool:
        """Whether both can name one board: by all digits, or by the low half where that is all there is."""
        if self.is_short or other.is_short:
            return self.prefix == other.prefix
        return self.text == other.text

    def __str__(self) -> str:
        return self.text
