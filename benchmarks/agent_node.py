"""A node for the cases about the agent: its root directory, and the packed agent in it, until it is Ready."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import agent
from benchmarks.agent_server import SERIAL
from benchmarks.errors import BenchmarkError
from benchmarks.processes import Words, server
from imagebuilder.resources import data_dir
from imagebuilder.steps.agent import pack_agent

READY_TIMEOUT_S: Final = 60.0
PYTHON: Final = "/usr/bin/python3"
INVOCATION: Final = "0123456789abcdef0123456789abcdef"
AGENT: Final = """
import sys
sys.path.insert(0, sys.argv[1])
import pathlib
from agent.spare import spare_memory
spare_memory()
from agent.notify import ServiceManager
from agent.host import Host
from agent.service import Service
from agent.state import load_node_config
host = Host(root=pathlib.Path(sys.argv[2]))
Service(load_node_config(host.node_file), host, ServiceManager()).run()
"""
"""The packed agent with another root directory; all else is as on a node."""
SYSTEMCTL: Final = """\
#!/bin/sh
[ "$1" = show ] && printf 'LoadState=loaded\\nActiveState=active\\nSubState=running\\nNRestarts=0\\n'
exit 0
"""
K3S: Final = "#!/bin/sh\necho 'k3s version v1.33.5+k3s1 (benchmark)'\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningAgent:
    """An agent whose node is on record as Ready. `started_at` and `ready_at` are UTC seconds."""

    pid: int
    started_at: float
    ready_at: float


@contextlib.contextmanager
def running_agent(work: Path, root: Path, *, poll_s: float) -> Iterator[RunningAgent]:
    """A control server and the agent of the node in `root`.

    Args:
        work: holds what `node_root` made, and takes the packed agent and the logs.
        poll_s: how exactly `ready_at` is found.

    Raises:
        BenchmarkError: The node does not become Ready.
    """
    packed, log = work / "agent.pyz", work / "control.log"
    packed.write_bytes(pack_agent(Path(agent.__file__).parent))
    control: Words = [sys.executable, "-m", "benchmarks.agent_server", work / "state", root]
    python = PYTHON if Path(PYTHON).exists() else sys.executable
    argv: Words = [python, "-I", "-S", "-c", AGENT, packed, root]
    environment = {**os.environ, **_unit_environment(), "PATH": f"{work / 'bin'}:{os.environ['PATH']}"}
    with server(control, log=log, answers=lambda: b'"port"' in log.read_bytes()):
        started_at = time.time()
        with server(argv, log=work / "agent.log", answers=lambda: True, environment=environment) as pid:
            deadline = time.monotonic() + READY_TIMEOUT_S
            while b'"ready"' not in log.read_bytes():
                if time.monotonic() > deadline:
                    tail = (work / "agent.log").read_text("utf-8", "replace")[-500:]
                    raise BenchmarkError(f"the node does not become Ready: {tail}")
                time.sleep(poll_s)
            yield RunningAgent(pid=pid, started_at=started_at, ready_at=time.time())


def _unit_environment() -> dict[str, str]:
    """What the agent's unit sets."""
    unit = data_dir("overlays") / "agent/rootfs/etc/systemd/system/bramble-agent.service"
    lines = [line for line in unit.read_text("utf-8").splitlines() if line.startswith("Environment=")]
    pairs = [word for line in lines for word in line.removeprefix("Environment=").split()]
    return dict(word.split("=", 1) for word in pairs)


def node_root(work: Path) -> Path:
    """This machine's /proc and /sys with a board's device tree, and stand-ins for what is not installed."""
    root = work / "node"
    tree = root / "proc/device-tree"
    tree.mkdir(parents=True)
    (tree / "serial-number").write_bytes(SERIAL.encode() + b"\0")
    (tree / "model").write_bytes(b"Raspberry Pi 5 Model B Rev 1.0\0")
    for name in ("uptime", "loadavg", "meminfo", "vmstat", "pressure", "self", "sys", "cpuinfo"):
        (root / "proc" / name).symlink_to(f"/proc/{name}")
    for name in ("sys", "dev"):
        (root / name).symlink_to(f"/{name}")
    synchronised = root / "run/systemd/timesync/synchronized"
    synchronised.parent.mkdir(parents=True)
    synchronised.touch()
    (root / "run/systemd/units").mkdir()
    (root / "run/systemd/units/invocation:k3s.service").symlink_to(INVOCATION)
    for path, text in (
        (root / "usr/local/bin/k3s", K3S),
        (work / "bin/systemctl", SYSTEMCTL),
        (work / "bin/journalctl", "#!/bin/sh\n"),
        (work / "bin/systemd-run", "#!/bin/sh\nexit 1\n"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    return root
