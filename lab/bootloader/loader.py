"""Chooses the loader of a board's family."""

from __future__ import annotations

from dataclasses import replace

from fleet.boards import BootMode, Soc
from lab.bootloader.bcm2711 import load_bcm2711
from lab.bootloader.bcm2712 import load_bcm2712
from lab.bootloader.files import Boot, Loader
from lab.bootloader.filters import Circumstances
from lab.bootloader.legacy import load_bootcode, load_rom
from lab.bootloader.profile import (
    BOOTCODE,
    AnyBoard,
    BoardIdentity,
    EepromProfile,
    Family,
    default_profile,
)
from lab.bootloader.signature import RsaPublicKey


def load_files(
    board: AnyBoard,
    source: BootMode,
    profile: EepromProfile | None = None,
    circumstances: Circumstances | None = None,
    *,
    eeprom_timestamp: int = 0,
    public_key: RsaPublicKey | None = None,
) -> Loader:
    """The loader of a board's family.

    Args:
        board: Who boots.
        source: From where.
        profile: With which EEPROM; None for the model's usual one.
        circumstances: How the board was started; None for a plain power-on.
        eeprom_timestamp: When its EEPROM was last updated, Unix seconds.
        public_key: What boot images must be signed by.

    Raises (when run):
        ModeFailedError: A file is missing without which this mode ends.
        BoardStuckError: A file is missing at a point from which the firmware does not come back.
        BoardResetError: It found a newer EEPROM image and took it.
    """
    model = board.model if isinstance(board, BoardIdentity) else None
    used = profile or (default_profile(model) if model else BOOTCODE)
    boot = Boot(
        board=board,
        source=source,
        profile=used,
        circumstances=circumstances or Circumstances(model=model, serial=board.serial),
        eeprom_timestamp=eeprom_timestamp,
        public_key=public_key,
    )
    return load(boot)


def load(boot: Boot) -> Loader:
    """The same for a boot whose circumstances are put together."""
    if not isinstance(boot.board, BoardIdentity):
        if boot.profile.family is Family.ROM3 and boot.source is BootMode.NETWORK:
            return load_rom(boot, replace(boot, profile=BOOTCODE.with_settings(boot.profile.settings)))
        return load_bootcode(boot)
    return load_bcm2711(boot) if boot.board.model.soc is Soc.BCM2711 else load_bcm2712(boot)
