"""The EEPROM's update of itself from the place that it boots from: pieeprom.sig, then pieeprom.upd.

A server that offers these files re-flashes every board that boots from it, which is why Bramble's answers
"not found" unless it is told otherwise; the emulation shows what would happen.

Source: Raspberry Pi documentation, ENABLE_SELF_UPDATE (read 2026-11); rpi-eeprom release note of 2020-10-28:
taken only where it differs and its timestamp is newer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator

from lab.bootloader.config_txt import ConfigTxt
from lab.bootloader.files import BoardResetError, Boot, FileRequest, FoundFile, Stage
from lab.bootloader.signature import SignatureFileError, parse_signature_file


def check_update(
    boot: Boot, stage: Stage, config: ConfigTxt
) -> Generator[FileRequest, FoundFile | None, None]:
    """Ask for pieeprom.sig and act on it.

    Raises (when run):
        BoardResetError: A newer image was written.
    """
    found = yield from stage.read("pieeprom.sig")
    may_update = boot.profile.settings.self_update and config.flag("bootloader_update", default=True)
    if found is None or not may_update:
        return
    try:
        signature = parse_signature_file(found.data)
    except SignatureFileError:
        return
    if signature.timestamp <= boot.eeprom_timestamp:
        return
    image = yield from stage.read("pieeprom.upd")
    if image is not None and hashlib.sha256(image.data).hexdigest() == signature.sha256:
        raise BoardResetError(signature.timestamp)
