"""The order of files of the Pi 4 family: the EEPROM loads start4.elf, which then loads the rest with a client
of its own.

Source: third-party server logs of a Pi 4 with an EEPROM of 2021 (pipxe; Ubuntu's netboot notes);
rpi-eeprom#74, #376; Raspberry Pi documentation, TFTP_PREFIX. It asks for files that a Bramble server never
has; those are asked for here too.
"""

from __future__ import annotations

from fleet.boards import BoardModel, decode_revision
from lab.bootloader.files import (
    OVERLAY_MAP,
    BoardStuckError,
    Boot,
    Loader,
    ModeFailedError,
    Stage,
    device_trees,
    kernels,
)
from lab.bootloader.profile import BoardIdentity
from lab.bootloader.ramdisk import load_ramdisk, wants_ramdisk
from lab.bootloader.self_update import check_update


def load_bcm2711(boot: Boot) -> Loader:
    """From the EEPROM's stage to the kernel."""
    if not isinstance(boot.board, BoardIdentity):
        raise TypeError("a Pi 3 has another loader")
    stage = Stage("")
    if boot.network_prefix:
        own = Stage(boot.network_prefix)
        found = yield from own.probe("start4.elf")
        if found is None:
            found = yield from own.probe("start.elf")
        if found is not None:
            stage = own
            if found.size_bytes == 0:
                # An agreed sign: this board has nothing to boot here (rpi-eeprom#376).
                raise ModeFailedError("start4.elf is empty")
    config = boot.parse((yield from stage.read(boot.config_file)))
    if not boot.in_ramdisk:
        if boot.board.model is BoardModel.PI4 and decode_revision(boot.board.revision).board_rev <= "1.3":
            yield from stage.read("vl805.sig")  # USB controller with an EEPROM of its own
        yield from check_update(boot, stage, config)
        if wants_ramdisk(boot, config):
            return (yield from load_ramdisk(boot, stage, load_bcm2711))
    for name in ("recover4.elf", "recovery.elf"):
        yield from stage.read(name)
    firmware = yield from stage.load("start4.elf")
    if firmware is None or not firmware.size_bytes:
        raise ModeFailedError("start4.elf not found" if firmware is None else "start4.elf is empty")
    yield from stage.load("fixup4.dat")
    return (yield from _start4(boot, boot.board, Stage(stage.prefix, stuck_on_timeout=True)))


def _start4(boot: Boot, board: BoardIdentity, stage: Stage) -> Loader:
    yield from stage.read("recovery.elf")
    found = yield from stage.probe_and_read(boot.config_file)
    config_data = found.data if found else b""
    # Only this stage follows `include` lines. Filters that stand open at the line do not reach into the file
    # here.
    for name in boot.parse_bytes(config_data).includes:
        included = yield from stage.read(name)
        config_data += b"\n[all]\n" + (included.data if included else b"")
    config = boot.parse_bytes(config_data)
    yield from stage.read("dt-blob.bin")
    yield from stage.read("bootcfg.txt")
    if not config.flag("arm_64bit", default=True):
        raise BoardStuckError("config.txt says arm_64bit=0, and the virtual board runs only 64-bit kernels")
    names, trees = kernels(board, config), device_trees(board, config)
    config = yield from stage.settle_prefix(config, names, trees)
    kernel_name = names[0]
    initramfs_name, initramfs = yield from stage.initramfs(config, kernel_name)

    dtb_name = trees[0]
    if (yield from stage.probe_and_load(config.os_prefix + dtb_name)) is None:
        raise BoardStuckError(f"{dtb_name} not found: the kernel would start without a device tree")
    yield from stage.probe_and_load(OVERLAY_MAP)
    yield from stage.overlays(config)
    cmdline = yield from stage.cmdline(config)
    yield from stage.load("recovery8.img")
    yield from stage.probe(config.os_prefix + kernel_name)
    yield from stage.load("armstub8-gic.bin")
    kernel = yield from stage.load(config.os_prefix + kernel_name)
    if kernel is None:
        raise BoardStuckError(f"{kernel_name} not found (seven flashes of the green LED)")
    return boot.loaded(
        config,
        kernel=(kernel_name, kernel.data),
        initramfs=(initramfs_name, initramfs),
        cmdline=cmdline,
        dtb_name=dtb_name,
    )
