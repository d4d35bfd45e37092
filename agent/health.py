"""How the board is: temperature, throttling, wear, pressure, clock, memory cgroup.

Pure parsers and a thin reader with an injectable root. A reading that the board does not offer is None,
never zero.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from agent.errors import AgentError
from agent.hardware import ROOT, parse_meminfo, read_text
from agent.protocol import Problem
from agent.storage import parse_emmc_life_time
from agent.vitals import Health

PRESSURES = ("cpu", "io", "memory")
STA_UNSYNC = 0x0040
"""adjtimex status bit: the kernel clock is not synchronised. Source: linux/timex.h"""
TIME_ERROR = 5
"""adjtimex return value: clock not synchronised. Source: adjtimex(2)"""
TIMEX_BYTES = 208
"""sizeof(struct timex) where long has 64 bits. Source: linux/timex.h"""


def parse_pressure(text: str) -> float | None:
    """`some avg10` of a /proc/pressure file, percent."""
    match = re.search(r"^some avg10=([0-9.]+)", text, re.MULTILINE)
    return float(match.group(1)) if match else None


def parse_throttled(text: str) -> int | None:
    """The get_throttled bit field: hex digits with or without 0x, alone or as vcgencmd's
    `throttled=0x50005`."""
    match = re.fullmatch(r"(?:throttled=)?(?:0x)?([0-9a-fA-F]{1,8})", text.strip())
    return int(match.group(1), 16) if match else None


def has_memory_cgroup(controllers: str) -> bool:
    """Whether /sys/fs/cgroup/cgroup.controllers (cgroup v2: names separated by spaces) lists `memory`."""
    return "memory" in controllers.split()


@dataclass(frozen=True)
class Places:
    """Where this board keeps its readings: differs per board, and does not move while it runs."""

    thermal: Path | None
    throttled: Path | None
    life_times: tuple[Path, ...]
    under_voltage: Path | None
    fan: Path | None

    @classmethod
    def find(cls, root: Path) -> Places:
        """Looks through sysfs, which takes some milliseconds."""
        voltage = _find_hwmon(root, "rpi_volt")
        return cls(
            thermal=_find_thermal(root),
            throttled=_find_throttled(root),
            life_times=tuple(sorted(root.glob("sys/block/mmcblk*/device/life_time"))),
            under_voltage=None if voltage is None else voltage / "in0_lcrit_alarm",
            fan=_find_hwmon(root, "pwmfan"),
        )


def read_health(root: Path = ROOT, places: Places | None = None) -> Health:
    """One cheap sample of the node: what is in a handful of small files.

    Raises:
        AgentError: /proc is not mounted.
    """
    places = places or Places.find(root)
    uptime = (read_text(root / "proc/uptime") or "").split()
    load = (read_text(root / "proc/loadavg") or "").split()
    if not uptime or not load:
        raise AgentError("/proc/uptime or /proc/loadavg can not be read", "Is /proc mounted?")
    space = os.statvfs(root)
    pressure = {name: parse_pressure(read_text(root / "proc/pressure" / name) or "") for name in PRESSURES}
    wear = [parse_emmc_life_time(read_text(path) or "") for path in places.life_times]
    return Health(
        uptime_s=float(uptime[0]),
        load1=float(load[0]),
        memory_available_bytes=parse_meminfo(read_text(root / "proc/meminfo") or "", "MemAvailable"),
        root_free_bytes=space.f_bavail * space.f_frsize,
        root_size_bytes=space.f_blocks * space.f_frsize,
        clock_synchronised=is_clock_synchronised(root),
        temperature_c=_read_temperature(places.thermal),
        throttled=None if places.throttled is None else parse_throttled(read_text(places.throttled) or ""),
        storage_wear_percent=max((value for value in wear if value is not None), default=None),
        pressure_some_avg10={name: value for name, value in pressure.items() if value is not None},
    )


def is_clock_synchronised(root: Path = ROOT) -> bool:
    """True when systemd-timesyncd left its mark since boot, or the kernel says so (chrony, ntpd)."""
    if (root / "run/systemd/timesync/synchronized").exists():
        return True
    return root == ROOT and _is_kernel_clock_synchronised()


def _is_kernel_clock_synchronised() -> bool:
    try:
        import ctypes

        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (ImportError, MemoryError, OSError, AttributeError):
        # ctypes maps executable memory when it is imported, which the unit's sandbox may forbid.
        return False
    buffer = ctypes.create_string_buffer(TIMEX_BYTES)  # modes = 0: only reads
    state = int(adjtimex(buffer))
    # int modes, 4 bytes padding, long offset, freq, maxerror, esterror, then int status at byte 40
    status = int.from_bytes(buffer.raw[40:44], "little")
    return state not in (-1, TIME_ERROR) and not status & STA_UNSYNC


def find_missing_cgroup(root: Path = ROOT) -> Problem | None:
    """The gate that k3s on a Raspberry Pi fails at most often: no memory controller."""
    controllers = read_text(root / "sys/fs/cgroup/cgroup.controllers")
    if controllers is not None and has_memory_cgroup(controllers):
        return None
    found = (
        "cgroup v2 is not mounted"
        if controllers is None
        else f"the kernel offers only: {controllers or 'none'}"
    )
    return Problem(
        code="cgroup_memory",
        message=f"the memory cgroup is off, k3s would exit at start ({found})",
        hint="Add 'cgroup_enable=memory' to the single line of /boot/firmware/cmdline.txt, after any "
        "'cgroup_disable=memory', and reboot; 'bramble build' does it for its images.",
    )


def _find_thermal(root: Path) -> Path | None:
    """The SoC's thermal zone, else the first that tells a temperature."""
    zones = sorted((root / "sys/class/thermal").glob("thermal_zone*"))
    zones.sort(key=lambda zone: "cpu" not in (read_text(zone / "type") or ""))
    return next((zone / "temp" for zone in zones if _read_temperature(zone / "temp") is not None), None)


def _read_temperature(path: Path | None) -> float | None:
    """In °C; the file counts thousandths."""
    text = "" if path is None else read_text(path) or ""
    return int(text) / 1000 if re.fullmatch(r"-?\d+", text) else None


def _find_hwmon(root: Path, name: str) -> Path | None:
    """The directory of a hardware monitor by its name; their numbers change from boot to boot."""
    found = sorted(root.glob("sys/class/hwmon/hwmon*/name"))
    return next((path.parent for path in found if read_text(path) == name), None)


def _find_throttled(root: Path) -> Path | None:
    """The firmware driver's sysfs file; its parent's name differs per SoC, so it is searched two levels
    deep."""
    platform = root / "sys/devices/platform"
    for pattern in ("*firmware*/get_throttled", "*/*firmware*/get_throttled"):
        for path in sorted(platform.glob(pattern)):
            if parse_throttled(read_text(path) or "") is not None:
                return path
    return None
