"""Run the installer on a regular file, not a disk: `rehearse_install.py CONTROL_URL PIN INTENT FILE`."""

from __future__ import annotations

import sys
from pathlib import Path

from agent.client import ControlClient, PinnedTrust
from agent.errors import AgentError
from agent.hardware import Disk
from agent.installer.cmdline import parse_cmdline
from agent.installer.run import Surroundings, install
from agent.protocol import Hardware

HARDWARE = Hardware(
    serial="10000000abcdef01", model="rehearsal", macs=("2c:cf:67:00:00:01",), memory_bytes=1 << 30
)


def main() -> int:
    url, pin, intent, path = sys.argv[1:]
    config = parse_cmdline(f"quiet bramble.control={url} bramble.pin={pin} bramble.intent={intent}")
    file = Path(path)
    disk = Disk(path=file, kind="nvme", size_bytes=file.stat().st_size, model="file", serial="F1")
    around = Surroundings(hardware=HARDWARE, boot_id="b", find_disks=lambda: [disk])
    try:
        install(config, ControlClient(config.control_urls, PinnedTrust(config.pin)), around)
    except AgentError as exc:
        print(f"error: {exc.message}\n  {exc.hint}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
