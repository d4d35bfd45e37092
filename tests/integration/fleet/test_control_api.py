"""The control API over real TLS on loopback, with a client made of the standard library as the agent's is."""

from __future__ import annotations

import gzip
import http.client
import json
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes_fleet import (
    AgentKey,
    agent_hello,
    cluster_spec,
    hardware_of,
    installer_hello,
    node_spec,
    status_report,
)
from fakes_fleet_server import TIMEOUT_S, Caller, Running, running

from agent.orders import SignedOrder
from agent.protocol import (
    Desired,
    EepromOrder,
    InstallComplete,
    InstallPlan,
    InstallProgress,
    InstallStep,
    JoinMaterial,
    Outcome,
    Proof,
    ProofKind,
    StatusAccepted,
    Verdict,
    Welcome,
    ticket_proof,
)
from agent.wire import MAX_BODY_BYTES, decode, encode
from fleet.admin_client import FleetReader
from fleet.api.control import ANONYMOUS_BURST, MAX_ANONYMOUS_BODY_BYTES
from fleet.api.guard import Limits
from fleet.errors import FleetError
from fleet.kube.client import KubeNode
from fleet.lifecycle import State
from fleet.spec.model import FirstBoot, Role
from fleet.trust.pki import open_pki

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("backend")]

SERVER = node_spec("pi5-1", 1, role=Role.SERVER)
KEY = b"installer session key of 32 bytes"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path, cluster_spec(SERVER)) as one:
        yield one


def say_hello(caller: Caller, message: Any) -> Welcome:
    answer = caller.post("/v1/hello", message)
    assert answer.status == 200, answer.body
    return decode(Welcome, answer.body)


def prove_installer(caller: Caller, *, intent: int | None = 1) -> Verdict:
    welcome = say_hello(caller, installer_hello(hardware_of(SERVER), KEY, intent=intent))
    proof = Proof(welcome.session, ProofKind.NONE, installer_key=KEY.hex())
    verdict = decode(Verdict, caller.post("/v1/prove", proof).body)
    caller.token = verdict.token or ""
    return verdict


def prove_agent(server: Running, key: AgentKey) -> Verdict:
    caller = server.caller()
    hello = agent_hello(hardware_of(SERVER), key)
    welcome = say_hello(caller, hello)
    ticket = server.fleet.images.tickets["pi5-1"][-1].reveal()
    proof = Proof(welcome.session, ProofKind.TICKET, ticket_proof(ticket, hello, welcome), key.csr_pem)
    return decode(Verdict, caller.post("/v1/prove", proof).body)


def install(server: Running) -> None:
    caller = server.caller()
    assert prove_installer(caller).outcome is Outcome.PENDING
    server.in_loop(lambda: server.fleet.controller.people.approve("pi5-1"))
    assert prove_installer(caller).outcome is Outcome.ADMITTED
    plan = decode(InstallPlan, caller.ask("GET", "/v1/install/plan").body)
    progress = InstallProgress(plan.intent, InstallStep.WRITE, 50.0)
    assert caller.post("/v1/install/progress", progress).status == 200
    done = InstallComplete(plan.intent, plan.image.image_id, "/dev/nvme0n1", 1, 1, 1.0)
    assert caller.post("/v1/install/complete", done).status == 200


def enrol(server: Running) -> Caller:
    key = AgentKey()
    verdict = prove_agent(server, key)
    assert verdict.outcome is Outcome.ENROLLED
    assert verdict.certificate_pem is not None
    return server.caller(server.node_context(verdict.certificate_pem, key))


def test_whole_walk_from_hello_to_join_material_and_ready(server: Running) -> None:
    install(server)
    node = enrol(server)
    accepted = decode(
        StatusAccepted, node.post("/v1/node/status", status_report(hardware_of(SERVER), 1)).body
    )
    order = decode(SignedOrder, node.ask("GET", "/v1/node/desired").body)
    desired = decode(Desired, order.body.encode())
    assert desired.join
    assert desired.generation == accepted.generation
    material = node.post("/v1/node/join-material")
    assert len(material.body) < MAX_BODY_BYTES
    assert node.post("/v1/node/join-material").body == material.body
    assert decode(JoinMaterial, material.body).unit == "k3s.service"
    ready = {"pi5-1": KubeNode("pi5-1", True, "", "v1.33.5+k3s1")}
    server.in_loop(lambda: server.fleet.controller.watch.apply_kubernetes(ready))
    with server.fleet.store.read() as reader:
        assert reader.require_node("pi5-1").state is State.READY
    assert node.post("/v1/node/join-material").status == 409


