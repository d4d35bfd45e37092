"""Which files of a boot tree one board needs to start the installer. Pure.

A boot.img is read into RAM in one piece and has a size limit, so what the board can not use stays out: the
other family's firmware and device trees, kernels and initramfs files that config.txt does not name, variants
of the firmware, first-boot data of the installed system, and files with which a bootloader re-flashes itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, TypeAlias

from fleet.boards import BoardModel, Soc

Content: TypeAlias = Path | bytes

_ALWAYS_OUT: Final = (
    *("pieeprom.*", "vl805.*", "recover*.elf", "recovery.bin", "bootcode.bin"),
    *("user-data", "meta-data", "network-config", "*.md", "copying.*", "licence.*", "license.*"),
    *("start4cd.elf", "start4db.elf", "start4x.elf", "fixup4cd.dat", "fixup4db.dat", "fixup4x.dat"),
    *("start.elf", "start_*.elf", "fixup.dat", "fixup_*.dat", "bcm2708-*", "bcm2709-*", "bcm2710-*"),
    *("issue.txt", "ssh", "firstrun.sh", "custom.toml", "autoboot.txt", "tryboot.txt"),
)
_OUT_BY_FAMILY: Final[Mapping[Soc, tuple[str, ...]]] = {
    Soc.BCM2711: ("bcm2712*", "kernel_2712.img", "initramfs_2712"),
    Soc.BCM2712: ("bcm2711-*", "start4.elf", "fixup4.dat"),
}
_KERNELS: Final = ("kernel*.img", "vmlinuz*")
_INITRAMFS: Final = ("initramfs*", "initrd*")
_NAMED: Final = re.compile(r"^\s*(?:kernel|ramfsfile)\s*=\s*(\S+)|^\s*initramfs\s+(\S+)", re.MULTILINE)


def select_files(files: Mapping[str, Content], config: str, board: BoardModel) -> dict[str, Content]:
    """The files that go into the image, in the order of their names.

    Args:
        files: Relative name → content; all that the board could ask for.
        config: The text of config.txt: it names kernels and initramfs files.
        board: Whose image it is.
    """
    named = {
        part.casefold() for match in _NAMED.finditer(config) for part in (match[1] or match[2]).split(",")
    }
    soc = board.soc
    if not any("kernel" in name or "vmlinuz" in name for name in named):
        named |= {"kernel8.img", soc.default_kernel}
    return {name: files[name] for name in sorted(files) if _is_wanted(name, named, soc)}


def _is_wanted(name: str, named: set[str], soc: Soc) -> bool:
    base = name.rpartition("/")[2].casefold()
    if _matches(base, _ALWAYS_OUT) or _matches(base, _OUT_BY_FAMILY[soc]):
        return False
    if _matches(base, (*_KERNELS, *_INITRAMFS)):
        return base in named or name.casefold() in named
    return True


def _matches(base: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(base, pattern) for pattern in patterns)


def missing_files(selected: Iterable[str], board: BoardModel) -> tuple[str, ...]:
    """What a board can not boot without and the selection lacks, in words."""
    names = {name.rpartition("/")[2] for name in selected}
    missing = []
    if board.soc is Soc.BCM2711 and "start4.elf" not in names:
        missing.append("start4.elf")
    if not any(_matches(name, _KERNELS) for name in names):
        missing.append("a kernel")
    if not any(name in names for name in (*board.dtb_names, *_UPSTREAM_NAMES.get(board, ()))):
        missing.append(" or ".join(board.dtb_names))
    return tuple(missing)


_UPSTREAM_NAMES: Final[Mapping[BoardModel, tuple[str, ...]]] = {
    # config.txt of Debian's base names the Pi 5's device tree for these.
    model: ("bcm2712-rpi-5-b.dtb",)
    for model in (BoardModel.CM5, BoardModel.CM5_LITE, BoardModel.PI500)
}
