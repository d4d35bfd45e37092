"""The agent's service against a real HTTPS server with client certificates; real openssl, faked systemd."""

from __future__ import annotations

import hashlib
import json
import stat
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from agent_nodes import FakeSystem, Really
from agent_services import make_service, serving
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from fakes_agent import ControlServer, Refusal, running

from agent.client import AuthorityTrust, ControlClient, Untrusted
from agent.commands import CommandError, Completed
from agent.errands import LOGS, Errand
from agent.protocol import Desired, EepromOrder, JoinMaterial, K3sState, NodeFile, Outcome, ProofKind, Verdict
from agent.recovery import Restore
from agent.state import JoinRecord, parse_state

pytestmark = pytest.mark.integration

DROP_IN = "/etc/rancher/k3s/config.yaml.d/50-bramble.yaml"
TOKEN = "/etc/rancher/k3s/bramble-token"
MATERIAL = JoinMaterial(
    generation=2,
    unit="k3s-agent.service",
    files=(
        NodeFile(TOKEN, "0600", "K10abc::node:secret"),
        NodeFile("/etc/rancher/node/password", "0600", "0123"),
        NodeFile(DROP_IN, "0600", f"server: https://10.0.0.1:6443\ntoken-file: {TOKEN}\n"),
    ),
    files_after_ready=(NodeFile(DROP_IN, "0600", "server: https://10.0.0.1:6443\n"),),
    remove_after_ready=(TOKEN,),
)


def test_node_enrols_with_its_ticket_and_reports(
    control: ControlServer, root: Path, system: FakeSystem
) -> None:
    with serving(make_service(root, system)):
        control.wait_for(lambda: len(control.statuses) >= 3)
    assert [proof.kind for proof in control.proofs] == [ProofKind.TICKET]
    assert set(control.clients) == {"pi-1"}
    assert "ticket" not in json.loads((root / "etc/bramble/node.json").read_bytes())
    key = root / "var/lib/bramble/agent.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    sequences = [status.sequence for status in control.statuses]
    assert sequences == list(range(1, len(sequences) + 1))
    first = control.statuses[0]
    assert first.hardware.serial == "10000000abcdef01"
    assert first.image_id == "cafe0123"
    assert first.health.pressure_some_avg10 == {"cpu": 1.5}
    assert first.k3s is K3sState.INACTIVE
    assert first.k3s_version == "k3s version v1.33.5+k3s1 (simulator)"
    assert first.problems == ()


def test_node_joins_and_the_token_leaves_the_disk(
    control: ControlServer, root: Path, system: FakeSystem
) -> None:
    control.desired = Desired(generation=2, join=True)
    control.material = MATERIAL
    with serving(make_service(root, system)):
        control.wait_for(lambda: any(status.k3s is K3sState.STARTING for status in control.statuses))
        assert (root / TOKEN[1:]).read_text() == "K10abc::node:secret"
        assert all(status.generation == 0 for status in control.statuses)
        system.active, system.sub = "active", "running"
        control.wait_for(lambda: control.statuses[-1].generation == 2)
    assert not (root / TOKEN[1:]).exists()
    assert (root / DROP_IN[1:]).read_text() == "server: https://10.0.0.1:6443\n"
    assert stat.S_IMODE((root / DROP_IN[1:]).stat().st_mode) == 0o600
    assert system.units() == [
        ("systemctl", "enable", "--quiet", "k3s-agent.service"),
        ("systemctl", "start", "--no-block", "k3s-agent.service"),
    ]
    assert control.material_requests == 1
    assert b"secret" not in (root / "var/lib/bramble/state.json").read_bytes()


class Unsteady(FakeSystem):
    """k3s can not be started at first; remembers what the disk held of the join when it was tried."""

    def __init__(self, state: Path) -> None:
        super().__init__()
        self.state, self.seen = state, list[JoinRecord | None]()

    def instead(self, argv: list[str], really: Really) -> Completed | None:
        if argv[:2] == ["systemctl", "start"]:
            self.seen.append(parse_state(self.state.read_bytes()).join)
            if len(self.seen) == 1:
                raise CommandError(argv, "ended with status 1")
        return None


