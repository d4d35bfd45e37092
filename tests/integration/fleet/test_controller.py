"""The controller over a real store: the whole way of a node, and what must not happen on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes_fleet import (
    AgentKey,
    Fleet,
    agent_hello,
    certificate_serial,
    cluster_spec,
    hardware_of,
    installer_hello,
    node_spec,
    open_fleet,
    status_report,
)

from agent.protocol import (
    InstallComplete,
    InstallPlan,
    InstallProgress,
    InstallStep,
    K3sState,
    Occupant,
    Outcome,
    Proof,
    ProofKind,
    Verdict,
    ticket_proof,
)
from fleet.boards import MacAddress, Serial
from fleet.boots import BootReport, BootStage
from fleet.kube import KubeNode
from fleet.lifecycle import MAX_ATTEMPTS, State
from fleet.refusal import RefusedError
from fleet.spec.model import FirstBoot, NodeSpec, Role
from fleet.views import fleet_view, timeline_view

pytestmark = pytest.mark.integration

SERVER = node_spec("pi5-1", 1, role=Role.SERVER)
AGENT = node_spec("pi4-1", 2)
KEY = b"k" * 32


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    opened = open_fleet(tmp_path, cluster_spec(SERVER, AGENT))
    yield opened
    opened.store.close()


def state_of(fleet: Fleet, node: NodeSpec) -> State:
    with fleet.store.read() as reader:
        return reader.require_node(node.name).state


def texts(fleet: Fleet, name: str) -> list[str]:
    timeline = timeline_view(fleet.store, name)
    assert timeline is not None
    return [event.text for event in timeline.events]


def intent_of(fleet: Fleet, node: NodeSpec) -> int | None:
    return next(state.install_intent for state in fleet.controller.boot_states() if state.name == node.name)


def see(fleet: Fleet, node: NodeSpec, stage: BootStage = BootStage.SEEN, text: str = "") -> None:
    serial = Serial.parse(node.serial.prefix) if node.serial else None
    mac = MacAddress.parse(hardware_of(node).macs[0])
    fleet.controller.record_boot_event(
        BootReport(stage=stage, at=fleet.clock(), serial=serial, mac=mac, text=text)
    )


def ask_to_install(fleet: Fleet, node: NodeSpec, key: bytes = KEY, intent: int | None = 1) -> Verdict:
    hello = installer_hello(hardware_of(node), key, intent=intent)
    welcome = fleet.controller.admission.hello(hello)
    return fleet.controller.admission.prove(
        Proof(welcome.session, ProofKind.NONE, installer_key=key.hex()), None
    )


def require_token(verdict: Verdict) -> str:
    assert verdict.outcome is Outcome.ADMITTED
    assert verdict.token is not None
    return verdict.token


def install(fleet: Fleet, node: NodeSpec) -> InstallPlan:
    see(fleet, node)
    see(fleet, node, BootStage.KERNEL)
    token = require_token(ask_to_install(fleet, node))
    plan = fleet.controller.installs.plan(token)
    fleet.controller.installs.progress(token, InstallProgress(1, InstallStep.WRITE, 42.0))
    fleet.controller.installs.complete(token, complete(plan))
    return plan


def complete(plan: InstallPlan) -> InstallComplete:
    return InstallComplete(plan.intent, plan.image.image_id, "/dev/nvme0n1", 10**9, 10**9, 30.0)


def prove_ticket(fleet: Fleet, node: NodeSpec, key: AgentKey, ticket: str | None = None) -> Verdict:
    hello = agent_hello(hardware_of(node), key)
    welcome = fleet.controller.admission.hello(hello)
    secret = ticket or fleet.images.tickets[node.name][-1].reveal()
    proof = Proof(welcome.session, ProofKind.TICKET, ticket_proof(secret, hello, welcome), key.csr_pem)
    return fleet.controller.admission.prove(proof, None)


def enrol(fleet: Fleet, node: NodeSpec, key: AgentKey | None = None) -> str:
    verdict = prove_ticket(fleet, node, key or AgentKey())
    assert verdict.outcome is Outcome.ENROLLED
    assert verdict.certificate_pem is not None
    return certificate_serial(verdict.certificate_pem)


def kube_ready(*nodes: NodeSpec) -> dict[str, KubeNode]:
    return {node.name: KubeNode(node.name, True, "", "v1.33.5+k3s1") for node in nodes}


def test_a_blank_board_becomes_ready(fleet: Fleet) -> None:
    assert intent_of(fleet, SERVER) == 1
    install(fleet, SERVER)
    assert state_of(fleet, SERVER) is State.FIRST_BOOT
    assert intent_of(fleet, SERVER) is None
    certificate = enrol(fleet, SERVER)
    report = status_report(
        hardware_of(SERVER), 1, k3s=K3sState.RUNNING, version="k3s version v1.33.5+k3s1 (simulator)"
    )
    fleet.controller.joins.status(certificate, report)
    assert fleet.controller.joins.desired(certificate).join
    assert fleet.controller.joins.join_material(certificate).unit == "k3s.service"
    fleet.controller.watch.apply_kubernetes(kube_ready(SERVER))
    assert state_of(fleet, SERVER) is State.READY
    view = fleet_view(fleet.store).nodes[1]
    assert (view.name, view.k3s) == ("pi5-1", "v1.33.5+k3s1 (simulator)")
    assert "(simulator)" in texts(fleet, "pi5-1")[-1]


def test_second_power_on_boots_from_disk_and_is_told(fleet: Fleet) -> None:
    install(fleet, SERVER)
    certificate = enrol(fleet, SERVER)
    fleet.controller.joins.status(certificate, status_report(hardware_of(SERVER), 1))
    see(fleet, SERVER)
    see(fleet, SERVER, BootStage.KERNEL)
    assert intent_of(fleet, SERVER) is None
    fleet.controller.joins.status(certificate, status_report(hardware_of(SERVER), 1, boot_id="boot-3"))
    assert texts(fleet, "pi5-1")[-1] == "came back from its own disk (boot 2)"
    assert state_of(fleet, SERVER) is State.JOINING


def test_complete_may_be_repeated_and_changes_nothing(fleet: Fleet) -> None:
    see(fleet, AGENT)
    token = require_token(ask_to_install(fleet, AGENT))
    plan = fleet.controller.installs.plan(token)
    fleet.controller.installs.complete(token, complete(plan))
    before = texts(fleet, "pi4-1")
    fleet.controller.installs.complete(token, complete(plan))
    assert texts(fleet, "pi4-1") == before


def test_plan_asked_twice_is_the_same_plan(fleet: Fleet) -> None:
    token = require_token(ask_to_install(fleet, AGENT))
    first, second = fleet.controller.installs.plan(token), fleet.controller.installs.plan(token)
    assert first == second
    assert len(set(fleet.images.tickets["pi4-1"])) == 1


def test_ticket_shown_by_another_key_is_rejected_with_alarm(fleet: Fleet) -> None:
    install(fleet, AGENT)
    owner = AgentKey()
    enrol(fleet, AGENT, owner)
    verdict = prove_ticket(fleet, AGENT, AgentKey())
    assert verdict.outcome is Outcome.REJECTED
    assert verdict.certificate_pem is None
    timeline = timeline_view(fleet.store, "pi4-1")
    assert timeline is not None
    assert timeline.events[-1].kind == "alarm"
    assert "used before" in timeline.events[-1].text


def test_agent_whose_answer_was_lost_gets_a_certificate_again(fleet: Fleet) -> None:
    install(fleet, AGENT)
    key = AgentKey()
    first = enrol(fleet, AGENT, key)
    second = enrol(fleet, AGENT, key)
    assert first != second
    with pytest.raises(RefusedError, match="client certificate"):
        fleet.controller.joins.desired(first)
    assert fleet.controller.joins.desired(second).generation >= 1


def renew(fleet: Fleet, node: NodeSpec, certificate: str) -> Verdict:
    key = AgentKey()
    welcome = fleet.controller.admission.hello(agent_hello(hardware_of(node), key))
    proof = Proof(welcome.session, ProofKind.PREVIOUS, csr_pem=key.csr_pem)
    return fleet.controller.admission.prove(proof, certificate)


def test_renewal_whose_answer_was_lost_can_be_repeated_until_the_new_certificate_was_used(
    fleet: Fleet,
) -> None:
    install(fleet, AGENT)
    first = enrol(fleet, AGENT)
    for _ in range(3):
        answer = renew(fleet, AGENT, first)
        assert answer.outcome is Outcome.ENROLLED
        fleet.controller.joins.desired(first)
    assert answer.certificate_pem is not None
    fleet.controller.joins.desired(certificate_serial(answer.certificate_pem))
    assert renew(fleet, AGENT, first).outcome is Outcome.REJECTED
    with pytest.raises(RefusedError, match="client certificate"):
        fleet.controller.joins.desired(first)


def test_ticket_of_an_earlier_attempt_is_void(fleet: Fleet) -> None:
    see(fleet, AGENT, BootStage.KERNEL)
    fleet.controller.installs.plan(require_token(ask_to_install(fleet, AGENT)))
    old = fleet.images.tickets["pi4-1"][-1].reveal()
    fleet.clock.advance(60)
    see(fleet, AGENT, BootStage.KERNEL)
    fleet.controller.installs.plan(require_token(ask_to_install(fleet, AGENT)))
    assert fleet.images.tickets["pi4-1"][-1].reveal() != old
    assert prove_ticket(fleet, AGENT, AgentKey(), ticket=old).outcome is Outcome.REJECTED
    assert prove_ticket(fleet, AGENT, AgentKey()).outcome is Outcome.ENROLLED


def test_power_cut_between_commit_and_complete_still_ends_in_joining(fleet: Fleet) -> None:
    token = require_token(ask_to_install(fleet, AGENT))
    fleet.controller.installs.plan(token)
    enrol(fleet, AGENT)
    assert state_of(fleet, AGENT) is State.JOINING
    assert intent_of(fleet, AGENT) is None


def test_token_of_an_earlier_boot_opens_nothing(fleet: Fleet) -> None:
    see(fleet, AGENT, BootStage.KERNEL)
    token = require_token(ask_to_install(fleet, AGENT))
    fleet.clock.advance(60)
    see(fleet, AGENT, BootStage.KERNEL)
    with pytest.raises(RefusedError, match="not admitted"):
        fleet.controller.installs.plan(token)


@pytest.mark.parametrize("token", ["", "00" * 32])
def test_plan_without_a_valid_token_is_refused(fleet: Fleet, token: str) -> None:
    with pytest.raises(RefusedError) as refused:
        fleet.controller.installs.plan(token)
    assert refused.value.status == 401


def test_boots_without_an_end_quarantine_the_node_until_a_person_says_otherwise(fleet: Fleet) -> None:
    for _ in range(MAX_ATTEMPTS + 1):
        see(fleet, AGENT, BootStage.KERNEL)
        fleet.clock.advance(120)
    assert state_of(fleet, AGENT) is State.QUARANTINED
    assert intent_of(fleet, AGENT) is None
    assert ask_to_install(fleet, AGENT).outcome is Outcome.REJECTED
    fleet.controller.admission.approve("pi4-1")
    assert intent_of(fleet, AGENT) == 2
    assert ask_to_install(fleet, AGENT, intent=2).outcome is Outcome.ADMITTED


def test_kernel_asked_for_twice_in_one_boot_is_one_attempt(fleet: Fleet) -> None:
    for _ in range(5):
        see(fleet, AGENT, BootStage.KERNEL)
        fleet.clock.advance(0.5)
    with fleet.store.read() as reader:
        assert reader.require_node("pi4-1").standing.attempt == 1


def test_failure_is_told_with_its_hint_and_the_next_attempt_works(fleet: Fleet) -> None:
    see(fleet, AGENT, BootStage.KERNEL)
    token = require_token(ask_to_install(fleet, AGENT))
    failure = InstallProgress(1, InstallStep.FIND_DISK, 0, "no nvme disk", failed=True, hint="Put one in.")
    fleet.controller.installs.progress(token, failure)
    assert state_of(fleet, AGENT) is State.FAILED_IMAGING
    timeline = timeline_view(fleet.store, "pi4-1")
    assert timeline is not None
    assert (timeline.events[-1].hint, "no nvme disk" in timeline.events[-1].text) == ("Put one in.", True)
    fleet.clock.advance(60)
    see(fleet, AGENT, BootStage.KERNEL)
    assert ask_to_install(fleet, AGENT).outcome is Outcome.ADMITTED


def test_progress_shows_percent_without_filling_the_timeline(fleet: Fleet) -> None:
    token = require_token(ask_to_install(fleet, AGENT))
    for percent in range(100):
        fleet.clock.advance(2)
        fleet.controller.installs.progress(token, InstallProgress(1, InstallStep.WRITE, float(percent)))
    assert fleet_view(fleet.store).nodes[0].detail == "write 99 %"
    assert sum("installer: write" in text for text in texts(fleet, "pi4-1")) == 1


def test_server_waits_for_approval_of_exactly_its_key(tmp_path: Path) -> None:
    fleet = open_fleet(tmp_path, cluster_spec(SERVER, server_policy=FirstBoot.APPROVE))
    try:
        assert ask_to_install(fleet, SERVER).outcome is Outcome.PENDING
        assert ask_to_install(fleet, SERVER).outcome is Outcome.PENDING
        assert state_of(fleet, SERVER) is State.PENDING
        assert sum("waits for approval" in text for text in texts(fleet, "pi5-1")) == 1
        fleet.controller.admission.approve("pi5-1")
        assert ask_to_install(fleet, SERVER, key=b"x" * 32).outcome is Outcome.PENDING
        fleet.controller.admission.approve("pi5-1")
        assert ask_to_install(fleet, SERVER, key=b"x" * 32).outcome is Outcome.ADMITTED
    finally:
        fleet.store.close()


def ask_without_proof(fleet: Fleet, node: NodeSpec, key: AgentKey) -> Verdict:
    welcome = fleet.controller.admission.hello(agent_hello(hardware_of(node), key))
    proof = Proof(welcome.session, ProofKind.NONE, csr_pem=key.csr_pem)
    return fleet.controller.admission.prove(proof, None)


def test_server_that_waits_for_days_is_admitted_under_the_intent_it_was_booted_for(tmp_path: Path) -> None:
    fleet = open_fleet(tmp_path, cluster_spec(SERVER, server_policy=FirstBoot.APPROVE))
    try:
        see(fleet, SERVER, BootStage.KERNEL)
        for _ in range(50):
            assert ask_to_install(fleet, SERVER).outcome is Outcome.PENDING
            fleet.clock.advance(3600)
            fleet.controller.tick()
            assert intent_of(fleet, SERVER) == 1
        assert state_of(fleet, SERVER) is State.PENDING
        assert sum("intent 1 extended" in text for text in texts(fleet, "pi5-1")) == 2
        fleet.controller.admission.approve("pi5-1")
        assert ask_to_install(fleet, SERVER).outcome is Outcome.ADMITTED
    finally:
        fleet.store.close()


def test_installed_agent_without_proof_waits_and_the_timeline_says_what_to_do(fleet: Fleet) -> None:
    install(fleet, AGENT)
    key = AgentKey()
    assert ask_without_proof(fleet, AGENT, key).outcome is Outcome.PENDING
    timeline = timeline_view(fleet.store, "pi4-1")
    assert timeline is not None
    assert "bramble approve pi4-1" in timeline.events[-1].hint
    fleet.controller.admission.approve("pi4-1", key.sha256[:8])
    assert ask_without_proof(fleet, AGENT, key).outcome is Outcome.ENROLLED


def test_agent_does_not_replace_the_installers_key_that_waits(tmp_path: Path) -> None:
    fleet = open_fleet(tmp_path, cluster_spec(SERVER, server_policy=FirstBoot.APPROVE))
    try:
        ask_to_install(fleet, SERVER)
        shown = fleet_view(fleet.store).nodes[0].fingerprint
        assert ask_without_proof(fleet, SERVER, AgentKey()).outcome is Outcome.PENDING
        assert fleet_view(fleet.store).nodes[0].fingerprint == shown
        fleet.controller.admission.approve("pi5-1", shown)
        assert ask_to_install(fleet, SERVER).outcome is Outcome.ADMITTED
    finally:
        fleet.store.close()


@pytest.mark.parametrize("compared", ["", "00000000"])
def test_approval_of_a_key_that_waits_no_more_is_refused(tmp_path: Path, compared: str) -> None:
    fleet = open_fleet(tmp_path, cluster_spec(SERVER, server_policy=FirstBoot.APPROVE))
    try:
        ask_to_install(fleet, SERVER)
        with pytest.raises(RefusedError) as refused:
            fleet.controller.admission.approve("pi5-1", compared)
        assert (refused.value.status, refused.value.code) == (409, "other-key")
        assert ask_to_install(fleet, SERVER).outcome is Outcome.PENDING
    finally:
        fleet.store.close()


FOUND = Occupant(cluster="attic", node="pi4-1", image_id="c0" * 32, installation="1a" * 16)


def find_disk(fleet: Fleet, token: str, occupant: Occupant | None) -> None:
    question = InstallProgress(
        1, InstallStep.FIND_DISK, 0.0, "/dev/nvme0n1: what is on it", occupant=occupant
    )
    fleet.controller.installs.progress(token, question)


def refuse_disk(fleet: Fleet, token: str, occupant: Occupant = FOUND) -> None:
    with pytest.raises(RefusedError, match="holds pi4-1 of cluster attic") as refused:
        find_disk(fleet, token, occupant)
    assert (refused.value.status, refused.value.code) == (409, "occupied")


def test_installation_without_a_record_is_overwritten_only_after_a_persons_word(fleet: Fleet) -> None:
    see(fleet, AGENT, BootStage.KERNEL)
    token = require_token(ask_to_install(fleet, AGENT))
    fleet.controller.installs.plan(token)
    refuse_disk(fleet, token)
    assert state_of(fleet, AGENT) is State.PENDING
    timeline = timeline_view(fleet.store, "pi4-1")
    assert timeline is not None
    assert timeline.events[-1].kind == "alarm"
    assert "if its state directory was lost, restore it" in timeline.events[-1].hint
    with pytest.raises(RefusedError, match="is over"):
        fleet.controller.installs.plan(token)
    for _ in range(2):
        assert ask_to_install(fleet, AGENT).outcome is Outcome.PENDING
    assert sum("not on record here" in text for text in texts(fleet, "pi4-1")) == 1
    fleet.controller.admission.approve("pi4-1")
    token = require_token(ask_to_install(fleet, AGENT))
    plan = fleet.controller.installs.plan(token)
    find_disk(fleet, token, FOUND)
    fleet.controller.installs.complete(token, complete(plan))
    assert state_of(fleet, AGENT) is State.FIRST_BOOT


def test_approval_is_for_what_was_found(fleet: Fleet) -> None:
    refuse_disk(fleet, require_token(ask_to_install(fleet, AGENT)))
    ask_to_install(fleet, AGENT)
    fleet.controller.admission.approve("pi4-1")
    other = Occupant(cluster="attic", node="pi4-1", image_id="c1" * 32, installation="2b" * 16)
    refuse_disk(fleet, require_token(ask_to_install(fleet, AGENT)), other)
    assert ask_to_install(fleet, AGENT).outcome is Outcome.PENDING


def test_approval_before_the_disk_was_looked_at_is_no_word_on_its_content(tmp_path: Path) -> None:
    fleet = open_fleet(tmp_path, cluster_spec(AGENT, agent_policy=FirstBoot.APPROVE))
    try:
        ask_to_install(fleet, AGENT)
        fleet.controller.admission.approve("pi4-1")
        refuse_disk(fleet, require_token(ask_to_install(fleet, AGENT)))
        ask_to_install(fleet, AGENT)
        fleet.controller.admission.approve("pi4-1")
        find_disk(fleet, require_token(ask_to_install(fleet, AGENT)), FOUND)
        assert state_of(fleet, AGENT) is State.IMAGING
    finally:
        fleet.store.close()


def test_next_power_on_looks_at_the_disk_again(fleet: Fleet) -> None:
    see(fleet, AGENT, BootStage.KERNEL)
    refuse_disk(fleet, require_token(ask_to_install(fleet, AGENT)))
    ask_to_install(fleet, AGENT)
    fleet.controller.admission.approve("pi4-1")
    for number in range(MAX_ATTEMPTS + 1):
        fleet.clock.advance(60)
        see(fleet, AGENT, BootStage.KERNEL)
        key = bytes([number]) * 32
        refuse_disk(fleet, require_token(ask_to_install(fleet, AGENT, key=key)))
    fleet.clock.advance(60)
    see(fleet, AGENT, BootStage.KERNEL)
    find_disk(fleet, require_token(ask_to_install(fleet, AGENT, key=b"z" * 32)), None)
    assert state_of(fleet, AGENT) is State.IMAGING


def test_disk_that_this_intent_committed_may_be_written_again(fleet: Fleet) -> None:
    """Power failed after COMMIT and before the server heard of it, and the board netbooted again."""
    see(fleet, AGENT, BootStage.KERNEL)
    plan = fleet.controller.installs.plan(require_token(ask_to_install(fleet, AGENT)))
    committed = Occupant(plan.cluster, plan.node, plan.image.image_id, plan.installation)
    fleet.clock.advance(60)
    see(fleet, AGENT, BootStage.KERNEL)
    find_disk(fleet, require_token(ask_to_install(fleet, AGENT)), committed)
    assert state_of(fleet, AGENT) is State.IMAGING


def test_lost_store_wipes_nothing(tmp_path: Path) -> None:
    """The same cluster.yaml and keys, a control.db that starts anew: intent 1 is open a second time."""
    fleet = open_fleet(tmp_path, cluster_spec(AGENT))
    plan = install(fleet, AGENT)
    fleet.store.close()
    for file in tmp_path.glob("control.db*"):
        file.unlink()
    fleet = open_fleet(tmp_path, cluster_spec(AGENT))
    try:
        assert intent_of(fleet, AGENT) == plan.intent
        see(fleet, AGENT, BootStage.KERNEL)
        installed = Occupant(plan.cluster, plan.node, plan.image.image_id, plan.installation)
        refuse_disk(fleet, require_token(ask_to_install(fleet, AGENT)), installed)
        assert state_of(fleet, AGENT) is State.PENDING
    finally:
        fleet.store.close()


def test_approving_a_node_that_does_not_wait_says_so(fleet: Fleet) -> None:
    with pytest.raises(RefusedError, match="nothing of pi4-1 waits"):
        fleet.controller.admission.approve("pi4-1")
    with pytest.raises(RefusedError, match="no node 'nobody'"):
        fleet.controller.admission.approve("nobody")


def test_installer_with_a_false_key_is_rejected(fleet: Fleet) -> None:
    welcome = fleet.controller.admission.hello(installer_hello(hardware_of(AGENT), KEY))
    proof = Proof(welcome.session, ProofKind.NONE, installer_key=(b"z" * 32).hex())
    assert fleet.controller.admission.prove(proof, None).outcome is Outcome.REJECTED


def test_session_can_be_used_once(fleet: Fleet) -> None:
    welcome = fleet.controller.admission.hello(installer_hello(hardware_of(AGENT), KEY))
    proof = Proof(welcome.session, ProofKind.NONE, installer_key=KEY.hex())
    fleet.controller.admission.prove(proof, None)
    with pytest.raises(RefusedError) as refused:
        fleet.controller.admission.prove(proof, None)
    assert refused.value.code == "session"


def test_installed_node_that_asks_again_is_held_as_rebinding(fleet: Fleet) -> None:
    install(fleet, AGENT)
    verdict = ask_to_install(fleet, AGENT)
    assert (verdict.outcome, "rebinding" in verdict.reason) == (Outcome.PENDING, True)
    assert state_of(fleet, AGENT) is State.FIRST_BOOT


def test_unknown_board_is_held_listed_and_told_of_once(fleet: Fleet) -> None:
    stranger = node_spec("stranger", 99)
    for _ in range(20):
        see(fleet, stranger, text="DISCOVER")
        fleet.clock.advance(1)
    assert ask_to_install(fleet, stranger).outcome is Outcome.PENDING
    held = fleet_view(fleet.store).held
    assert [(board.board, board.reason) for board in held] == [("abcd0063", "not in cluster.yaml")]
    assert sum(text.startswith("board held") for text in texts(fleet, "abcd0063")) == 1


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
