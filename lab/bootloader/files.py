"""Which files the firmware asks for, in which order, and what it makes of the answers.

A loader is a generator: it yields a `FileRequest`, is sent the `FoundFile` or None, and returns `BootFiles`.
It does not know whether the answers come over TFTP or from a disk, so both ways to boot share it.

Order of requests: third-party server logs of a Pi 4 with an EEPROM of 2021 and of a Pi 5 with one of 2026,
and boot logs of a Pi 5 with one of 2025-05-08. Both families ask for files that a Bramble server never has;
those are asked for here too.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from fleet.boards import BoardModel, BootMode, Soc, decode_revision
from lab.bootloader.config_txt import ConfigTxt, parse_config_txt
from lab.bootloader.profile import BoardIdentity

DEFAULT_CMDLINE_FILE: Final = "cmdline.txt"
_OVERLAY_MAP: Final = "overlays/overlay_map.dtb"
_UPSTREAM_DTBS: Final = {BoardModel.CM4: "bcm2711-rpi-cm4-io.dtb"}
"""Device trees that mainline Linux calls by another name than the Raspberry Pi kernel."""


class ModeFailedError(Exception):
    """This boot mode came to nothing; the firmware goes on with the next one."""


class BoardStuckError(Exception):
    """The firmware stops with an error pattern or a dark screen; only a power cycle helps."""


@dataclass(frozen=True, slots=True)
class FileRequest:
    """A file that the firmware asks for.

    Attributes:
        name: Path as it goes over the wire, prefix included.
        probe: Only its existence and size matter; the transfer is aborted after the first answer.
        stuck_on_timeout: A server that falls silent during this file leaves the board hanging instead of
            failing the mode (rpi-eeprom#687 for a Pi 5; on a Pi 4 the third stage cannot go back to the
            EEPROM's).
    """

    name: str
    probe: bool = False
    stuck_on_timeout: bool = False


@dataclass(frozen=True, slots=True)
class FoundFile:
    """An answer; `data` is empty for a probe."""

    size_bytes: int
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFiles:
    """What the firmware has in memory when it starts the kernel.

    Attributes:
        cmdline: First line of the command line file, as it stands there.
        dtb_name: File name of the device tree without any prefix; None where config.txt wants none.
        source: The boot mode that it came by.
    """

    kernel: bytes
    kernel_name: str
    initramfs: bytes | None
    initramfs_name: str | None
    cmdline: str
    dtb_name: str | None
    config: ConfigTxt
    source: BootMode


Loader = Generator[FileRequest, FoundFile | None, BootFiles]
_Step = Generator[FileRequest, FoundFile | None, FoundFile | None]


def load_files(board: BoardIdentity, source: BootMode) -> Loader:
    """The loader of a board's family.

    Raises (when run):
        ModeFailedError: A file is missing without which this mode ends.
        BoardStuckError: A file is missing at a point from which the firmware does not come back.
    """
    if board.model.soc is Soc.BCM2711:
        return _load_bcm2711(board, source)
    return _load_bcm2712(board, source)


def read_all(loader: Loader, read: Callable[[str], bytes | None]) -> BootFiles:
    """Run a loader over files at hand: `read(name)` gives the content, None where there is no such file."""
    probed: dict[str, bytes] = {}
    try:
        request = next(loader)
        while True:
            data = probed.pop(request.name, None)
            if data is None:
                data = read(request.name)
            if data is not None and request.probe:
                probed[request.name] = data
            request = loader.send(
                None if data is None else FoundFile(len(data), b"" if request.probe else data)
            )
    except StopIteration as stop:
        files: BootFiles = stop.value
        return files


@dataclass(frozen=True, slots=True)
class _Stage:
    """One stage of the firmware: its directory, and what a silent server does to it."""

    prefix: str
    stuck_on_timeout: bool = False

    def read(self, name: str) -> _Step:
        return (yield FileRequest(self.prefix + name, stuck_on_timeout=self.stuck_on_timeout))

    def probe(self, name: str) -> _Step:
        return (yield FileRequest(self.prefix + name, probe=True, stuck_on_timeout=self.stuck_on_timeout))

    def probe_and_read(self, name: str) -> _Step:
        if (yield from self.probe(name)) is None:
            return None
        return (yield from self.read(name))

    def settle_prefix(
        self, config: ConfigTxt, kernels: Sequence[str], dtbs: Sequence[str]
    ) -> Generator[FileRequest, FoundFile | None, ConfigTxt]:
        """The settings with the `os_prefix` that holds: none, unless a kernel and a device tree have it."""
        if not config.os_prefix:
            return config
        for names in (kernels, dtbs):
            for name in names:
                if (yield from self.probe(config.os_prefix + name)) is not None:
                    break
            else:
                return _with_prefix(config, "")
        return config

    def overlays(self, config: ConfigTxt) -> Generator[FileRequest, FoundFile | None, None]:
        """Ask for the overlays. A missing one is no error; QEMU's machine has no use for their content."""
        folder = config.values.get("overlay_prefix", "overlays/")
        if config.os_prefix and (yield from self.probe(config.os_prefix + folder + "README")) is not None:
            folder = config.os_prefix + folder
        for name in config.overlays:
            yield from self.probe_and_read(f"{folder}{name}.dtbo")

    def cmdline(self, config: ConfigTxt) -> Generator[FileRequest, FoundFile | None, str]:
        found = yield from self.read(config.os_prefix + (config.text("cmdline") or DEFAULT_CMDLINE_FILE))
        lines = found.data.decode("utf-8", "replace").splitlines() if found else []
        return lines[0].strip() if lines else ""


def _load_bcm2712(board: BoardIdentity, source: BootMode) -> Loader:
    """Pi 5 family: the EEPROM loads everything itself; config.txt is required, and the prefix's probe."""
    early = _Stage("")
    if source is BootMode.NETWORK:
        own = _Stage(f"{board.serial.prefix}/")
        if (yield from own.probe("config.txt")) is not None:
            early = own
    found = yield from early.read("config.txt")
    if found is None:
        raise ModeFailedError("config.txt not found")
    config = _parse(found, board)
    yield from early.read("pieeprom.sig")
    config = yield from early.settle_prefix(config, _kernels(board, config), _dtbs(board, config))
    dtb_name = yield from _os_check(early, board, config)

    # The later stage joins the prefix with a second slash.
    late = _Stage(early.prefix + "/" if early.prefix else "", stuck_on_timeout=True)
    late_config = _parse((yield from late.read("config.txt")) or found, board)
    config = _with_prefix(late_config, config.os_prefix)
    for kernel_name in _kernels(board, config):
        if (yield from late.probe(config.os_prefix + kernel_name)) is not None:
            break
    else:
        raise ModeFailedError(f"no kernel: {' and '.join(_kernels(board, config))} not found")
    initramfs_name, initramfs = yield from _load_initramfs(late, config, kernel_name)
    if dtb_name is not None:
        yield from late.read(config.os_prefix + dtb_name)
    if config.overlays:
        yield from late.read(_OVERLAY_MAP)
        yield from late.overlays(config)
    cmdline = yield from late.cmdline(config)
    yield from late.read("armstub8-2712.bin")
    kernel = yield from late.read(config.os_prefix + kernel_name)
    if kernel is None:
        raise ModeFailedError(f"{kernel_name} was there and is gone")
    return BootFiles(
        kernel=kernel.data,
        kernel_name=kernel_name,
        initramfs=initramfs,
        initramfs_name=initramfs_name,
        cmdline=cmdline,
        dtb_name=dtb_name,
        config=config,
        source=source,
    )


def _os_check(
    stage: _Stage, board: BoardIdentity, config: ConfigTxt
) -> Generator[FileRequest, FoundFile | None, str | None]:
    """Find the device tree; without one for this model the system is taken not to know the board."""
    names = _dtbs(board, config)
    for name in names:
        if (yield from stage.read(config.os_prefix + name)) is not None:
            return name
    if config.flag("os_check", default=True):
        raise ModeFailedError(
            f"os_check: the system does not say that it supports the {board.model.title}; "
            f"{' and '.join(names)} not found"
        )
    return None


def _load_bcm2711(board: BoardIdentity, source: BootMode) -> Loader:
    """Pi 4 family: the EEPROM loads start4.elf, which then loads the rest with a client of its own."""
    stage = _Stage("")
    if source is BootMode.NETWORK:
        own = _Stage(f"{board.serial.prefix}/")
        found = yield from own.probe("start4.elf")
        if found is None:
            found = yield from own.probe("start.elf")
        if found is not None:
            stage = own
            if found.size_bytes == 0:
                # An agreed sign: this board has nothing to boot here (rpi-eeprom#376).
                raise ModeFailedError("start4.elf is empty")
    yield from stage.read("config.txt")
    if board.model is BoardModel.PI4 and decode_revision(board.revision).board_rev <= "1.3":
        yield from stage.read("vl805.sig")  # USB controller with an EEPROM of its own
    for name in ("pieeprom.sig", "recover4.elf", "recovery.elf"):
        yield from stage.read(name)
    firmware = yield from stage.read("start4.elf")
    if firmware is None or not firmware.data:
        raise ModeFailedError("start4.elf not found" if firmware is None else "start4.elf is empty")
    yield from stage.read("fixup4.dat")
    return (yield from _start4(board, source, _Stage(stage.prefix, stuck_on_timeout=True)))


def _start4(board: BoardIdentity, source: BootMode, stage: _Stage) -> Loader:
    yield from stage.read("recovery.elf")
    found = yield from stage.probe_and_read("config.txt")
    config_data = found.data if found else b""
    # Only this stage follows `include` lines. Filters that stand open at the line do not reach into the file
    # here.
    for name in _parse_bytes(config_data, board).includes:
        included = yield from stage.read(name)
        config_data += b"\n[all]\n" + (included.data if included else b"")
    config = _parse_bytes(config_data, board)
    yield from stage.read("dt-blob.bin")
    yield from stage.read("bootcfg.txt")
    if not config.flag("arm_64bit", default=True):
        raise BoardStuckError("config.txt says arm_64bit=0, and the virtual board runs only 64-bit kernels")
    config = yield from stage.settle_prefix(config, _kernels(board, config), _dtbs(board, config))
    kernel_name = _kernels(board, config)[0]
    initramfs_name, initramfs = yield from _load_initramfs(stage, config, kernel_name)

    dtb_name = _dtbs(board, config)[0]
    if (yield from stage.probe_and_read(config.os_prefix + dtb_name)) is None:
        raise BoardStuckError(f"{dtb_name} not found: the kernel would start without a device tree")
    yield from stage.probe_and_read(_OVERLAY_MAP)
    yield from stage.overlays(config)
    cmdline = yield from stage.cmdline(config)
    yield from stage.read("recovery8.img")
    yield from stage.probe(config.os_prefix + kernel_name)
    yield from stage.read("armstub8-gic.bin")
    kernel = yield from stage.read(config.os_prefix + kernel_name)
    if kernel is None:
        raise BoardStuckError(f"{kernel_name} not found (seven flashes of the green LED)")
    return BootFiles(
        kernel=kernel.data,
        kernel_name=kernel_name,
        initramfs=initramfs,
        initramfs_name=initramfs_name,
        cmdline=cmdline,
        dtb_name=dtb_name,
        config=config,
        source=source,
    )


def _load_initramfs(
    stage: _Stage, config: ConfigTxt, kernel_name: str
) -> Generator[FileRequest, FoundFile | None, tuple[str | None, bytes | None]]:
    """The initramfs that config.txt names, or the kernel's own; a missing one is no error."""
    name = config.initramfs or config.text("ramfsfile")
    if name is None and config.flag("auto_initramfs", default=False):
        name = automatic_initramfs(kernel_name)
    if name is None:
        return None, None
    found = yield from stage.read(config.os_prefix + name)
    return (name, found.data) if found else (None, None)


def _kernels(board: BoardIdentity, config: ConfigTxt) -> tuple[str, ...]:
    """Names of kernels to try, in order."""
    if wanted := config.text("kernel"):
        return (wanted,)
    default = board.model.soc.default_kernel
    return (default,) if default == "kernel8.img" else (default, "kernel8.img")


def _dtbs(board: BoardIdentity, config: ConfigTxt) -> tuple[str, ...]:
    """Names of device trees to try, in order."""
    if wanted := config.text("device_tree"):
        return (wanted,)
    if config.has_upstream_kernel and board.model in _UPSTREAM_DTBS:
        return (_UPSTREAM_DTBS[board.model],)
    return board.model.dtb_names


def _with_prefix(config: ConfigTxt, os_prefix: str) -> ConfigTxt:
    return replace(config, values={**config.values, "os_prefix": os_prefix})


def automatic_initramfs(kernel_name: str) -> str | None:
    """The name that `auto_initramfs=1` derives: kernel_2712.img → initramfs_2712; else None."""
    folder, slash, base = kernel_name.rpartition("/")
    if not base.startswith("kernel"):
        return None
    return folder + slash + "initramfs" + base.removeprefix("kernel").removesuffix(".img")


def _parse(found: FoundFile, board: BoardIdentity) -> ConfigTxt:
    return _parse_bytes(found.data, board)


def _parse_bytes(data: bytes, board: BoardIdentity) -> ConfigTxt:
    return parse_config_txt(data, model=board.model, serial=board.serial)
