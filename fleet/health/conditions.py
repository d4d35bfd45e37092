"""What a node's health report means: conditions, and when they begin and end. Pure.

One sample decides nothing. A condition begins after `BAD_SAMPLES` bad ones in a row and ends after
`GOOD_SAMPLES` good ones; a sample that cannot tell (no such reading) counts as good. Counters (failed reads,
processes killed for want of memory) are bad for as long as they grew lately.

Conditions are published under these names: in the store, as `bramble_node_condition` and as conditions of the
Kubernetes node. Names are for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from agent.protocol import Health, K3sState
from agent.vitals import DiskVitals
from fleet.printable import size_text

BAD_SAMPLES: Final = 3
GOOD_SAMPLES: Final = 10
LATELY_S: Final = 300.0
"""How long a counter that grew counts as bad: longer than three reports of any `fleet.health.pace`."""

UNDER_VOLTAGE_NOW, CAPPED_NOW, THROTTLED_NOW, TOO_HOT_NOW = 1 << 0, 1 << 1, 1 << 2, 1 << 3
HOT_C: Final = 85.0
"""The firmware throttles from 80 °C and stops the clock from rising at 85. Raspberry Pi documentation,
"frequency management"."""
FAN_NEEDED_C: Final = 70.0
WORN_PERCENT: Final = 80
PRE_EOL_WARNING, PRE_EOL_URGENT = 2, 3
NVME_TEMPERATURE_BIT: Final = 2
SLOW_WRITE_MS: Final = 500.0
"""Mean of a minute: an SD card that wears out stalls for seconds; a sound one needs tens of milliseconds."""
FULL_BYTES: Final = 256 << 20
FULL_PART: Final = 0.03
MEMORY_STALL_PERCENT: Final = 20.0
IO_STALL_PERCENT: Final = 60.0
CLOCK_TOLERANCE_S: Final = 60.0
AGENT_CERTIFICATE_S: Final = 86_400.0
K3S_CERTIFICATE_S: Final = 30 * 86_400.0
"""k3s renews what ends within 90 days whenever it starts, so what is left then was not restarted for long."""
SLOW_FSYNC_S: Final = 0.1


class Condition(StrEnum):
    """Something about a node that is not as it should be."""

    UNDER_VOLTAGE = "PiUnderVoltage"
    THROTTLED = "PiThrottled"
    OVERHEATED = "PiOverheated"
    FAN_STALLED = "PiFanStalled"
    STORAGE_WEAR = "StorageWear"
    STORAGE_FAILING = "StorageFailing"
    STORAGE_SLOW = "StorageSlow"
    FILESYSTEM_READ_ONLY = "FilesystemReadOnly"
    FILESYSTEM_ERRORS = "FilesystemErrors"
    DISK_FULL = "RootDiskFull"
    LINK_DEGRADED = "PcieLinkDegraded"
    MEMORY_STALLED = "MemoryStalled"
    IO_STALLED = "IoStalled"
    OUT_OF_MEMORY = "OutOfMemory"
    CLOCK_WRONG = "ClockWrong"
    CERTIFICATE_ENDING = "CertificateEnding"
    KUBELET_UNHEALTHY = "KubeletUnhealthy"
    K3S_FAILED = "K3sFailed"
    ETCD_SLOW = "EtcdDiskSlow"


_CATALOGUE: Final = tuple(Condition)


@dataclass(frozen=True, slots=True)
class Trait:
    """What follows from a condition.

    Attributes:
        words: for people, in a list of causes.
        degrades: the node is `degraded` while it lasts.
        forbids_writing: no image is written meanwhile: under brown-out, or to a failing disk, that would
            end in a board that does not boot.
    """

    words: str
    hint: str
    degrades: bool = True
    forbids_writing: bool = False


TRAITS: Final[Mapping[Condition, Trait]] = {
    Condition.UNDER_VOLTAGE: Trait(
        "under-voltage",
        "Use the board's own power supply or a stronger PoE port and a short, thick cable; unplug USB loads.",
        forbids_writing=True,
    ),
    Condition.THROTTLED: Trait(
        "throttled", "Cool the board, or give it a stronger power supply.", degrades=False
    ),
    Condition.OVERHEATED: Trait("too hot", "Mount a heat sink or fan, and let air reach the board."),
    Condition.FAN_STALLED: Trait(
        "fan does not turn", "Look at the fan and its cable; dust or a loose plug is common.", degrades=False
    ),
    Condition.STORAGE_WEAR: Trait("storage wears out", "Plan to replace the disk.", degrades=False),
    Condition.STORAGE_FAILING: Trait(
        "storage fails", "Replace the disk now: it lost data or is about to.", forbids_writing=True
    ),
    Condition.STORAGE_SLOW: Trait(
        "storage is slow", "A card that stalls is worn or too slow: take an SSD.", degrades=False
    ),
    Condition.FILESYSTEM_READ_ONLY: Trait(
        "filesystem is read-only",
        "The kernel stopped writing after an error ('dmesg' on the node): check the disk, then reboot.",
        forbids_writing=True,
    ),
    Condition.FILESYSTEM_ERRORS: Trait(
        "filesystem has errors",
        "Let it be checked: 'fsck.mode=force' in cmdline.txt for one start.",
        degrades=False,
    ),
    Condition.DISK_FULL: Trait(
        "root disk is full", "Remove images and logs ('crictl rmi --prune', 'journalctl --vacuum-size=100M')."
    ),
    Condition.LINK_DEGRADED: Trait(
        "PCIe link got slower", "Reseat the NVMe disk and its flat cable.", degrades=False
    ),
    Condition.MEMORY_STALLED: Trait(
        "waits for memory", "Give pods memory limits, or move some to another node.", degrades=False
    ),
    Condition.IO_STALLED: Trait(
        "waits for its disk", "Move what writes much to a faster disk.", degrades=False
    ),
    Condition.OUT_OF_MEMORY: Trait(
        "kills processes for want of memory", "'dmesg' names them; give their pods limits.", degrades=False
    ),
    Condition.CLOCK_WRONG: Trait(
        "clock is wrong", "Let the node reach a time server (UDP port 123): certificates depend on it."
    ),
    Condition.CERTIFICATE_ENDING: Trait(
        "certificate is about to end",
        "k3s renews its own when it is restarted; the agent's needs the control server within reach.",
        degrades=False,
    ),
    Condition.KUBELET_UNHEALTHY: Trait(
        "kubelet is not healthy", "'journalctl -u k3s -u k3s-agent' on the node tells why."
    ),
    Condition.K3S_FAILED: Trait(
        "k3s does not run", "'journalctl -u k3s -u k3s-agent' on the node tells why."
    ),
    Condition.ETCD_SLOW: Trait(
        "etcd waits for its disk", "Servers need an SSD; move what else writes there.", degrades=False
    ),
}


@dataclass(frozen=True, slots=True)
class Streak:
    """A condition's recent past. `since` and `evidence` mean something while it is active."""

    active: bool = False
    bad: int = 0
    good: int = 0
    since: float = 0.0
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """A condition that began or ended."""

    condition: Condition
    began: bool
    evidence: str


