"""Asks NVMe disks for their SMART log: `agent.pyz smart` prints it as JSON.

The kernel wants CAP_SYS_ADMIN for that (drivers/nvme/host/ioctl.c, `nvme_cmd_allowed`), which the agent's own
unit does not have. So the service has systemd run this for an instant, a few times a day.

Source: linux/nvme_ioctl.h, `struct nvme_passthru_cmd`, 72 bytes; NVM Express base specification 2.0 §5.16.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import re
import struct
from pathlib import Path
from typing import Any

from agent.hardware import ROOT
from agent.storage import SMART_LOG_BYTES, parse_smart_log

NVME_IOCTL_ADMIN_CMD = 0xC0484E41
GET_LOG_PAGE = 0x02
SMART_LOG_ID = 0x02
ALL_NAMESPACES = 0xFFFFFFFF
TIMEOUT_MS = 5000
_COMMAND = struct.Struct("<BBHIIIQQIIIIIIIIII")
"""opcode, flags, rsvd1, nsid, cdw2, cdw3, metadata, addr, metadata_len, data_len, cdw10–15, timeout_ms,
result."""


def encode_get_smart_log(address: int) -> bytes:
    """The command that puts the log at `address`. cdw10: number of dwords minus one, and the page's id."""
    cdw10 = (SMART_LOG_BYTES // 4 - 1) << 16 | SMART_LOG_ID
    return _COMMAND.pack(
        *(GET_LOG_PAGE, 0, 0, ALL_NAMESPACES, 0, 0, 0, address, 0, SMART_LOG_BYTES),
        *(cdw10, 0, 0, 0, 0, 0, TIMEOUT_MS, 0),
    )


def read_smart_logs(root: Path = ROOT) -> dict[str, dict[str, Any]]:
    """Controller (`nvme0`) → its log's values; controllers that refuse are left out."""
    import ctypes  # maps executable memory, which the service's sandbox forbids and this process may

    found = {}
    for entry in sorted((root / "sys/class/nvme").glob("nvme*")):
        if not re.fullmatch(r"nvme\d+", entry.name):
            continue
        buffer = ctypes.create_string_buffer(SMART_LOG_BYTES)
        command = bytearray(encode_get_smart_log(ctypes.addressof(buffer)))
        try:
            fd = os.open(root / "dev" / entry.name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.ioctl(fd, NVME_IOCTL_ADMIN_CMD, command)
            finally:
                os.close(fd)
        except OSError:
            continue
        log = parse_smart_log(buffer.raw)
        if log is not None:
            found[entry.name] = dataclasses.asdict(log)
    return found
