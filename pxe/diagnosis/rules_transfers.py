"""Problems on the way: files that are there, and arrive late, in part, or not at all.

EE is raspberrypi/rpi-eeprom's issue tracker.
"""

from __future__ import annotations

from typing import Final

from pxe.diagnosis.era import age_of
from pxe.diagnosis.finding import Severity
from pxe.diagnosis.scene import Clue, Rule, Scene
from pxe.diagnosis.sizes import (
    LARGEST_BLOCK_COUNT,
    TFTP_FILE_TIMEOUT_S,
    check_sizes,
    rollover_block_bytes,
)
from pxe.events import BootFile, BootFileProbed, BootProgress, TransferFailed, format_bytes

LOST_SHARE: Final = 0.02
LOST_LEAST: Final = 20  # packets; fewer say nothing
NEARLY_TIMEOUT_S: Final = 0.8 * TFTP_FILE_TIMEOUT_S
STOPPED_S: Final = 45.0  # without a word: what comes next takes less
MTU_FAILURES: Final = 2
RATE_BYTES: Final = 4_000_000  # a smaller file says little about the rate
UNKNOWN_RATE: Final = 1e12


def block_rollover(scene: Scene) -> Clue | None:
    """A file stops at block 65,535: the bootloader can not count further before 2025-09-23 (EE#720,
    EE#375).
    """
    for seen, event in scene.attempt.events(TransferFailed):
        block_bytes = rollover_block_bytes(event.sent_bytes)
        if block_bytes is not None and event.size_bytes > event.sent_bytes:
            limit = LARGEST_BLOCK_COUNT * block_bytes
            return Clue(
                f"{event.name} stopped after 65,535 blocks of {block_bytes} bytes: this bootloader can not "
                f"count further, the file has {format_bytes(event.size_bytes)}",
                "Update the EEPROM to 2025-09-23 or later ('sudo rpi-eeprom-update -a' on the board), or "
                f"keep the file below {format_bytes(limit)}.",
                (seen,),
            )
    return None


def file_timeout(scene: Scene) -> Clue | None:
    """A large file is broken off after TFTP_FILE_TIMEOUT; a Pi 5 then stays dark for ever (EE#687)."""
    attempt = scene.attempt
    for seen, event in attempt.events(TransferFailed):
        began = [
            one.first_at for one, progress in attempt.events(BootProgress) if progress.name == event.name
        ]
        took_s = event.seconds or seen.last_at - min(began, default=seen.last_at)
        if event.sent_bytes >= event.size_bytes or took_s < NEARLY_TIMEOUT_S:
            continue
        rate = event.sent_bytes / took_s
        return Clue(
            f"{event.name} was broken off after {took_s:.0f} s, with {format_bytes(event.sent_bytes)} of "
            f"{format_bytes(event.size_bytes)} at {format_bytes(int(rate))}/s: a bootloader gives one file "
            f"{TFTP_FILE_TIMEOUT_S:.0f} s (TFTP_FILE_TIMEOUT)",
            "Find what makes the network slow (a 100 Mbit/s link, a bad cable, Wi-Fi on the way), or set "
            "TFTP_FILE_TIMEOUT=60000 in the EEPROM. A Pi 5 does not try again by itself: set "
            "BOOT_WATCHDOG_TIMEOUT too, and switch it off and on now.",
            (seen,),
        )
    return None


def nearly_too_slow(scene: Scene) -> Clue | None:
    """A file that took most of its time: on a bad day it will not arrive."""
    slow = [
        (seen, event) for seen, event in scene.attempt.events(BootFile) if event.seconds > NEARLY_TIMEOUT_S
    ]
    if not slow:
        return None
    seen, event = slow[0]
    return Clue(
        f"{event.name} took {event.seconds:.0f} s of the {TFTP_FILE_TIMEOUT_S:.0f} s that a bootloader gives "
        f"one file ({format_bytes(int(event.size_bytes / event.seconds))}/s)",
        "Look for a 100 Mbit/s link or a loaded switch on the way, or raise TFTP_FILE_TIMEOUT in the EEPROM.",
        (seen,),
    )