@dataclass(frozen=True, slots=True)
class Course:
    """What must be remembered of one node between two reports.

    Attributes:
        counters: last total of each counter, and when it grew.
        links: fastest link seen of each disk in this boot, GB/s.
    """

    streaks: Mapping[Condition, Streak] = field(default_factory=dict)
    boot_id: str = ""
    counters: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    links: Mapping[str, float] = field(default_factory=dict)

    @property
    def active(self) -> dict[Condition, Streak]:
        """Conditions that hold now."""
        return {condition: streak for condition, streak in self.streaks.items() if streak.active}


def observe(
    course: Course, health: Health, *, boot_id: str, k3s: K3sState, now: float
) -> tuple[Course, tuple[Change, ...]]:
    """Take a report's sample into account.

    Args:
        boot_id: counters begin anew with a boot.
        now: the server's clock, UTC seconds.
    """
    if course.boot_id != boot_id:
        course = _begin_boot(course, boot_id)
    counters = {name: _count(course, name, total, now) for name, total in _totals(health)}
    links = {name: max(speed, course.links.get(name, 0.0)) for name, speed in _link_speeds(health.disks)}
    course = Course(course.streaks, boot_id, {**course.counters, **counters}, {**course.links, **links})
    bad = dict(_judge(health, k3s, course, now))
    if not bad and not course.streaks:
        return course, ()
    streaks, changes = dict(course.streaks), []
    for condition in _CATALOGUE:
        if condition not in bad and condition not in streaks:
            continue
        streak, change = _advance(condition, course.streaks.get(condition, Streak()), bad.get(condition), now)
        if change is not None:
            changes.append(change)
        if streak == Streak():
            streaks.pop(condition, None)
        else:
            streaks[condition] = streak
    return Course(streaks, boot_id, course.counters, course.links), tuple(changes)


