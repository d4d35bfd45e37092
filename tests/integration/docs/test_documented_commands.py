"""Commands of the documents, typed as they stand there, by readers without hardware.

Outputs are held to their shape: what the page says of them is in them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docs_reader import Reader, declare
from fakes_fleet_server import Running, running
from fleet_story import ask_to_install, enrol, install, kube_ready, see

from fleet.boots import BootStage
from fleet.lifecycle import State
from fleet.spec import load_cluster
from fleet.spec.model import NodeSpec

pytestmark = pytest.mark.integration

README = "README.md"
FIRST, THREE, DEAD = (f"docs/tutorials/{name}.md" for name in ("first-node", "three-servers", "dead-board"))
SYMPTOMS = "docs/troubleshooting.md"


@pytest.fixture
def server(lab: Reader) -> Iterator[Running]:
    """A control server without sockets of the boot services, over the tutorial's file."""
    with running(lab.directory / "state" / "attic", load_cluster(Path("cluster.yaml"))) as started:
        yield started


def test_the_readme_begins_with_a_file_that_passes(reader: Reader) -> None:
    made = reader.type(README, "bramble init", "--interface", "eth0", "--subnet", "192.168.86.0/24")
    assert made.exit_code == 0
    checked = reader.type(README, "bramble check")
    assert checked.exit_code == 0
    assert "0 errors" in checked.output


def test_the_status_of_a_server_that_does_not_run_can_not_be_told(lab: Reader) -> None:
    asked = lab.type(README, "bramble status")
    assert asked.exit_code == 2
    assert "bramble serve" in asked.output + asked.errors


def test_the_tutorials_file_passes_with_the_two_warnings_that_it_speaks_of(lab: Reader) -> None:
    checked = lab.type(FIRST, "bramble check")
    assert checked.exit_code == 0
    assert checked.output.count("warning:") == 2
    assert "1 server, 0 agents" in checked.output


def test_recommended_settings_pass_their_own_check(reader: Reader) -> None:
    printed = reader.type(FIRST, "bramble eeprom config --board pi5 > boot.conf")
    assert "BOOT_ORDER=0x" in printed.output
    assert "re-installation can be ordered" in printed.errors, "each with its reason"
    checked = reader.type("docs/how-to/secure-boot.md", "bramble eeprom check boot.conf --board pi5")
    assert checked.exit_code == 0, checked.output


def test_a_signing_key_and_what_goes_into_the_eeprom(reader: Reader) -> None:
    made = reader.type("docs/how-to/secure-boot.md", "bramble boot-image --new-key boot-key.pem")
    for word in ("HTTP_HOST=", "HTTP_PATH=boot/", "BOOT_ORDER", "rpi-eeprom-config --pubkey"):
        assert word in made.output, word
    assert Path("boot-key.pem").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("command", "part"),
    [("dnsmasq", "dhcp-match=set:bramble,97"), ("openwrt", "dhcp")],
)
def test_your_own_dhcp_server_is_told_how(lab: Reader, command: str, part: str) -> None:
    page = "docs/how-to/home-router.md"
    printed = lab.type(page, f"bramble dhcp settings --for {command}", "--server", "10.77.0.1")
    assert printed.exit_code == 0, printed.errors
    assert part in printed.output
    assert "10.77.0.1" in printed.output


def test_looking_around_needs_no_server_and_no_rights(reader: Reader) -> None:
    assert reader.type(FIRST, "bramble --version").output.startswith("bramble ")
    assert "may be written" in reader.type("docs/reference.md", "bramble flash --list").output
    assert "raspios-lite-trixie" in reader.type("docs/reference.md", "bramble base list").output
    assert reader.type("docs/how-to/offline.md", "bramble store list").exit_code == 0
    document = json.loads(reader.type("docs/reference.md", "bramble api openapi > x.json").output)
    assert document["openapi"].startswith("3.1")


def test_the_rules_that_the_page_of_symptoms_lists(reader: Reader) -> None:
    listed = reader.type("docs/architecture.md", "bramble doctor --rules").output
    for line in listed.splitlines():
        assert f"| `{line.split()[0]}` |" in Path(__file__).parents[3].joinpath(SYMPTOMS).read_text("utf-8")


# --- the tutorials, with boards that only talk to the control server


