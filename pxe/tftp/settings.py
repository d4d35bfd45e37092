"""Bounds of the TFTP service, and what follows for one worker of several."""

from __future__ import annotations

import os
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Final

from pxe.tftp.options import SessionLimits
from pxe.tftp.wire import MAXIMUM_BLKSIZE, MINIMUM_BLKSIZE

HEADERS_BYTES: Final = 32  # IP 20, UDP 8, TFTP 4
MAX_TRANSFERS: Final = 1024
MAX_BULK: Final = 32
MAX_PER_CLIENT: Final = 8
MANY_BOARDS: Final = 17
PROCESSORS_FOR_TWO: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """Bounds of one worker.

    Args:
        limits: bounds of each transfer.
        max_transfers: at one time.
        max_bulk: transfers of more than `bulk_bytes` at one time. Few that are fast end sooner than many that
            share the link, and a bootloader gives a file up after 30 s: so the others wait for their turn.
        bulk_bytes: what counts as much.
        max_per_client: at one time for one address. The oldest that its client has left makes room, for it
            is a ghost of an earlier boot; where there is none the request waits.
        single_port: answer from the listening socket instead of from one for each transfer.
        neighbours: networks whose hosts are reached without a router.
        use_gso: hand windows to the kernel as one packet to be cut (UDP_SEGMENT).
        grace_s: how long transfers may go on after the order to stop.
    """

    limits: SessionLimits
    max_transfers: int = MAX_TRANSFERS
    max_bulk: int = MAX_BULK
    bulk_bytes: int = 1024 * 1024
    max_per_client: int = MAX_PER_CLIENT
    single_port: bool = False
    neighbours: tuple[IPv4Network, ...] = ()
    use_gso: bool = True
    grace_s: float = 5.0


def default_workers(boards: int, processors: int | None = None) -> int:
    """Worker processes for so many boards: one is enough for a gigabit; where many ask at once and processors
    are left for it, two that run beside each other answer sooner. Each takes some 25 MB.

    On two processors, which the server's main process needs too, one worker carries more than two to 16 and
    to 64 clients in lock-step (1.05-1.1 times, in a quarter less processor time).
    """
    return 2 if boards >= MANY_BOARDS and (processors or os.cpu_count() or 1) >= PROCESSORS_FOR_TWO else 1


def worker_settings(
    *, mtu: int, workers: int, single_port: bool, subnet: IPv4Network, grace_s: float
) -> WorkerSettings:
    """Bounds of each of several workers. The kernel spreads requests over them by address and port.

    Args:
        mtu: of the interface, bytes.
        workers: how many processes share the port.
        single_port: see `WorkerSettings`. Behind NAT many boards have one address, so it is not bounded.
        subnet: of the boards.
        grace_s: see `WorkerSettings`.
    """
    blksize = max(MINIMUM_BLKSIZE, min(mtu - HEADERS_BYTES, MAXIMUM_BLKSIZE))
    return WorkerSettings(
        limits=SessionLimits(max_blksize=blksize),
        max_transfers=-(-MAX_TRANSFERS // workers),
        max_bulk=-(-MAX_BULK // workers),
        max_per_client=MAX_TRANSFERS if single_port else MAX_PER_CLIENT,
        single_port=single_port,
        neighbours=(subnet,),
        grace_s=grace_s,
    )