def too_large(scene: Scene) -> Clue | None:
    """A file that this very bootloader can not take, by its age and by the rate that was measured."""
    board, attempt = scene.history.board, scene.attempt
    if board.family is None:
        return None
    read = [event for _seen, event in attempt.events(BootFile) if event.size_bytes >= RATE_BYTES]
    rates = [event.size_bytes / event.seconds for event in read if event.seconds > 0]
    age = age_of(board, scene.history.blksize)
    for seen, event in attempt.events(BootFileProbed):
        if event.name in attempt.read():
            continue
        sized = [(event.name, event.size_bytes)]
        for warning in check_sizes(sized, board.family, age, max(rates, default=UNKNOWN_RATE)):
            if warning.certain:
                return Clue(f"{warning.text} (it is {age.describe()})", warning.mend, (seen,))
    return None


def packet_loss(scene: Scene) -> Clue | None:
    """Much was sent twice."""
    for seen, event in scene.attempt.events(BootFile):
        packets = max(event.size_bytes // event.statistics.blksize, 1)
        if event.retransmitted >= LOST_LEAST and event.retransmitted > LOST_SHARE * packets:
            return Clue(
                f"{event.retransmitted} of about {packets} packets of {event.name} were sent twice: packets "
                "get lost on the way",
                "Check the cable and both ports' error counters ('ethtool -S'), flow control, and whether a "
                "link runs at half duplex.",
                (seen,),
            )
    return None


def path_mtu(scene: Scene) -> Clue | None:
    """Transfers begin and not one full packet arrives: the way carries less than 1,500 bytes."""
    dead = [
        seen
        for seen, event in scene.attempt.events(TransferFailed)
        if event.sent_bytes == 0 and event.size_bytes > 1468
    ]
    large = [event for _seen, event in scene.attempt.events(BootFile) if event.size_bytes > 1468]
    if sum(seen.count for seen in dead) < MTU_FAILURES or large:
        return None
    return Clue(
        "files begin and no full packet of them arrives, while small answers do: something on the way "
        "carries less than 1,500 bytes",
        "Check the MTU of this server's interface ('bramble doctor'), of tunnels and VLANs on the way; a "
        "jumbo frame setting on one end only does this too.",
        tuple(dead),
    )


def stopped_midway(scene: Scene) -> Clue | None:
    """A file broke off early, and the bootloader never came back: nobody is there, or it hangs (EE#687)."""
    attempt = scene.attempt
    for seen, event in attempt.events(TransferFailed):
        is_last = seen.last_at >= attempt.last_at and scene.quiet_s >= STOPPED_S
        if not is_last or not 0 < event.sent_bytes < event.size_bytes:
            continue
        if rollover_block_bytes(event.sent_bytes) is not None or file_timeout(scene) is not None:
            return None
        return Clue(
            f"the board fell silent in the middle of {event.name}",
            "Was it switched off, or its cable pulled? If not, it hangs: switch it off and on, and set "
            "BOOT_WATCHDOG_TIMEOUT in the EEPROM so that it restarts by itself.",
            (seen,),
        )
    return None


RULES: Final = (
    Rule("block-rollover", Severity.ERROR, "a file is too large for this bootloader", block_rollover),
    Rule("file-timeout", Severity.ERROR, "a file took longer than the bootloader waits", file_timeout),
    Rule("nearly-too-slow", Severity.WARNING, "a file took most of the time it has", nearly_too_slow),
    Rule("too-large", Severity.WARNING, "a file that this bootloader can not take", too_large),
    Rule("packet-loss", Severity.WARNING, "packets get lost", packet_loss),
    Rule("path-mtu", Severity.ERROR, "full-sized packets do not arrive", path_mtu),
    Rule("stopped-midway", Severity.ERROR, "fell silent in the middle of a file", stopped_midway),
)
