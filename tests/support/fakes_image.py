"""A small disk in the layout of Raspberry Pi OS: made with the real mke2fs and mkfs.vfat, never booted."""

from __future__ import annotations

import os
from pathlib import Path

from imagebuilder.disk.mbr import Mbr, Partition
from imagebuilder.runner import run

SIGNATURE = 0x5AB1E0FF
BOOT_START_LBA = 2048
BOOT_SECTORS = 40 * 2048
ROOT_SECTORS = 96 * 2048
CMDLINE = f"console=tty1 root=PARTUUID={SIGNATURE:08x}-02 rootfstype=ext4 fsck.repair=yes rootwait\n"
FSTAB = (
    f"proc /proc proc defaults 0 0\nPARTUUID={SIGNATURE:08x}-01 /boot/firmware vfat defaults 0 2\n"
    f"PARTUUID={SIGNATURE:08x}-02 / ext4 defaults,noatime 0 1\n"
)


def make_disk(
    path: Path, *, root_sectors: int = ROOT_SECTORS, features: str = "^64bit,^huge_file,orphan_file"
) -> Path:
    """MBR, a FAT32 ``bootfs`` with the usual files, an ext4 ``rootfs`` with a merged-/usr tree."""
    work = path.parent / f"{path.name}.work"
    tree = work / "tree"
    for directory in ("etc", "usr/lib/systemd", "usr/bin", "usr/local/bin", "var/lib", "boot/firmware"):
        (tree / directory).mkdir(parents=True)
    for link in ("bin", "lib"):
        (tree / link).symlink_to(f"usr/{link}")
    (tree / "etc/fstab").write_text(FSTAB)
    (tree / "etc/hostname").write_text("raspberrypi\n")
    (tree / "usr/bin/big").write_bytes(os.urandom(3_000_000))
    boot = Partition(start_lba=BOOT_START_LBA, sectors=BOOT_SECTORS, type=0x0C)
    root = Partition(start_lba=boot.end_lba, sectors=root_sectors, type=0x83)
    with path.open("wb") as file:
        file.write(Mbr(signature=SIGNATURE, entries=(boot, root, None, None)).encode())
        file.truncate(root.offset + root.size_bytes)
    run(["mkfs.vfat", "-F", "32", "-s", "1", "-n", "bootfs", "-i", "1234abcd",
         "--offset", str(boot.start_lba), path, str(boot.size_bytes // 1024)])  # fmt: skip
    run(["mke2fs", "-q", "-t", "ext4", "-O", features, "-L", "rootfs", "-d", tree, "-E",
         f"offset={root.offset},root_owner=0:0", path, f"{root.size_bytes // 1024}k"])  # fmt: skip
    for name, content in {
        "cmdline.txt": CMDLINE.encode(),
        "config.txt": b"[all]\narm_64bit=1\n",
        "kernel8.img": os.urandom(70_000),
        "a long file name.dtbo": b"overlay",
    }.items():
        (work / name).write_bytes(content)
        run(["mcopy", "-i", f"{path}@@{boot.offset}", work / name, f"::/{name}"])
    return path
