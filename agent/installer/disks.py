"""Which disk is meant. Never a guess: one match, or a refusal that says what was found."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agent.errors import AgentError
from agent.hardware import Disk, format_size
from agent.protocol import DiskSelector

REMOVABLE_KINDS = frozenset({"sd", "usb"})
"""Kinds whose name is the consent to write to a removable medium."""

DISK_PATIENCE_S = 20.0
"""A USB or NVMe disk may be enumerated some seconds after the kernel started."""
SETTLE_S = 3.0
"""How long an NVMe or SD match must stay the only one: their controllers are probed within a second or so."""
SETTLE_LIMIT_S = 120.0
"""Disks that come and go for so long (a bad cable, a weak power supply) are not waited for any more."""
POLL_S = 0.5


class NoSuchDisk(AgentError):
    """No disk matches yet; a slow controller may still bring one."""


def find_disk(
    find_disks: Callable[[], Sequence[Disk]],
    selector: DiskSelector,
    image_bytes: int,
    *,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
    say: Callable[[str], None],
) -> Disk:
    """Wait until the disk that the plan names is there, and the only one.

    A serial, or the disk that the node was installed on before, names one disk: it is taken at once. Without
    them the first disk of the kind is not yet the only one: a second may still spin up, and the first may
    hold data. It is taken after it was the only match, unchanged, for a settle time; for USB, where each disk
    takes its own time, that is the whole `DISK_PATIENCE_S`.

    Args:
        clock: seconds, monotonic.

    Raises:
        NoSuchDisk: none matched within `DISK_PATIENCE_S`.
        AgentError: what `choose_disk` refuses, at once; or the matches never settled.
    """
    patience_s = DISK_PATIENCE_S if selector.kind == "usb" else SETTLE_S
    started = clock()
    settling: Disk | None = None
    settled_at = started
    while True:
        disk: Disk | None = None
        try:
            disk = choose_disk(find_disks(), selector, image_bytes)
        except NoSuchDisk:
            if clock() >= started + DISK_PATIENCE_S:
                raise
        now = clock()
        settle_s = patience_s if disk is not None and not _is_named(disk, selector) else 0.0
        if disk != settling:
            settling, settled_at = disk, now + settle_s
            if disk is not None and settle_s:
                say(f"{disk.describe()}: taken if no other of its kind appears within {settle_s:g} s")
        if disk is not None and now >= settled_at:
            return disk
        if now >= started + SETTLE_LIMIT_S:
            raise AgentError(
                f"the board's disks of kind {selector.kind} kept changing for {SETTLE_LIMIT_S:g} s",
                "Check cables and power supply, or name the disk by its serial in cluster.yaml.",
            )
        sleep(POLL_S)


def choose_disk(disks: Sequence[Disk], selector: DiskSelector, image_bytes: int) -> Disk:
    """The one disk that the plan names.

    Raises:
        NoSuchDisk: none matches.
        AgentError: several match, or the one that does is too small or removable against the declaration.
    """
    matches = [disk for disk in disks if _matches(disk, selector)]
    own = [disk for disk in matches if _is_named(disk, selector)]
    if len(matches) > 1 and len(own) == 1:
        matches = own
    wanted = f"disk: {selector.kind}" + (f" with serial {selector.serial}" if selector.serial else "")
    found = "; ".join(disk.describe() for disk in disks) or "no disk at all"
    if not matches:
        raise NoSuchDisk(
            f"cluster.yaml says {wanted}, the board has: {found}",
            "Check that the disk is seated and powered, or correct the node's disk in cluster.yaml.",
        )
    if len(matches) > 1:
        raise AgentError(
            f"cluster.yaml says {wanted}, and {len(matches)} disks match: {found}",
            "Name one by its serial: disk: {kind: " + selector.kind + ", serial: …}.",
        )
    disk = matches[0]
    if disk.removable and selector.kind not in REMOVABLE_KINDS:
        raise AgentError(
            f"{disk.describe()} is removable, and cluster.yaml says {wanted}",
            "A removable medium is written only where the declared kind is sd or usb.",
        )
    if disk.size_bytes < image_bytes:
        raise AgentError(
            f"{disk.describe()} is smaller than the image, which needs {format_size(image_bytes)}",
            "Use a larger disk, or make the image smaller.",
        )
    return disk


def _is_named(disk: Disk, selector: DiskSelector) -> bool:
    """Whether the plan means exactly this disk, and not just one of its kind."""
    if selector.serial is not None:
        return True  # `_matches` has looked
    if selector.own_wwn and disk.wwn:
        return _same(disk.wwn, selector.own_wwn)
    return bool(selector.own_serial) and _same(disk.serial, selector.own_serial or "")


def _same(one: str, other: str) -> bool:
    return one.strip().lower() == other.strip().lower()


def _matches(disk: Disk, selector: DiskSelector) -> bool:
    if disk.kind != selector.kind:
        return False
    return selector.serial is None or _same(disk.serial, selector.serial)
