"""`bramble lab demo`: blank disks to a Ready cluster on virtual boards, and one board back from its own disk.

The scenario and its measures; `bramble.demo_screen` shows it. Everything runs through the commands' own code:
the base and the image come from the store (made here where absent), the server is a real `bramble serve`.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from bramble.demo_screen import PlainScreen, Screen, TableScreen
from bramble.paths import agent_package, apt_access, store
from bramble.rehearsal import ENDED_BADLY, POLL_S, Rehearsal
from bramble.resources import example
from fleet.spec import load_cluster
from imagebuilder.bases import build_base, find_base, require_recipe
from imagebuilder.build import Image, build_image
from imagebuilder.store import Store
from lab.errors import LabError, WaitTimeoutError
from lab.k3s_sim.release import build_release
from lab.network import enter_private_network

BASE: Final = "debian-trixie"
SPEC: Final = "demo.yaml"
READY_TIMEOUT_S: Final = 900.0
RETURN_TIMEOUT_S: Final = 300.0
CYCLED: Final = "pi4-agent"
"""The board whose plug is pulled in the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What the user may choose.

    Attributes:
        k3s_release: directory of a real k3s release; None: the simulator.
        mirror: Debian archive to build a missing base from; None: the one that this machine's apt uses.
        keep: leave the work directory in place.
        plain: lines instead of a live table, also on a terminal.
    """

    k3s_release: Path | None = None
    mirror: str | None = None
    keep: bool = False
    plain: bool = False


@dataclass(slots=True)
class Measures:
    """What the closing summary prints. Seconds of wall time, bytes."""

    simulated: bool
    image_build_s: float = 0.0
    first_look_s: float = 0.0
    ready_s: dict[str, float] = field(default_factory=dict)
    return_s: float = 0.0
    total_s: float = 0.0
    kernel_bytes: int = 0
    initramfs_bytes: int = 0
    image_bytes: int = 0
    compressed_bytes: int = 0
    server_rss_bytes: int = 0


def run_demo(options: DemoOptions, screen: Screen | None = None) -> Measures:
    """Run the whole scenario, on the caller's screen or on one that the terminal gets.

    Raises:
        LabError: a board did not get there; the text carries its timeline and console.
        ImageBuilderError: the base or the image could not be made.
    """
    work = Path(tempfile.mkdtemp(prefix="bramble-demo-"))
    screen = screen or (PlainScreen() if options.plain else TableScreen())
    try:
        measures = _run(options, work, screen)
    except BaseException:
        if options.keep:
            screen.say(f"kept for a look: {work}")
        raise
    finally:
        if not options.keep:
            shutil.rmtree(work, ignore_errors=True)
    screen.summarise(summary_rows(measures))
    if options.keep:
        screen.say(f"kept: {work}")
    return measures


def _run(options: DemoOptions, work: Path, screen: Screen) -> Measures:
    ensure_base(store(), screen, mirror=options.mirror)
    started = time.monotonic()
    spec = load_cluster(write_spec(work, options.k3s_release))
    measures = Measures(simulated=options.k3s_release is None)
    image = build_image(
        spec, store=store(), agent_package=agent_package(), apt=apt_access(), progress=screen.progress
    )
    measures.image_build_s = time.monotonic() - started
    _measure_image(image, measures)
    screen.say(f"image {image.id[:12]} is ready after {measures.image_build_s:.0f} s")
    enter_private_network()
    with Rehearsal(spec, work / "lab", on_event=screen.board_event) as rehearsal, screen.watching(spec):
        _install_all(rehearsal, screen, measures, started)
        _power_cycle(rehearsal, screen, measures)
        measures.server_rss_bytes = rehearsal.peak_rss_bytes
    measures.total_s = time.monotonic() - started
    return measures


def ensure_base(bases: Store, screen: Screen, *, mirror: str | None) -> None:
    """Build the demo's base where the store does not have it."""
    if find_base(BASE, bases) is None:
        screen.say(f"building the base {BASE} from Debian's packages; this takes some minutes, once")
        build_base(
            require_recipe(BASE),
            store=bases,
            mirror=mirror,
            progress=lambda progress: screen.progress(progress.phase, progress.percent / 100),
        )


def write_spec(work: Path, k3s_release: Path | None) -> Path:
    """The demo's cluster.yaml with the k3s release to use, in the work directory."""
    document: dict[str, Any] = yaml.safe_load(example(SPEC).read_text("utf-8"))
    k3s = document["cluster"]["k3s"]
    if k3s_release is None:
        k3s_release = work / "k3s-simulator"
        build_release(k3s_release, k3s["version"])
    k3s["source"] = str(k3s_release.resolve())
    path = work / "cluster.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), "utf-8")
    return path


