"""Problems with the files that a board asks for over TFTP or HTTP: which ones, and what it makes of them.

EE is raspberrypi/rpi-eeprom's issue tracker.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Final

from fleet.boards import BoardModel, Soc
from pxe.boot.routes import NO_SUCH_FILE, is_self_update
from pxe.diagnosis.finding import Severity
from pxe.diagnosis.history import Attempt, Observation
from pxe.diagnosis.scene import Clue, Rule, Scene
from pxe.events import (
    BootFile,
    BootFileMissing,
    BootFileProbed,
    BootProgress,
    ContentRefused,
    TransferDone,
    TransferFailed,
)

PREFIX_FILES: Final = ("config.txt", "start4.elf", "start.elf")
"""What a bootloader looks for first to learn whether its directory is there."""
KERNELS: Final = ("kernel_2712.img", "kernel8.img", "kernel7l.img", "vmlinuz")
PAIRS: Final = {
    "kernel_2712.img": "initramfs_2712",
    "kernel8.img": "initramfs8",
    "kernel7l.img": "initramfs7l",
}
"""Kernel → the initramfs that auto_initramfs pairs with it. Source: Raspberry Pi documentation,
config.txt.
"""
LOOPS: Final = 3  # attempts that end alike
LOOP_WINDOW_S: Final = 1200.0
HAMMERED: Final = 10
HAMMER_WINDOW_S: Final = 60.0
SETTLED_S: Final = 2.0  # one file follows the other within milliseconds


def missing_slash(scene: Scene) -> Clue | None:
    """TFTP_PREFIX_STR without its slash: `labconfig.txt` is asked for (EE#68)."""
    for seen, event in scene.attempt.events(BootFileMissing):
        name = PurePosixPath(event.name).name
        for file in ("config.txt", "start4.elf"):
            prefix = name.removesuffix(file)
            if prefix not in ("", name) and not prefix.endswith(("/", "-", "_")) and "/" not in event.name:
                return Clue(
                    f"the board asks for {event.name}: its directory and the file's name have run into one",
                    f"TFTP_PREFIX_STR in the EEPROM is '{prefix}'; write it with the slash, '{prefix}/', or "
                    "set TFTP_PREFIX=0 to use the serial.",
                    (seen,),
                )
    return None


def other_directory(scene: Scene) -> Clue | None:
    """It asks in a directory that is neither its serial's nor its MAC address's (EE#563)."""
    for seen, event in scene.attempt.events(BootFileMissing):
        directory, _, file = event.name.partition("/")
        if file in PREFIX_FILES and directory != "overlays":
            return Clue(
                f"the board looks for its files in the directory '{directory}', which is not its serial "
                "number",
                "Bramble serves a board below its serial. Set TFTP_PREFIX=0 in the EEPROM and remove "
                "TFTP_PREFIX_STR ('bramble eeprom config' prints the whole configuration).",
                (seen,),
            )
    return None


def device_tree_missing(scene: Scene) -> Clue | None:
    """Stops after the device tree was not found: os_check (EE#682)."""
    revision, attempt = scene.history.board.revision, scene.attempt
    model = revision.model if revision else None
    read = attempt.read()
    if any(_is_kernel(name) for name in read):
        return None
    names = model.dtb_names if model else ()
    missing = [
        seen
        for seen, event in attempt.events(BootFileMissing)
        if event.name.endswith(".dtb") and event.reason == NO_SUCH_FILE and "overlay_map" not in event.name
    ]
    found = any(name.endswith(".dtb") and "overlay_map" not in name for name in read)
    if not missing or found:
        return None
    wanted = f" ({', '.join(names)})" if names else ""
    return Clue(
        f"the image has no device tree for this board{wanted}: the bootloader stops there",
        "Build the image from a base that knows the board ('bramble base list' says which), or, with an "
        "operating system that needs none, set os_check=0 in config.txt.",
        tuple(missing),
    )


def firmware_missing(scene: Scene) -> Clue | None:
    """A Pi 4 or CM4 without start4.elf: its bootloader has nothing to go on with."""
    attempt = scene.attempt
    missing = _missing(attempt, lambda name: PurePosixPath(name).name == "start4.elf")
    if not missing or scene.quiet_s < SETTLED_S or any(map(_is_firmware, attempt.read())):
        return None
    return Clue(
        "the boot files have no start4.elf, and a Pi 4 or CM4 boots nothing without it",
        "Does the base know the board ('bramble base list')? If config.txt says start_file, that file has "
        "to be in the boot partition.",
        tuple(missing),
    )


def kernel_missing(scene: Scene) -> Clue | None:
    """config.txt was read, the kernel is not there: the bootloader stops, or goes on to its disk."""
    attempt = scene.attempt
    if not scene.history.board.is_pi or scene.quiet_s < SETTLED_S:
        return None
    missing = _missing(attempt, _is_kernel)
    begun = attempt.of(BootFile, BootFileProbed, BootProgress, TransferFailed)
    if not missing or any(_is_kernel(getattr(seen.event, "name", "")) for seen in begun):
        return None
    names = ", ".join(getattr(seen.event, "name", "") for seen in missing)
    return Clue(
        f"the boot files have no kernel under the name that the board asks for: {names}",
        "Do 'kernel=' and 'os_prefix=' in config.txt name a file of the boot partition? Correct or remove "
        "them, and build the image again.",
        tuple(missing),
    )


def config_missing(scene: Scene) -> Clue | None:
    """A Pi 5 without config.txt: its loader is in the EEPROM and begins with that file (EE#826)."""
    board, attempt = scene.history.board, scene.attempt
    if board.family is not Soc.BCM2712 or "config.txt" in attempt.read():
        return None
    missing = [
        seen
        for seen, event in attempt.events(BootFileMissing)
        if PurePosixPath(event.name).name == "config.txt" and event.reason == NO_SUCH_FILE
    ]
    if not missing:
        return None
    return Clue(
        "the boot files have no config.txt, and a Pi 5 boots nothing without it (it never asks for "
        "start4.elf)",
        "Put a config.txt into the boot partition of the base image; an empty one will do.",
        tuple(missing),
    )


def update_served(scene: Scene) -> Clue | None:
    """A file that re-flashes the bootloader was given out."""
    served = [seen for seen, event in scene.attempt.events(BootFile) if is_self_update(event.name)]
    if not served:
        return None
    return Clue(
        "the board was given a bootloader update, and may flash itself and restart",
        "Wanted? Then leave it on. If not, remove the pieeprom/vl805/recovery files from what is served. Two "
        "servers with different updates make a board flash itself again and again.",
        tuple(served),
    )


def network_only(scene: Scene) -> Clue | None:
    """The same files, not found, many times a minute: nothing else is in BOOT_ORDER (EE#140)."""
    refused = [
        seen
        for seen, event in scene.attempt.events(BootFileMissing)
        if event.reason != NO_SUCH_FILE and seen.count >= HAMMERED
    ]
    hasty = [
        seen for seen in refused if seen.last_at - seen.first_at <= HAMMER_WINDOW_S * seen.count / HAMMERED
    ]
    started = [
        attempt for attempt in scene.history.attempts if scene.now - attempt.started_at < HAMMER_WINDOW_S
    ]
    fruitless = [attempt for attempt in started if not attempt.read() and attempt.has(BootFileMissing)]
    if len(fruitless) >= LOOPS + 1:
        hasty += fruitless[0].of(BootFileMissing)[:1] + fruitless[-1].of(BootFileMissing)[:1]
    if not hasty:
        return None
    return Clue(
        "the board asks for the same files over and over, though it is to boot its own disk: it finds "
        "nothing else to boot",
        "Is there a disk, and has it been installed? Is it in BOOT_ORDER? Set for example BOOT_ORDER=0xf612 "
        "(network, SD, NVMe, again); 'bramble eeprom config' prints a whole configuration.",
        tuple(hasty),
    )


def initramfs_of_other_kernel(scene: Scene) -> Clue | None:
    """Kernel and initramfs are no pair: the kernel finds no modules and no root."""
    read = {PurePosixPath(name).name: seen for name, seen in scene.attempt.read().items()}
    for kernel, initramfs in PAIRS.items():
        others = [name for name in PAIRS.values() if name != initramfs and name in read]
        if kernel in read and others and initramfs not in read:
            return Clue(
                f"the board read {kernel} with {others[0]}; its partner is {initramfs}",
                "The kernel will panic or find no root. Name both in config.txt ('kernel=' and 'initramfs "
                "…'), or let auto_initramfs=1 choose.",
                (read[kernel], read[others[0]]),
            )
    return None


def installer_loop(scene: Scene) -> Clue | None:
    """Kernel and installer delivered, again and again, and the installer never fetched a byte of
    the image.
    """
    recent = [attempt for attempt in scene.history.attempts if scene.now - attempt.started_at < LOOP_WINDOW_S]
    booted = [(attempt, _kernels(attempt)) for attempt in recent if not attempt.has(TransferDone)]
    booted = [(attempt, kernels) for attempt, kernels in booted if kernels]
    if len(booted) < LOOPS:
        return None
    return Clue(
        f"{len(booted)} times the board read the kernel and the installer, and restarted before the "
        "installer wrote anything",
        "Look at its screen or serial console: the kernel panics, has no driver for this board's network, or "
        "the power supply gives out when the processor starts to work. For a Pi 5 the base needs Raspberry "
        "Pi's own kernel.",
        tuple(kernels[-1] for _attempt, kernels in booted),
    )


def http_boot_refused(scene: Scene) -> Clue | None:
    """HTTP boot asks for boot.sig and is refused; some bootloaders then stop (EE#763, EE#475)."""
    refused = [
        seen
        for seen, event in scene.attempt.events(ContentRefused)
        if PurePosixPath(event.name).name in ("boot.sig", "boot.img")
    ]
    if not refused:
        return None
    return Clue(
        "the board tries HTTP boot and there is nothing for it; bootloaders of 2025-08 may stop there "
        "instead of going on to the next entry of BOOT_ORDER",
        "Put HTTP (7) last in BOOT_ORDER, or take it out: Bramble installs by network boot (2). Update the "
        "EEPROM to 2025-09-23 or later.",
        tuple(refused),
    )


def signature_not_accepted(scene: Scene) -> Clue | None:
    """boot.sig is read again and again, and boot.img never: the key in the EEPROM is another one."""
    signatures = [seen for seen in _done(scene.attempt, "boot.sig") if seen.count >= 2]
    if not signatures or _done(scene.attempt, "boot.img"):
        return None
    return Clue(
        "the board reads boot.sig over and over and never boot.img: it does not accept the signature",
        "Is the public key of the pair that signed boot.img in the EEPROM (rpi-eeprom-config --pubkey)? Make "
        "both files again with 'bramble boot-image --key' and that key.",
        tuple(signatures),
    )


def signed_over_tftp(scene: Scene) -> Clue | None:
    """A Compute Module 5 with signed boot reads boot.img over TFTP and gives up (EE#857, open)."""
    revision = scene.history.board.revision
    if revision is None or revision.model not in (BoardModel.CM5, BoardModel.CM5_LITE):
        return None
    rounds = [
        seen
        for attempt in scene.history.attempts
        for name, seen in attempt.read().items()
        if PurePosixPath(name).name == "boot.img" and not _asked(attempt, "boot.sig")
    ]
    if len(rounds) < 2:
        return None
    return Clue(
        "the board reads boot.img and starts again without asking for boot.sig: signed boot over TFTP does "
        "not work on a CM5 yet",
        "Use HTTP boot (7 in BOOT_ORDER) with the same signed boot.img, or switch signed boot off for "
        "network boot.",
        tuple(rounds),
    )


def _missing(attempt: Attempt, is_meant: Callable[[str], bool]) -> list[Observation]:
    """Files of one sort that an installing board asked for and the boot tree does not have."""
    return [
        seen
        for seen, event in attempt.events(BootFileMissing)
        if event.reason == NO_SUCH_FILE and is_meant(event.name)
    ]


def _is_firmware(name: str) -> bool:
    return bool(re.fullmatch(r"start[\w.-]*\.elf", PurePosixPath(name).name))


def _kernels(attempt: Attempt) -> list[Observation]:
    """Kernels that were read to their end, oldest first."""
    found = [seen for name, seen in attempt.read().items() if _is_kernel(name)]
    return sorted(found, key=lambda seen: seen.last_at)


def _is_kernel(name: str) -> bool:
    return PurePosixPath(name).name in KERNELS or bool(
        re.fullmatch(r"kernel[\w.-]*\.img", PurePosixPath(name).name)
    )


def _done(attempt: Attempt, file: str) -> list[Observation]:
    return [seen for seen, event in attempt.events(TransferDone) if PurePosixPath(event.name).name == file]


def _asked(attempt: Attempt, file: str) -> bool:
    return any(
        PurePosixPath(getattr(seen.event, "name", "")).name == file
        for seen in attempt.of(BootFile, BootFileMissing, TransferDone, ContentRefused)
    )


RULES: Final = (
    Rule("missing-slash", Severity.ERROR, "TFTP_PREFIX_STR without a slash", missing_slash),
    Rule("other-directory", Severity.WARNING, "files looked for in another directory", other_directory),
    Rule("device-tree-missing", Severity.ERROR, "no device tree for the board", device_tree_missing),
    Rule("firmware-missing", Severity.ERROR, "no start4.elf for a Pi 4", firmware_missing),
    Rule("kernel-missing", Severity.ERROR, "no kernel under the name asked for", kernel_missing),
    Rule("config-missing", Severity.ERROR, "no config.txt for a Pi 5", config_missing),
    Rule("update-served", Severity.WARNING, "a bootloader update was given out", update_served),
    Rule("network-only", Severity.WARNING, "nothing but the network to boot from", network_only),
    Rule("initramfs-mismatch", Severity.ERROR, "kernel and initramfs are no pair", initramfs_of_other_kernel),
    Rule("installer-loop", Severity.ERROR, "the installer starts and never arrives", installer_loop),
    Rule("http-boot-refused", Severity.WARNING, "HTTP boot finds nothing", http_boot_refused),
    Rule(
        "signature-not-accepted",
        Severity.ERROR,
        "the boot image's signature is refused",
        signature_not_accepted,
    ),
    Rule("signed-over-tftp", Severity.ERROR, "signed boot over TFTP on a CM5", signed_over_tftp),
)
