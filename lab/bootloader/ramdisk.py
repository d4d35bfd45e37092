"""`boot_ramdisk=1`: the loader fetches boot.img from where it boots, and takes every later file out of it.

Source: Raspberry Pi documentation, `boot_ramdisk` (read 2026-11); release notes of 2021-10-27 and 2022-03-10
(size); rpi-eeprom#857.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lab.bootloader.config_txt import ConfigTxt
from lab.bootloader.fat import FatError, FatImage
from lab.bootloader.files import Boot, BootFiles, Loader, ModeFailedError, Stage, read_all
from lab.bootloader.signature import RsaPublicKey, SignatureFileError, parse_signature_file, verify


def wants_ramdisk(boot: Boot, config: ConfigTxt) -> bool:
    """Whether this boot goes on inside a boot.img; a board with signed boot takes nothing else."""
    return config.flag("boot_ramdisk", default=False) or boot.profile.settings.signed_boot


def load_ramdisk(boot: Boot, stage: Stage, family: Callable[[Boot], Loader]) -> Loader:
    """Fetch boot.img (tryboot.img in a tryboot) and go on inside it."""
    stem = "tryboot" if boot.circumstances.tryboot else "boot"
    found = yield from stage.probe(f"{stem}.img")
    if found is None:
        raise ModeFailedError(f"{stem}.img not found")
    require_size(found.size_bytes, boot)
    signature = None
    if boot.profile.settings.signed_boot:
        signature = yield from stage.read(f"{stem}.sig")
        if signature is None:
            raise ModeFailedError(f"{stem}.sig not found")
    image = yield from stage.read(f"{stem}.img")
    if image is None:
        raise ModeFailedError(f"{stem}.img was there and is gone")
    if signature is not None:
        require_signature(signature.data, image.data, boot.public_key)
    return open_ramdisk(boot, image.data, family)


def open_ramdisk(boot: Boot, image: bytes, family: Callable[[Boot], Loader]) -> BootFiles:
    """Run the family's loader over the files of a boot.img.

    Raises:
        ModeFailedError: It is no FAT file system, or lacks a file.
        BoardStuckError: It lacks a file at a point from which the firmware does not come back.
    """
    try:
        volume = FatImage(image)
        # `tryboot_a_b` is implied inside: the file is config.txt in any case.
        inside = replace(boot, in_ramdisk=True, circumstances=replace(boot.circumstances, tryboot=False))
        return read_all(family(inside), volume.read)
    except FatError as error:
        raise ModeFailedError(f"boot.img: {error}") from error


def require_size(size_bytes: int, boot: Boot) -> None:
    """Refuse a boot.img that the firmware has no room for.

    Raises:
        ModeFailedError: It is larger than the EEPROM's limit.
    """
    limit = boot.profile.max_boot_img_bytes
    if size_bytes > limit:
        raise ModeFailedError(f"boot.img has {size_bytes:,} bytes. File is too large. Max size {limit}")


def require_signature(signature: bytes, image: bytes, key: RsaPublicKey | None) -> None:
    """Refuse a boot.img that is not signed by the key in the EEPROM.

    Raises:
        ModeFailedError: With the reason.
    """
    try:
        verify(parse_signature_file(signature), image, key)
    except SignatureFileError as error:
        raise ModeFailedError(f"boot.sig: {error}") from error