def _begin_boot(course: Course, boot_id: str) -> Course:
    """A boot sets some counters to zero. Before the first one that this server saw, nothing is known."""
    kept = {name: count for name, count in course.counters.items() if name not in _PER_BOOT}
    zeros = {name: (0, 0.0) for name in _PER_BOOT} if course.boot_id else {}
    return Course(course.streaks, boot_id, {**kept, **zeros})


def _advance(
    condition: Condition, streak: Streak, evidence: str | None, now: float
) -> tuple[Streak, Change | None]:
    if evidence is None:
        if not streak.active:
            return Streak(), None
        good = streak.good + 1
        if good < GOOD_SAMPLES:
            return Streak(True, 0, good, streak.since, streak.evidence), None
        return Streak(), Change(condition, False, streak.evidence)
    if streak.active:
        return Streak(True, 0, 0, streak.since, evidence), None
    bad = streak.bad + 1
    if bad < BAD_SAMPLES:
        return Streak(False, bad), None
    return Streak(True, 0, 0, now, evidence), Change(condition, True, evidence)


def restore_course(active: Mapping[Condition, tuple[float, str]]) -> Course:
    """Conditions that held when the server stopped: (since, evidence) each. They hold until they are good."""
    return Course({name: Streak(True, 0, 0, since, text) for name, (since, text) in active.items()})


def degrading(conditions: Iterable[Condition]) -> list[Condition]:
    """Those on account of which a node is degraded, in the catalogue's order."""
    held = set(conditions)
    return [condition for condition in Condition if condition in held and TRAITS[condition].degrades]


def write_obstacles(conditions: Iterable[Condition]) -> list[Condition]:
    """Those during which no image may be written to the node."""
    held = set(conditions)
    return [condition for condition in Condition if condition in held and TRAITS[condition].forbids_writing]


def causes_text(conditions: Iterable[Condition]) -> str:
    """`under-voltage, storage fails`."""
    return ", ".join(TRAITS[condition].words for condition in conditions)


def _judge(health: Health, k3s: K3sState, course: Course, now: float) -> Iterator[tuple[Condition, str]]:
    """The conditions that this one sample speaks for, each with what was read."""
    yield from _judge_board(health, course)
    for disk in health.disks:
        yield from _judge_disk(disk)
    yield from _judge_system(health)
    yield from _judge_k3s(health, k3s, now)
    for name, condition in (
        ("oom_kills", Condition.OUT_OF_MEMORY),
        ("io_errors", Condition.STORAGE_FAILING),
        ("filesystem_errors", Condition.STORAGE_FAILING),
        ("media_errors", Condition.STORAGE_FAILING),
    ):
        total, grew_at = course.counters.get(name, (0, 0.0))
        if grew_at and now - grew_at <= LATELY_S:
            yield condition, f"{name.replace('_', ' ')} grew to {total}"
    if health.filesystem_errors:
        yield Condition.FILESYSTEM_ERRORS, f"{health.filesystem_errors} on record"


def _judge_board(health: Health, course: Course) -> Iterator[tuple[Condition, str]]:
    bits = health.throttled or 0
    if health.under_voltage or bits & UNDER_VOLTAGE_NOW:
        yield Condition.UNDER_VOLTAGE, f"the supply is below 4.63 V now (throttled {bits:#x})"
    if bits & (CAPPED_NOW | THROTTLED_NOW | TOO_HOT_NOW):
        yield Condition.THROTTLED, f"throttled {bits:#x}"
    temperature = health.temperature_c
    if temperature is not None and temperature >= HOT_C:
        yield Condition.OVERHEATED, f"{temperature:.0f} °C"
    needs_fan = bool(health.fan_duty) and temperature is not None and temperature >= FAN_NEEDED_C
    if health.fan_rpm == 0 and needs_fan:
        yield Condition.FAN_STALLED, f"0 rpm at {temperature:.0f} °C"
    for disk in health.disks:
        best, speed = course.links.get(disk.name), _link_speed(disk.link)
        if best is not None and speed is not None and speed < best:
            yield Condition.LINK_DEGRADED, f"{disk.name}: {disk.link}"


