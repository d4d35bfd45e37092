"""The order of files of the Pi 5 family: the EEPROM loads everything itself; config.txt is required, and the
prefix's probe.

Source: third-party server log of a Pi 5 with an EEPROM of 2026, boot logs of a Pi 5 with one of 2025-05-08;
rpi-eeprom#682, #826; release notes of 2025-03-27 and 2026-06-17.
"""

from __future__ import annotations

from collections.abc import Generator

from lab.bootloader.config_txt import ConfigTxt
from lab.bootloader.files import (
    OVERLAY_MAP,
    Boot,
    FileRequest,
    FoundFile,
    Loader,
    ModeFailedError,
    Stage,
    device_trees,
    kernels,
    with_prefix,
)
from lab.bootloader.profile import BoardIdentity
from lab.bootloader.ramdisk import load_ramdisk, wants_ramdisk
from lab.bootloader.self_update import check_update


def load_bcm2712(boot: Boot) -> Loader:
    """From config.txt to the kernel."""
    board = boot.board
    if not isinstance(board, BoardIdentity):
        raise TypeError("a Pi 3 has another loader")
    early = Stage("")
    if boot.network_prefix:
        own = Stage(boot.network_prefix)
        if (yield from own.probe(boot.config_file)) is not None:
            early = own
    found = yield from early.read(boot.config_file)
    if found is None:
        raise ModeFailedError(f"{boot.config_file} not found")
    config = boot.parse(found)
    if not boot.in_ramdisk:
        yield from check_update(boot, early, config)
        if wants_ramdisk(boot, config):
            return (yield from load_ramdisk(boot, early, load_bcm2712))
    config = yield from early.settle_prefix(config, kernels(board, config), device_trees(board, config))
    dtb_name = yield from _os_check(early, board, config)

    # The later stage joins the prefix with a second slash.
    late = Stage(early.prefix + "/" if early.prefix else "", stuck_on_timeout=True)
    late_config = boot.parse((yield from late.read(boot.config_file)) or found)
    config = with_prefix(late_config, config.os_prefix)
    names = kernels(board, config)
    for kernel_name in names:
        if (yield from late.probe(config.os_prefix + kernel_name)) is not None:
            break
    else:
        raise ModeFailedError(f"no kernel: {' and '.join(names)} not found")
    initramfs_name, initramfs = yield from late.initramfs(config, kernel_name)
    if dtb_name is not None:
        yield from late.load(config.os_prefix + dtb_name)
    if config.overlays or boot.profile.early_overlay_map:
        yield from late.load(OVERLAY_MAP)
    yield from late.overlays(config)
    cmdline = yield from late.cmdline(config)
    yield from late.load("armstub8-2712.bin")
    kernel = yield from late.load(config.os_prefix + kernel_name)
    if kernel is None:
        raise ModeFailedError(f"{kernel_name} was there and is gone")
    return boot.loaded(
        config,
        kernel=(kernel_name, kernel.data),
        initramfs=(initramfs_name, initramfs),
        cmdline=cmdline,
        dtb_name=dtb_name,
    )


def _os_check(
    stage: Stage, board: BoardIdentity, config: ConfigTxt
) -> Generator[FileRequest, FoundFile | None, str | None]:
    """Find the device tree; without one for this model the system is taken not to know the board."""
    names = device_trees(board, config)
    for name in names:
        if (yield from stage.load(config.os_prefix + name)) is not None:
            return name
    if config.flag("os_check", default=True):
        raise ModeFailedError(
            f"os_check: the system does not say that it supports the {board.model.title}; "
            f"{' and '.join(names)} not found"
        )
    return None
