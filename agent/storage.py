"""Signs of wear and failure of disks and filesystems: pure parsers of what the kernel and NVMe disks say.

Sources: kernel Documentation/block/stat.rst, Documentation/ABI/testing/sysfs-fs-ext4, proc_pid_mountinfo(5),
JEDEC eMMC 5.1 §7.4 (EXT_CSD life time and pre-EOL), NVM Express base specification 2.0 §5.16.1.3 (SMART log).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SMART_LOG_BYTES = 512
MAX_COUNT = 2**63 - 1
"""The log's counters have 128 bits, and a report's numbers 64: one that has more is refused as a whole."""
EMMC_WEAR_STEP_PERCENT = 10
MIN_WRITES = 10
"""So few writes tell nothing about a disk's speed."""
_STAT_FIELDS = 11
"""What every kernel since 2.6 has; flushes came as fields 15 and 16 with 5.5."""
NEEDED_PATHS = ("/", "/var", "/var/lib", "/var/lib/rancher", "/var/lib/rancher/k3s", "/var/lib/bramble")


@dataclass(frozen=True)
class SmartLog:
    """The parts of an NVMe SMART log that say how the disk fares."""

    critical_warning: int
    spare_percent: int
    spare_threshold_percent: int
    wear_percent: int
    media_errors: int
    unsafe_shutdowns: int


@dataclass(frozen=True)
class WriteTotals:
    """Completed writes and flushes of a disk, and the milliseconds that they took, since boot."""

    count: int
    ticks_ms: int


def parse_emmc_life_time(text: str) -> int | None:
    """Wear in percent from `0x02 0x01` (device life time estimation type A and B, JEDEC eMMC 5.1 §7.4).

    0x01–0x0A are steps of 10 % used, 0x0B is past the end; 0x00 says "not defined". The worse of the two
    counts.
    """
    values = [int(word, 16) for word in text.split() if re.fullmatch(r"0x[0-9a-fA-F]{2}", word)]
    known = [value for value in values if 0 < value <= 0x0B]
    return max(known) * EMMC_WEAR_STEP_PERCENT if known else None


def parse_pre_eol(text: str) -> int | None:
    """eMMC `pre_eol_info`: `0x01` normal, 2 warning, 3 urgent; 0 says "not defined"."""
    match = re.fullmatch(r"0x0?([123])", text.strip())
    return int(match.group(1)) if match else None


def parse_smart_log(data: bytes) -> SmartLog | None:
    """The SMART / health information log page (02h), little endian.

        0 critical warning · 3 available spare, % · 4 its threshold, % · 5 percentage used ·
        144–159 unsafe shutdowns · 160–175 media and data integrity errors

    None when it is too short, or all zeros or ones as some bridges answer.
    """
    log = data[:SMART_LOG_BYTES]
    if len(log) < SMART_LOG_BYTES or len(set(log)) == 1:
        return None
    return SmartLog(
        critical_warning=data[0],
        spare_percent=data[3],
        spare_threshold_percent=data[4],
        wear_percent=data[5],
        unsafe_shutdowns=min(int.from_bytes(data[144:160], "little"), MAX_COUNT),
        media_errors=min(int.from_bytes(data[160:176], "little"), MAX_COUNT),
    )


def parse_write_totals(text: str) -> WriteTotals | None:
    """From /sys/block/*/stat: field 4 writes, 7 their ticks, 15 flushes, 16 their ticks (counted from 0)."""
    words = text.split()
    if len(words) < _STAT_FIELDS or not all(word.isdigit() for word in words):
        return None
    numbers = [int(word) for word in words]
    flushes, flush_ticks = (numbers[15], numbers[16]) if len(numbers) > 16 else (0, 0)
    return WriteTotals(numbers[4] + flushes, numbers[7] + flush_ticks)


def write_latency_ms(before: WriteTotals | None, after: WriteTotals | None) -> float | None:
    """Mean time of the writes between two readings."""
    if before is None or after is None:
        return None
    writes, ticks = after.count - before.count, after.ticks_ms - before.ticks_ms
    return ticks / writes if writes >= MIN_WRITES and ticks >= 0 else None


def find_read_only(mountinfo: str) -> tuple[str, ...]:
    """Of the mounts that k3s and the agent need, those whose filesystem is read-only.

    The filesystem's own options count, behind the ` - `: those of the mount are read-only in the agent's
    sandbox on purpose.
    """
    found: dict[str, bool] = {}
    for line in mountinfo.splitlines():
        place, separator, filesystem = line.partition(" - ")
        words, kinds = place.split(), filesystem.split()
        if not separator or len(words) < 6 or len(kinds) < 3 or words[4] not in NEEDED_PATHS:
            continue
        found[words[4]] = "ro" in kinds[2].split(",")
    return tuple(sorted(path for path, is_read_only in found.items() if is_read_only))
