"""When Bramble re-images a node by itself, and why it does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fleet.lifecycle import REIMAGING, State
from fleet.lock import Hold
from fleet.policy.evidence import MAX_STEP_S, Course, Evidence, look
from fleet.policy.judge import Decision, Seen, Situation, Verdict, judge, to_json, would_act
from fleet.policy.words import span_text
from fleet.quorum import Member
from fleet.spec.model import ReimagePolicy, Role
from fleet.spec.window_text import parse_window

NOW = 1_800_000_000.0  # 2027-01-15, a Friday, 08:00 UTC
AFTER_S = 900
ON = ReimagePolicy(when_failed=True, max_parallel=1, after_s=AFTER_S)
LOST: dict[str, Any] = {"state": State.LOST, "failing_s": 901.0, "kube_ready": False}


def seen(name: str, **facts: Any) -> Seen:
    role = Role.SERVER if name.startswith("s") else Role.AGENT
    number = int(name[1:])
    known = {"state": State.READY, "kube_ready": True, "heard_at": NOW - 1000.0 * number, **facts}
    return Seen(name=name, role=role, **known)


def situation(*nodes: Seen, **facts: Any) -> Situation:
    """Three servers and five agents that are well, but for the given nodes."""
    names = [*(f"s{number}" for number in range(1, 4)), *(f"a{number}" for number in range(1, 6))]
    given = {node.name: node for node in nodes}
    all_nodes = tuple(given.get(name, seen(name)) for name in names)
    members = tuple(
        Member(name=node.name, votes=True, healthy=node.state is State.READY)
        for node in all_nodes
        if node.role is Role.SERVER
    )
    known = {
        "holds": (),
        "policy": ON,
        "zone": "Etc/UTC",
        "now": NOW,
        "kube_answers": True,
        "members": members,
    }
    return Situation(nodes=all_nodes, **{**known, **facts})


def decision_of(where: Situation, name: str) -> Decision:
    return next(decision for decision in judge(where) if decision.node == name)


def codes(where: Situation, name: str) -> list[str]:
    return [reason.code for reason in decision_of(where, name).reasons]


def acts(where: Situation) -> list[str]:
    return [decision.node for decision in judge(where) if decision.verdict is Verdict.ACT]


def test_an_agent_that_failed_for_long_enough_is_reimaged() -> None:
    where = situation(seen("a1", **LOST))
    assert acts(where) == ["a1"]
    assert decision_of(where, "a1").reasons == ()


def test_a_server_that_failed_is_reimaged_where_etcd_can_do_without_it() -> None:
    assert acts(situation(seen("s1", **LOST))) == ["s1"]


@pytest.mark.parametrize(
    ("facts", "verdict", "code"),
    [
        ({"state": State.DEGRADED, "kube_ready": False, "failing_s": 0.0}, Verdict.WELL, "heard"),
        ({**LOST, "kube_ready": True}, Verdict.WELL, "kube-ready"),
        ({**LOST, "failing_s": 899.0}, Verdict.FAILING, "failing"),
        ({**LOST, "state": State.QUARANTINED}, Verdict.LEFT, "quarantined"),
        ({**LOST, "state": State.DECLARED}, Verdict.LEFT, "no-member"),
        ({**LOST, "state": State.FAILED_IMAGING}, Verdict.LEFT, "no-member"),
        ({**LOST, "state": State.IMAGING}, Verdict.BUSY, "busy"),
        ({**LOST, "unobserved": True}, Verdict.HELD, "restored"),
        ({**LOST, "obstacle": "under-voltage"}, Verdict.HELD, "health"),
        ({**LOST, "policy_at": NOW - 3600.0}, Verdict.HELD, "again"),
        ({**LOST, "policy_at": NOW - 86_401.0}, Verdict.ACT, None),
        # A record from the future, after the clock was set back: lately, until that is over.
        ({**LOST, "policy_at": NOW + 3600.0}, Verdict.HELD, "again"),
    ],
)
def test_each_fact_has_its_verdict(facts: dict[str, Any], verdict: Verdict, code: str | None) -> None:
    decision = decision_of(situation(seen("a1", **facts)), "a1")
    assert decision.verdict is verdict
    assert [reason.code for reason in decision.reasons] == ([code] if code else [])


@pytest.mark.parametrize(
    "state", [state for state in State if state not in (State.LOST, State.READY, State.DEGRADED)]
)
def test_only_members_of_the_cluster_are_ever_taken_down(state: State) -> None:
    decision = decision_of(situation(seen("a1", **{**LOST, "state": state})), "a1")
    busy = state in REIMAGING or state.is_active
    assert decision.verdict is (Verdict.BUSY if busy else Verdict.LEFT)


def test_time_left_is_told() -> None:
    decision = decision_of(situation(seen("a1", **{**LOST, "failing_s": 840.0})), "a1")
    assert decision.due_in_s == 60.0
    assert "silent and not ready for 14 min, it counts as failed after 15 min" in decision.reasons[0].text


def test_every_reason_is_told_at_once() -> None:
    policy = replace(ON, when_failed=False, windows=(parse_window("sat 01:00-02:00"),))
    held = Hold(node="a2", role=Role.AGENT, number=1, taken_at=0.0, by="x", stuck=True, state="lost")
    where = situation(
        seen("a1", **LOST, unobserved=True, obstacle="storage fails", policy_at=NOW),
        policy=policy,
        holds=(held,),
    )
    assert codes(where, "a1") == ["restored", "again", "lock", "health", "window", "off"]


@pytest.mark.parametrize(
    ("policy", "code"), [(replace(ON, when_failed=False), "off"), (replace(ON, dry_run=True), "dry-run")]
)
def test_what_only_the_settings_forbid_is_shown_as_what_would_be_done(
    policy: ReimagePolicy, code: str
) -> None:
    decision = decision_of(situation(seen("a1", **LOST), policy=policy), "a1")
    assert decision.verdict is Verdict.HELD
    assert [reason.code for reason in decision.reasons] == [code]
    assert would_act(decision)
    assert to_json(decision)["would_act"] is True
    assert not would_act(decision_of(situation(seen("a1", **LOST, obstacle="x"), policy=policy), "a1"))


def test_silence_of_most_nodes_is_the_servers_own() -> None:
    nodes = [seen(name, **LOST) for name in ("s1", "s2", "a1", "a2", "a3")]
    where = situation(*nodes)
    assert acts(where) == []
    assert all("isolated" in codes(where, node.name) for node in nodes)
    assert "isolated" not in codes(situation(*nodes[:4]), "a1")


def test_a_lone_node_is_never_reimaged_by_policy() -> None:
    alone = Situation(
        nodes=(seen("a1", **LOST),), holds=(), policy=ON, zone="Etc/UTC", now=NOW, kube_answers=True
    )
    assert codes(alone, "a1") == ["isolated"]


def test_nothing_is_done_while_kubernetes_is_silent() -> None:
    where = situation(seen("a1", **{**LOST, "kube_ready": None}), kube_answers=False)
    assert acts(where) == []
    assert codes(where, "a1") == ["kube-silent"]


def test_nodes_that_fell_silent_together_share_a_switch() -> None:
    three = [
        seen(name, **LOST, heard_at=NOW - 5000.0 - 40.0 * step)
        for step, name in enumerate(("a1", "a2", "a3"))
    ]
    where = situation(*three)
    assert acts(where) == []
    assert "together with a2, a3" in decision_of(where, "a1").reasons[0].text
    assert acts(situation(*three[:2])) == ["a1"]
    apart = [replace(node, heard_at=NOW - 5000.0 - 130.0 * step) for step, node in enumerate(three)]
    assert len(acts(situation(*apart))) == 1


def test_two_servers_down_at_once_are_left_to_a_person() -> None:
    where = situation(seen("s1", **LOST), seen("s2", **LOST))
    assert acts(where) == []
    for name in ("s1", "s2"):
        (quorum,) = decision_of(where, name).reasons
        assert quorum.code == "quorum"
        assert "only 1 of 3 servers are healthy" in quorum.text


def test_the_last_of_two_servers_is_never_gambled_with() -> None:
    members = (Member(name="s1", votes=True, healthy=False), Member(name="s2", votes=True, healthy=True))
    assert codes(situation(seen("s1", **LOST), members=members), "s1") == ["quorum"]


def test_a_server_of_which_etcd_is_not_known_to_know_is_left_alone() -> None:
    assert codes(situation(seen("s1", **LOST), members=()), "s1") == ["quorum"]


def test_a_server_goes_first_and_alone() -> None:
    where = situation(seen("s1", **LOST), seen("a1", **{**LOST, "failing_s": 9000.0}))
    assert acts(where) == ["s1"]
    assert codes(where, "a1") == ["lock"]


def test_of_several_agents_as_many_go_as_the_budget_allows_the_longest_dead_first() -> None:
    nodes = [seen(f"a{number}", **{**LOST, "failing_s": 900.0 + number}) for number in (1, 2, 3)]
    assert acts(situation(*nodes)) == ["a3"]
    assert acts(situation(*nodes, policy=replace(ON, max_parallel=2))) == ["a2", "a3"]
    assert codes(situation(*nodes), "a1") == ["budget"]


def test_decisions_come_in_the_order_of_the_nodes_and_as_json() -> None:
    where = situation(seen("a2", **LOST))
    found = judge(where)
    assert [decision.node for decision in found] == [node.name for node in where.nodes]
    assert to_json(found[4]) == {
        "node": "a2", "role": "agent", "verdict": "act", "would_act": True,
        "failing_s": 901.0, "due_in_s": None, "reasons": [],
    }  # fmt: skip


def test_evidence_is_counted_from_look_to_look() -> None:
    evidence = Evidence()
    for step in range(11):
        evidence = look(evidence, silent=True, ready=False, now=NOW + 5.0 * step)
    assert evidence.failing_s == 50.0


@pytest.mark.parametrize(
    ("silent", "ready", "expected"),
    [(True, False, 105.0), (True, None, 100.0), (True, True, 0.0), (False, False, 0.0), (False, None, 0.0)],
)
def test_a_sign_from_either_side_begins_anew(silent: bool, ready: bool | None, expected: float) -> None:
    assert look(Evidence(100.0, NOW), silent=silent, ready=ready, now=NOW + 5.0).failing_s == expected


@pytest.mark.parametrize(("step", "gained"), [(1e9, MAX_STEP_S), (-1e9, 0.0), (0.0, 0.0)])
def test_a_clock_that_is_set_proves_nothing(step: float, gained: float) -> None:
    assert look(Evidence(100.0, NOW), silent=True, ready=False, now=NOW + step).failing_s == 100.0 + gained


def test_a_node_that_kubernetes_does_not_know_is_not_ready_and_one_that_is_gone_is_forgotten() -> None:
    course = Course()
    for step in range(3):
        course.look({"a1": True, "a2": True}, {"a2": True}, NOW + 5.0 * step)
    assert (course.failing_s("a1"), course.failing_s("a2")) == (10.0, 0.0)
    course.look({"a2": True}, {}, NOW + 20.0)
    assert course.failing_s("a1") == 0.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 s"), (59.9, "59 s"), (60, "1 min"), (3600, "1 h"), (9000, "2 h 30 min"), (90_000, "1 d 1 h")],
)
def test_spans_in_words(seconds: float, text: str) -> None:
    assert span_text(seconds) == text