def test_join_that_was_not_started_goes_on_without_being_begun_again(
    control: ControlServer, root: Path
) -> None:
    """An etcd that the first attempt made must not be set aside by a second."""
    control.desired = Desired(generation=2, join=True)
    data = root / "var/lib/rancher/k3s/server/db"
    control.material = replace(MATERIAL, set_aside=("/var/lib/rancher/k3s/server/db",))
    system = Unsteady(root / "var/lib/bramble/state.json")
    with serving(make_service(root, system)):
        control.wait_for(lambda: any(status.problems for status in control.statuses))
        control.wait_for(lambda: control.statuses[-1].k3s is K3sState.STARTING)
    data.mkdir(parents=True)
    with serving(make_service(root, system)):
        seen = len(control.statuses)
        control.wait_for(lambda: len(control.statuses) > seen + 2)
    assert codes(control) == {"join"}
    assert [record.pending if record else None for record in system.seen] == ["start", "start"]
    assert control.material_requests == 1
    assert data.exists()
    stored = parse_state(system.state.read_bytes()).join
    assert stored is not None
    assert (stored.generation, stored.pending) == (2, "")


def test_restarted_service_does_not_join_or_enrol_again(
    control: ControlServer, root: Path, system: FakeSystem
) -> None:
    control.desired = Desired(generation=2, join=True)
    control.material = MATERIAL
    system.active = "active"
    with serving(make_service(root, system)):
        control.wait_for(lambda: bool(control.statuses) and control.statuses[-1].generation == 2)
    seen = len(control.statuses)
    last = control.statuses[-1].sequence
    with serving(make_service(root, system)):
        control.wait_for(lambda: len(control.statuses) > seen + 2)
    assert control.statuses[seen].sequence > last
    assert control.statuses[seen].generation == 2
    assert control.material_requests == 1
    assert len(control.proofs) == 1


def test_stale_orders_change_nothing(control: ControlServer, root: Path, system: FakeSystem) -> None:
    control.desired = Desired(generation=7, join=False)
    with serving(make_service(root, system)):
        control.wait_for(lambda: bool(control.statuses) and control.statuses[-1].generation == 7)
        control.desired = Desired(generation=3, join=True)
        seen = len(control.statuses)
        control.wait_for(lambda: len(control.statuses) > seen + 3)
    assert control.statuses[-1].generation == 7
    assert system.units() == []


def test_power_cut_between_certificate_and_ticket_removal_heals(
    control: ControlServer, root: Path, system: FakeSystem
) -> None:
    before = (root / "etc/bramble/node.json").read_bytes()
    with serving(make_service(root, system)):
        control.wait_for(lambda: bool(control.statuses))
    (root / "etc/bramble/node.json").write_bytes(before)
    seen = len(control.statuses)
    with serving(make_service(root, system)):
        control.wait_for(lambda: len(control.statuses) > seen)
    assert len(control.proofs) == 1
    assert "ticket" not in json.loads((root / "etc/bramble/node.json").read_bytes())


def test_power_cut_before_the_certificate_is_stored_asks_again_with_the_same_key(
    control: ControlServer, root: Path, system: FakeSystem
) -> None:
    with serving(make_service(root, system)):
        control.wait_for(lambda: bool(control.statuses))
    (root / "var/lib/bramble/agent.crt").write_text("torn")
    with serving(make_service(root, system)):
        control.wait_for(lambda: len(control.hellos) == 2)
    assert control.hellos[0].key_sha256 == control.hellos[1].key_sha256


def test_pending_node_waits_and_is_enrolled_after_approval(
    control: ControlServer, root: Path, system: FakeSystem
) -> None:
    control.verdicts = [Verdict(Outcome.PENDING, "rebinding", retry_after_s=0.01)] * 3
    with serving(make_service(root, system)):
        control.wait_for(lambda: bool(control.statuses))
    assert len(control.proofs) == 4


