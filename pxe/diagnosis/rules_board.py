"""What a board says about itself that will make trouble: an old bootloader, an identity that does not fit, a
message on its console.

EE is raspberrypi/rpi-eeprom's issue tracker, CP is raspberrypi/cmprovision's.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Final

from fleet.boards import BoardModel, Soc
from pxe.boot.identity import LEGACY_STYLE, IdentifiedBy
from pxe.diagnosis.era import PHY_WAKE_SINCE, PI5_FOURCC_SINCE, age_of
from pxe.diagnosis.finding import Evidence, Severity
from pxe.diagnosis.history import Observation
from pxe.diagnosis.scene import Clue, Rule, Scene
from pxe.events import BootFileMissing, ConsoleLine, DhcpDiscover

KNOWN_STYLES: Final = ("", "RPi4", "4iPR", "RPi5", "5iPR", LEGACY_STYLE)
PI3_OUI: Final = bytes.fromhex("b827eb")  # no Pi 4 or later has one
UPDATE_MEND: Final = "Update it on the board: 'sudo rpi-eeprom-update -a', then restart."
MESSAGES: Final = (
    (
        re.compile(r"Error 12|Read boot\.img failed", re.IGNORECASE),
        "reading boot.img failed on the board",
        "Signed boot over TFTP does not work on a CM5 yet (EE#857): use HTTP boot, or unsigned network boot.",
    ),
    (
        re.compile(r"NETBOOT init failed", re.IGNORECASE),
        "the bootloader got no address or no boot server in time",
        "See the DHCP lines of the timeline. If there are none, the board does not reach this server: look "
        "at cable, VLAN and spanning tree.",
    ),
    (
        re.compile(r"BAD OACK", re.IGNORECASE),
        "the bootloader did not accept the TFTP server's options",
        "Please report this with the board's EEPROM version; updating the EEPROM helps meanwhile.",
    ),
    (
        re.compile(r"File is too large", re.IGNORECASE),
        "a file is larger than the bootloader takes",
        "Make boot.img smaller: leave the other boards' files out of it ('bramble boot-image --board').",
    ),
    (
        re.compile(r"Unsupported boot order 7", re.IGNORECASE),
        "BOOT_ORDER asks for HTTP boot and this bootloader does not have it",
        "Update the EEPROM to 2025-05-08 or later, or take the 7 out of BOOT_ORDER (EE#700).",
    ),
)
"""What bootloaders print, and what it means."""


def _first_request(scene: Scene) -> tuple[Observation, ...]:
    """The newest DISCOVER of the bootloader: what the board said of itself."""
    for attempt in reversed(scene.history.attempts):
        seen = [one for one, event in attempt.events(DhcpDiscover) if event.board.is_pi]
        if seen:
            return (seen[-1],)
    return ()


def pi3(scene: Scene) -> Clue | None:
    """The boot ROM of a Pi 3 or older; its errors are burnt in (FW#1605 and others)."""
    asked = [
        seen
        for seen, event in scene.attempt.events(BootFileMissing)
        if PurePosixPath(event.name).name in ("bootcode.bin", "bootsig.bin")
    ]
    mac = scene.history.board.mac
    by_address = mac is not None and mac.octets[:3] == PI3_OUI and scene.history.board.revision is None
    shown_by = (*asked, *(_first_request(scene) if by_address else ()))
    if not shown_by:
        return None
    return Clue(
        "this is a Raspberry Pi 3 or older: it boots from its ROM and asks for bootcode.bin",
        "Bramble installs Pi 4, 400, CM4 and later. Take it out of this network's boot order, or ignore it.",
        shown_by,
    )


def strange_option_97(scene: Scene) -> Clue | None:
    """Option 97 is missing or not one that is known: the board is known by its MAC address only (CP#16,
    CP#61).
    """
    board = scene.history.board
    first = _first_request(scene)
    if not first or not board.is_pi:
        return None
    if board.eeprom_style not in KNOWN_STYLES:
        return Clue(
            f"option 97 begins with '{board.eeprom_style}': DHCP_OPTION97 is set in the EEPROM",
            "Bramble understands it. Other servers that look for 'RPi5' do not; remove DHCP_OPTION97 from "
            "the EEPROM configuration if you have those.",
            first,
        )
    is_rom = board.mac is not None and board.mac.octets[:3] == PI3_OUI
    if board.how is IdentifiedBy.MAC and board.serial_low is None and not is_rom:
        return Clue(
            "the board does not say its serial (no option 97 that is a Raspberry Pi's)",
            "Declare the node by its MAC address, and update the bootloader: those of 2020-03 and later say "
            "it. " + UPDATE_MEND,
            first,
        )
    return None


def legacy_identity(scene: Scene) -> Clue | None:
    """The serial four times in option 97."""
    first = _first_request(scene)
    if scene.history.board.eeprom_style != LEGACY_STYLE or not first:
        return None
    return Clue(
        "the bootloader is older than 2020-03-11, or DHCP_OPTION97=0 is set: it does not say its model, and "
        "has errors with relays, several boot menus and padded answers",
        UPDATE_MEND,
        first,
    )


def early_pi5(scene: Scene) -> Clue | None:
    """A Pi 5 that calls itself a Pi 4: before 2023-10-30, when only the first attempt worked (fixed
    2023-10-18)."""
    first = _first_request(scene)
    if not first or not age_of(scene.history.board).is_certainly_before(PI5_FOURCC_SINCE):
        return None
    if scene.history.board.family is not Soc.BCM2712:
        return None
    return Clue(
        "the bootloader of this Pi 5 is older than 2023-10-30; with those often only the first attempt to "
        "boot from the network works",
        UPDATE_MEND,
        first,
    )


def sleeping_phy(scene: Scene) -> Clue | None:
    """Pi 4 revision 1.1 with an old bootloader: no network boot after a restart of Linux 5.16 and later
    (EE#417)."""
    revision, first = scene.history.board.revision, _first_request(scene)
    if revision is None or revision.model is not BoardModel.PI4 or revision.board_rev != "1.1" or not first:
        return None
    age = age_of(scene.history.board, scene.history.blksize)
    if not age.is_certainly_before(PHY_WAKE_SINCE) and age.before is None:
        return None
    return Clue(
        f"a Pi 4 of revision 1.1 with a bootloader {age.describe()}: those before {PHY_WAKE_SINCE} do not "
        "wake the network chip after a restart of the operating system, and network boot then fails until "
        "power is cut",
        UPDATE_MEND,
        first,
    )


def two_serials(scene: Scene) -> Clue | None:
    """One MAC address, several serials: a directory of another board, or somebody who pretends."""
    serials = scene.history.serials
    if len(serials) < 2:
        return None
    evidence = [Evidence(at, f"it showed the serial …{serial:08x}") for serial, at in serials.items()]
    names = " and ".join(f"…{serial:08x}" for serial in serials)
    return Clue(
        f"one MAC address shows several serial numbers: {names}",
        "Does TFTP_PREFIX_STR in the EEPROM name another board's serial, or MAC_ADDRESS repeat another "
        "board's address? If neither, somebody on this network pretends to be this board.",
        tuple(evidence),
    )


def console_message(scene: Scene) -> Clue | None:
    """The bootloader said on its network console what is wrong."""
    for seen, event in scene.attempt.events(ConsoleLine):
        for pattern, cause, mend in MESSAGES:
            if pattern.search(event.line):
                return Clue(f"{cause}, it says itself", mend, (seen,))
    return None


RULES: Final = (
    Rule("pi3", Severity.ERROR, "a Raspberry Pi 3 or older", pi3),
    Rule("strange-option-97", Severity.INFO, "the board does not say who it is", strange_option_97),
    Rule("legacy-identity", Severity.WARNING, "a bootloader from before 2020-03", legacy_identity),
    Rule("early-pi5", Severity.WARNING, "a Pi 5 bootloader from before 2023-10-30", early_pi5),
    Rule("sleeping-phy", Severity.WARNING, "network chip asleep after a restart", sleeping_phy),
    Rule("two-serials", Severity.ERROR, "one board, several serials", two_serials),
    Rule("console-message", Severity.ERROR, "the board's console says what is wrong", console_message),
)