def _judge_disk(disk: DiskVitals) -> Iterator[tuple[Condition, str]]:
    if disk.wear_percent is not None and disk.wear_percent >= WORN_PERCENT:
        yield Condition.STORAGE_WEAR, f"{disk.name}: {disk.wear_percent} % of its rated life is used"
    elif disk.pre_eol == PRE_EOL_WARNING:
        yield Condition.STORAGE_WEAR, f"{disk.name}: 80 % of its reserve blocks are used"
    critical = (disk.critical_warning or 0) & ~NVME_TEMPERATURE_BIT
    if critical:
        yield Condition.STORAGE_FAILING, f"{disk.name}: SMART critical warning {critical:#04x}"
    elif disk.pre_eol == PRE_EOL_URGENT:
        yield Condition.STORAGE_FAILING, f"{disk.name}: 90 % of its reserve blocks are used"
    elif disk.spare_percent is not None and disk.spare_percent < (disk.spare_threshold_percent or 0):
        yield Condition.STORAGE_FAILING, f"{disk.name}: {disk.spare_percent} % spare is left"
    if disk.write_latency_ms is not None and disk.write_latency_ms >= SLOW_WRITE_MS:
        yield Condition.STORAGE_SLOW, f"{disk.name}: {disk.write_latency_ms:.0f} ms for a write"


def _judge_system(health: Health) -> Iterator[tuple[Condition, str]]:
    if health.read_only_mounts:
        yield Condition.FILESYSTEM_READ_ONLY, ", ".join(health.read_only_mounts)
    size = health.root_size_bytes
    if size and health.root_free_bytes < min(FULL_BYTES, size * FULL_PART):
        yield Condition.DISK_FULL, f"{size_text(health.root_free_bytes)} of {size_text(size)} are free"
    for name, condition, limit in (
        ("memory", Condition.MEMORY_STALLED, MEMORY_STALL_PERCENT),
        ("io", Condition.IO_STALLED, IO_STALL_PERCENT),
    ):
        stalled = health.pressure_some_avg10.get(name, 0.0)
        if stalled >= limit:
            yield condition, f"some task waited for {stalled:.0f} % of the time (PSI {name})"
    behind = health.clock_behind_s
    if not health.clock_synchronised and behind is not None and abs(behind) > CLOCK_TOLERANCE_S:
        side = "behind" if behind > 0 else "ahead of"
        yield Condition.CLOCK_WRONG, f"{abs(behind):.0f} s {side} the control server's"


def _judge_k3s(health: Health, k3s: K3sState, now: float) -> Iterator[tuple[Condition, str]]:
    if k3s is K3sState.FAILED:
        yield Condition.K3S_FAILED, "systemd says failed"
    if health.kubelet_healthy is False:
        yield Condition.KUBELET_UNHEALTHY, "its /healthz does not answer 200"
    fsync = health.etcd_fsync_p99_s
    if fsync is not None and fsync > SLOW_FSYNC_S:
        yield Condition.ETCD_SLOW, f"99 % of its fsyncs took up to {fsync * 1000:.0f} ms"
    for name, ends_at in sorted(health.certificates.items()):
        limit = AGENT_CERTIFICATE_S if name == "agent" else K3S_CERTIFICATE_S
        if ends_at - now < limit:
            days = max(ends_at - now, 0.0) / 86_400
            yield Condition.CERTIFICATE_ENDING, f"{name}: {days:.1f} days are left"


_PER_BOOT: Final = ("oom_kills", "io_errors")
"""Counters of the kernel; the others are kept by the disk and its filesystems for ever."""


def _totals(health: Health) -> Iterator[tuple[str, int]]:
    media = [disk.media_errors for disk in health.disks if disk.media_errors is not None]
    for name, total in (
        ("oom_kills", health.oom_kills),
        ("io_errors", health.io_errors),
        ("filesystem_errors", health.filesystem_errors),
        ("media_errors", sum(media) if media else None),
    ):
        if total is not None:
            yield name, total


def _count(course: Course, name: str, total: int, now: float) -> tuple[int, float]:
    """The first total that is heard is where counting starts: nobody knows when it grew."""
    before, grew_at = course.counters.get(name, (total, 0.0))
    return total, now if total > before else grew_at


def _link_speeds(disks: Iterable[DiskVitals]) -> Iterator[tuple[str, float]]:
    for disk in disks:
        speed = _link_speed(disk.link)
        if speed is not None:
            yield disk.name, speed


def _link_speed(link: str | None) -> float | None:
    """`5.0 GT/s x1` as a number that grows with both."""
    words = (link or "").split()
    try:
        return float(words[0]) * int(words[2].removeprefix("x"))
    except (IndexError, ValueError):
        return None
