"""What a server, a disk or a clock that went mad may say, and what the agent makes of it: never its end."""

from __future__ import annotations

import dataclasses
import errno
import json
from pathlib import Path
from unittest.mock import create_autospec

import pytest
from agent_nodes import FakeSystem, Really, make_node_root

from agent import clock
from agent.backoff import Backoff
from agent.client import AuthorityTrust, ControlClient, PinnedTrust, Refused
from agent.commands import CommandError, Completed
from agent.enrol import Identity
from agent.errors import AgentError
from agent.hardware import read_hardware
from agent.host import Host
from agent.k3s import K3s
from agent.notes import MAX_NOTES, Notes
from agent.notify import ServiceManager
from agent.plan import Observed
from agent.protocol import Desired, K3sState, NodeFile, Outcome, Problem, Verdict
from agent.reports import Reports
from agent.sampler import parse_smart
from agent.service import MAX_HURRIED, Service
from agent.state import AgentState, JoinRecord, StateStore, load_node_config, parse_node_config
from agent.storage import SMART_LOG_BYTES, parse_smart_log
from agent.timekeeper import Timekeeper
from agent.trusted import TrustedAuthorities
from agent.update import Releases
from agent.wire import MAX_BODY_BYTES, encode

YEARS_S = 10 * 365 * 86400.0
LONGEST = "\N{GRINNING FACE}" * 70_000
"""Twelve bytes a character, as JSON."""


@pytest.mark.parametrize("now", [1e300, -1e300])
def test_time_that_no_clock_can_show_is_not_set(now: float) -> None:
    with pytest.raises(AgentError, match="the clock can not be set"):
        clock.set_clock(now)


def test_server_whose_time_no_clock_can_show_is_a_problem_and_not_the_end(tmp_path: Path) -> None:
    root = make_node_root(tmp_path)
    (root / "run/systemd/timesync/synchronized").unlink()
    client, notes = ControlClient(("https://control.invalid",), PinnedTrust("00" * 32)), Notes()
    keeper = Timekeeper(Host(root=root), client, notes.add)
    keeper.compare(1e300)
    assert not keeper.is_trusted()
    ((note,), _) = notes.beside(())
    assert note.code == "clock"


class Hands:
    """The node's two clocks."""

    def __init__(self) -> None:
        self.now, self.steady = 2e9, 100.0

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.steady += seconds


def service_of(root: Path, hands: Hands | None = None) -> Service:
    node, hands = make_node_root(root, control_urls=["https://10.0.0.1"], ca_pem="pem"), hands or Hands()
    host = Host(root=node, run=FakeSystem(), now=lambda: hands.now, monotonic=lambda: hands.steady)
    backoff = Backoff(first_s=2.0, cap_s=300.0, jitter=lambda: 1.0)
    return Service(load_node_config(host.node_file), host, ServiceManager(), backoff=backoff)


@pytest.mark.parametrize("fault", ["orders-that-are-not-there", "each-certificate-forgotten"])
def test_server_that_contradicts_itself_is_not_asked_without_a_pause(tmp_path: Path, fault: str) -> None:
    service = service_of(tmp_path)
    answers = iter([0.0] * 30 + [10.0] + [0.0] * 30)

    def work() -> float:
        delay_s = next(answers)
        if delay_s == 0 and fault == "each-certificate-forgotten":
            service._enrolled = True  # it enrols each time, and each time is unknown a moment later
            raise Refused(401, "certificate", "this needs the certificate of an enrolled node", "")
        return delay_s

    service._work = work  # type: ignore[method-assign]
    delays = [service._turn() for _ in range(30)]
    assert delays[:MAX_HURRIED] == [0.0] * MAX_HURRIED
    assert delays[MAX_HURRIED : MAX_HURRIED + 4] == [2.0, 4.0, 8.0, 16.0]
    assert max(delays) == 300.0
    assert service._turn() == 10.0
    assert service._turn() == 0.0, "one order leads to the next at once"