def test_the_interval_of_a_large_fleet_is_kept(
    control: ControlServer, root: Path, system: FakeSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    control.interval_s = 60.0
    service, waits = make_service(root, system), list[float]()

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if seconds:
            service.stop()

    monkeypatch.setattr(service, "_wait", wait)
    service.run()
    assert waits[-1] == 60.0
    assert control.statuses


def test_service_outlives_an_absent_server_and_stops_on_request(
    control: ControlServer, root: Path, system: FakeSystem
) -> None:
    control.stop()
    service = make_service(root, system)
    with serving(service):
        control.start()
        control.wait_for(lambda: len(control.statuses) >= 2)
        control.stop()
        system.calls.clear()
        control.start()
        seen = len(control.statuses)
        control.wait_for(lambda: len(control.statuses) > seen)
    assert len(control.proofs) == 1


def test_certificate_that_the_server_forgot_is_replaced_after_approval(
    control: ControlServer, root: Path, system: FakeSystem
) -> None:
    with serving(make_service(root, system)):
        control.wait_for(lambda: bool(control.statuses))
        control.forget_certificates()
        with control.changed:
            control.verdicts = [Verdict(Outcome.PENDING, "rebinding", retry_after_s=0.01)] * 100_000
            control.tickets = set()
        control.wait_for(lambda: len(control.proofs) >= 3)
        with control.changed:
            assert {proof.kind for proof in control.proofs[1:]} == {ProofKind.NONE}
            control.verdicts, control.approve_everybody = [], True
            seen = len(control.statuses)
        control.wait_for(lambda: len(control.statuses) > seen)


FAILED, GONE = Refusal(500, "internal", "odd"), Refusal(404, "not-found", "gone")


def codes(control: ControlServer) -> set[str]:
    return {problem.code for status in control.statuses for problem in status.problems}


def test_route_that_fails_does_not_silence_the_report(
    control: ControlServer, root: Path, system: FakeSystem
) -> None:
    control.desired = Desired(generation=2, join=True)
    control.material = MATERIAL
    control.refuse = {"/v1/node/join-material": FAILED}
    with serving(make_service(root, system)):
        control.wait_for(lambda: codes(control) == {"join"})
        told = next(status.problems[0] for status in control.statuses if status.problems)
        assert "status 500: odd" in told.message
        control.refuse = {}
        control.wait_for(lambda: control.statuses[-1].k3s is K3sState.STARTING)
    assert control.statuses[-1].problems == ()


@pytest.mark.parametrize(
    ("route", "refusal", "expected"),
    [
        ("eeprom", FAILED, {"eeprom"}),
        ("eeprom", GONE, {"eeprom"}),
        ("errand", FAILED, {"errand"}),
        ("errand", GONE, set()),
        ("logs", GONE, set()),
    ],
)
def test_order_that_can_not_be_opened_does_not_hold_up_the_others(
    control: ControlServer,
    root: Path,
    system: FakeSystem,
    route: str,
    refusal: Refusal,
    expected: set[str],
) -> None:
    control.eeprom = EepromOrder(4, 0x11, {"BOOT_ORDER": "0xf12"}) if route == "eeprom" else None
    control.errand = Errand(4, LOGS) if route != "eeprom" else None
    control.desired = Desired(generation=9, join=False)
    path = f"/v1/node/{route}"
    control.refuse = {path: refusal}
    with serving(make_service(root, system)):
        control.wait_for(lambda: any(path in request for request in control.requests))
        control.wait_for(lambda: bool(control.statuses) and control.statuses[-1].generation == 9)
        seen = len(control.statuses)
        control.wait_for(lambda: len(control.statuses) > seen + 1)
    assert codes(control) == expected


def test_ticket_that_can_not_be_removed_does_not_hold_up_what_is_ordered(
    control: ControlServer, root: Path, system: FakeSystem
) -> None:
    (root / "etc/bramble/node.json.bramble-new").mkdir()  # as a disk that the kernel made read-only
    control.desired = Desired(generation=9, join=False)
    with serving(make_service(root, system)):
        control.wait_for(lambda: bool(control.statuses) and control.statuses[-1].generation == 9)
    assert codes(control) == {"state_not_saved"}


def test_node_is_heard_while_a_snapshot_is_restored(
    control: ControlServer, root: Path, system: FakeSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.service.RESTORE_INTERVAL_S", 0.01)
    content, place = b"snapshot", "/var/lib/rancher/bramble-restore/etcd.db"
    (root / place[1:]).parent.mkdir(parents=True)
    (root / place[1:]).write_bytes(content)
    drop_in = "/etc/rancher/k3s/config.yaml.d/60-bramble-restore.yaml"
    restore = Restore("r1", hashlib.sha256(content).hexdigest(), len(content), place, drop_in)
    control.desired = Desired(generation=2, join=True)
    control.material = replace(MATERIAL, restore=restore)
    with serving(make_service(root, system)):
        control.wait_for(lambda: control.material_requests >= 3)
        seen = len(control.statuses)
        control.wait_for(lambda: len(control.statuses) >= seen + 3)
    assert codes(control) == set()
    assert not any(call[:2] == ("systemctl", "start") for call in system.calls), "k3s waits for its data"


def test_missing_memory_cgroup_holds_the_join_back(
    control: ControlServer, root: Path, system: FakeSystem
) -> None:
    (root / "sys/fs/cgroup/cgroup.controllers").write_text("cpu io pids\n")
    control.desired = Desired(generation=2, join=True)
    control.material = MATERIAL
    with serving(make_service(root, system)):
        control.wait_for(lambda: any(status.problems for status in control.statuses))
    problem = next(status for status in control.statuses if status.problems).problems[0]
    assert problem.code == "cgroup_memory"
    assert "cmdline.txt" in problem.hint
    assert control.material_requests == 0


def test_failed_join_is_explained_and_repeated_for_a_newer_order(
    control: ControlServer, root: Path, system: FakeSystem
) -> None:
    control.desired = Desired(generation=2, join=True)
    control.material = MATERIAL
    system.journal = (
        'level=info msg="Waiting to retrieve agent configuration; server is not ready: failed to retrieve '
        'configuration from server: https://127.0.0.1:6444/v1-k3s/config: 401 Unauthorized"\n'
    )
    with serving(make_service(root, system)):
        control.wait_for(lambda: any(status.problems for status in control.statuses))
        codes = {problem.code for status in control.statuses for problem in status.problems}
        assert codes == {"token_rejected"}
        control.desired = Desired(generation=3, join=True, reason="new token")
        control.wait_for(lambda: control.material_requests == 2)
        control.wait_for(lambda: len(system.units()) == 4)
    assert system.units()[-1] == ("systemctl", "restart", "--no-block", "k3s-agent.service")


def test_clock_that_is_behind_is_set_from_the_server(
    control: ControlServer, root: Path, system: FakeSystem
) -> None:
    (root / "run/systemd/timesync/synchronized").unlink()
    control.clock_ahead_s = 7200.0
    offset = [0.0]

    def now() -> float:
        return 1_000_000_000.0 + offset[0]

    def set_clock(value: float) -> None:
        offset[0] += value - now()
        control.clock_ahead_s = 0.0  # the real clock stays; from here on both agree

    with serving(make_service(root, system, now=now, set_clock=set_clock)):
        control.wait_for(lambda: bool(control.statuses))
    assert offset[0] > 700_000_000
    notes = [problem.code for status in control.statuses for problem in status.problems]
    assert notes.count("clock_set") == 1


def test_clock_that_is_ahead_is_reported_and_blocks_the_join(
    control: ControlServer, root: Path, system: FakeSystem
) -> None:
    (root / "run/systemd/timesync/synchronized").unlink()
    control.clock_ahead_s = -10 * 365 * 86400.0
    control.desired = Desired(generation=2, join=True)
    control.material = MATERIAL
    moved: list[float] = []
    with serving(make_service(root, system, set_clock=moved.append)):
        control.wait_for(lambda: any(status.problems for status in control.statuses))
    assert moved == []
    assert {problem.code for status in control.statuses for problem in status.problems} == {"clock"}
    assert control.material_requests == 0


def test_torn_state_keeps_numbers_and_orders(control: ControlServer, root: Path, system: FakeSystem) -> None:
    control.desired = Desired(generation=5, join=False)
    with serving(make_service(root, system)):
        control.wait_for(lambda: bool(control.statuses) and control.statuses[-1].generation == 5)
    last = control.statuses[-1]
    state = root / "var/lib/bramble/state.json"
    state.write_bytes(state.read_bytes()[:20])
    seen = len(control.statuses)
    with serving(make_service(root, system)):
        control.wait_for(lambda: len(control.statuses) > seen + 1)
    assert control.statuses[seen].sequence > last.sequence
    assert control.statuses[-1].generation == 5
    assert [problem.code for problem in control.statuses[seen].problems] == ["state_damaged"]


def test_state_that_can_not_be_stored_is_reported(
    control: ControlServer, root: Path, system: FakeSystem
) -> None:
    with serving(make_service(root, system)):
        control.wait_for(lambda: bool(control.statuses))
    blocker = root / "var/lib/bramble/state.json.bramble-new"
    blocker.mkdir()
    control.desired = Desired(generation=9, join=False)
    seen = len(control.statuses)
    with serving(make_service(root, system)):
        control.wait_for(
            lambda: any(
                problem.code in ("state_not_saved", "desired")
                for status in control.statuses[seen:]
                for problem in status.problems
            )
        )
        blocker.rmdir()
        control.wait_for(lambda: control.statuses[-1].generation == 9)


@pytest.mark.parametrize("refuses", [False, True], ids=["a-disk-that-is-well", "a-disk-that-takes-nothing"])
def test_numbers_that_were_lost_go_on_behind_those_that_the_server_has(
    control: ControlServer, root: Path, system: FakeSystem, refuses: bool
) -> None:
    """Without a new boot the server takes no report whose number it has seen."""
    with serving(make_service(root, system)):
        control.wait_for(lambda: len(control.statuses) >= 4)
    state = root / "var/lib/bramble/state.json"
    for path in state.parent.glob("state.json*"):
        path.unlink()
    if refuses:
        state.with_name("state.json.bramble-new").mkdir()
    last, seen = control.statuses[-1].sequence, len(control.statuses)
    with serving(make_service(root, system)):
        control.wait_for(lambda: len(control.statuses) >= seen + 3)
    assert [status.sequence for status in control.statuses[seen : seen + 3]] == [1, last + 1, last + 2]
    assert ("state_not_saved" in codes(control)) is refuses


def test_disk_that_refuses_does_not_end_the_service(
    control: ControlServer, root: Path, system: FakeSystem
) -> None:
    """The state directory can not even be made: the node enrols as soon as it can."""
    directory = root / "var/lib/bramble"
    directory.parent.mkdir(parents=True)
    directory.write_text("a file in the way")
    service = make_service(root, system)
    with serving(service):
        with system.called:
            assert system.called.wait_for(lambda: len(system.calls) >= 3, 120)
        assert control.requests == []
        directory.unlink()
        control.wait_for(lambda: bool(control.statuses))


def test_certificate_is_renewed_when_a_third_of_its_life_is_over(
    control: ControlServer, root: Path, system: FakeSystem
) -> None:
    with serving(make_service(root, system)):
        control.wait_for(lambda: bool(control.statuses))
    old = (root / "var/lib/bramble/agent.crt").read_bytes()
    # The fake judges by ticket only: hand it a verdict for the same key.
    issued = control.authority.issue(x509.load_pem_x509_certificate(old).public_key(), "pi-1", server=False)
    fresh = issued.public_bytes(serialization.Encoding.PEM).decode()
    control.verdicts = [Verdict(Outcome.ENROLLED, "renewed", certificate_pem=fresh)]
    with serving(make_service(root, system, now=lambda: time.time() + 3 * 86400.0)):
        control.wait_for(lambda: len(control.proofs) == 2)
        seen = len(control.statuses)
        control.wait_for(lambda: len(control.statuses) > seen)
    assert control.proofs[-1].kind is ProofKind.PREVIOUS
    assert (root / "var/lib/bramble/agent.crt").read_text() == fresh


def test_server_of_another_cluster_gets_nothing(tmp_path: Path, control: ControlServer) -> None:
    (tmp_path / "other").mkdir()
    foreign = ControlServer(tmp_path / "other")
    client = ControlClient((control.url,), AuthorityTrust(ca_pem=foreign.authority.pem))
    with pytest.raises(Untrusted):
        client.get("/v1/node/desired", Desired)
    assert control.requests == []


def test_dates_are_checked_only_when_the_clock_is_known(tmp_path: Path) -> None:
    (tmp_path / "future").mkdir()
    start = datetime.now(UTC) + timedelta(days=30)
    server = ControlServer(tmp_path / "future", not_before=start, not_after=start + timedelta(days=7))
    trust = AuthorityTrust(ca_pem=server.authority.pem)
    with running(server):
        client = ControlClient((server.url,), trust)
        with pytest.raises(Untrusted, match="not yet valid"):
            client.get("/v1/node/desired", Desired)
        client.trust(replace(trust, check_time=False))
        with pytest.raises(Exception, match="certificate is needed"):
            client.get("/v1/node/desired", Desired)
        client.close()