def test_node_routes_without_a_certificate_are_refused(server: Running) -> None:
    caller = server.caller()
    for answer in (
        caller.ask("GET", "/v1/node/desired"),
        caller.post("/v1/node/status", status_report(hardware_of(SERVER), 1)),
        caller.post("/v1/node/join-material"),
    ):
        assert (answer.status, answer.error) == (401, "certificate")


def test_certificate_of_another_authority_does_not_get_past_tls(server: Running, tmp_path: Path) -> None:
    foreign = open_pki(tmp_path / "foreign", "other", server.fleet.clock())
    key = AgentKey()
    issued = foreign.issue_node_certificate(key.csr_pem, uuid="x", node="pi5-1", now=server.fleet.clock())
    caller = server.caller(server.node_context(issued.pem, key))
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
        caller.ask("GET", "/v1/node/desired")


def test_certificate_of_an_earlier_enrolment_is_refused(server: Running) -> None:
    install(server)
    key = AgentKey()
    first = prove_agent(server, key)
    prove_agent(server, key)
    assert first.certificate_pem is not None
    answer = server.caller(server.node_context(first.certificate_pem, key)).ask("GET", "/v1/node/desired")
    assert (answer.status, answer.error) == (401, "certificate")


def test_ticket_used_twice_gets_no_second_certificate(server: Running) -> None:
    install(server)
    assert prove_agent(server, AgentKey()).outcome is Outcome.ENROLLED
    second = prove_agent(server, AgentKey())
    assert (second.outcome, second.certificate_pem) == (Outcome.PENDING, None)


def test_renewal_with_the_present_certificate(server: Running) -> None:
    install(server)
    node = enrol(server)
    key = AgentKey()
    welcome = say_hello(node, agent_hello(hardware_of(SERVER), key))
    proof = Proof(welcome.session, ProofKind.PREVIOUS, csr_pem=key.csr_pem)
    verdict = decode(Verdict, node.post("/v1/prove", proof).body)
    assert verdict.outcome is Outcome.ENROLLED
    assert verdict.certificate_pem is not None
    # The answer might have been lost: the old certificate works until the new one was used.
    assert node.ask("GET", "/v1/node/desired").status == 200
    renewed = server.caller(server.node_context(verdict.certificate_pem, key))
    assert renewed.ask("GET", "/v1/node/desired").status == 200
    assert node.ask("GET", "/v1/node/desired").status == 401


def test_node_that_was_off_until_its_certificate_expired_renews_by_itself(server: Running) -> None:
    server.fleet.clock.advance(-30 * 86400)
    install(server)
    node = enrol(server)
    server.fleet.clock.advance(30 * 86400)
    assert node.ask("GET", "/v1/node/desired").status == 200
    key = AgentKey()
    welcome = say_hello(node, agent_hello(hardware_of(SERVER), key))
    verdict = decode(
        Verdict, node.post("/v1/prove", Proof(welcome.session, ProofKind.PREVIOUS, csr_pem=key.csr_pem)).body
    )
    assert (verdict.outcome, verdict.certificate_pem is None) == (Outcome.ENROLLED, False)


def test_unknown_board_waits_and_learns_nothing(server: Running) -> None:
    caller = server.caller()
    stranger = hardware_of(node_spec("stranger", 77))
    welcome = say_hello(caller, installer_hello(stranger, KEY))
    proof = Proof(welcome.session, ProofKind.NONE, installer_key=KEY.hex())
    verdict = decode(Verdict, caller.post("/v1/prove", proof).body)
    assert (verdict.outcome, verdict.node, verdict.token) == (Outcome.PENDING, None, None)


