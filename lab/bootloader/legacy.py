"""A Pi 2 or 3: the boot ROM that fetches bootcode.bin, and the files that bootcode.bin asks for.

Bramble does not install these boards. A network has them nevertheless, and a server must not be confused by
them.

Source: Raspberry Pi documentation, "Network booting" (read 2026-11); server logs in firmware#1041 and #1700.
"""

from __future__ import annotations

from lab.bootloader.files import (
    BoardStuckError,
    Boot,
    Loader,
    ModeFailedError,
    Stage,
    device_trees,
    kernels,
)


def load_rom(boot: Boot, bootcode: Boot) -> Loader:
    """The ROM's own file, from the root without any prefix; then bootcode.bin takes over.

    A board does DHCP once more in between; here both stages share one exchange.
    """
    rom = Stage("")
    if (yield from rom.load("bootcode.bin")) is None:
        raise ModeFailedError("bootcode.bin not found")
    yield from rom.load("bootsig.bin")
    return (yield from load_bootcode(bootcode))


def load_bootcode(boot: Boot) -> Loader:
    """The order of bootcode.bin; it looks for start.elf to settle the prefix."""
    stage = Stage("")
    if boot.network_prefix:
        own = Stage(boot.network_prefix)
        if (yield from own.probe("start.elf")) is not None:
            stage = own
        # The only network client that asks for it.
        yield from stage.read("autoboot.txt")
    yield from stage.read(boot.config_file)
    yield from stage.read("recovery.elf")
    if (yield from stage.load("start.elf")) is None:
        raise ModeFailedError("start.elf not found")
    yield from stage.load("fixup.dat")
    yield from stage.read("recovery.elf")
    config = boot.parse((yield from stage.read(boot.config_file)))
    yield from stage.read("dt-blob.bin")
    kernel_name, dtb_name = kernels(boot.board, config)[0], device_trees(boot.board, config)[0]
    initramfs_name, initramfs = yield from stage.initramfs(config, kernel_name)
    has_dtb = (yield from stage.load(config.os_prefix + dtb_name)) is not None
    yield from stage.overlays(config)
    cmdline = yield from stage.cmdline(config)
    kernel = yield from stage.load(config.os_prefix + kernel_name)
    if kernel is None:
        raise BoardStuckError(f"{kernel_name} not found (seven flashes of the green LED)")
    return boot.loaded(
        config,
        kernel=(kernel_name, kernel.data),
        initramfs=(initramfs_name, initramfs),
        cmdline=cmdline,
        dtb_name=dtb_name if has_dtb else None,
    )
