"""What each board would load from a boot partition. Pure: it sees names and contents through functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from fleet.boards import BoardModel, Soc
from imagebuilder.inspect.config_txt import Settings, evaluate
from imagebuilder.inspect.facts import BoardFacts, KernelFacts

DEFAULT_CMDLINE: Final = "cmdline.txt"
INITRAMFS_OF: Final = {"kernel8.img": "initramfs8", "kernel_2712.img": "initramfs_2712"}
"""What ``auto_initramfs=1`` loads with a kernel.
Source: Raspberry Pi documentation, "auto_initramfs" (read 2026-11)."""
MAINLINE_DTBS: Final = {BoardModel.CM4: ("bcm2711-rpi-cm4-io.dtb",)}
"""Mainline Linux's other names for a board's device tree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFiles:
    """A boot partition: ``exists`` and ``read`` take paths without a slash in front."""

    config: str
    exists: Callable[[str], bool]
    read: Callable[[str], str | None]
    kernel: Callable[[str], KernelFacts | None]


def describe_board(files: BootFiles, model: BoardModel, *, tryboot: bool = False) -> BoardFacts:
    """What ``model`` loads with this boot partition."""
    settings = evaluate(files.config, model, tryboot=tryboot, read=files.read)
    prefix = _prefix(files, settings, model)
    name = next((name for name in _kernels(settings, model) if files.exists(prefix + name)), None)
    kernel = None if name is None else files.kernel(prefix + name)
    initramfs = settings.initramfs
    if initramfs is None and settings.flag("auto_initramfs") and name is not None:
        initramfs = INITRAMFS_OF.get(name)
    initramfs_found = initramfs is not None and files.exists(prefix + initramfs)
    tree = next((dtb for dtb in _device_trees(settings, model) if files.exists(prefix + dtb)), None)
    cmdline = prefix + (settings.values.get("cmdline") or DEFAULT_CMDLINE)
    problem = None
    if name is None:
        problem = f"no kernel: looked for {', '.join(prefix + name for name in _kernels(settings, model))}"
    elif tree is None and (model.soc is Soc.BCM2711 or settings.flag("os_check", default=True)):
        problem = f"no device tree: looked for {', '.join(prefix + dtb for dtb in model.dtb_names)}"
    elif settings.initramfs is not None and not initramfs_found:
        problem = f"config.txt names the initramfs {prefix + settings.initramfs}, which is not there"
    elif not files.exists(cmdline):
        problem = f"no {cmdline}"
    return BoardFacts(
        model=model,
        os_prefix=prefix,
        kernel=None if name is None else prefix + name,
        page_bytes=kernel.page_bytes if kernel else None,
        initramfs=prefix + initramfs if initramfs and initramfs_found else None,
        device_tree=None if tree is None else prefix + tree,
        cmdline=cmdline if files.exists(cmdline) else None,
        problem=problem,
    )


def _prefix(files: BootFiles, settings: Settings, model: BoardModel) -> str:
    """``os_prefix``, which the firmware drops unless a kernel and a device tree are found with it."""
    default = "upstream/" if settings.flag("upstream_kernel") else ""
    prefix = settings.values.get("os_prefix", default)
    if not prefix:
        return ""
    has_kernel = any(files.exists(prefix + name) for name in _kernels(settings, model))
    has_tree = any(files.exists(prefix + name) for name in _device_trees(settings, model))
    return prefix if has_kernel and has_tree else ""


def _kernels(settings: Settings, model: BoardModel) -> Iterator[str]:
    """Names in the order in which they are tried."""
    if named := settings.values.get("kernel"):
        yield named
        return
    if model.soc is Soc.BCM2712:
        yield "kernel_2712.img"
    yield "kernel8.img"


def _device_trees(settings: Settings, model: BoardModel) -> Iterator[str]:
    if named := settings.values.get("device_tree"):
        yield named
    yield from model.dtb_names
    yield from MAINLINE_DTBS.get(model, ())
