"""What the node's agent adds to a join: from its start to the start of k3s, which then takes its own time."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from benchmarks.agent_node import node_root, running_agent
from benchmarks.bench import Bench
from benchmarks.measure import Better, Row, Table

K3S_S: Final = 3
"""How long the stand-in for k3s takes to run, whole seconds."""
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
    root = node_root(work)
    _mount_cgroups(root / "sys")
    systemctl = work / "bin/systemctl"
    systemctl.write_text(SYSTEMCTL)
    with running_agent(work, root, poll_s=0.005) as running:
        called = float(systemctl.with_name("systemctl.started").read_text())
        return called - running.started_at, running.ready_at - called


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