def _install_all(rehearsal: Rehearsal, screen: Screen, measures: Measures, begun: float) -> None:
    """All boards on, until every one is Ready. `begun` is when the demo was: people look at it from then."""
    started = time.monotonic()
    for node in rehearsal.spec.nodes:
        rehearsal.add_board(node).power_on()
    approved: set[str] = set()
    deadline = started + READY_TIMEOUT_S

    def is_done(nodes: Mapping[str, Mapping[str, Any]]) -> bool:
        measures.first_look_s = measures.first_look_s or time.monotonic() - begun
        for name, node in nodes.items():
            if node["state"] == "ready" and name not in measures.ready_s:
                measures.ready_s[name] = time.monotonic() - started
                screen.say(f"{name} is Ready after {measures.ready_s[name]:.0f} s")
            if node["state"] == "pending" and name not in approved:
                approved.add(name)
                screen.say(
                    f"{name} is a server and waits for a person; typing for you: bramble approve {name} "
                    f"(fingerprint {node['fingerprint']})"
                )
                rehearsal.admin.approve(name)
        return len(measures.ready_s) == len(nodes)

    _watch(rehearsal, screen, is_done, deadline)


def _power_cycle(rehearsal: Rehearsal, screen: Screen, measures: Measures) -> None:
    """Pull one board's plug; it has to come back from its own disk, without a second installation."""
    installs = rehearsal.count_installs(CYCLED)
    boots = rehearsal.node(CYCLED)["boots"]
    board = rehearsal.boards[CYCLED]
    screen.say(f"pulling the plug of {CYCLED} and plugging it in again")
    board.power_cut()
    started = time.monotonic()
    board.power_on()

    def is_done(nodes: Mapping[str, Mapping[str, Any]]) -> bool:
        node = nodes[CYCLED]
        return bool(node["boots"] > boots and node["state"] == "ready")

    _watch(rehearsal, screen, is_done, started + RETURN_TIMEOUT_S)
    measures.return_s = time.monotonic() - started
    if rehearsal.count_installs(CYCLED) != installs:
        raise LabError(f"{CYCLED} was installed again by a mere power cut")
    screen.say(f"{CYCLED} is back from its own disk after {measures.return_s:.0f} s, not installed again")


def _watch(
    rehearsal: Rehearsal,
    screen: Screen,
    is_done: Callable[[Mapping[str, Mapping[str, Any]]], bool],
    deadline: float,
) -> None:
    """Show the fleet until something is true of it."""
    while True:
        rows = rehearsal.rows()
        screen.show(rows)
        if is_done(rows):
            return
        stuck = [name for name, node in rows.items() if node["state"] in ENDED_BADLY]
        if stuck or time.monotonic() > deadline:
            name = stuck[0] if stuck else next(n for n, node in rows.items() if node["state"] != "ready")
            raise WaitTimeoutError(rehearsal.report(name, "Ready"))
        time.sleep(POLL_S)


def _measure_image(image: Image, measures: Measures) -> None:
    measures.kernel_bytes = image.installer_kernel.stat().st_size
    measures.initramfs_bytes = image.installer_initramfs.stat().st_size
    measures.image_bytes = image.disk.stat().st_blocks * 512
    measures.compressed_bytes = image.compressed.stat().st_size


def summary_rows(measures: Measures) -> list[tuple[str, str, str]]:
    """What was measured, beside the limit that the project sets itself: (what, measured, limit)."""
    mib = 2**20
    both = measures.kernel_bytes + measures.initramfs_bytes
    rows = [
        ("k3s", "simulator (lab/k3s_sim)" if measures.simulated else "a real release", ""),
        ("whole demo, base cached", f"{measures.total_s:.0f} s", "480 s"),
        ("image, made or found", f"{measures.image_build_s:.1f} s", ""),
        ("first look at the boards", f"{measures.first_look_s:.1f} s", "60 s"),
        *((f"{name} Ready after", f"{seconds:.0f} s", "") for name, seconds in measures.ready_s.items()),
        (f"{CYCLED} back from its disk after", f"{measures.return_s:.0f} s", ""),
        ("installer initramfs", f"{measures.initramfs_bytes / mib:.1f} MiB", "60 MiB"),
        ("kernel and initramfs", f"{both / mib:.1f} MiB", "110 MiB"),
        ("image on disk / compressed", _pair(measures.image_bytes, measures.compressed_bytes), ""),
        ("server memory at its peak (RSS)", f"{measures.server_rss_bytes / mib:.0f} MiB", "150 MiB"),
    ]
    return rows


def _pair(image_bytes: int, compressed_bytes: int) -> str:
    return f"{image_bytes / 2**20:.0f} / {compressed_bytes / 2**20:.0f} MiB"
