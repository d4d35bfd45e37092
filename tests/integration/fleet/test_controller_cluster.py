"""Nodes beside each other: who founds the cluster, who waits, who is lost, and what a restart keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes_fleet import (
    Fleet,
    cluster_spec,
    hardware_of,
    node_spec,
    open_fleet,
    status_report,
)
from fleet_story import (
    AGENT,
    SERVER,
    complete,
    enrol,
    install,
    intent_of,
    kube_ready,
    let_in,
    require_token,
    see,
    state_of,
    texts,
)

from agent.protocol import InstallProgress, InstallStep, K3sState
from fleet.ground import INTENT_TTL_S
from fleet.health.pace import RETURN_S
from fleet.kube.client import KubeNode
from fleet.lifecycle import State
from fleet.refusal import RefusedError
from fleet.spec.model import Role
from fleet.views import fleet_view, timeline_view

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("backend")]


def test_agents_wait_for_the_first_server_and_then_join(fleet: Fleet) -> None:
    for node in (SERVER, AGENT):
        install(fleet, node)
    agent = enrol(fleet, AGENT)
    waiting = fleet.controller.joins.desired(agent)
    assert not waiting.join
    with pytest.raises(RefusedError, match="may not join yet"):
        fleet.controller.joins.join_material(agent)
    server = enrol(fleet, SERVER)
    assert fleet.controller.joins.desired(server).join
    fleet.controller.watch.apply_kubernetes(kube_ready(SERVER))
    allowed = fleet.controller.joins.desired(agent)
    assert allowed.join
    assert allowed.generation > waiting.generation
    material = fleet.controller.joins.join_material(agent)
    assert any("server: https://10.77.0.11:6443" in file.content for file in material.files)
    assert fleet.controller.joins.join_material(agent) == material


def test_waiting_for_its_turn_does_not_time_out(fleet: Fleet) -> None:
    install(fleet, AGENT)
    agent = enrol(fleet, AGENT)
    for sequence in range(1, 60):
        fleet.clock.advance(60)
        fleet.controller.joins.status(agent, status_report(hardware_of(AGENT), sequence))
        fleet.controller.tick()
    assert state_of(fleet, AGENT) is State.JOINING


def test_only_one_server_founds_the_cluster_and_the_next_join_one_at_a_time(tmp_path: Path) -> None:
    servers = [node_spec(f"s{number}", number, role=Role.SERVER) for number in (1, 2, 3)]
    fleet = open_fleet(tmp_path, cluster_spec(*servers))
    try:
        for node in servers:
            install(fleet, node)
        certificates = [enrol(fleet, node) for node in servers]
        desired = fleet.controller.joins.desired
        assert [desired(certificate).join for certificate in certificates] == [True, False, False]
        founder = fleet.controller.joins.join_material(certificates[0])
        assert any("cluster-init: true" in file.content for file in founder.files)
        fleet.controller.watch.apply_kubernetes(kube_ready(servers[0]))
        assert [desired(certificate).join for certificate in certificates[1:]] == [True, False]
        second = fleet.controller.joins.join_material(certificates[1])
        assert not any("cluster-init" in file.content or "server-ca" in file.path for file in second.files)
        fleet.controller.watch.apply_kubernetes(kube_ready(*servers[:2]))
        assert desired(certificates[2]).join
    finally:
        fleet.store.close()


@pytest.mark.parametrize("was_ready", [False, True], ids=["never-ready", "founded"])
def test_founder_that_left_before_it_was_ready_gives_way_to_the_next_server(
    tmp_path: Path, was_ready: bool
) -> None:
    other = node_spec("s2", 2, role=Role.SERVER)
    first = open_fleet(tmp_path, cluster_spec(SERVER, other))
    for node in (SERVER, other):
        install(first, node)
    assert first.controller.joins.desired(enrol(first, SERVER)).join
    certificate = enrol(first, other)
    assert not first.controller.joins.desired(certificate).join
    if was_ready:
        first.controller.watch.apply_kubernetes(kube_ready(SERVER))
    first.store.close()
    second = open_fleet(tmp_path, cluster_spec(other), first.clock)
    try:
        assert second.controller.joins.desired(certificate).join is not was_ready
        assert ("no longer the server" in texts(second, "pi5-1")[-1]) is not was_ready
    finally:
        second.store.close()


def test_installed_node_keeps_its_role_and_the_change_is_an_alarm(tmp_path: Path) -> None:
    fleet = open_fleet(tmp_path, cluster_spec(SERVER, AGENT))
    for node in (SERVER, AGENT):
        install(fleet, node)
    server, agent = enrol(fleet, SERVER), enrol(fleet, AGENT)
    assert fleet.controller.joins.desired(server).join
    fleet.controller.watch.apply_kubernetes(kube_ready(SERVER))
    changed = node_spec("pi4-1", 2, role=Role.SERVER, serial="10000000abcd0077")
    for _ in range(2):
        fleet.store.close()
        fleet = open_fleet(tmp_path, cluster_spec(SERVER, changed), fleet.clock)
    try:
        timeline = timeline_view(fleet.store, "pi4-1")
        assert timeline is not None
        alarms = [event for event in timeline.events if event.kind == "alarm"]
        assert len(alarms) == 2
        assert all(alarm.hint for alarm in alarms)
        assert "installed as agent" in alarms[0].text
        assert "another serial or MAC" in alarms[1].text
        assert fleet.controller.joins.desired(agent).join
        assert fleet.controller.joins.join_material(agent).unit == "k3s-agent.service"
    finally:
        fleet.store.close()


def test_node_that_was_never_installed_takes_its_new_role(tmp_path: Path) -> None:
    fleet = open_fleet(tmp_path, cluster_spec(AGENT))
    fleet.store.close()
    fleet = open_fleet(tmp_path, cluster_spec(node_spec("pi4-1", 2, role=Role.SERVER)), fleet.clock)
    try:
        assert fleet_view(fleet.store).nodes[0].role == "server"
        assert texts(fleet, "pi4-1") == ["declared in cluster.yaml"]
    finally:
        fleet.store.close()


def test_silence_loses_a_node_and_a_report_brings_it_back(fleet: Fleet) -> None:
    install(fleet, SERVER)
    certificate = enrol(fleet, SERVER)
    fleet.controller.joins.status(certificate, status_report(hardware_of(SERVER), 1))
    fleet.controller.watch.apply_kubernetes(kube_ready(SERVER))
    fleet.clock.advance(36)
    fleet.controller.tick()
    assert state_of(fleet, SERVER) is State.LOST
    fleet.controller.joins.status(certificate, status_report(hardware_of(SERVER), 2))
    assert state_of(fleet, SERVER) is State.DEGRADED
    fleet.controller.watch.apply_kubernetes(kube_ready(SERVER))
    assert state_of(fleet, SERVER) is State.READY


def test_server_that_was_away_loses_no_node_that_is_about_to_ask_again(tmp_path: Path) -> None:
    """Who found nobody for long pauses for minutes between two attempts."""
    spec = cluster_spec(SERVER, AGENT)
    first = open_fleet(tmp_path, spec)
    for node in (SERVER, AGENT):
        install(first, node)
        first.controller.joins.desired(enrol(first, node))
        first.controller.watch.apply_kubernetes(kube_ready(SERVER, AGENT))
    first.store.close()
    first.clock.advance(3600)
    second = open_fleet(tmp_path, spec, first.clock)
    try:
        second.clock.advance(RETURN_S - 10)
        second.controller.tick()
        assert state_of(second, SERVER) is state_of(second, AGENT) is State.READY
        with second.store.read() as reader:
            certificate = reader.require_node(SERVER.name).certificate
        second.controller.joins.status(certificate, status_report(hardware_of(SERVER), 1))
        second.clock.advance(11)
        second.controller.tick()
        assert (state_of(second, SERVER), state_of(second, AGENT)) == (State.READY, State.LOST)
        second.clock.advance(25)
        second.controller.tick()
        assert state_of(second, SERVER) is State.LOST, "this one was heard, and then no more"
    finally:
        second.store.close()


def test_nodes_of_a_larger_fleet_are_told_and_granted_longer_intervals(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleet.health.pace.REPORTS_PER_S", 0.05)  # one node is as many as 5,000
    install(fleet, SERVER)
    certificate = enrol(fleet, SERVER)
    fleet.controller.joins.status(certificate, status_report(hardware_of(SERVER), 1))
    fleet.controller.watch.apply_kubernetes(kube_ready(SERVER))
    fleet.controller.tick()
    told = fleet.controller.joins.status(certificate, status_report(hardware_of(SERVER), 2))
    assert told.interval_s == 20.0
    fleet.clock.advance(64)
    fleet.controller.tick()
    assert state_of(fleet, SERVER) is State.READY
    fleet.clock.advance(2)
    fleet.controller.tick()
    assert state_of(fleet, SERVER) is State.LOST


def test_one_bad_answer_of_kubernetes_is_a_hiccup_three_are_not(fleet: Fleet) -> None:
    install(fleet, SERVER)
    enrol(fleet, SERVER)
    with fleet.store.read() as reader:
        certificate = reader.require_node("pi5-1").certificate
    fleet.controller.joins.desired(certificate)
    fleet.controller.watch.apply_kubernetes(kube_ready(SERVER))
    unready = {"pi5-1": KubeNode("pi5-1", False, "kubelet stopped", "v1")}
    fleet.controller.watch.apply_kubernetes(unready)
    fleet.controller.watch.apply_kubernetes(kube_ready(SERVER))
    fleet.controller.watch.apply_kubernetes(unready)
    fleet.controller.watch.apply_kubernetes(unready)
    assert state_of(fleet, SERVER) is State.READY
    fleet.controller.watch.apply_kubernetes(unready)
    assert state_of(fleet, SERVER) is State.DEGRADED
    assert "kubelet stopped" in texts(fleet, "pi5-1")[-1]


def test_node_object_of_an_earlier_life_is_not_readiness(fleet: Fleet) -> None:
    install(fleet, AGENT)
    enrol(fleet, AGENT)
    fleet.controller.watch.apply_kubernetes(kube_ready(AGENT))
    assert state_of(fleet, AGENT) is State.JOINING


def test_repeated_status_changes_nothing(fleet: Fleet) -> None:
    install(fleet, AGENT)
    certificate = enrol(fleet, AGENT)
    report = status_report(hardware_of(AGENT), 5, k3s=K3sState.STARTING)
    fleet.controller.joins.status(certificate, report)
    before = texts(fleet, "pi4-1")
    fleet.clock.advance(5)
    fleet.controller.joins.status(certificate, report)
    assert texts(fleet, "pi4-1") == before
    with fleet.store.read() as reader:
        assert reader.require_node("pi4-1").status_at == fleet.clock() - 5


def test_state_survives_a_restart_and_an_installed_node_is_not_offered_again(tmp_path: Path) -> None:
    spec = cluster_spec(SERVER, AGENT)
    first = open_fleet(tmp_path, spec)
    install(first, AGENT)
    first.store.close()
    second = open_fleet(tmp_path, spec, first.clock)
    try:
        assert state_of(second, AGENT) is State.FIRST_BOOT
        assert intent_of(second, AGENT) is None
        assert intent_of(second, SERVER) == 1
    finally:
        second.store.close()


def test_node_that_left_the_file_and_came_back_is_not_wiped(tmp_path: Path) -> None:
    first = open_fleet(tmp_path, cluster_spec(SERVER, AGENT))
    install(first, AGENT)
    certificate = enrol(first, AGENT)
    first.store.close()
    second = open_fleet(tmp_path, cluster_spec(SERVER), first.clock)
    assert state_of(second, AGENT) is State.DECOMMISSIONED
    with pytest.raises(RefusedError):
        second.controller.joins.desired(certificate)
    second.store.close()
    third = open_fleet(tmp_path, cluster_spec(SERVER, AGENT), first.clock)
    try:
        assert state_of(third, AGENT) is State.LOST
        assert intent_of(third, AGENT) is None
    finally:
        third.store.close()


def test_expired_intent_closes_and_the_next_power_on_opens_another(fleet: Fleet) -> None:
    see(fleet, AGENT)
    fleet.clock.advance(25 * 3600)
    fleet.controller.tick()
    assert "intent 1 closed: expired" in texts(fleet, "pi4-1")
    see(fleet, AGENT)
    assert intent_of(fleet, AGENT) == 2


def test_installer_that_is_let_in_as_its_intent_ends_reads_the_whole_image(fleet: Fleet) -> None:
    def end() -> float | None:
        return next(boot.expires for boot in fleet.controller.boot_states() if boot.name == AGENT.name)

    see(fleet, AGENT)
    assert end() == fleet.clock() + INTENT_TTL_S
    fleet.clock.advance(INTENT_TTL_S - 60)
    token = require_token(let_in(fleet, AGENT))
    assert end() is None, "what the content server was told then holds on"
    plan = fleet.controller.installs.plan(token)
    fleet.clock.advance(120)
    fleet.controller.tick()
    fleet.controller.installs.progress(token, InstallProgress(1, InstallStep.WRITE, 42.0))
    assert intent_of(fleet, AGENT) == 1
    fleet.controller.installs.complete(token, complete(plan))
    assert state_of(fleet, AGENT) is State.FIRST_BOOT


def test_secrets_stand_in_no_event_and_no_view(fleet: Fleet) -> None:
    install(fleet, SERVER)
    certificate = enrol(fleet, SERVER)
    fleet.controller.joins.desired(certificate)
    material = fleet.controller.joins.join_material(certificate)
    secrets = [
        file.content.strip() for file in material.files if "token" in file.path or "password" in file.path
    ]
    secrets += [ticket.reveal() for ticket in fleet.images.tickets["pi5-1"]]
    with fleet.store.read() as reader:
        shown = repr(reader.timeline()) + repr(reader.nodes()) + repr(fleet_view(fleet.store))
        shown += repr(reader.tickets("pi5-1")) + repr(material)
    assert len(secrets) == 4
    assert not [secret for secret in secrets if secret in shown]


def test_changes_of_boot_answers_are_announced(fleet: Fleet) -> None:
    see(fleet, AGENT)
    assert fleet.boot_changes
    fleet.boot_changes.clear()
    install(fleet, AGENT)
    assert fleet.boot_changes
