"""`bramble build` and `bramble base list` as a user calls them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from fakes_image import make_base, make_release

from imagebuilder.store import Store

pytestmark = pytest.mark.integration

CHECKOUT = Path(__file__).parents[3]
CLUSTER = """\
version: 1
cluster:
  name: attic
  domain: attic.internal
  k3s: {version: v1.33.5+k3s1, source: upstream}
image:
  base: debian-trixie
  user:
    name: pi
    ssh_authorized_keys: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ7fM1q2h1yYJbHn0G3yqkQp0Vb0b7l5w1Wq0n8gq2Zr x]
  timezone: Europe/Madrid
network: {interface: eth0, dhcp: full, subnet: 10.77.0.0/24, gateway: 10.77.0.1, dns: [10.77.0.1]}
defaults: {disk: nvme}
nodes:
  - {name: pi5-master-1, board: pi5, role: server, mac: 2c:cf:67:12:34:56, address: 10.77.0.33}
"""


@pytest.fixture
def world(tmp_path: Path) -> Path:
    make_base(Store(tmp_path / "cache"))
    make_release(tmp_path / "k3s")
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    return tmp_path


def bramble(
    world: Path, *words: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bramble.cli", *words],
        cwd=CHECKOUT,
        env={**os.environ, "BRAMBLE_CACHE_DIR": str(world / "cache"), **(env or {})},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_second_build_finds_the_image_at_once(world: Path) -> None:
    words = ("build", str(world / "cluster.yaml"), "--k3s", str(world / "k3s"))
    first = bramble(world, *words)
    assert first.returncode == 0, first.stderr
    assert "k3s v1.33.5+k3s1 (simulator)" in first.stdout
    assert "compressing" in first.stderr
    second = bramble(world, *words, "--json")
    answer = json.loads(second.stdout)
    assert answer["built"] is False
    assert answer["k3s"] == {"version": "v1.33.5+k3s1", "simulator": True}
    assert answer["image_id"] in first.stdout
    assert "compressing" not in second.stderr


def test_a_damaged_release_ends_with_1_and_words(world: Path) -> None:
    (world / "k3s" / "k3s-arm64").write_bytes(b"other")
    done = bramble(world, "build", str(world / "cluster.yaml"), "--k3s", str(world / "k3s"))
    assert done.returncode == 1
    assert "k3s-arm64 is damaged: its sha256 is" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_tool_is_named_with_its_package(world: Path) -> None:
    # runner.py looks in the system directories too, so an empty PATH hides only what lies in /usr/bin: mcopy.
    done = bramble(
        world, "build", str(world / "cluster.yaml"), "--k3s", str(world / "k3s"), env={"PATH": str(world)}
    )
    assert done.returncode == 1
    assert "mcopy" in done.stderr
    assert "mtools" in done.stderr


def test_bases_are_listed_with_their_place(world: Path, tmp_path: Path) -> None:
    done = bramble(world, "base", "list", "--json")
    assert done.returncode == 0, done.stderr
    entries = {entry["name"]: entry for entry in json.loads(done.stdout)}
    assert Path(entries["debian-trixie"]["path"]).is_relative_to(world / "cache")
    assert entries["ubuntu-24.04"]["path"] is None
    empty = bramble(tmp_path / "nothing", "base", "list")
    assert "bramble base build debian-trixie" in empty.stdout
    assert "bramble base fetch ubuntu-24.04" in empty.stdout


def test_one_wrong_node_of_many_stops_the_build_before_anything_is_made(world: Path) -> None:
    lines = [
        f"  - {{name: n{number:03}, board: cm5, role: agent, mac: '2c:cf:67:40:{number >> 8:02x}:"
        f"{number & 255:02x}', address: 10.77.{2 + number // 250}.{1 + number % 250}}}\n"
        for number in range(500)
    ]
    lines[376] = lines[376].replace("role: agent", "role: agnet")
    text = CLUSTER.replace("10.77.0.0/24", "10.77.0.0/16").replace("upstream", str(world / "k3s"))
    (world / "cluster.yaml").write_text(text + "".join(lines))
    before = sorted((world / "cache").rglob("*"))
    result = bramble(world, "build", str(world / "cluster.yaml"))
    assert result.returncode == 2
    assert "nodes[377].role" in result.stderr
    assert "'agnet'" in result.stderr
    assert result.stderr.count("nodes[") == 1
    assert sorted((world / "cache").rglob("*")) == before


def test_a_build_keeps_the_cache_to_its_budget(world: Path) -> None:
    def build(zone: str, **env: str) -> Path:
        text = CLUSTER.replace("upstream", str(world / "k3s")).replace("Europe/Madrid", zone)
        (world / "cluster.yaml").write_text(text)
        result = bramble(world, "build", str(world / "cluster.yaml"), "--json", env=env)
        assert result.returncode == 0, result.stderr
        return Path(json.loads(result.stdout)["path"])

    first = build("Europe/Madrid")
    second = build("Europe/Paris")
    assert first.is_dir()
    listed = json.loads(bramble(world, "store", "list", "--json").stdout)
    size = sum(item["size_bytes"] for item in listed)
    image = next(item["size_bytes"] for item in listed if item["kind"] == "images")
    third = build("Europe/Rome", BRAMBLE_CACHE_BUDGET=f"{size + image // 2}")
    assert not first.exists()
    assert second.is_dir()
    assert third.is_dir()
    build("Europe/Oslo", BRAMBLE_CACHE_BUDGET="1k")
    kinds = {item["kind"] for item in json.loads(bramble(world, "store", "list", "--json").stdout)}
    assert kinds == {"bases", "images", "base-chunks", "installer-runtimes"}
    assert len(list((world / "cache/images").iterdir())) == 1
    wrong = bramble(world, "build", str(world / "cluster.yaml"), env={"BRAMBLE_CACHE_BUDGET": "lots"})
    assert wrong.returncode == 1
    assert "BRAMBLE_CACHE_BUDGET: 'lots' is not a size" in wrong.stderr
