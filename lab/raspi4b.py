"""QEMU's model of a Raspberry Pi 4: an image's own device tree, less what the model lacks.

The machine has no Ethernet, no PCIe and no display controller; drivers that find them in the tree end in
external aborts or interrupt storms. So the tree is edited on a copy: those nodes are switched off, the SD
card is moved to the controller that exists, and the USB controller is a host, for a network adapter.

Measured with QEMU 10.0.2 and Debian's kernel 6.12: boots from the SD card to the end of cloud-init; the
kernel sees about 960 MB. The vendor's kernel was not at hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fleet.boards import BootMode, decode_revision
from lab.bootloader.profile import BoardIdentity
from lab.errors import LabError
from lab.runner import run

MACHINE: Final = "raspi4b"
MEMORY_MIB: Final = 2048
CPU_COUNT: Final = 4
EXTRA_CMDLINE: Final = "earlycon=pl011,mmio32,0xfe201000 keep_bootcon usbcore.autosuspend=-1"
"""The USB controller must not sleep: the model wakes it by an interrupt that the sleeping driver does not
take for its own, and the kernel then disables it ("nobody cared")."""

_ABSENT_IN_SOC: Final = (
    *("avs-monitor", "hvs", "pixelvalve", "vec", "rng", "dsi", "csi", "txp", "v3d", "firmwarekms"),
)
_ABSENT: Final = (
    "/scb/pcie@7d500000",
    "/scb/ethernet@7d580000",
    "/scb/v3d@7ec04000",
    "/gpu",
    "/soc/gpu",
    "/soc/serial@7e215040",
    "/soc/i2c@7e205000",
    "/soc/i2c@7e804000",
    "/soc/pwm@7e20c800",
    "/soc/serial@7e201000/bluetooth",
)
_HDMI_RANGE: Final = "@7ef"
_USB: Final = "/soc/usb@7e980000"
_SD: Final = "/soc/mmc@7e300000"
_EMMC2: Final = "/emmc2bus/mmc@7e340000"


def write_device_tree(target: Path, tree: bytes, *, board: BoardIdentity, boot_mode: BootMode) -> None:
    """Write ``tree`` (the image's bcm2711-rpi-4-b.dtb), fit for QEMU's machine and with the board's identity.

    Raises:
        LabError: it is not a Pi 4's, or fdtput is missing.
    """
    target.write_bytes(tree)
    dtb = str(target)
    if _children(dtb, "/soc") is None or _children(dtb, "/scb") is None:
        raise LabError(
            "the image's device tree has no /soc or no /scb: it is not a Raspberry Pi 4's",
            "Prove the image on the other machine: --machine virt",
        )
    for node in _absent(dtb):
        run(["fdtput", "-t", "s", dtb, node, "status", "disabled"])
    if _has(dtb, _USB):
        run(["fdtput", "-t", "s", dtb, _USB, "dr_mode", "host"])
    if _has(dtb, _SD):
        run(["fdtput", "-t", "s", dtb, _SD, "status", "okay"])
        _forget(dtb, _SD, "mmc-pwrseq")
    if _has(dtb, _EMMC2):
        _forget(dtb, _EMMC2, "vmmc-supply", "vqmmc-supply")
    rev = decode_revision(board.revision).board_rev
    run(["fdtput", "-t", "s", dtb, "/", "serial-number", board.serial.text])
    run(["fdtput", "-t", "s", dtb, "/", "model", f"{board.model.title} Rev {rev}"])
    run(["fdtput", "-p", "-t", "u", dtb, "/system", "linux,revision", str(board.revision)])
    run(["fdtput", "-p", "-t", "u", dtb, "/chosen/bootloader", "boot-mode", str(boot_mode.value)])


def _absent(dtb: str) -> Iterator[str]:
    """Nodes of the tree that the machine has nothing for."""
    for name in _children(dtb, "/soc") or ():
        if _HDMI_RANGE in name or name.partition("@")[0].rstrip("0123456789") in _ABSENT_IN_SOC:
            yield f"/soc/{name}"
    yield from (node for node in _ABSENT if _has(dtb, node))


def _children(dtb: str, node: str) -> list[str] | None:
    done = run(["fdtget", "-l", dtb, node], check=False)
    return done.stdout.decode().split() if done.returncode == 0 else None


def _has(dtb: str, node: str) -> bool:
    return _children(dtb, node) is not None


def _forget(dtb: str, node: str, *properties: str) -> None:
    for name in properties:
        run(["fdtput", "-d", dtb, node, name], check=False)
