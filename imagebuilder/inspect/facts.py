"""What is known of an image, as values."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fleet.boards import BoardModel
from imagebuilder.disk.table import PartitionTable, TableEntry


class Dialect(enum.StrEnum):
    """How an image takes its settings at first boot."""

    RASPIOS_BOOKWORM = "raspios-bookworm"
    """No cloud-init; raspberrypi-sys-mods reads custom.toml or runs firstrun.sh."""
    RASPIOS_TRIXIE = "raspios-trixie"
    """cloud-init, its seed in the root of the boot partition."""
    RPI_PRESEED = "rpi-preseed"
    """No cloud-init; units that wait for rpi-preseed.toml on the boot partition."""
    UBUNTU = "ubuntu"
    """cloud-init, NoCloud on the partition system-boot; with or without ``os_prefix``."""
    DEBIAN = "debian"
    """Debian's own packages with cloud-init, laid out like Raspberry Pi OS."""

    @property
    def has_cloud_init(self) -> bool:
        return self in (Dialect.RASPIOS_TRIXIE, Dialect.UBUNTU, Dialect.DEBIAN)


@dataclass(frozen=True, slots=True, kw_only=True)
class FatFacts:
    """The boot partition. ``faults`` are marks of an unclean volume, empty on a sound one."""

    partition: int
    offset: int
    size_bytes: int
    label: str
    serial: int
    cluster_bytes: int
    free_bytes: int
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ext4Facts:
    """The root filesystem; ``size_bytes`` is the filesystem's, which may be less than its partition's."""

    partition: int
    offset: int
    size_bytes: int
    label: str
    uuid: str
    block_bytes: int
    free_bytes: int
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemFacts:
    """The installed system. ``distribution`` is ``raspios``, ``ubuntu`` or what os-release calls it.

    ``release`` is the codename (``trixie``), ``architecture`` dpkg's name.
    """

    distribution: str
    release: str
    version: str
    title: str
    architecture: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelFacts:
    """A kernel file of the boot partition; ``page_bytes`` and ``version`` None where it does not tell."""

    path: str
    version: str | None
    page_bytes: int | None
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardFacts:
    """What one board would load, by config.txt: paths of the boot partition, None where there is no such
    file.

    ``problem`` says why the board would not boot, None where nothing speaks against it.
    """

    model: BoardModel
    os_prefix: str
    kernel: str | None
    page_bytes: int | None
    initramfs: str | None
    device_tree: str | None
    cmdline: str | None
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RootReference:
    """A place that names a partition: ``place`` is cmdline.txt's path or ``/etc/fstab``, ``names`` what it
    says (``PARTUUID=1a2b3c4d-02``, ``LABEL=writable``), ``partition`` the number that this leads to, None
    where it leads nowhere."""

    place: str
    mount: str
    names: str
    partition: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """All that is known of an image, from its content.

    Attributes:
        cmdlines: paths of the command line files in use, the one of an ordinary boot first; then that of a
            ``[tryboot]`` system, where it exists.
        seed_files: what first-boot tools would read, of the files in the root of the boot partition.
        module_versions: kernel versions for which modules are installed.
        python: path of the interpreter, None where there is none.
    """

    size_bytes: int
    table: PartitionTable
    boot: FatFacts
    root: Ext4Facts
    system: SystemFacts
    dialect: Dialect
    os_prefix: str
    tryboot_prefix: str | None
    boards: tuple[BoardFacts, ...]
    kernels: tuple[KernelFacts, ...]
    module_versions: tuple[str, ...]
    cmdlines: tuple[str, ...]
    references: tuple[RootReference, ...]
    seed_files: tuple[str, ...]
    python: str | None

    def board(self, model: BoardModel) -> BoardFacts:
        """What ``model`` would load."""
        return next(board for board in self.boards if board.model is model)

    @property
    def kernel_version(self) -> str | None:
        """Version of the kernel that a Raspberry Pi 4 loads, or of the first one that tells it."""
        loaded = self.board(BoardModel.PI4).kernel
        ordered = sorted(self.kernels, key=lambda kernel: kernel.path != loaded)
        return next((kernel.version for kernel in ordered if kernel.version), None)

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``--json``; enumerations by their values."""
        plain: dict[str, Any] = _plain(self)
        plain["kernel_version"] = self.kernel_version
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        shown = {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
        if isinstance(value, TableEntry):
            shown["offset"], shown["size_bytes"] = value.offset, value.size_bytes
        return shown
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value
