"""A Pi as the server: Bramble's package on a virtual board, where a real systemd runs it, over a restart.

Too long for every test run (`make test-machine`, a quarter of an hour). It needs the index of Python packages
for the wheels of the package, and an archive of Debian for what the package depends on.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from board_server import ADDRESS, ARM64_3_13, Machine, fetch_packages, make_disk, make_key, powered_on
from docs_pages import ROOT
from fakes_image import make_disk as make_small_base
from fakes_image import make_release

from bramble.demo import ensure_base
from bramble.demo_screen import PlainScreen
from bramble.paths import store
from fleet.boards import BoardModel, MacAddress, Serial
from lab.bootloader.boot_order import network_first
from lab.bootloader.files import BootFiles
from lab.bootloader.machine import Hardware
from lab.bootloader.profile import BoardIdentity, default_profile
from lab.bootrom import play_on_wire
from lab.network import add_tap, enter_private_network, has_private_network, remove_tap
from lab.tap import Tap

pytestmark = pytest.mark.e2e

WORKER: Final = "c0ffee0010000021"
WORKER_MAC: Final = "2c:cf:67:00:00:21"
THERE: Final = "/srv/bramble"
NETBOOT_S: Final = 180.0
SETTLED: Final = "systemctl is-system-running --wait"


@dataclass(frozen=True)
class Server:
    """The board with Bramble's server in it, running."""

    machine: Machine
    said: dict[str, str]

    def status(self) -> dict[str, Any]:
        """What `bramble service status` says, whatever that is."""
        found: dict[str, Any] = json.loads(self.machine.attempt("bramble service status --json").stdout)
        return found


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Debian package for the board: that of DEB=PATH, else made here, with its wheels from the index."""
    if given := os.environ.get("DEB"):
        return Path(given)
    out = tmp_path_factory.mktemp("package")
    argv = [sys.executable, str(ROOT / "deploy/debian/build.py"), *ARM64_3_13, "--output", str(out)]
    subprocess.run(argv, cwd=ROOT, check=True, timeout=900)
    (found,) = out.glob("*.deb")
    return found


@pytest.fixture(scope="module")
def machine(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    work = tmp_path_factory.mktemp("machine")
    ensure_base(store(), PlainScreen(), mirror=None)
    key = make_key(work)
    disk, packages = make_disk(work, key), fetch_packages(work / "apt")
    if not has_private_network():
        enter_private_network()
    with powered_on(work, disk, key, packages) as board:
        board.wait_until("true")
        assert board.attempt(SETTLED).stdout.strip() == "running"
        yield board


@pytest.fixture(scope="module")
def server(machine: Machine, package: Path, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """Installed as docs/installing.md says, for a cluster with one node."""
    inputs = tmp_path_factory.mktemp("inputs")
    base = make_small_base(inputs / "base.img")
    release = make_release(inputs / "k3s")
    (inputs / "cluster.yaml").write_text(cluster(machine.type("ip -br -4 address show scope global")))
    machine.type(f"sudo install -d -o $USER {THERE}")
    machine.put(base, release, inputs / "cluster.yaml", package, *machine.packages, into=THERE)
    said = {}
    said["install"] = machine.type(f"sudo DEBIAN_FRONTEND=noninteractive dpkg -i {THERE}/*.deb")
    said["before"] = machine.attempt("bramble service status").stdout
    machine.type(f"sudo install -D -m 0644 {THERE}/cluster.yaml /etc/bramble/cluster.yaml")
    said["check"] = machine.type("bramble check")
    said["start"] = machine.type("sudo systemctl start bramble")
    return Server(machine, said)


def cluster(addresses: str) -> str:
    """The cluster.yaml of the board's own server; its interface is the one with the address."""
    (interface,) = (line.split()[0] for line in addresses.splitlines() if f"{ADDRESS}/" in line)
    document = {
        "version": 1,
        "cluster": {"name": "attic", "k3s": {"version": "v1.33.5+k3s1", "source": f"{THERE}/k3s"}},
        "image": {
            "base": {"path": f"{THERE}/base.img"},
            "user": {"name": "pi", "ssh_authorized_keys": []},
        },
        "network": {
            "interface": interface,
            "dhcp": "full",
            "subnet": "10.77.0.0/24",
            "server_address": ADDRESS,
        },
        "nodes": [
            {
                "name": "attic-1",
                "board": "pi5",
                "role": "server",
                "serial": WORKER,
                "mac": WORKER_MAC,
                "address": "10.77.0.21",
                "disk": "nvme",
            }
        ],
    }
    return yaml.safe_dump(document, sort_keys=False)


