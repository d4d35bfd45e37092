"""What the node's agent adds to a join: from its start to the start of k3s, which then takes its own time."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Final

import agent
from benchmarks.bench import Bench
from benchmarks.cases.agent_cost import AGENT, PYTHON, READY_TIMEOUT_S, node_root, unit_environment
from benchmarks.errors import BenchmarkError
from benchmarks.measure import Better, Row, Table
from benchmarks.processes import Words, server
from imagebuilder.steps.agent import pack_agent

K3S_S: Final = 3
"""How long the stand-in for k3s takes to run, whole seconds."""
POLL_S: Final = 0.005
SYSTEMCTL: Final = f"""\
#!/bin/sh
case "$1" in
start|restart) date +%s.%N > "$0.started" ;;
show)
    state=inactive sub=dead
    if [ -e "$0.started" ]; then
        state=activating sub=start
        since=$(cut -d. -f1 "$0.started")
        [ $(($(date +%s) - since)) -ge {K3S_S} ] && state=active sub=running
    fi
    printf 'LoadState=loaded\\nActiveState=%s\\nSubState=%s\\nNRestarts=0\\n' $state $sub ;;
esac
exit 0
"""


def run(bench: Bench) -> Table:
    """A fresh node each round: enrolled with its ticket, given its turn and its material."""
    started, ready = [], []
    for number in range(bench.rounds + 1):
        with bench.directory("join") as work:
            start_s, ready_s = _join(work)
        if number:  # the first fills the page cache
            started.append(start_s)
            ready.append(ready_s)
    return Table(
        title="Join: what the agent adds",
        unit="s",
        better=Better.LOWER,
        work=(
            "From the start of the agent's process, with a ticket and without a key, to its call that starts "
            "k3s: inventory, key and request by openssl, enrolment over TLS, its turn, the measure of a "
            "server's disk, join material written and synced. systemctl is a shell script, k3s a stand-in. "
            "The limit is 2 s."
        ),
        rows=(
            Row(
                name="bramble agent",
                samples=tuple(started),
                note=f"on record as Ready {max(ready) - K3S_S:.1f} s after k3s ran, in the slowest round",
            ),
        ),
    )


def _join(work: Path) -> tuple[float, float]:
    """Seconds from the agent's start to that of k3s, and from there to Ready in the record."""
    root, packed, log = node_root(work), work / "agent.pyz", work / "control.log"
    _mount_cgroups(root / "sys")
    systemctl = work / "bin/systemctl"
    systemctl.write_text(SYSTEMCTL)
    packed.write_bytes(pack_agent(Path(agent.__file__).parent))
    control: Words = [sys.executable, "-m", "benchmarks.agent_server", work / "state", root]
    python = PYTHON if Path(PYTHON).exists() else sys.executable
    environment = {**os.environ, **unit_environment(), "PATH": f"{work / 'bin'}:{os.environ['PATH']}"}
    with server(control, log=log, answers=lambda: b'"port"' in log.read_bytes()):
        argv: Words = [python, "-I", "-S", "-c", AGENT, packed, root]
        began = time.time()
        with server(argv, log=work / "agent.log", answers=lambda: True, environment=environment):
            deadline = time.monotonic() + READY_TIMEOUT_S
            while b'"ready"' not in log.read_bytes():
                if time.monotonic() > deadline:
                    tail = (work / "agent.log").read_text("utf-8", "replace")[-500:]
                    raise BenchmarkError(f"the node does not become Ready: {tail}")
                time.sleep(POLL_S)
            ended = time.time()
    called = float(systemctl.with_name("systemctl.started").read_text())
    return called - began, ended - called


def _mount_cgroups(sys_directory: Path) -> None:
    """This machine's /sys with a cgroup v2 as a node has it: without the memory controller no node joins."""
    sys_directory.unlink()
    for place, source in ((sys_directory, Path("/sys")), (sys_directory / "fs", Path("/sys/fs"))):
        place.mkdir()
        for entry in source.iterdir():
            if entry.name not in ("fs", "cgroup"):
                (place / entry.name).symlink_to(entry)
    controllers = sys_directory / "fs/cgroup/cgroup.controllers"
    controllers.parent.mkdir()
    controllers.write_text("cpuset cpu io memory pids\n")
