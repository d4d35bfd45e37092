"""Samples the node's health for its reports, each reading as often as it is worth.

    every report   what is in a handful of small files, and new lines of the kernel's log
    every minute   storage, links, fan, etcd, the kubelet; at once after an error of a filesystem
    when changed   certificates (by the file's time)
    six hours      SMART of NVMe disks: it takes a process with more rights than this one

Budget: half a percent of one core for the whole agent; `benchmarks` measures it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import re
import resource
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.commands import CommandError, Runner
from agent.hardware import DEVICE_TREE, parse_device_tree_text, parse_device_tree_u32, read_disks, read_text
from agent.health import Places, parse_throttled, read_health
from agent.k3s_probes import K3sProbes
from agent.kernel_log import KernelLog
from agent.storage import (
    MAX_COUNT,
    WriteTotals,
    find_read_only,
    parse_emmc_life_time,
    parse_pre_eol,
    parse_write_totals,
    write_latency_ms,
)
from agent.vitals import DiskVitals, Firmware, Health

log = logging.getLogger("bramble.agent")

MINUTE_S = 60.0
SMART_INTERVAL_S = 6 * 3600.0
SMART_DELAY_S = 120.0
"""After the start: a node that boots has better things to do."""
SMART_TIMEOUT_S = 60.0
CERTIFICATES = {
    "agent": "var/lib/bramble/agent.crt",
    "kubelet": "var/lib/rancher/k3s/agent/client-kubelet.crt",
    "serving-kubelet": "var/lib/rancher/k3s/agent/serving-kubelet.crt",
}
PROGRAM = "/usr/lib/bramble/agent.pyz"


class Sampler:
    """Owns the open kernel log and what was read the time before."""

    def __init__(
        self,
        root: Path,
        run: Runner,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        probes: K3sProbes | None = None,
    ) -> None:
        self._root = root
        self._run = run
        self._monotonic = monotonic
        self._probes = probes or K3sProbes()
        self._places = Places.find(root)
        self._kernel_log = KernelLog(root / "dev/kmsg")
        self._complaints = 0
        """Filesystem errors in the kernel's log when the minute's reading was taken."""
        self._firmware = read_firmware(root)
        self._rare: dict[str, Any] = {}
        self._rare_at = float("-inf")
        self._smart: dict[str, dict[str, Any]] = {}
        self._smart_at = monotonic() + SMART_DELAY_S - SMART_INTERVAL_S
        self._writes: dict[str, WriteTotals] = {}
        self._certificates: dict[str, tuple[int, float | None]] = {}

    def sample(
        self, *, k3s_runs: bool = False, is_server: bool = False, behind_s: float | None = None
    ) -> Health:
        """A reading of everything, some of it up to a minute old.

        Raises:
            AgentError: /proc is not mounted.
        """
        now = self._monotonic()
        counts = self._kernel_log.read()
        complaints = counts.filesystem_errors if counts is not None else 0
        # A filesystem that the kernel complains of may be read-only from now on.
        if now - self._rare_at >= MINUTE_S or complaints > self._complaints:
            self._complaints = complaints
            self._rare_at = now
            self._rare = self._read_rare(k3s_runs=k3s_runs, is_server=is_server)
        basic = read_health(self._root, self._places)
        rare = dict(self._rare)
        if counts is not None:
            errors = rare["filesystem_errors"]
            rare["filesystem_errors"] = (errors or 0) + counts.filesystem_errors
            rare["io_errors"] = counts.io_errors
        if basic.throttled is not None:
            rare["throttled"] = basic.throttled
        own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        return dataclasses.replace(
            basic,
            **rare,
            clock_behind_s=behind_s,
            under_voltage=_read_flag(self._root, self._places.under_voltage),
            oom_kills=parse_oom_kills(read_text(self._root / "proc/vmstat") or ""),
            agent_rss_bytes=_read_own_memory(),
            agent_cpu_s=own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime,
        )

    def _read_rare(self, *, k3s_runs: bool, is_server: bool) -> dict[str, Any]:
        root = self._root
        disks = self._read_disks()
        wear = [disk.wear_percent for disk in disks if disk.wear_percent is not None]
        fan = self._places.fan
        return {
            "disks": disks,
            "storage_wear_percent": max(wear, default=None),
            "filesystem_errors": _read_filesystem_errors(root),
            "read_only_mounts": find_read_only(read_text(root / "proc/self/mountinfo") or ""),
            "fan_rpm": None if fan is None else _read_number(fan / "fan1_input"),
            "fan_duty": None if fan is None else _read_number(fan / "pwm1"),
            "kernel_taint": _read_number(root / "proc/sys/kernel/tainted"),
            "firmware": self._firmware,
            "certificates": self._read_certificates(),
            "throttled": self._ask_vcgencmd(),
            "kubelet_healthy": self._probes.kubelet_healthy() if k3s_runs else None,
            "etcd_fsync_p99_s": self._probes.etcd_fsync_p99_s() if k3s_runs and is_server else None,
        }

    def _read_disks(self) -> tuple[DiskVitals, ...]:
        self._refresh_smart()
        found = []
        for disk in read_disks(self._root):
            name = disk.path.name
            block = self._root / "sys/block" / name
            totals = parse_write_totals(read_text(block / "stat") or "")
            latency = write_latency_ms(self._writes.get(name), totals)
            if totals is not None:
                self._writes[name] = totals
            smart = self._smart.get(re.sub(r"n\d+$", "", name), {}) if disk.kind == "nvme" else {}
            vitals = DiskVitals(
                name=name,
                kind=disk.kind,
                wear_percent=parse_emmc_life_time(read_text(block / "device/life_time") or ""),
                pre_eol=parse_pre_eol(read_text(block / "device/pre_eol_info") or ""),
                write_latency_ms=None if latency is None else round(latency, 2),
                link=_read_link(block) if disk.kind == "nvme" else None,
            )
            found.append(dataclasses.replace(vitals, **smart))
        return tuple(found)

    def _refresh_smart(self) -> None:
        now = self._monotonic()
        if now - self._smart_at < SMART_INTERVAL_S or not (self._root / "sys/class/nvme").is_dir():
            return
        self._smart_at = now
        # In a unit of its own: the admin command takes a capability that this service does not have.
        unit = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", "/usr/bin/python3"]
        with contextlib.suppress(CommandError, ValueError):
            self._smart = parse_smart(self._run([*unit, PROGRAM, "smart"], timeout_s=SMART_TIMEOUT_S).text)

    def _read_certificates(self) -> dict[str, float]:
        """Ends of life; openssl is asked only about a file that changed."""
        for name, path in CERTIFICATES.items():
            try:
                changed_at = (self._root / path).stat().st_mtime_ns
            except OSError:
                self._certificates.pop(name, None)
                continue
            if self._certificates.get(name, (0, None))[0] == changed_at:
                continue
            argv = ["openssl", "x509", "-in", str(self._root / path), "-noout", "-enddate"]
            end = None
            with contextlib.suppress(CommandError, ValueError, IndexError):
                end = float(ssl.cert_time_to_seconds(self._run(argv).text.split("=", 1)[1].strip()))
            self._certificates[name] = (changed_at, end)
        return {name: end for name, (_, end) in self._certificates.items() if end is not None}

    def _ask_vcgencmd(self) -> int | None:
        """Where the firmware driver has no sysfs file for the throttling bits."""
        if self._places.throttled is not None or not (self._root / "dev/vcio").exists():
            return None
        with contextlib.suppress(CommandError):
            return parse_throttled(self._run(["vcgencmd", "get_throttled"], timeout_s=5.0).text)
        return None


def parse_smart(text: str) -> dict[str, dict[str, Any]]:
    """What `agent.pyz smart` prints: controller → values of `DiskVitals`.

    Raises:
        ValueError: it is something else.
    """
    value = json.loads(text)
    names = {field.name for field in dataclasses.fields(DiskVitals)} - {"name", "kind"}
    if not isinstance(value, dict) or not all(isinstance(entry, dict) for entry in value.values()):
        raise ValueError("not an object of objects")
    return {
        name: {key: number for key, number in entry.items() if key in names and _is_count(number)}
        for name, entry in value.items()
    }


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_COUNT


def parse_oom_kills(vmstat: str) -> int | None:
    """`oom_kill` of /proc/vmstat (kernel 4.13 and newer)."""
    match = re.search(r"^oom_kill (\d+)$", vmstat, re.MULTILINE)
    return int(match.group(1)) if match else None


def read_firmware(root: Path) -> Firmware | None:
    """`chosen/bootloader` of the device tree; None on a board whose firmware does not write it."""
    directory = root / DEVICE_TREE / "chosen/bootloader"
    if not directory.is_dir():
        return None

    def raw(name: str) -> bytes:
        try:
            return (directory / name).read_bytes()
        except OSError:
            return b""

    tryboot = parse_device_tree_u32(raw("tryboot"))
    return Firmware(
        version=parse_device_tree_text(raw("version")) or None,
        build_time=parse_device_tree_u32(raw("build-timestamp")),
        partition=parse_device_tree_u32(raw("partition")),
        tryboot=None if tryboot is None else tryboot != 0,
        boot_count=parse_device_tree_u32(raw("count")),
    )


def _read_filesystem_errors(root: Path) -> int | None:
    counts = [_read_number(path) for path in sorted(root.glob("sys/fs/ext4/*/errors_count"))]
    return sum(count for count in counts if count is not None) if counts else None


def _read_link(block: Path) -> str | None:
    """Of the PCIe device below an NVMe namespace: block/<name>/device is the controller, its `device` the
    function."""
    function = block / "device/device"
    speed, width = read_text(function / "current_link_speed"), read_text(function / "current_link_width")
    return f"{speed.removesuffix(' PCIe')} x{width}" if speed and width else None


def _read_number(path: Path) -> int | None:
    text = read_text(path) or ""
    return int(text) if re.fullmatch(r"\d{1,18}", text) else None


def _read_flag(root: Path, path: Path | None) -> bool | None:
    text = None if path is None else read_text(path)
    return {"0": False, "1": True}.get(text or "")


def _read_own_memory() -> int | None:
    """Of this process, whatever the root. Source: proc(5), /proc/self/statm, field 2, pages."""
    words = (read_text(Path("/proc/self/statm")) or "").split()
    return int(words[1]) * os.sysconf("SC_PAGE_SIZE") if len(words) > 1 else None