def netboot() -> BootFiles:
    """What a board of that cluster is given by the server on the board: DHCP, then its boot files."""
    model = BoardModel.PI5
    board = BoardIdentity(
        model=model,
        serial=Serial.parse(WORKER),
        mac=MacAddress.parse(WORKER_MAC),
        revision=model.revision_codes[-1],
    )
    profile = default_profile(model)
    profile = profile.with_settings(replace(profile.settings, boot_order=network_first([])))
    hardware = Hardware(board=board, profile=profile, link_up_s=0.3)
    add_tap("worker0")
    told: list[str] = []
    try:
        with Tap("worker0") as port:
            port.wait_for_link()
            ending = play_on_wire(
                port,
                hardware,
                random_bits=secrets.randbits,
                timeout_s=NETBOOT_S,
                tell=lambda at, kind, text: told.append(f"{at:6.1f} {kind}: {text}"),
            )
    finally:
        remove_tap("worker0")
    assert ending.files is not None, "\n".join((ending.reason, *told))
    return ending.files


def test_the_service_runs_under_systemd_with_its_two_capabilities(server: Server) -> None:
    machine, status = server.machine, server.status()
    assert "Setting up bramble" in server.said["install"]
    assert "0 errors" in server.said["check"]
    assert (status["installed"], status["enabled"], status["running"]) == (True, True, True), status
    assert status["says"].startswith("serving 1 node of attic")
    assert status["restarts"] == 0
    held = machine.type(f"grep -E '^(Cap(Eff|Bnd|Amb)|NoNewPrivs|Uid)' /proc/{status['pid']}/status")
    values = dict(line.split(":\t", 1) for line in held.splitlines())
    granted = 1 << 10 | 1 << 13  # CAP_NET_BIND_SERVICE, CAP_NET_RAW: capabilities(7)
    assert {int(values[name], 16) for name in ("CapEff", "CapBnd", "CapAmb")} == {granted}
    assert values["NoNewPrivs"] == "1"
    assert values["Uid"].split() == [machine.type("id -u bramble").strip()] * 4
    exposed = machine.type("systemd-analyze security bramble.service --no-pager | tail -n 1")
    assert "OK" in exposed
    assert machine.type("stat -c '%U %a' /var/lib/bramble").split() == ["bramble", "700"]


def test_the_other_commands_find_its_state_with_root(server: Server) -> None:
    machine = server.machine
    refused = machine.attempt("bramble status")
    assert refused.returncode == 2
    assert "sudo" in refused.stdout + refused.stderr
    seen = json.loads(machine.attempt("sudo bramble status --json").stdout)
    assert seen["live"] is True
    assert seen["nodes"] == 1


def test_its_log_is_the_journals(server: Server) -> None:
    lines = server.machine.type("sudo journalctl -t bramble -o cat --no-pager").splitlines()
    assert any(line.startswith("attic: serving 1 node") for line in lines)


def test_a_board_boots_from_it_before_and_after_a_restart_of_the_machine(server: Server) -> None:
    machine = server.machine
    before = netboot()
    assert before.initramfs is not None
    there = machine.type("sudo sh -c 'sha256sum /var/cache/bramble/images/*/installer/initramfs'").split()[0]
    assert hashlib.sha256(before.initramfs).hexdigest() == there
    seen = timeline(machine)
    machine.restart()
    machine.wait_until("systemctl is-active --quiet bramble")
    status = server.status()
    assert (status["running"], status["restarts"]) == (True, 0), status
    after = netboot()
    assert (after.kernel, after.initramfs) == (before.kernel, before.initramfs)
    assert seen
    assert timeline(machine)[: len(seen)] == seen, "what it saw before the restart is kept"


def timeline(machine: Machine) -> list[int]:
    """Ids of what the server noted of the node."""
    shown = json.loads(machine.type("sudo bramble show attic-1 --json"))
    return [event["id"] for event in shown["events"]]


def test_an_upgrade_restarts_it_and_the_older_version_goes_on_with_the_same_record(server: Server) -> None:
    machine, before = server.machine, server.status()
    machine.type(f"sudo DEBIAN_FRONTEND=noninteractive dpkg -i {THERE}/bramble_*.deb")
    machine.wait_until("systemctl is-active --quiet bramble")
    after = server.status()
    assert after["running"]
    assert after["pid"] != before["pid"]
    assert json.loads(machine.attempt("sudo bramble status --json").stdout)["nodes"] == 1


def test_removed_it_leaves_the_keys(server: Server) -> None:
    machine = server.machine
    machine.type("sudo DEBIAN_FRONTEND=noninteractive dpkg -r bramble")
    assert machine.attempt("systemctl is-active bramble").stdout.strip() in ("inactive", "failed")
    assert machine.attempt("test -e /usr/bin/bramble").returncode == 1
    machine.type("sudo test -s /var/lib/bramble/attic/control.db")
