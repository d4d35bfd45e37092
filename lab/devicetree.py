"""The device tree of a virtual board: QEMU's own, with the identity that the Pi's firmware would write."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from fleet.boards import BootMode, decode_revision
from lab.bootloader.profile import BoardIdentity
from lab.qemu import MACHINE, Cpu
from lab.runner import run


def write_board_dtb(
    target: Path,
    *,
    cache: Path,
    board: BoardIdentity,
    boot_mode: BootMode,
    cpu: Cpu,
    memory_mib: int,
    boot_arg1: int | None = None,
) -> None:
    """Write the device tree that the firmware hands to the kernel.

    Args:
        target: The file to write.
        cache: Directory where QEMU's trees are kept, one per hardware configuration.
        board: Whose identity.
        boot_mode: How the files came; the guest reads it as `/chosen/bootloader/boot-mode`.
        cpu: The processor QEMU is started with.
        memory_mib: Memory QEMU is started with.
        boot_arg1: The firmware's variable; None where this one has none.

    Raises:
        LabError: A tool is missing or failed.
    """
    target.write_bytes(_machine_dtb(cache, cpu, memory_mib).read_bytes())
    dtb = str(target)
    rev = decode_revision(board.revision).board_rev
    run(["fdtput", "-t", "s", dtb, "/", "serial-number", board.serial.text])
    run(["fdtput", "-t", "s", dtb, "/", "model", f"{board.model.title} Rev {rev}"])
    # -p makes the parent nodes; -t u writes big-endian 32-bit cells.
    run(["fdtput", "-p", "-t", "u", dtb, "/system", "linux,revision", str(board.revision)])
    run(["fdtput", "-p", "-t", "u", dtb, "/chosen/bootloader", "boot-mode", str(boot_mode.value)])
    if boot_arg1 is not None:
        run(["fdtput", "-p", "-t", "u", dtb, "/chosen/bootloader", "arg1", str(boot_arg1)])


def _machine_dtb(cache: Path, cpu: Cpu, memory_mib: int) -> Path:
    """QEMU's tree for a hardware configuration, dumped once."""
    key = hashlib.sha256(f"{MACHINE} {cpu.model} {cpu.count} {memory_mib}".encode()).hexdigest()[:16]
    path = cache / f"virt-{key}.dtb"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            fresh = Path(folder, "virt.dtb")
            run(
                [
                    *("qemu-system-aarch64", "-machine", f"{MACHINE},dumpdtb={fresh}"),
                    *("-cpu", cpu.model, "-smp", str(cpu.count), "-m", str(memory_mib)),
                    *("-display", "none", "-nodefaults"),
                ]
            )
            fresh.replace(path)
    return path
