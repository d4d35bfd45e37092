"""Steps in the life of a node, over a real controller: seen, installed, enrolled, ready. Shared by tests."""

from __future__ import annotations

import pytest
from fakes_fleet import (
    AgentKey,
    Fleet,
    agent_hello,
    certificate_serial,
    hardware_of,
    installer_hello,
    node_spec,
)

from agent.protocol import (
    InstallComplete,
    InstallPlan,
    InstallProgress,
    InstallStep,
    Occupant,
    Outcome,
    Proof,
    ProofKind,
    Verdict,
    ticket_proof,
)
from fleet.boards import MacAddress, Serial
from fleet.boots import BootReport, BootStage
from fleet.kube.client import KubeNode
from fleet.lifecycle import State
from fleet.refusal import RefusedError
from fleet.spec.model import NodeSpec, Role
from fleet.views import timeline_view

SERVER = node_spec("pi5-1", 1, role=Role.SERVER)
AGENT = node_spec("pi4-1", 2)
KEY = b"k" * 32


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


def let_in(fleet: Fleet, node: NodeSpec, key: bytes = KEY) -> Verdict:
    """Ask to install, with a person at hand who approves what waits: servers always wait."""
    verdict = ask_to_install(fleet, node, key)
    if verdict.outcome is Outcome.PENDING:
        fleet.controller.people.approve(node.name)
        verdict = ask_to_install(fleet, node, key)
    return verdict


def require_token(verdict: Verdict) -> str:
    assert verdict.outcome is Outcome.ADMITTED
    assert verdict.token is not None
    return verdict.token


def install(fleet: Fleet, node: NodeSpec) -> InstallPlan:
    see(fleet, node)
    see(fleet, node, BootStage.KERNEL)
    token = require_token(let_in(fleet, node))
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


def renew(fleet: Fleet, node: NodeSpec, certificate: str) -> Verdict:
    key = AgentKey()
    welcome = fleet.controller.admission.hello(agent_hello(hardware_of(node), key))
    proof = Proof(welcome.session, ProofKind.PREVIOUS, csr_pem=key.csr_pem)
    return fleet.controller.admission.prove(proof, certificate)


def ask_without_proof(fleet: Fleet, node: NodeSpec, key: AgentKey) -> Verdict:
    welcome = fleet.controller.admission.hello(agent_hello(hardware_of(node), key))
    proof = Proof(welcome.session, ProofKind.NONE, csr_pem=key.csr_pem)
    return fleet.controller.admission.prove(proof, None)


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
