"""The node's own programs against the real server: the words of both sides fit."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes_fleet import cluster_spec, hardware_of, node_spec, status_report
from fakes_fleet_server import Running, running

from agent import commands
from agent.client import AuthorityTrust, ControlClient, PinnedTrust, Refused
from agent.enrol import Applicant, Identity, ask
from agent.installer.session import InstallSession
from agent.orders import DESIRED, SignedOrder
from agent.protocol import (
    Desired,
    InstallComplete,
    JoinMaterial,
    Outcome,
    ProofKind,
    StatusAccepted,
)
from agent.trusted import TrustedAuthorities
from agent.verify import OrderVerifier
from fleet.lifecycle import State
from fleet.spec.model import Role

pytestmark = pytest.mark.integration

SERVER = node_spec("pi5-1", 1, role=Role.SERVER)
HARDWARE = hardware_of(SERVER)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path / "server", cluster_spec(SERVER)) as one:
        yield one


def install(server: Running) -> None:
    """The installer's own conversation, with a person who compares what its screen shows."""
    screen: list[str] = []

    def approve(_seconds: float) -> None:
        shown = next(line for line in screen if "fingerprint" in line).split("fingerprint ")[1].split(" ")[0]
        server.in_loop(lambda: server.fleet.controller.people.approve("pi5-1", shown))

    client = ControlClient((f"https://127.0.0.1:{server.port}",), PinnedTrust(server.pin))
    session = InstallSession(
        client,
        HARDWARE,
        intent=1,
        boot_id="boot-1",
        say=screen.append,
        sleep=approve,
        clock=time.monotonic,
    )
    session.be_admitted()
    plan = session.fetch_plan()
    session.complete(InstallComplete(plan.intent, plan.image.image_id, "/dev/nvme0n1", 1, 1, 1.0))
    client.close()


def test_installer_and_agent_go_the_whole_way(server: Running, tmp_path: Path) -> None:
    install(server)
    with server.fleet.store.read() as reader:
        assert reader.require_node("pi5-1").state is State.FIRST_BOOT
    identity = Identity(tmp_path / "node", commands.run)
    urls, ca_pem = (f"https://127.0.0.1:{server.port}",), server.fleet.pki.ca_pem
    client = ControlClient(urls, AuthorityTrust(ca_pem=ca_pem))
    applicant = Applicant("pi5-1", HARDWARE, "boot-2", None)
    ticket = server.fleet.images.tickets["pi5-1"][-1].reveal()
    assert ask(client, identity, applicant, kind=ProofKind.TICKET, ticket=ticket).outcome is Outcome.ENROLLED
    assert identity.is_enrolled()

    known = AuthorityTrust(ca_pem=ca_pem, certificate=identity.certificate, key=identity.key)
    client.trust(known)
    accepted = client.post("/v1/node/status", status_report(HARDWARE, 1), StatusAccepted)
    orders = OrderVerifier(commands.run, TrustedAuthorities(tmp_path / "none", ca_pem), "pi5-1")
    desired = orders.open(client.get("/v1/node/desired", SignedOrder), DESIRED, Desired)
    assert (desired.join, desired.generation) == (True, accepted.generation)
    assert client.post("/v1/node/join-material", None, JoinMaterial).unit == "k3s.service"

    renewed = ask(client, identity, applicant, kind=ProofKind.PREVIOUS)
    assert renewed.outcome is Outcome.ENROLLED
    client.close()
    client.trust(AuthorityTrust(ca_pem=ca_pem, certificate=identity.certificate, key=identity.key))
    assert orders.open(client.get("/v1/node/desired", SignedOrder), DESIRED, Desired).join
    client.close()


def test_stolen_ticket_does_not_work_a_second_time(server: Running, tmp_path: Path) -> None:
    install(server)
    ticket = server.fleet.images.tickets["pi5-1"][-1].reveal()
    trust = AuthorityTrust(ca_pem=server.fleet.pki.ca_pem)
    outcomes = []
    for name in ("owner", "thief"):
        client = ControlClient((f"https://127.0.0.1:{server.port}",), trust)
        applicant = Applicant("pi5-1", HARDWARE, f"boot of {name}", None)
        identity = Identity(tmp_path / name, commands.run)
        verdict = ask(client, identity, applicant, kind=ProofKind.TICKET, ticket=ticket)
        outcomes.append(verdict.outcome)
        client.close()
    assert outcomes == [Outcome.ENROLLED, Outcome.PENDING]


def test_refusal_arrives_with_its_code_and_hint(server: Running) -> None:
    client = ControlClient((f"https://127.0.0.1:{server.port}",), PinnedTrust(server.pin))
    with pytest.raises(Refused) as refused:
        client.get("/v1/node/desired", Desired)
    assert (refused.value.status, refused.value.error) == (401, "certificate")
    assert "enrol again" in refused.value.hint
    client.close()