def test_plan_needs_the_token(server: Running) -> None:
    caller = server.caller()
    caller.token = "0" * 64
    answer = caller.ask("GET", "/v1/install/plan")
    assert (answer.status, answer.error) == (401, "token")


def test_approval_over_the_admin_socket_lets_the_server_in(tmp_path: Path) -> None:
    with running(tmp_path, cluster_spec(SERVER, server_policy=FirstBoot.APPROVE)) as server:
        assert prove_installer(server.caller()).outcome is Outcome.PENDING
        socket_path = tmp_path / "control.sock"
        assert socket_path.stat().st_mode & 0o777 == 0o600
        done = subprocess.run(
            [
                "curl",
                "-sS",
                "-X",
                "POST",
                "--unix-socket",
                socket_path,
                "http://x/v1/admin/nodes/pi5-1/approve",
            ],
            capture_output=True,
            check=True,
            timeout=TIMEOUT_S,
        )
        assert "approved" in json.loads(done.stdout)["message"]
        assert prove_installer(server.caller()).outcome is Outcome.ADMITTED


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"\xff\xfe", 400),
        (b"[]", 400),
        (b"{" * 16_000, 400),
        (b'{"protocol": "1"}', 400),
        (b"x" * (MAX_BODY_BYTES + 1), 413),
    ],
    ids=["empty", "not-utf8", "list", "deep", "wrong-type", "too-large"],
)
def test_hostile_bodies_get_an_error_answer(server: Running, body: bytes, status: int) -> None:
    answer = server.caller().ask("POST", "/v1/hello", body)
    assert answer.status == status
    assert set(json.loads(answer.body)) == {"error", "message", "hint", "request_id"}


def test_node_that_asks_without_end_is_slowed_down(tmp_path: Path) -> None:
    limits = Limits(node_burst=20, node_per_second=1e-6)
    with running(tmp_path / "state", cluster_spec(SERVER), limits) as server:
        install(server)
        node = enrol(server)
        answers = [node.ask("GET", "/v1/node/eeprom").status for _ in range(25)]
        assert set(answers[:-5]) == {404}
        assert set(answers[-5:]) == {429}


def test_body_without_a_length_is_refused_where_it_becomes_too_long(server: Running) -> None:
    answer = server.caller().begin("/v1/hello", b" " * (MAX_ANONYMOUS_BODY_BYTES + 1))
    assert (answer.status, answer.error) == (413, "too-large")
    install(server)
    node = enrol(server)
    for path in ("/v1/node/status", "/v1/node/logs"):
        assert node.begin(path, b" " * (MAX_BODY_BYTES + 1)).status == 413


def test_packed_body_is_measured_unpacked(server: Running) -> None:
    install(server)
    node = enrol(server)
    bomb = gzip.compress(b" " * (4 * MAX_BODY_BYTES))
    assert node.ask("POST", "/v1/node/status", bomb, {"Content-Encoding": "gzip"}).status == 413
    small = gzip.compress(encode(status_report(hardware_of(SERVER), 1)))
    assert node.ask("POST", "/v1/node/status", small, {"Content-Encoding": "gzip"}).status == 200
    assert node.ask("POST", "/v1/node/status", b"no gzip", {"Content-Encoding": "gzip"}).status == 400


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/admin", "/v1/node/../admin"])
def test_other_paths_do_not_exist(server: Running, path: str) -> None:
    assert server.caller().ask("GET", path).status == 404


def test_flood_of_hellos_is_slowed_down_and_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleet.api.control.ANONYMOUS_PER_SECOND", 1e-6)
    with running(tmp_path / "state", cluster_spec(SERVER)) as server:
        caller = server.caller()
        hello = installer_hello(hardware_of(SERVER), KEY)
        answers = [caller.post("/v1/hello", hello).status for _ in range(ANONYMOUS_BURST + 5)]
        assert answers == [200] * ANONYMOUS_BURST + [429] * 5
        assert caller.ask("GET", "/v1/node/desired").status == 401


