"""Which files the firmware asks for: the questions, the answers, and the steps that all families share.

A loader is a generator: it yields a `FileRequest`, is sent the `FoundFile` or None, and returns `BootFiles`.
It does not know whether the answers come over TFTP, from a disk or out of a RAM disk, so all ways to boot
share it. The orders stand in `bcm2711`, `bcm2712` and `legacy`; `loader` chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from fleet.boards import BoardModel, BootMode
from lab.bootloader.config_txt import ConfigTxt, parse_config_txt
from lab.bootloader.filters import Circumstances
from lab.bootloader.profile import AnyBoard, BoardIdentity, EepromProfile
from lab.bootloader.settings import PrefixMode
from lab.bootloader.signature import RsaPublicKey

CONFIG_FILE: Final = "config.txt"
TRYBOOT_FILE: Final = "tryboot.txt"
DEFAULT_CMDLINE_FILE: Final = "cmdline.txt"
OVERLAY_MAP: Final = "overlays/overlay_map.dtb"
_UPSTREAM_DTBS: Final = {BoardModel.CM4: "bcm2711-rpi-cm4-io.dtb"}
"""Device trees that mainline Linux calls by another name than the Raspberry Pi kernel."""


class ModeFailedError(Exception):
    """This boot mode came to nothing; the firmware goes on with the next one."""


class BoardStuckError(Exception):
    """The firmware stops with an error pattern or a dark screen; only a power cycle helps."""


class BoardResetError(Exception):
    """The firmware resets the board: it has written a new EEPROM image, whose timestamp it carries."""

    def __init__(self, timestamp: int) -> None:
        super().__init__(f"a bootloader image with the timestamp {timestamp} was written")
        self.timestamp = timestamp


@dataclass(frozen=True, slots=True)
class FileRequest:
    """A file that the firmware asks for.

    Attributes:
        name: Path as it goes over the wire, prefix included.
        probe: Only its existence and size matter; the transfer is aborted after the first answer.
        stuck_on_timeout: A server that falls silent during this file leaves the board hanging instead of
            failing the mode (rpi-eeprom#687 for a Pi 5; on a Pi 4 the third stage cannot go back to the
            EEPROM's).
        is_read: The firmware looks into it. What is only loaded, a client of a boot storm need not keep.
    """

    name: str
    probe: bool = False
    stuck_on_timeout: bool = False
    is_read: bool = True


@dataclass(frozen=True, slots=True)
class FoundFile:
    """An answer; `data` is empty for a probe, and where the client keeps no content."""

    size_bytes: int
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFiles:
    """What the firmware has in memory when it starts the kernel.

    Attributes:
        cmdline: First line of the command line file, as it stands there.
        dtb_name: File name of the device tree without any prefix; None where config.txt wants none.
        source: The boot mode that it came by.
        from_ramdisk: Whether everything was taken out of a boot.img.
        partition: The disk's partition; 0 where it did not come from a disk.
    """

    kernel: bytes
    kernel_name: str
    initramfs: bytes | None
    initramfs_name: str | None
    cmdline: str
    dtb_name: str | None
    config: ConfigTxt
    source: BootMode
    from_ramdisk: bool = False
    partition: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """One run of a loader.

    Attributes:
        in_ramdisk: Files come out of a boot.img: no prefix, no second RAM disk.
        eeprom_timestamp: When the EEPROM was last updated, Unix seconds; an older image is not taken.
        public_key: What boot images must be signed by; None where the EEPROM holds none.
    """

    board: AnyBoard
    source: BootMode
    profile: EepromProfile
    circumstances: Circumstances
    in_ramdisk: bool = False
    eeprom_timestamp: int = 0
    public_key: RsaPublicKey | None = None

    @property
    def config_file(self) -> str:
        return TRYBOOT_FILE if self.circumstances.tryboot else CONFIG_FILE

    @property
    def network_prefix(self) -> str:
        """What is put before names over TFTP; no slash is added to a text of the user's own."""
        if self.source is not BootMode.NETWORK or self.in_ramdisk:
            return ""
        settings = self.profile.settings
        match settings.prefix_mode:
            case PrefixMode.SERIAL:
                return f"{self.board.serial.prefix}/"
            case PrefixMode.TEXT:
                return settings.prefix_text
            case PrefixMode.MAC:
                return f"{(settings.mac_address or self.board.mac).dashed}/"

    def loaded(
        self,
        config: ConfigTxt,
        *,
        kernel: tuple[str, bytes],
        initramfs: tuple[str | None, bytes | None],
        cmdline: str,
        dtb_name: str | None,
    ) -> BootFiles:
        """What a loader has come to: names with their contents."""
        return BootFiles(
            kernel=kernel[1],
            kernel_name=kernel[0],
            initramfs=initramfs[1],
            initramfs_name=initramfs[0],
            cmdline=cmdline,
            dtb_name=dtb_name,
            config=config,
            source=self.source,
            from_ramdisk=self.in_ramdisk,
        )

    def parse(self, found: FoundFile | None) -> ConfigTxt:
        """config.txt with the lines that the EEPROM's own configuration appends."""
        return self.parse_bytes(found.data if found else b"")

    def parse_bytes(self, data: bytes) -> ConfigTxt:
        own = self.profile.settings.config_txt
        return parse_config_txt(data + (b"\n[all]\n" + own if own else b""), self.circumstances)


Loader = Generator[FileRequest, FoundFile | None, BootFiles]
Step = Generator[FileRequest, FoundFile | None, FoundFile | None]


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
class Stage:
    """One stage of the firmware: its directory, and what a silent server does to it."""

    prefix: str
    stuck_on_timeout: bool = False

    def read(self, name: str) -> Step:
        return (yield FileRequest(self.prefix + name, stuck_on_timeout=self.stuck_on_timeout))

    def load(self, name: str) -> Step:
        """Read a file that the firmware does not look into."""
        return (yield FileRequest(self.prefix + name, False, self.stuck_on_timeout, is_read=False))

    def probe(self, name: str) -> Step:
        return (yield FileRequest(self.prefix + name, probe=True, stuck_on_timeout=self.stuck_on_timeout))

    def probe_and_read(self, name: str) -> Step:
        if (yield from self.probe(name)) is None:
            return None
        return (yield from self.read(name))

    def probe_and_load(self, name: str) -> Step:
        if (yield from self.probe(name)) is None:
            return None
        return (yield from self.load(name))

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
                return with_prefix(config, "")
        return config

    def overlays(self, config: ConfigTxt) -> Generator[FileRequest, FoundFile | None, None]:
        """Ask for the overlays. A missing one is no error; QEMU's machine has no use for their content."""
        folder = config.values.get("overlay_prefix", "overlays/")
        if config.os_prefix and (yield from self.probe(config.os_prefix + folder + "README")) is not None:
            folder = config.os_prefix + folder
        for name in config.overlays:
            yield from self.probe_and_load(f"{folder}{name}.dtbo")

    def cmdline(self, config: ConfigTxt) -> Generator[FileRequest, FoundFile | None, str]:
        found = yield from self.read(config.os_prefix + (config.text("cmdline") or DEFAULT_CMDLINE_FILE))
        lines = found.data.decode("utf-8", "replace").splitlines() if found else []
        return lines[0].strip() if lines else ""

    def initramfs(
        self, config: ConfigTxt, kernel_name: str
    ) -> Generator[FileRequest, FoundFile | None, tuple[str | None, bytes | None]]:
        """The initramfs that config.txt names (several joined by commas are loaded one behind the other), or
        the kernel's own; a missing one is no error."""
        name = config.initramfs or config.text("ramfsfile")
        if name is None and config.flag("auto_initramfs", default=False):
            name = automatic_initramfs(kernel_name)
        if name is None:
            return None, None
        pieces: list[bytes] = []
        for part in filter(None, name.split(",")):
            found = yield from self.load(config.os_prefix + part)
            if found is None:
                return None, None
            pieces.append(found.data)
        return name, b"".join(pieces)


def kernels(board: AnyBoard, config: ConfigTxt) -> tuple[str, ...]:
    """Names of kernels to try, in order."""
    if wanted := config.text("kernel"):
        return (wanted,)
    if not isinstance(board, BoardIdentity):
        return ("kernel8.img",) if config.flag("arm_64bit", default=False) else ("kernel7.img",)
    default = board.model.soc.default_kernel
    return (default,) if default == "kernel8.img" else (default, "kernel8.img")


def device_trees(board: AnyBoard, config: ConfigTxt) -> tuple[str, ...]:
    """Names of device trees to try, in order."""
    if wanted := config.text("device_tree"):
        return (wanted,)
    if not isinstance(board, BoardIdentity):
        return ("bcm2710-rpi-3-b.dtb",)
    if config.has_upstream_kernel and board.model in _UPSTREAM_DTBS:
        return (_UPSTREAM_DTBS[board.model],)
    return board.model.dtb_names


def with_prefix(config: ConfigTxt, os_prefix: str) -> ConfigTxt:
    """The same settings with another `os_prefix`."""
    return replace(config, values={**config.values, "os_prefix": os_prefix})


def automatic_initramfs(kernel_name: str) -> str | None:
    """The name that `auto_initramfs=1` derives: kernel_2712.img → initramfs_2712; else None."""
    folder, slash, base = kernel_name.rpartition("/")
    if not base.startswith("kernel"):
        return None
    return folder + slash + "initramfs" + base.removeprefix("kernel").removesuffix(".img")
