"""What the agent believes, and when: the server's clock, new CAs, and its own certificate as it ages."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_nodes import FakeSystem, make_node_root
from agent_services import make_service, serving
from cryptography import x509
from fakes_agent import TICKET, ControlServer, make_authority
from fakes_fleet import cluster_spec, hardware_of, node_spec, open_fleet
from fakes_fleet_server import Running
from fakes_fleet_server import running as running_fleet
from fleet_story import let_in, require_token

from agent import commands
from agent.client import AuthorityTrust, ControlClient, Refused, Untrusted
from agent.enrol import Applicant, Identity, ask
from agent.orders import SignedOrder
from agent.protocol import Desired, InstallComplete, JoinMaterial, Outcome, ProofKind
from agent.trusted import TrustedAuthorities, split_bundle
from agent.verify import OrderVerifier
from fleet.trust.pki import CA_CERTIFICATE, NEXT_CERTIFICATE, NEXT_KEY, longest_life_s, open_pki
from fleet.trust.pki_rotation import RotationError, prepare, retire, switch

pytestmark = pytest.mark.integration

YEAR_S = 365 * 86400.0
AGENT = node_spec("pi4-1", 2)


def node_of(tmp_path: Path, control: ControlServer, *, ca_pem: str | None = None) -> Path:
    root = make_node_root(
        tmp_path / "root", control_urls=[control.url], ca_pem=ca_pem or control.authority.pem, ticket=TICKET
    )
    (root / "run/systemd/timesync/synchronized").unlink()
    return root


def test_node_that_wakes_in_1970_takes_the_servers_time_enrols_and_joins(
    tmp_path: Path, control: ControlServer
) -> None:
    root, offset = node_of(tmp_path, control), [0.0]
    control.clock_ahead_s = time.time()
    control.desired = Desired(generation=2, join=True)
    control.material = JoinMaterial(2, "k3s-agent.service", ())

    def now() -> float:
        return 0.0 + offset[0]

    def set_clock(value: float) -> None:
        assert control.hellos, "the clock was set before the server had proved itself"
        offset[0] = value
        control.clock_ahead_s = 0.0

    with serving(make_service(root, FakeSystem(), now=now, set_clock=set_clock)):
        control.wait_for(lambda: control.material_requests > 0)
    assert abs(offset[0] - time.time()) < 3600


def test_server_that_is_not_ours_does_not_set_the_clock(tmp_path: Path, control: ControlServer) -> None:
    root = node_of(tmp_path, control, ca_pem=make_authority("another cluster").pem)
    control.clock_ahead_s = 7200.0
    moved: list[float] = []
    refused: list[str] = []
    service = make_service(root, FakeSystem(), set_clock=moved.append)
    service._status = lambda text: refused.append(text)  # type: ignore[method-assign]
    deadline = time.monotonic() + 120
    with serving(service):
        while not any("not trusted" in text for text in refused) and time.monotonic() < deadline:
            time.sleep(0.02)
    assert any("not trusted" in text for text in refused)
    assert moved == []
    assert control.requests == []


def test_node_ten_years_ahead_joins_only_once_time_is_synchronised(
    tmp_path: Path, control: ControlServer
) -> None:
    root = node_of(tmp_path, control)
    control.clock_ahead_s = -10 * YEAR_S
    control.desired = Desired(generation=2, join=True)
    control.material = JoinMaterial(2, "k3s-agent.service", ())
    with serving(make_service(root, FakeSystem(), set_clock=lambda _value: None)):
        control.wait_for(lambda: any(status.problems for status in control.statuses))
        seen = len(control.statuses)
        control.wait_for(lambda: len(control.statuses) > seen + 3)
        assert control.material_requests == 0
        control.clock_ahead_s = 0.0
        (root / "run/systemd/timesync/synchronized").touch()
        control.wait_for(lambda: control.material_requests > 0)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Running]:
    spec = cluster_spec(AGENT)
    short = dataclasses.replace(spec, policy=dataclasses.replace(spec.policy, certificate_life_s=600))
    with running_fleet(tmp_path / "server", short) as one:
        yield one


def install(server: Running) -> str:
    """The node installed; its ticket."""

    def walk() -> str:
        token = require_token(let_in(server.fleet, AGENT))
        plan = server.fleet.controller.installs.plan(token)
        done = InstallComplete(plan.intent, plan.image.image_id, "/dev/sda", 1, 1, 1.0)
        server.fleet.controller.installs.complete(token, done)
        return server.fleet.images.tickets["pi4-1"][-1].reveal()

    ticket: str = server.in_loop(walk)
    return ticket


def test_short_certificate_is_due_after_a_third_and_revoked_at_once(fleet: Running, tmp_path: Path) -> None:
    ticket = install(fleet)
    identity = Identity(tmp_path / "node", commands.run)
    ca_pem = fleet.fleet.pki.ca_pem
    client = ControlClient((f"https://127.0.0.1:{fleet.port}",), AuthorityTrust(ca_pem=ca_pem))
    applicant = Applicant("pi4-1", hardware_of(AGENT), "boot-2", None)
    assert ask(client, identity, applicant, kind=ProofKind.TICKET, ticket=ticket).outcome is Outcome.ENROLLED
    issued = x509.load_pem_x509_certificate(identity.certificate.read_bytes())
    start, end = issued.not_valid_before_utc.timestamp(), issued.not_valid_after_utc.timestamp()
    assert identity.renewal_due_at() == pytest.approx(start + (end - start) / 3)
    client.trust(AuthorityTrust(ca_pem=ca_pem, certificate=identity.certificate, key=identity.key))
    client.get("/v1/node/desired", SignedOrder)
    # On the connection that is open, with the certificate that TLS has accepted.
    fleet.in_loop(lambda: fleet.fleet.controller.people.revoke("pi4-1"))
    with pytest.raises(Refused) as refused:
        client.get("/v1/node/desired", SignedOrder)
    assert (refused.value.status, refused.value.error) == (401, "certificate")
    assert ask(client, identity, applicant, kind=ProofKind.PREVIOUS).outcome is Outcome.REJECTED
    client.close()


def test_agent_takes_a_bundle_that_holds_its_ca_and_no_other(tmp_path: Path) -> None:
    old, new, foreign = (make_authority(name).pem for name in ("old", "new", "foreign"))
    trusted = TrustedAuthorities(tmp_path, old)
    assert not trusted.take(None)
    assert not trusted.take(old)
    assert not trusted.take(foreign)
    assert not trusted.take("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" + old)
    assert not trusted.take("no certificate at all")
    assert trusted.pem == old
    assert trusted.take(old + new)
    assert split_bundle(TrustedAuthorities(tmp_path, old).pem) == split_bundle(old + new)
    assert trusted.take(new)
    again = TrustedAuthorities(tmp_path, old)
    assert split_bundle(again.pem) == split_bundle(new)
    assert not again.take(old)
    (tmp_path / "control-ca.pem").write_bytes(b"torn\xff")
    assert TrustedAuthorities(tmp_path, old).pem == old


def test_ca_is_replaced_in_three_steps_without_losing_a_node(tmp_path: Path) -> None:
    spec = cluster_spec(AGENT)
    state, node = tmp_path / "server", tmp_path / "node"
    identity = Identity(node, commands.run)
    applicant = Applicant("pi4-1", hardware_of(AGENT), "boot-2", None)
    with running_fleet(state, spec) as server:
        built_in = server.fleet.pki.ca_pem
        ticket = install(server)
        trusted = TrustedAuthorities(node, built_in)
        client = ControlClient((f"https://127.0.0.1:{server.port}",), AuthorityTrust(ca_pem=trusted.pem))
        enrolled = ask(client, identity, applicant, kind=ProofKind.TICKET, ticket=ticket, authorities=trusted)
        assert enrolled.outcome is Outcome.ENROLLED
        client.close()

    def renew() -> None:
        with running_fleet(state, spec) as server:
            url = (f"https://127.0.0.1:{server.port}",)
            own = AuthorityTrust(ca_pem=trusted.pem, certificate=identity.certificate, key=identity.key)
            client = ControlClient(url, own)
            client.get("/v1/node/desired", SignedOrder)
            verdict = ask(client, identity, applicant, kind=ProofKind.PREVIOUS, authorities=trusted)
            assert verdict.outcome is Outcome.ENROLLED
            client.close()
            client.trust(dataclasses.replace(own, ca_pem=trusted.pem))
            order = client.get("/v1/node/desired", SignedOrder)
            verifier = OrderVerifier(commands.run, trusted, "pi4-1")
            assert verifier.open(order, "desired", Desired).generation > 0
            client.close()

    now = time.time()
    prepare(state, "attic", now)
    with pytest.raises(RotationError, match="made already"):
        prepare(state, "attic", now)
    with pytest.raises(RotationError, match="not every node has heard"):
        switch(state, now, spec.policy.certificate_life_s)
    renew()
    assert len(split_bundle(trusted.pem)) == 2
    switch(state, now + 3 * 86400, spec.policy.certificate_life_s)
    renew()
    assert trusted.pem != built_in
    assert len(split_bundle(trusted.pem)) == 1
    retire(state)
    renew()
    with running_fleet(state, spec) as server:
        client = ControlClient((f"https://127.0.0.1:{server.port}",), AuthorityTrust(ca_pem=built_in))
        with pytest.raises(Untrusted):
            client.get("/v1/node/desired", SignedOrder)


def test_exchange_that_was_cut_short_goes_on_at_the_next_start(tmp_path: Path) -> None:
    now = time.time()
    open_pki(tmp_path, "attic", now)
    prepare(tmp_path, "attic", now)
    following = (tmp_path / NEXT_CERTIFICATE).read_bytes()
    # Power fails between the key's exchange and the certificate's.
    (tmp_path / NEXT_KEY).replace(tmp_path / "control-ca.key")
    opened = open_pki(tmp_path, "attic", now)
    assert opened.ca_pem.encode() == following == (tmp_path / CA_CERTIFICATE).read_bytes()
    with pytest.raises(RotationError, match="no next control CA"):
        switch(tmp_path, now, 600)


def test_node_that_renews_between_the_exchange_and_the_restart_knows_the_new_ca(tmp_path: Path) -> None:
    now = time.time()
    serving = open_pki(tmp_path / "server", "attic", now)
    (tmp_path / "node").mkdir()
    trusted = TrustedAuthorities(tmp_path / "node", serving.ca_pem)
    prepare(tmp_path / "server", "attic", now)
    assert trusted.take(serving.ca_pem)
    switch(tmp_path / "server", now, 600, force=True)
    trusted.take(serving.ca_pem)  # the process that serves signs with the old CA still
    started_again = open_pki(tmp_path / "server", "attic", now)
    assert set(split_bundle(started_again.ca_pem)) <= set(split_bundle(trusted.pem))
    assert trusted.take(started_again.ca_pem)


def test_shorter_life_of_certificates_does_not_shorten_the_wait_for_those_from_before(tmp_path: Path) -> None:
    now = time.time()
    open_pki(tmp_path, "attic", now)
    prepare(tmp_path, "attic", now)
    with pytest.raises(RotationError, match="not every node has heard"):
        switch(tmp_path, now + 86400, 600)
    switch(tmp_path, now + 3 * 86400, 600)


def test_long_life_under_a_policy_of_before_is_remembered(tmp_path: Path) -> None:
    """Certificates of 90 days were issued before the policy was made shorter: they are renewed after 30."""
    now, day = time.time(), 86400
    pki = open_pki(tmp_path, "attic", now)
    pki.note_life(90 * day)
    pki.note_life(3600)
    assert longest_life_s(tmp_path) == 90 * day
    prepare(tmp_path, "attic", now)
    with pytest.raises(RotationError, match="not every node has heard"):
        switch(tmp_path, now + 29 * day, 3600)
    switch(tmp_path, now + 31 * day, 3600)


def test_the_server_notes_the_life_that_its_policy_gives(tmp_path: Path) -> None:
    spec = cluster_spec(AGENT)
    longer = dataclasses.replace(spec, policy=dataclasses.replace(spec.policy, certificate_life_s=90 * 86400))
    fleet = open_fleet(tmp_path, spec)
    assert longest_life_s(tmp_path) == spec.policy.certificate_life_s
    fleet.controller.declare(longer)
    fleet.controller.declare(spec)
    fleet.store.close()
    assert longest_life_s(tmp_path) == 90 * 86400
