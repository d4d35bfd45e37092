"""From `bramble reimage` to Ready, against the sum of its parts: one agent node in the lab."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click
import yaml

from benchmarks.bench import Bench, require_private_network
from benchmarks.demo_image import demo_spec, linked_store, require_base
from benchmarks.measure import Better, Row, Table
from benchmarks.reimaging import AGENT, MAX_OVERHEAD, SERVER, Reimage, reimage_once
from bramble.paths import agent_package
from bramble.rehearsal import Rehearsal
from fleet.spec import load_cluster
from fleet.spec.model import ClusterSpec
from imagebuilder.build import build_image

STORE_VARIABLE: Final = "BRAMBLE_CACHE_DIR"


def run(bench: Bench) -> Table:
    """One run; a smaller one than that would be no re-image."""
    require_base(bench.store)
    require_private_network()
    with bench.directory("reimage") as work, linked_store(bench) as store:
        spec = _two_nodes(work)
        build_image(spec, store=store, agent_package=agent_package())
        with Rehearsal(spec, work / "lab", environment={STORE_VARIABLE: str(store.root)}) as lab:
            done = reimage_once(lab, tell=lambda text: click.echo(f"  {text}", err=True))
    return table_of(done)


def table_of(done: Reimage) -> Table:
    """The whole, the sum of its parts, and each part."""
    total = Row(
        name="bramble reimage, from the order to Ready",
        samples=(done.total_s,),
        note=f"nobody answered for the replicated workload for {done.gap_s:.2f} s at most",
    )
    parts = Row(
        name="the sum of its parts",
        samples=(done.parts_s,),
        note=f"overhead {done.overhead:.1%}, the limit is {MAX_OVERHEAD:.0%}; states in brackets are no part",
    )
    rows = [Row(name=name, samples=(seconds,)) for name, seconds in done.rows()]
    return Table(
        title="Re-image of a healthy agent node",
        unit="s",
        better=Better.LOWER,
        work=f"The demo's {SERVER} and {AGENT} in the lab, with a Deployment of two pods of which one may "
        "be missing (k3s simulator). The boards are QEMU machines whose processors are emulated, two at "
        "a time on this machine's cores: the proportions count, not the seconds. Each part is the time in "
        "that state of the node's lifecycle as the order's row has it. One run.",
        rows=(total, parts, *rows),
    )


def _two_nodes(work: Path) -> ClusterSpec:
    """The demo's cluster with one server and one agent."""
    path = demo_spec(work).path
    document = yaml.safe_load(path.read_text("utf-8"))
    document["nodes"] = [node for node in document["nodes"] if node["name"] in (SERVER, AGENT)]
    path.write_text(yaml.safe_dump(document, sort_keys=False), "utf-8")
    return load_cluster(path)
