"""Which bootloader settings suit a node, and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from fleet.boards import BoardModel, DiskKind, Soc
from fleet.eeprom.keys import NVME_BOARDS, TEXT_BYTES, describe_boot_order
from fleet.spec.model import NodeSpec

WATCHDOG_S: Final = 300
WATCHDOG_SINCE: Final = {Soc.BCM2711: "2025-07-03", Soc.BCM2712: "2025-06-20"}
_MODE_OF_DISK: Final = {DiskKind.SD: "1", DiskKind.USB: "4", DiskKind.NVME: "6"}


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One setting. `is_optional`: it is shown, not set."""

    key: str
    value: str
    reason: str
    is_optional: bool = False


def recommend(
    board: BoardModel, node: NodeSpec | None = None, *, netconsole_port: int = 0
) -> tuple[Recommendation, ...]:
    """Settings for a board that Bramble installs over the network and that then boots from its own disk.

    Args:
        board: its model.
        node: the node that it is; its disk goes into BOOT_ORDER, its address into NETCONSOLE.
        netconsole_port: where `bramble serve` hears consoles; 0 for nowhere.
    """
    order = boot_order(board, node)
    found = [
        Recommendation(
            "BOOT_ORDER",
            order,
            f"{describe_boot_order(order)}. The network comes first, so that a re-installation can be "
            "ordered; an installed board is told 'not found' there within milliseconds",
        ),
        Recommendation(
            "DHCP_TIMEOUT",
            "45000",
            "ms for the whole of DHCP. Long enough for a switch port that waits 30 s for spanning tree; with "
            "edge ports 10000 will do, and a board goes on sooner when the server is away",
        ),
        Recommendation(
            "TFTP_FILE_TIMEOUT",
            "60000",
            "ms for one file. The default of 30000 ends a 60 MB installer at less than 2 MB/s",
        ),
        Recommendation(
            "NET_BOOT_MAX_RETRIES",
            "0",
            "every retry adds 5 s to each start of an installed board; BOOT_ORDER's f starts anew anyway",
        ),
        Recommendation("MAX_RESTARTS", "-1", "try for ever: after a power cut the server may come up last"),
        Recommendation(
            "TFTP_PREFIX", "0", "look for files below the serial number, by which nodes are known"
        ),
        Recommendation(
            "BOOT_WATCHDOG_TIMEOUT",
            str(WATCHDOG_S),
            "seconds until a board that has not started its system resets itself: a Pi 5 stays dark for ever "
            f"when a file breaks off. Bootloaders of {WATCHDOG_SINCE[board.soc]} and later know it",
        ),
    ]
    found += _netconsole(node, netconsole_port)
    if (
        board in NVME_BOARDS
        and board.soc is Soc.BCM2712
        and (node is None or node.disk.kind is DiskKind.NVME)
    ):
        found.append(
            Recommendation(
                "PCIE_PROBE", "1", "finds an NVMe disk on an adapter that is no HAT+", is_optional=True
            )
        )
    found.append(
        Recommendation("BOOT_UART", "1", "the bootloader's log on the serial port", is_optional=True)
    )
    return tuple(found)


def boot_order(board: BoardModel, node: NodeSpec | None) -> str:
    """Network, the node's disk, again. Without a node: the disks of the board, the fastest first."""
    if node is not None:
        disks = [node.disk.kind]
    else:
        speed = (DiskKind.NVME, DiskKind.SD, DiskKind.USB)
        disks = [kind for kind in speed if kind in board.disks]
    tried = "2" + "".join(_MODE_OF_DISK[kind] for kind in disks) + "f"
    return f"0x{tried[::-1]}"


def _netconsole(node: NodeSpec | None, port: int) -> Iterable[Recommendation]:
    """Broadcast: with two addresses the value is rarely short enough."""
    if not port or node is None or node.address is None:
        return
    value = f"6665@{node.address}/,{port}@/"
    if len(value) <= TEXT_BYTES:
        yield Recommendation(
            "NETCONSOLE",
            value,
            "the bootloader's log goes to 'bramble show'; the address in it tells which board speaks",
        )


def render(board: BoardModel, node: NodeSpec | None, items: Iterable[Recommendation]) -> str:
    """A file for ``rpi-eeprom-config --apply``; reasons are for the screen, the EEPROM is small."""
    whose = f"node {node.name}" if node is not None else board.title
    lines = [f"# Bramble: bootloader settings of {whose}", "[all]"]
    lines += [f"{item.key}={item.value}" for item in items if not item.is_optional]
    return "\n".join(lines) + "\n"


def settings_of(items: Iterable[Recommendation]) -> dict[str, str]:
    """What is set: key → value."""
    return {item.key: item.value for item in items if not item.is_optional}