def node(server: Running, name: str) -> NodeSpec:
    found: NodeSpec | None = server.fleet.controller.spec.find_node(name)
    assert found is not None
    return found


def switch_on(server: Running, name: str) -> None:
    """The board's firmware takes the installer, and the installer asks to be let in."""
    spec = node(server, name)

    def story() -> None:
        see(server.fleet, spec)
        see(server.fleet, spec, BootStage.KERNEL)
        ask_to_install(server.fleet, spec, intent=None)

    server.in_loop(story)


def finish(server: Running, *names: str) -> None:
    """The last of `names`, approved, installs, enrols and joins; Kubernetes has all of them."""
    spec = node(server, names[-1])

    def story() -> None:
        install(server.fleet, spec)
        server.fleet.controller.joins.desired(enrol(server.fleet, spec))
        everybody = [node(server, name) for name in names]
        server.fleet.controller.watch.apply_kubernetes(kube_ready(*everybody))

    server.in_loop(story)


def state(reader: Reader, name: str) -> Any:
    rows = json.loads(reader.type(FIRST, "bramble nodes", "--json").output)["nodes"]
    return next(row["state"] for row in rows if row["name"] == name)


def test_the_first_node_from_pending_to_ready(lab: Reader, server: Running) -> None:
    switch_on(server, "attic-1")
    assert state(lab, "attic-1") == State.PENDING
    shown = lab.type(FIRST, "bramble nodes").output
    assert "attic-1" in shown
    assert "pending" in shown
    assert lab.type(FIRST, "bramble status").exit_code == 1, "a person is needed"

    approved = lab.type(FIRST, "bramble approve attic-1", answer="y\n")
    assert approved.exit_code == 0, approved.errors
    assert "approved" in approved.output

    finish(server, "attic-1")
    assert state(lab, "attic-1") == State.READY
    timeline = lab.type(FIRST, "bramble show attic-1").output
    for word in ("installed", "enrolled", "Ready"):
        assert word in timeline, word
    status = lab.type(FIRST, "bramble status")
    assert "1 of 1 Ready" in status.output
    assert status.exit_code == 0, "a cluster this young may be without a snapshot"


def test_a_fingerprint_that_is_not_the_screens_is_not_let_in(lab: Reader, server: Running) -> None:
    switch_on(server, "attic-1")
    refused = lab.type(FIRST, "bramble approve attic-1", answer="n\n")
    assert refused.exit_code == 1
    assert state(lab, "attic-1") == State.PENDING
    assert lab.type(FIRST, "bramble reject attic-1", "--yes").exit_code == 0


def test_three_servers_are_declared_and_put_in_force(lab: Reader, server: Running) -> None:
    switch_on(server, "attic-1")
    lab.type(FIRST, "bramble approve attic-1", "--yes")
    finish(server, "attic-1")

    declare(THREE, "nodes")
    tried = lab.type(THREE, "bramble apply --dry-run")
    assert tried.exit_code == 0, tried.output
    assert tried.output.count("it installs and joins when it is switched on") == 2
    assert lab.type(THREE, "bramble apply").output.endswith("applied\n")

    for name in ("attic-2", "attic-3"):
        switch_on(server, name)
        assert state(lab, name) == State.PENDING
        assert lab.type(THREE, f"bramble approve {name}", answer="y\n").exit_code == 0


def test_a_dead_agent_is_replaced_after_asking_what_would_happen(lab: Reader, server: Running) -> None:
    switch_on(server, "attic-1")
    lab.type(FIRST, "bramble approve attic-1", "--yes")
    finish(server, "attic-1")
    declare(DEAD, "agent")
    assert "+ nodes.attic-4" in lab.type(DEAD, "bramble apply").output
    switch_on(server, "attic-4")
    finish(server, "attic-1", "attic-4")

    asked = lab.type(DEAD, "bramble replace attic-4 --with 10000000d03114b5 --dry-run")
    assert asked.exit_code == 1
    assert "it stays as it is: what is marked with ! stands against it" in asked.output
    assert state(lab, "attic-4") == State.READY, "nothing is changed by asking"


def test_one_server_more_is_refused_with_the_reason(lab: Reader) -> None:
    declare(THREE, "nodes", 1)
    checked = lab.type(FIRST, "bramble check")
    assert checked.exit_code == 2
    assert "2 servers" in checked.output + checked.errors