def test_an_eeprom_order_goes_from_a_person_to_the_nodes_agent(server: Running, tmp_path: Path) -> None:
    reader = FleetReader(tmp_path)
    with pytest.raises(FleetError, match="no agent of it is enrolled"):
        reader.order_eeprom("pi5-1", {"BOOT_ORDER": "0xf62"})
    install(server)
    node = enrol(server)
    assert node.ask("GET", "/v1/node/eeprom").status == 404
    accepted = decode(
        StatusAccepted, node.post("/v1/node/status", status_report(hardware_of(SERVER), 1)).body
    )
    assert accepted.eeprom == 0
    for number in (1, 2):
        assert f"order {number} for pi5-1" in reader.order_eeprom("pi5-1", {"BOOT_ORDER": "0xf62"})
    answer = node.post("/v1/node/status", status_report(hardware_of(SERVER), 2))
    assert decode(StatusAccepted, answer.body).eeprom == 2
    signed = decode(SignedOrder, node.ask("GET", "/v1/node/eeprom").body)
    order = decode(EepromOrder, signed.body.encode())
    assert order == EepromOrder(2, 0x17, {"BOOT_ORDER": "0xf62"})
    assert "BOOT_ORDER=0xf62" in reader.timeline("pi5-1")["events"][-1]["text"]


def test_an_eeprom_order_needs_a_certificate(server: Running) -> None:
    assert server.caller().ask("GET", "/v1/node/eeprom").status == 401


@pytest.mark.parametrize(
    ("node", "settings", "words"),
    [
        ("nobody", {"BOOT_ORDER": "0xf62"}, "no node 'nobody'"),
        ("pi5-1", {}, "0 settings"),
        ("pi5-1", {"BOOT_ORDR": "0xf62"}, "no setting of the bootloader"),
        ("pi5-1", {"BOOT_ORDER": "0xf62\nTFTP_IP=1.2.3.4"}, "hexadecimal"),
        ("pi5-1", {"HTTP_HOST": "a\nb"}, "plain ASCII"),
    ],
)
def test_an_eeprom_order_that_is_not_sound_is_refused(
    server: Running, tmp_path: Path, node: str, settings: dict[str, str], words: str
) -> None:
    with pytest.raises(FleetError, match=words):
        FleetReader(tmp_path).order_eeprom(node, settings)


@pytest.mark.parametrize(
    "odd", ["\0", "\ud800", "\x1b[31m", "x" * 5000], ids=["nul", "surrogate", "escape", "long"]
)
def test_texts_that_no_database_keeps_alike_are_no_mistake_of_ours(server: Running, odd: str) -> None:
    install(server)
    node = enrol(server)
    report = replace(status_report(hardware_of(SERVER), 1), k3s_version=odd, image_id=odd, agent_version=odd)
    assert node.post("/v1/node/status", report).status == 200
    read_as_question_mark = odd == "\ud800"  # half of a character
    answer = node.post("/v1/node/status", replace(report, sequence=2, boot_id=odd))
    assert answer.status == (200 if read_as_question_mark else 400)
    installer = server.caller()
    hello = replace(installer_hello(hardware_of(SERVER), KEY), image_id=odd)
    say_hello(installer, replace(hello, hardware=replace(hello.hardware, model=odd)))
    reader = FleetReader(server.state)
    for name in (odd, f"pi5-1{odd}"):
        with pytest.raises(FleetError):
            reader.approve(name.encode("utf-8", "replace").decode(), "")
    assert reader.nodes()["nodes"][0]["name"] == "pi5-1"


@pytest.mark.parametrize("odd", ["\0", "\ud800"], ids=["nul", "surrogate"])
def test_an_installer_may_call_its_image_anything(server: Running, odd: str) -> None:
    caller = server.caller()
    prove_installer(caller)
    server.in_loop(lambda: server.fleet.controller.people.approve("pi5-1"))
    prove_installer(caller)
    plan = decode(InstallPlan, caller.ask("GET", "/v1/install/plan").body)
    failed = InstallProgress(plan.intent, InstallStep.WRITE, 50.0, message=odd, hint=odd)
    assert caller.post("/v1/install/progress", failed).status == 200
    done = InstallComplete(plan.intent, odd, odd, 1, 1, 1.0)
    assert caller.post("/v1/install/complete", done).status == 200
