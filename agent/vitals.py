"""What a node says of its health: values only, shared by agent and server like the rest of the protocol.

Readings that a board does not offer are None, never a made-up zero. Counters are totals since the node's
boot: what grew between two reports is for the server to tell.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class DiskVitals:
    """One whole disk. `kind` is `nvme`, `sd` (cards and eMMC), `usb` or `other`."""

    name: str
    kind: str
    wear_percent: int | None = None
    """Of its rated life; above 100 the rating is used up. eMMC counts in steps of 10."""
    pre_eol: int | None = None
    """eMMC reserve blocks: 1 normal, 2 warning (80 % used), 3 urgent (90 % used). JEDEC eMMC 5.1 §7.4."""
    critical_warning: int | None = None
    """NVMe SMART byte 0: 1 spare low, 2 temperature, 4 unreliable, 8 read-only, 16 backup failed."""
    spare_percent: int | None = None
    spare_threshold_percent: int | None = None
    media_errors: int | None = None
    unsafe_shutdowns: int | None = None
    write_latency_ms: float | None = None
    """Mean time of a write since the report before; None where there were too few to tell."""
    link: str | None = None
    """PCIe link of the disk, `5.0 GT/s x1`."""


@dataclass(frozen=True)
class Firmware:
    """The bootloader as the device tree's `chosen/bootloader` shows it; fixed for one boot."""

    version: str | None = None
    build_time: int | None = None
    """UTC seconds since 1970."""
    partition: int | None = None
    tryboot: bool | None = None
    boot_count: int | None = None


@dataclass(frozen=True)
class Health:
    """A cheap sample. Absent readings are None, never a made-up zero."""

    uptime_s: float
    load1: float
    memory_available_bytes: int
    root_free_bytes: int
    clock_synchronised: bool
    temperature_c: float | None = None
    throttled: int | None = None
    """get_throttled bits: 0 under-voltage now, 1 frequency capped, 2 throttled, 3 soft temperature limit;
    16–19 the same, has occurred. The hwmon driver clears the latter when it polls: they prove nothing."""
    storage_wear_percent: int | None = None
    pressure_some_avg10: dict[str, float] = field(default_factory=dict)
    """PSI `some avg10` of cpu, io and memory, percent."""
    root_size_bytes: int | None = None
    under_voltage: bool | None = None
    """hwmon `rpi_volt`: the supply is below 4.63 V now."""
    clock_behind_s: float | None = None
    """Of this node behind the control server at the last answer; negative: ahead."""
    fan_rpm: int | None = None
    fan_duty: int | None = None
    """PWM of the fan, 0–255."""
    kernel_taint: int | None = None
    oom_kills: int | None = None
    io_errors: int | None = None
    """Kernel messages about failed reads and writes of disks."""
    filesystem_errors: int | None = None
    """ext4's own count of errors, kept in the superblocks, and kernel messages about filesystems."""
    read_only_mounts: tuple[str, ...] = ()
    """Of the mounts that k3s needs, those whose filesystem the kernel made read-only."""
    disks: tuple[DiskVitals, ...] = ()
    firmware: Firmware | None = None
    certificates: dict[str, float] = field(default_factory=dict)
    """Certificate → end of its life, UTC seconds."""
    kubelet_healthy: bool | None = None
    """The kubelet's own /healthz on the loopback address."""
    etcd_fsync_p99_s: float | None = None
    """99th percentile of etcd's write-ahead-log fsync in the last minutes."""
    agent_rss_bytes: int | None = None
    agent_cpu_s: float | None = None
    """CPU time that the agent and the commands it ran have used since it started."""
