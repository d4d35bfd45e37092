"""What of a fleet needs a person."""

from __future__ import annotations

from typing import Any

import pytest

from bramble.dashboard.rack import Group, group_of
from fleet.attention import NEEDS_A_PERSON, EtcdFault, Finding, Urgency, findings, quorum_in
from fleet.lifecycle import State
from fleet.reimage.views import UnsteadyView
from fleet.views import ConditionView, FleetView, HeldBoardView, NodeView, RolloutView


def node(name: str, state: str, role: str = "agent", **changes: Any) -> NodeView:
    values: dict[str, Any] = {
        "name": name,
        "board": "pi5",
        "role": role,
        "state": state,
        "since": 100.0,
        "attempt": 0,
        "detail": "",
        "k3s": "",
        "serial": None,
        "mac": None,
        "image_id": None,
        "boots": 1,
        "fingerprint": None,
    }
    return NodeView(**{**values, **changes})


def servers(*states: str) -> FleetView:
    return FleetView(
        nodes=tuple(node(f"s{number}", state, "server") for number, state in enumerate(states)), held=()
    )


def found(view: FleetView) -> dict[str, Finding]:
    return {one.key: one for one in findings(view)}


@pytest.mark.parametrize("state", ["declared", "netbooting", "imaging", "first-boot", "joining", "ready"])
def test_a_node_on_its_way_needs_nobody(state: str) -> None:
    assert findings(FleetView(nodes=(node("n", state),), held=())) == ()


@pytest.mark.parametrize(
    ("state", "code", "command"),
    [
        ("pending", "approval", "bramble approve n"),
        ("quarantined", "quarantined", "bramble show n"),
        ("lost", "lost", "bramble show n"),
        ("degraded", "degraded", "bramble show n"),
        ("failed-imaging", "failed-imaging", "bramble show n"),
        ("failed-joining", "failed-joining", "bramble show n"),
    ],
)
def test_a_node_that_is_stuck_names_the_command_for_it(state: str, code: str, command: str) -> None:
    (one,) = findings(FleetView(nodes=(node("n", state, detail="why"),), held=()))
    assert (one.code, one.subject, one.command) == (code, "n", command)
    assert one.text.startswith("n ")
    assert one.text.endswith(": why")


@pytest.mark.parametrize("state", [state for state in State if state.startswith("failed-")])
def test_every_failed_state_needs_a_person(state: State) -> None:
    assert [one.code for one in findings(FleetView(nodes=(node("n", state.value),), held=()))] == [
        state.value
    ]


@pytest.mark.parametrize("state", State)
def test_what_needs_a_person_on_the_dashboard_is_a_finding_in_status_and_nothing_else(state: State) -> None:
    is_found = bool(findings(FleetView(nodes=(node("n", state.value),), held=())))
    assert is_found is (state in NEEDS_A_PERSON)
    assert is_found is (group_of(state) is Group.ATTENTION)


def test_a_step_that_is_neither_done_nor_given_up_needs_somebody_whatever_its_state_is() -> None:
    one = UnsteadyView(node="s1", step="member-removed", count=5, since=60.0, last=1260.0, said="no leader")
    for state in ("member-removed", "failed-member-removed"):
        view = FleetView(nodes=(node("s1", state, "server"),), held=(), unsteady=(one,))
        told = found(view)["unsteady/s1"]
        assert (told.urgency, told.since, told.command) == (Urgency.NOW, 60.0, "bramble etcd show")
        assert "member-removed was taken up 5 times in 20 min" in told.text


def test_approval_shows_the_fingerprint_that_is_to_be_compared() -> None:
    (one,) = findings(FleetView(nodes=(node("n", "pending", fingerprint="1a2b-3c4d"),), held=()))
    assert "1a2b-3c4d" in one.hint


@pytest.mark.parametrize("state", State)
def test_a_key_that_waits_needs_somebody_where_the_node_is_installed(state: State) -> None:
    """On its way to its first installation the state itself says what waits."""
    view = FleetView(nodes=(node("n", state.value, fingerprint="1a2b-3c4d"),), held=())
    told = found(view).get("approval/n")
    assert (told is not None) is (state.is_installed or state is State.PENDING)
    if told is not None:
        assert "1a2b-3c4d" in told.hint
        assert told.command == "bramble approve n"


@pytest.mark.parametrize("degrades", [True, False])
def test_a_condition_stands_for_the_degraded_state_that_it_causes(degrades: bool) -> None:
    ill = ConditionView(
        condition="UnderVoltage",
        words="under-voltage",
        evidence="now",
        hint="Mend",
        since=7.0,
        degrades=degrades,
    )
    state = "degraded" if degrades else "ready"
    (one,) = findings(FleetView(nodes=(node("n", state, conditions=(ill,)),), held=()))
    assert one.key == "condition-UnderVoltage/n"
    assert one.urgency is (Urgency.NOW if degrades else Urgency.SOON)
    assert (one.hint, one.since) == ("Mend", 7.0)


def test_a_held_board_is_found_and_shown_by_its_serial() -> None:
    board = HeldBoardView(
        board="d03114aa", model="Pi 4", serial=None, macs=(), first_seen=1.0, last_seen=2.0, reason="unknown"
    )
    (one,) = findings(FleetView(nodes=(), held=(board,)))
    assert one.command == "bramble show d03114aa"


