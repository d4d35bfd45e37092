"""A server with its dashboard as a process of its own, for the case that measures it.

    python -m benchmarks.dashboard_server STATE NODES

Makes a cluster of NODES nodes in STATE, all of them being installed, and writes each one's progress once a
second. Serves the dashboard over TLS on the loopback address, with the controller's own services beside it.
Prints one JSON line with a link that opens it once, and ends with SIGTERM or SIGINT.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from benchmarks.agent_server import NoImages
from benchmarks.fleet_server import LOOPBACK, enrol_all, write_cluster
from bramble.dashboard.compose import ObservedBoots, make_site
from bramble.dashboard.door import make_context, serve_dashboard
from fleet.collector import settle_collector
from fleet.controller import Controller
from fleet.installs import ControlInfo
from fleet.k3s.material import open_k3s
from fleet.lifecycle import State
from fleet.rollout.record import Phase, Rollout, Step, StepState, to_record
from fleet.spec import load_cluster
from fleet.spec.model import ClusterSpec, DhcpMode
from fleet.store.database import Store
from fleet.store.tables import nodes
from fleet.trust.pki import open_pki
from fleet.trust.tokens import TokenRole
from pxe.diagnosis.engine import Diagnostician
from pxe.diagnosis.scene import Setting
from pxe.net.observer import Observer

EVERY_S: Final = 1.0
LINKS: Final = 4


def begin_all(store: Store, now: float) -> None:
    """Every node is being installed."""
    with store.write() as tx:
        tx.connection.execute(
            sa.update(nodes).values(
                state=State.IMAGING.value, since=now, progressed_at=now, detail="write 0 %"
            )
        )


def add_rollout(store: Store, spec: ClusterSpec, now: float) -> None:
    """A rollout through all nodes that has ended: its page has as much to tell as there can be."""
    steps = tuple(
        Step(node=node.name, role=node.role, state=StepState.DONE, began=now - 600, ended=now - 300)
        for node in spec.nodes
    )
    rollout = Rollout(
        number=1,
        image_id="f" * 64,
        k3s_version=spec.k3s.version,
        requested_at=now - 3600,
        by="the benchmark",
        canary=steps[0].node,
        max_parallel=1,
        soak_s=600.0,
        epoch=0,
        order="agents first",
        steps=steps,
        phase=Phase.DONE,
        reason=f"{len(steps)} of {len(steps)} nodes hold the image",
        closed_at=now,
    )
    with store.write() as tx:
        tx.put_rollout(to_record(rollout))


async def move_all(store: Store, names: list[str]) -> None:
    """Every node gets a percent further, once a second, in one transaction."""
    turn = 0
    change = (
        sa.update(nodes)
        .where(nodes.c.name == sa.bindparam("the_node"))
        .values(detail=sa.bindparam("what"), progressed_at=sa.bindparam("at"))
    )
    while True:
        turn += 1
        rows = [
            {"the_node": name, "what": f"write {(turn + number) % 101} %", "at": time.time()}
            for number, name in enumerate(names)
        ]
        with store.write() as tx:
            tx.connection.execute(change, rows)
        await asyncio.sleep(EVERY_S)


async def serve(state: Path, count: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    callers = state / "callers"
    callers.mkdir(parents=True)
    write_cluster(state / "cluster.yaml", count)
    spec, now = load_cluster(state / "cluster.yaml"), time.time()
    pki = open_pki(state, spec.name, now)
    pki.ensure_server_certificate([IPv4Address(LOOPBACK)], [], now)
    store = Store.open(state / "control.db")
    k3s = open_k3s(state / "k3s", spec.name, now)
    controller = Controller(store, spec, pki, k3s, NoImages(), ControlInfo((), pki.ca_pem))
    enrol_all(store, pki, spec, callers, now)
    begin_all(store, now)
    add_rollout(store, spec, now)
    observer = Observer(Diagnostician(Setting(DhcpMode.OFF, IPv4Address(LOOPBACK))), lambda _event: None)
    site = make_site(controller, ObservedBoots(observer), list)
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    settle_collector()
    async with serve_dashboard(site, LOOPBACK, 0, make_context(pki, None)) as port:
        controller.login_links.url = f"https://{LOOPBACK}:{port}"
        links = [controller.login_links.make("the benchmark", TokenRole.ADMIN)[0] for _ in range(LINKS)]
        work = [
            asyncio.create_task(controller.run()),
            asyncio.create_task(move_all(store, [node.name for node in spec.nodes])),
        ]
        print(json.dumps({"port": port, "links": links}), flush=True)
        await stop.wait()
        for task in work:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*work)
    store.close()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
