"""Real files as media: a cluster's image for two nodes at once, and targets that cannot be used."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from fakes_image import make_agent, make_base, make_node, make_release, make_spec

from agent.installer.occupant import inspect_head
from bramble.flash import flash_nodes
from bramble.node_images import open_handouts
from bramble.paths import StateLayout
from fleet.admin_client import FleetReader
from fleet.spec.model import ClusterSpec
from imagebuilder.build import Image, build_image
from imagebuilder.disk.edit import DiskImage
from imagebuilder.disk.mbr import parse_mbr
from imagebuilder.errors import ImageBuilderError
from imagebuilder.flash.batch import Result
from imagebuilder.flash.devices import Inventory
from imagebuilder.flash.errors import FlashError, TargetRefused
from imagebuilder.flash.media import Medium, require_media
from imagebuilder.flash.target import FlashTarget
from imagebuilder.flash.writer import Phase
from imagebuilder.runner import run
from imagebuilder.store import Store

pytestmark = pytest.mark.integration

GARBAGE = b"\xa5"


class Quiet:
    def progress(self, number: int, phase: Phase, done: int, total: int) -> None:
        """Nobody watches."""

    def ended(self, number: int, result: Result) -> None:
        """Nobody watches."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ClusterSpec, Image]]:
    root = tmp_path_factory.mktemp("flash")
    store = Store(root / "store")
    make_base(store)
    spec = make_spec(make_release(root / "k3s"), path=root / "cluster.yaml")
    second = replace(make_node(), name="pi4-2", serial=None, address=IPv4Address("10.77.0.99"))
    spec = replace(
        spec,
        nodes=(make_node(), second),
        network=replace(spec.network, server_address=IPv4Address("10.77.0.1")),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("imagebuilder.build.FREE_ROOT_BYTES", 20 * 2**20)
        yield spec, build_image(spec, store=store, agent_package=make_agent(root))


def medium(path: Path, size: int) -> Medium:
    """A file full of what a used card holds."""
    with path.open("wb") as file:
        for _ in range(0, size, 2**20):
            file.write(GARBAGE * 2**20)
        file.truncate(size)
    return Medium(path, None, size)


def test_two_nodes_get_their_own_disks(cluster: tuple[ClusterSpec, Image], tmp_path: Path) -> None:
    spec, image = cluster
    size = image.disk.stat().st_size + 16 * 2**20
    media = [medium(tmp_path / f"{node.name}.card", size) for node in spec.nodes]
    state = StateLayout(directory=tmp_path / "state")
    with open_handouts(spec, state) as handouts:
        results = flash_nodes(
            spec,
            image,
            list(zip(spec.nodes, media, strict=True)),
            handouts,
            records=state.directory / "cards",
            verify=True,
            watcher=Quiet(),
        )
    assert [result.error for result in results] == [None, None]
    signatures = set()
    for node, card in zip(spec.nodes, media, strict=True):
        head = card.path.read_bytes()[: 2**20]
        mbr = parse_mbr(head[:512], disk_bytes=size)
        assert mbr.partition(2).end_lba * 512 == size // 2**20 * 2**20
        signatures.add(mbr.signature)
        occupant = inspect_head(head).occupant
        assert occupant is not None
        assert (occupant.cluster, occupant.node) == (spec.name, node.name)
        disk = DiskImage(card.path, tmp_path)
        disk.check()
        root = mbr.partition(2).offset
        identity = run(["debugfs", "-R", "cat /etc/bramble/node.json", f"{card.path}?offset={root}"]).stdout
        values = json.loads(identity.rstrip(b"\0 \n"))
        assert values["node"] == node.name
        assert values["control_urls"] == [f"https://10.77.0.1:{spec.network.ports.control}"]
    assert len(signatures) == 2
    states = {node["name"]: node["state"] for node in FleetReader(state.directory).nodes()["nodes"]}
    assert set(states.values()) == {"flashed"}
    records = [json.loads(path.read_text()) for path in sorted((state.directory / "cards").iterdir())]
    assert {record["node"] for record in records} == {node.name for node in spec.nodes}
    assert all(record["outcome"]["verified_bytes"] > 0 and record["error"] is None for record in records)
    tickets = {json.loads(path.read_text()).get("ticket") for path in (state.directory / "cards").iterdir()}
    assert tickets == {None}


def test_medium_that_fails_is_recorded_and_its_node_may_still_be_installed(
    cluster: tuple[ClusterSpec, Image], tmp_path: Path
) -> None:
    spec, image = cluster
    card = medium(tmp_path / "card", image.disk.stat().st_size)
    state = StateLayout(directory=tmp_path / "state")

    class Shrinking(Quiet):
        def progress(self, number: int, phase: Phase, done: int, total: int) -> None:
            if phase is Phase.VERIFY:
                os.truncate(card.path, 2**20)

    with open_handouts(spec, state) as handouts:
        (result,) = flash_nodes(
            spec,
            image,
            [(spec.nodes[0], card)],
            handouts,
            records=state.directory / "cards",
            verify=True,
            watcher=Shrinking(),
        )
    assert result.error is not None
    assert "smaller than it says" in result.error.hint
    nodes = FleetReader(state.directory).nodes()["nodes"]
    assert next(node["state"] for node in nodes if node["name"] == spec.nodes[0].name) == "declared"
    (record,) = (state.directory / "cards").iterdir()
    assert json.loads(record.read_text())["error"]


def test_card_that_is_done_is_its_nodes_though_the_rest_is_interrupted(
    cluster: tuple[ClusterSpec, Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, image = cluster
    media = [medium(tmp_path / f"{node.name}.card", image.disk.stat().st_size) for node in spec.nodes]
    state = StateLayout(directory=tmp_path / "state")

    def interrupt(futures: list[Future[Result]]) -> None:
        futures[0].result()
        raise KeyboardInterrupt

    monkeypatch.setattr("imagebuilder.flash.batch.wait", interrupt)
    (tmp_path / "cards").write_text("a file where a directory should be")
    with open_handouts(spec, state) as handouts, pytest.raises(ImageBuilderError, match="record of the card"):
        flash_nodes(
            spec,
            image,
            list(zip(spec.nodes, media, strict=True)),
            handouts,
            records=tmp_path / "cards",
            verify=False,
            watcher=Quiet(),
        )
    states = {node["name"]: node["state"] for node in FleetReader(state.directory).nodes()["nodes"]}
    assert states[spec.nodes[0].name] == "flashed"


def test_busy_medium_costs_no_ticket(cluster: tuple[ClusterSpec, Image], tmp_path: Path) -> None:
    spec, image = cluster
    card = medium(tmp_path / "card", image.disk.stat().st_size)
    state = StateLayout(directory=tmp_path / "state")
    with (
        FlashTarget(card.path),
        open_handouts(spec, state) as handouts,
        pytest.raises(FlashError, match="written by another program"),
    ):
        flash_nodes(
            spec,
            image,
            [(spec.nodes[0], card)],
            handouts,
            records=tmp_path / "cards",
            verify=True,
            watcher=Quiet(),
        )
    assert not (tmp_path / "cards").exists()


def test_every_bad_target_is_named_before_anything_is_written(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(bytes(1024))
    (tmp_path / "same").symlink_to(small)
    with pytest.raises(TargetRefused) as refused:
        require_media(
            [small, tmp_path / "same", tmp_path / "absent", tmp_path],
            Inventory.of_this_machine(),
            needed_bytes=4096,
            allow_fixed=False,
        )
    text = refused.value.message
    assert "1024 bytes, the image needs 4096" in text
    assert "is the same disk as" in text
    assert text.count("is no disk") == 2


def test_target_is_locked_while_it_is_open(tmp_path: Path) -> None:
    path = tmp_path / "card"
    path.write_bytes(bytes(8192))
    with FlashTarget(path), path.open("rb") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_command_writes_a_raw_image_and_says_how_it_went(tmp_path: Path) -> None:
    image, card = tmp_path / "disk.img", tmp_path / "card"
    image.write_bytes(os.urandom(3 * 2**20))
    card.write_bytes(GARBAGE * (4 * 2**20))
    argv = [sys.executable, "-m", "bramble.cli", "flash", "--image", str(image), str(card)]
    refused = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert refused.returncode == 2
    assert "--yes" in refused.stderr
    assert card.read_bytes() == GARBAGE * (4 * 2**20)
    done = subprocess.run([*argv, "--yes", "--json"], capture_output=True, text=True, check=True)
    (row,) = json.loads(done.stdout)
    assert row["ok"]
    assert row["verified_bytes"] == 3 * 2**20
    assert card.read_bytes()[: 3 * 2**20] == image.read_bytes()