def test_why_a_board_is_held_is_said_once() -> None:
    board = HeldBoardView(
        board="d03114aa",
        model="Pi 4",
        serial=None,
        macs=(),
        first_seen=1.0,
        last_seen=2.0,
        reason="not in cluster.yaml",
    )
    (one,) = findings(FleetView(nodes=(), held=(board,)))
    assert one.text == "board d03114aa (Pi 4) is held: not in cluster.yaml"


@pytest.mark.parametrize("state", ["failed-imaging", "quarantined"])
def test_what_failed_is_said_with_its_mend(state: str) -> None:
    failed = node("n", state, complaint="no NVMe disk found", mend="Reseat the disk.")
    (one,) = findings(FleetView(nodes=(failed,), held=()))
    assert one.hint.startswith("Reseat the disk.")
    if state == "quarantined":
        assert "no NVMe disk found" in one.text
        assert one.hint.endswith("Then 'bramble approve n' lets it try again.")


def test_a_mend_that_says_how_to_let_it_in_says_it_once() -> None:
    hint = "Switch the other off; then 'bramble approve n' lets it in."
    failed = node("n", "quarantined", complaint="a second board claimed to be it", mend=hint)
    (one,) = findings(FleetView(nodes=(failed,), held=()))
    assert one.hint == hint


@pytest.mark.parametrize(
    ("states", "code"),
    [
        pytest.param(("ready", "ready", "ready"), None, id="all well"),
        pytest.param(("ready", "ready", "lost"), "quorum-thin/", id="one of three lost"),
        pytest.param(("ready", "lost", "lost"), "quorum-lost/", id="two of three"),
        pytest.param(("ready", "lost", "degraded"), "quorum-unsure/", id="one lost, one unwell"),
        pytest.param(("ready", "degraded", "degraded"), "quorum-unsure/", id="two are unwell"),
        pytest.param(("degraded",), None, id="the only one is unwell"),
        pytest.param(("lost",), "quorum-lost/", id="the only one"),
        pytest.param(("ready", "lost"), "quorum-lost/", id="one of two"),
        pytest.param(("ready", "ready", "joining"), None, id="the third joins"),
        pytest.param(("ready",) * 4 + ("lost",), None, id="one of five"),
        pytest.param(("declared",) * 3, None, id="nothing installed"),
    ],
)
def test_quorum(states: tuple[str, ...], code: str | None) -> None:
    about = {key for key in found(servers(*states)) if key.startswith("quorum")}
    assert about == ({code} if code else set())


def test_a_server_that_is_re_imaged_is_no_alarm_but_one_that_is_lost_beside_it_is() -> None:
    planned = found(servers("ready", "ready", "draining"))["quorum-thin/"]
    assert planned.urgency is Urgency.SOON
    assert found(servers("ready", "lost", "draining"))["quorum-lost/"].urgency is Urgency.NOW


def test_what_is_only_unwell_is_no_emergency_and_beside_one_that_is_lost_it_is() -> None:
    assert found(servers("ready", "ready", "degraded"))["quorum-thin/"].urgency is Urgency.SOON
    assert found(servers("ready", "degraded", "degraded"))["quorum-unsure/"].urgency is Urgency.SOON
    assert found(servers("ready", "lost", "degraded"))["quorum-unsure/"].urgency is Urgency.NOW


def test_snapshots_that_are_not_taken_need_a_person() -> None:
    (one,) = findings(FleetView(nodes=(), held=()), "the newest snapshot is 30 h old")
    assert (one.code, one.command) == ("snapshots", "bramble snapshot take")
    assert "30 h" in one.text


def test_the_urgent_comes_first() -> None:
    view = FleetView(nodes=(node("a", "pending"), node("b", "lost")), held=())
    assert [one.subject for one in findings(view)] == ["b", "a"]


def test_agents_are_not_counted_for_quorum() -> None:
    view = FleetView(nodes=(node("a", "lost"), node("s", "ready", "server")), held=())
    quorum = quorum_in(view)
    assert (quorum.members, quorum.ready, quorum.needed, quorum.spare) == (1, 1, 1, 0)
    assert not [key for key in found(view) if key.startswith("quorum")]


@pytest.mark.parametrize(
    ("phase", "urgency"), [("running", None), ("paused", Urgency.SOON), ("stopped", Urgency.NOW)]
)
def test_a_rollout_that_stands_still_needs_a_person(phase: str, urgency: Urgency | None) -> None:
    shown = RolloutView(
        number=3, image_id="1c" * 32, phase=phase, reason="a1 failed: its drain", done=2, total=9
    )
    told = findings(FleetView(nodes=(), held=(), rollout=shown))
    if urgency is None:
        assert told == ()
        return
    (one,) = told
    assert (one.key, one.urgency, one.command) == (f"rollout-{phase}/", urgency, "bramble rollout status")
    assert f"rollout 3 is {phase} at 2 of 9 nodes: a1 failed" in one.text


def test_a_node_that_keeps_others_back_needs_a_person() -> None:
    (one,) = findings(FleetView(nodes=(), held=(), stuck=("a1",)))
    assert (one.key, one.command) == ("lock/a1", "bramble lock show")
    assert "bramble lock release a1" in one.hint


@pytest.mark.parametrize(("subject", "urgency"), [("", Urgency.NOW), ("s1", Urgency.SOON)])
def test_what_ails_etcd_is_a_finding_with_the_command_that_shows_it(subject: str, urgency: Urgency) -> None:
    fault = EtcdFault(subject=subject, text="it is full", hint="defragment")
    (one,) = findings(servers("ready", "ready", "ready"), "", [fault])
    assert (one.key, one.urgency, one.text) == (f"etcd/{subject}", urgency, "it is full")
    assert one.command == "bramble etcd show"