def test_disk_that_can_not_keep_a_proven_release_does_not_make_the_agent_deaf(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn that ends behind the report takes no order."""

    def confirm(_releases: Releases, _running: str) -> bool:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Releases, "confirm", confirm)
    service_of(tmp_path)._duties.was_heard()


@pytest.mark.parametrize(("told_s", "pause_s"), [(-5.0, 1.0), (0.0, 1.0), (30.0, 30.0), (1e300, 300.0)])
def test_pause_that_the_server_asks_for_has_bounds(tmp_path: Path, told_s: float, pause_s: float) -> None:
    service = service_of(tmp_path)
    identity = service._identity = create_autospec(Identity, instance=True)
    identity.key_sha256.return_value = "ab" * 32
    identity.is_enrolled.return_value = False
    service._ask = lambda *_: Verdict(Outcome.PENDING, "wait", retry_after_s=told_s)  # type: ignore[method-assign]
    assert service._turn() == pause_s


def test_renewal_that_failed_by_a_clock_years_ahead_is_tried_again_in_an_hour(
    tmp_path: Path,
) -> None:
    hands = Hands()
    service = service_of(tmp_path, hands)
    service._renew_at = hands.now - 1
    service._ask = lambda *_: Verdict(Outcome.REJECTED, "no")  # type: ignore[method-assign]
    hands.now += YEARS_S
    assert service._is_renewal_due()
    with pytest.raises(AgentError, match="was not renewed"):
        service._renew()
    hands.now -= YEARS_S
    assert not service._is_renewal_due()
    hands.pass_time(3600)
    assert service._is_renewal_due()


@pytest.mark.parametrize(
    "date",
    [
        "Thu, 01 Jan 1970 00:00:00 +999999999999999999",
        "Thu, 01 Jan 99999 00:00:00 GMT",
        "Thu, 31 Feb 2026 99:99:99 GMT",
        "\N{GRINNING FACE}",
        "",
    ],
)
def test_date_that_is_none_tells_nothing_of_the_clock(date: str) -> None:
    client = ControlClient(("https://control.invalid",), PinnedTrust("00" * 32))
    client._note_clock(date)
    assert client.clock_behind_s is None


def test_bundle_and_ca_that_are_no_ascii_are_refused(tmp_path: Path) -> None:
    odd = "-----BEGIN CERTIFICATE-----\N{EM SPACE}AAAA\n-----END CERTIFICATE-----\n"
    trusted = TrustedAuthorities(tmp_path, odd)
    assert not trusted.take(odd * 2)
    with pytest.raises(AgentError, match="can not be loaded"):
        AuthorityTrust(ca_pem=odd).context()


@pytest.mark.parametrize("ticket", ["zz", "5a5", 17, ["5a"], "5a 5a"])
def test_damaged_ticket_is_left_out_and_the_node_asks_without(ticket: object) -> None:
    document = {"version": 1, "cluster": "attic", "node": "pi-1", "role": "agent", "ca_pem": "pem"}
    value = {**document, "control_urls": ["https://10.0.0.1"], "ticket": ticket}
    assert parse_node_config(json.dumps(value).encode()).ticket is None


def test_state_that_holds_the_largest_messages_is_read_again(tmp_path: Path) -> None:
    """Numbers that are lost with it would let orders be carried out twice."""
    large = (NodeFile("/etc/rancher/k3s/registries.yaml", "0600", "x" * (MAX_BODY_BYTES - 500)),)
    store = StateStore(tmp_path)
    for generation in (7, 8):  # so that the predecessor is as large
        state = AgentState(
            generation=generation,
            desired=Desired(generation, join=True, files=large),
            join=JoinRecord(6, "k3s.service", files_after_ready=large),
            reboot=3,
        )
        store.save(state)
    again = StateStore(tmp_path)
    again.load()
    assert (again.state, again.damaged) == (state, False)


def test_number_that_no_server_counts_to_is_not_counted_on_from(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    assert not store.count_on_from(10**20 - 1)
    assert store.next_sequence() == 1
    again = StateStore(tmp_path)
    again.load()
    assert not again.damaged


def test_counters_of_a_broken_smart_log_fit_into_a_report() -> None:
    """A number with more than twenty digits has the whole report refused."""
    assert parse_smart_log(b"\xff" * SMART_LOG_BYTES) is None
    log = parse_smart_log(bytes(144) + b"\xff" * 32 + bytes(SMART_LOG_BYTES - 176))
    assert log is not None
    assert log.unsafe_shutdowns == log.media_errors == 2**63 - 1
    told = json.dumps({"nvme0": {"media_errors": 2**128 - 1, "spare_percent": 90, "wear_percent": -1}})
    assert parse_smart(told) == {"nvme0": {"spare_percent": 90}}


def test_notes_of_one_kind_that_never_end_leave_room_for_the_others() -> None:
    notes = Notes()
    notes.add("agent_updated", "order 7: agent 0.2.0 runs", "")
    for second in range(20_000):
        notes.add("clock", f"the clock can not be set to {second}", "h")
    said, _ = notes.beside(())
    assert len(said) == MAX_NOTES
    assert (said[0].code, said[-1].message) == ("agent_updated", "the clock can not be set to 19999")


def reports_of(root: Path, system: FakeSystem, now: float = 2e9, k3s: K3s | None = None) -> Reports:
    node = make_node_root(root, control_urls=["https://10.0.0.1"], ca_pem="pem")
    config = parse_node_config((node / "etc/bramble/node.json").read_bytes())
    host = Host(root=node, run=system, now=lambda: now)
    k3s = k3s or K3s("agent", system, node)
    return Reports(config, host, k3s, hardware=read_hardware(node), boot_id="boot")


@pytest.mark.parametrize("lines", [(), (LONGEST,), (LONGEST[:300],) * 50], ids=["none", "one", "many"])
def test_report_is_never_too_large_to_be_heard_whatever_others_say(
    tmp_path: Path, lines: tuple[str, ...]
) -> None:
    notes = Notes()
    for number in range(50):
        notes.add(f"code-{number}", LONGEST, LONGEST)
    worst = Problem("worst", LONGEST, LONGEST, lines)
    observed = Observed(enrolled=True, k3s=K3sState.FAILED)
    reports, told = reports_of(tmp_path, FakeSystem()), []
    for _ in range(60):
        status, noted = reports.compose(
            observed, AgentState(), notes, (worst, worst), sequence=1, behind_s=None
        )
        body = encode(status)
        assert len(body) <= MAX_BODY_BYTES
        assert status.problems[noted].code == "worst", "what is wrong now comes before what was"
        told += [problem.code for problem in status.problems[:noted]]
        notes.told(noted)
        if noted == 0:
            worst = dataclasses.replace(worst, message="m", hint="h", lines=())
    assert told == [f"code-{number}" for number in range(50 - MAX_NOTES, 50)]


@pytest.mark.parametrize("started_at", [2e9 - 60, 2e9 + YEARS_S], ids=["a-minute-ago", "in-ten-years"])
def test_clock_that_was_years_ahead_when_k3s_started_does_not_hide_the_journal(
    tmp_path: Path, started_at: float
) -> None:
    system = FakeSystem()
    system.journal = "panic: the disk is on fire\n"
    record = JoinRecord(4, "k3s-agent.service", started_at=started_at)
    observed = Observed(enrolled=True, k3s=K3sState.FAILED, join=record)
    (found,) = reports_of(tmp_path, system).find_problems(observed)
    assert "the disk is on fire" in found.message
    (call,) = [call for call in system.calls if call[0] == "journalctl"]
    (since,) = [float(word.removeprefix("--since=@")) for word in call if word.startswith("--since=@")]
    assert since <= 2e9


@pytest.mark.parametrize("jump_s", [YEARS_S, -YEARS_S], ids=["ahead", "back"])
def test_clock_that_jumps_by_years_is_not_believed_and_the_server_stays_in_reach(
    tmp_path: Path, jump_s: float
) -> None:
    """Believed, the server's certificate would seem to be out of date, and nobody could tell the time."""
    root = make_node_root(tmp_path)
    (root / "run/systemd/timesync/synchronized").unlink()
    hands = Hands()
    was_set: list[float] = []
    host = Host(root=root, now=lambda: hands.now, monotonic=lambda: hands.steady, set_clock=was_set.append)
    client = ControlClient(("https://control.invalid",), PinnedTrust("00" * 32))
    keeper = Timekeeper(host, client, lambda *_: None)
    client.clock_behind_s = 0.5
    keeper.compare()
    hands.pass_time(3600)
    assert keeper.is_trusted()
    assert keeper.find_problem() is None
    hands.now += jump_s
    assert not keeper.is_trusted()
    assert keeper.behind_s == pytest.approx(0.5 - jump_s)
    problem = keeper.find_problem()
    assert problem is not None
    assert ("ahead of" if jump_s > 0 else "behind") in problem.message
    client.clock_behind_s = 0.5 - jump_s  # the server answers
    keeper.compare()
    assert was_set == ([] if jump_s > 0 else [pytest.approx(2e9 + 3600.5)])


class Hanging(FakeSystem):
    """systemd and the journal answer until their disk hangs."""

    hangs = False

    def instead(self, argv: list[str], really: Really) -> Completed | None:
        if self.hangs and argv[0] in ("systemctl", "journalctl"):
            raise CommandError(argv, "did not end within 30 s")
        return None


def test_node_whose_systemd_hangs_is_heard_and_says_so(tmp_path: Path) -> None:
    system = Hanging()
    k3s = K3s("agent", system, make_node_root(tmp_path))
    system.hangs = True
    with pytest.raises(CommandError):  # nothing is known yet that could be told
        k3s.state()
    system.hangs, system.active = False, "active"
    assert (k3s.state(), k3s.trouble) == (K3sState.RUNNING, None)
    system.hangs = True
    assert k3s.state() is K3sState.RUNNING
    (found,) = reports_of(tmp_path, system, k3s=k3s).find_problems(Observed(enrolled=True))
    assert found.code == "systemd"
    assert "k3s was running before" in found.message
    system.hangs, system.active = False, "failed"
    assert (k3s.state(), k3s.trouble) == (K3sState.FAILED, None)


def test_journal_that_hangs_does_not_keep_the_node_from_being_heard(tmp_path: Path) -> None:
    system = Hanging()
    system.hangs = True
    k3s = K3s("agent", system, make_node_root(tmp_path))
    assert k3s.problem(K3sState.STARTING) is None
    found = k3s.problem(K3sState.FAILED)
    assert found is not None
    assert (found.code, "its journal can not be read" in found.message) == ("unknown", True)


def test_disk_that_answers_nothing_ends_no_observation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> bool:
        raise OSError(errno.EIO, "Input/output error", str(path))

    system = FakeSystem()
    k3s = K3s("agent", system, make_node_root(tmp_path))
    system.active = "active"
    monkeypatch.setattr(Path, "exists", fail)
    monkeypatch.setattr(Path, "is_file", fail)
    assert k3s.state() is K3sState.RUNNING
    assert not k3s.has_joined()
