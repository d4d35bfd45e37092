"""The page of upkeep, and what is told of time: pure values."""

from __future__ import annotations

from typing import Any

import pytest

from bramble.dashboard.choices import Choice, images_for, require_choice
from bramble.dashboard.paces import SEEN_S, STALE_S, Paces, left_text
from bramble.dashboard.rack import card_of
from bramble.dashboard.snapshots_part import recovery_shown, snapshot_line, taking_text
from bramble.dashboard.upkeep_page import (
    MAX_LINES,
    Head,
    HoldLine,
    RolloutShown,
    head_of,
    judged,
    rollout_shown,
)
from bramble.kept_images import KeptImage
from fleet.lifecycle import State
from fleet.recovery.desk import RecoveryView
from fleet.refusal import RefusedError
from fleet.rollout.record import Phase, StepState
from fleet.snapshots.desk import Taking
from fleet.snapshots.manifest import Damaged, SnapshotInfo
from fleet.store.glance import NodeGlance

NOW = 1_800_000_000.0


def step(node: str, state: StepState, **more: Any) -> dict[str, Any]:
    known = {
        "node": node,
        "role": "agent",
        "state": state.value,
        "node_state": "ready",
        "canary": False,
        "number": 1,
        "began": None,
        "ended": None,
        "reason": "",
    }
    return {**known, **more}


def view(phase: Phase, *steps: dict[str, Any], left: float | None = None, reason: str = "") -> dict[str, Any]:
    return {
        "number": 3,
        "image": "1c0ffee1" * 8,
        "k3s_version": "v1.33.5+k3s1",
        "phase": phase.value,
        "reason": reason,
        "requested_at": NOW - 600,
        "closed_at": None,
        "by": "ann",
        "order": "agents first",
        "done": sum(one["state"] == "done" for one in steps),
        "total": len(steps),
        "time_left_s": left,
        "steps": list(steps),
    }


def shown(*arguments: Any, **more: Any) -> RolloutShown:
    found = rollout_shown(view(*arguments, **more), {}, NOW)
    assert found is not None
    return found


def test_a_rollout_under_way_says_how_far_it_is_and_how_long_it_takes_yet() -> None:
    found = shown(
        Phase.RUNNING,
        step("a", StepState.DONE, began=NOW - 500, ended=NOW - 200),
        step("b", StepState.RUNNING, began=NOW - 90),
        step("c", StepState.WAITING),
        left=720.0,
    )
    assert found.title == "Rollout 3: 1 of 3 nodes have it"
    assert found.counts == "1 has it, 1 under way, 1 waits"
    assert found.left == "about 12 min left"
    assert [line.took for line in found.lines] == ["5 min", "1 min", ""]


def test_a_node_of_a_rollout_shows_what_its_board_does() -> None:
    card = card_of(NodeGlance("b", "pi4", "agent", State.IMAGING, 0.0, 1, "write 42 %", None))
    found = rollout_shown(
        view(Phase.RUNNING, step("b", StepState.RUNNING), step("gone", StepState.SKIPPED)), {"b": card}, NOW
    )
    assert found is not None
    assert (found.lines[0].doing, found.lines[0].percent) == ("is being installed: write 42 %", 42)
    assert found.lines[1].doing == "gone"


def test_of_a_large_rollout_what_needs_a_look_has_its_line() -> None:
    steps = [step(f"n-{number:03}", StepState.DONE) for number in range(500)]
    steps += [step("bad", StepState.FAILED, reason="no disk"), step("now", StepState.RUNNING)]
    found = shown(Phase.STOPPED, *steps)
    assert len(found.lines) == MAX_LINES
    assert found.counts == "500 have it, 1 under way, 1 failed"
    assert {"bad", "now"} < {line.node for line in found.lines}
    assert found.hidden == 502 - MAX_LINES


@pytest.mark.parametrize("phase", list(Phase))
def test_every_phase_has_a_title_and_a_tone(phase: Phase) -> None:
    found = shown(phase, step("a", StepState.DONE))
    assert found.title.startswith("Rollout 3")
    assert found.tone in ("ready", "working", "attention", "gone")


def hold(*, stuck: bool) -> HoldLine:
    return HoldLine(
        node="pi-1", role="agent", number=2, by="ann", taken_at=NOW, doing="boots", is_stuck=stuck
    )


@pytest.mark.parametrize(
    ("rollout", "holds", "text"),
    [
        (None, [], "Nothing is under way"),
        (shown(Phase.DONE, step("a", StepState.DONE)), [], "Nothing is under way"),
        (None, [hold(stuck=False)], "1 re-imaged now"),
        (None, [hold(stuck=True)], "pi-1 keeps others back"),
        (shown(Phase.RUNNING, step("a", StepState.WAITING)), [], "Rollout 3: 0 of 1 nodes have it"),
        (shown(Phase.RUNNING, step("a", StepState.WAITING)), [hold(stuck=True)], "pi-1 keeps others back"),
        (
            shown(Phase.STOPPED, step("a", StepState.FAILED)),
            [hold(stuck=True)],
            "Rollout 3 has stopped: 0 of 1 nodes have it",
        ),
    ],
)
def test_what_needs_a_person_is_said_first(
    rollout: RolloutShown | None, holds: list[HoldLine], text: str
) -> None:
    head: Head = head_of(rollout, holds, [])
    assert head.text == text
    assert (head.tone == "attention") == ("back" in text or "stopped" in text)


def decision(node: str, verdict: str, **more: Any) -> dict[str, Any]:
    reasons = [{"code": "off", "text": "it is off", "hint": ""}]
    known = {"node": node, "role": "agent", "verdict": verdict, "would_act": False, "due_in_s": None}
    return {**known, "failing_s": 60.0, "reasons": reasons, **more}


def test_of_the_policys_decisions_those_are_shown_that_say_something() -> None:
    found = judged(
        {
            "decisions": [
                decision("well", "well"),
                decision("busy", "busy"),
                decision("soon", "failing", due_in_s=300.0),
                decision("held", "held"),
                decision("off", "held", would_act=True),
                decision("now", "act"),
            ]
        }
    )
    assert [(one.node, one.word) for one in found] == [
        ("now", "is re-imaged now"),
        ("held", "has failed, and is left alone"),
        ("off", "would be re-imaged"),
        ("soon", "counts as failed in 5 min"),
    ]
    assert found[0].reasons == (("it is off", ""),)


def test_the_time_left_follows_from_how_fast_it_went() -> None:
    paces = Paces()
    assert paces.look("a", "write 10 %", 10, 100.0) == ""
    assert paces.look("a", "write 11 %", 11, 101.0) == "", "too little was seen"
    assert paces.look("a", "write 20 %", 20, 110.0) == "2 min left"  # 80 % at 1 % a second
    assert paces.look("a", "write 50 %", 50, 140.0) == "under a minute left"
    assert paces.look("a", "verify 0 %", 0, 150.0) == "", "another step, another pace"
    assert paces.look("a", "verify 10 %", 10, 150.0 + SEEN_S) == "under a minute left"
    assert paces.look("a", "ready", None, 160.0) == ""
    assert paces.look("a", "verify 60 %", 60, 161.0) == ""


def test_what_stands_still_tells_no_time() -> None:
    paces = Paces()
    paces.look("a", "write 1 %", 1, 0.0)
    assert paces.look("a", "write 5 %", 5, 60.0) == "24 min left"
    assert paces.look("a", "write 5 %", 5, 60.0 + STALE_S) == "23 min left"
    assert paces.look("a", "write 5 %", 5, 61.0 + STALE_S) == ""
    paces.keep([])
    assert paces.look("a", "write 50 %", 50, 200.0) == ""


def test_a_percentage_that_falls_begins_anew() -> None:
    paces = Paces()
    paces.look("a", "write 1 %", 1, 0.0)
    paces.look("a", "write 90 %", 90, 60.0)
    assert paces.look("a", "write 0 %", 0, 61.0) == ""
    assert paces.look("a", "write 50 %", 50, 62.0) == "", "a jump in a second is no pace"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, ""), (1, "under a minute left"), (61, "2 min left"), (7100, "119 min left"), (9000, "2 h left")],
)
def test_spans_of_time_do_not_flicker(seconds: float, text: str) -> None:
    assert left_text(seconds) == text


def kept(image: str, cluster: str = "attic") -> KeptImage:
    return KeptImage(
        id=image * 64,
        cluster=cluster,
        base="debian-trixie",
        kernel="6.12",
        k3s="k3s v1.33.5+k3s1",
        size_bytes=1,
        mapped_bytes=1,
        compressed_bytes=1,
        changed_files=0,
        packages=(),
        places=1,
        made_at=NOW,
    )


def test_images_to_choose_from_say_which_is_the_clusters_and_which_the_node_has() -> None:
    found = images_for([kept("a"), kept("b")], "b" * 64)
    assert found == [
        Choice("", "aaaaaaaaaaaa, k3s v1.33.5+k3s1 on debian-trixie, the cluster's"),
        Choice("b" * 64, "bbbbbbbbbbbb, k3s v1.33.5+k3s1 on debian-trixie, on its disk now"),
    ]
    assert images_for([], None) == [Choice("", "the cluster's")]


def test_nothing_is_taken_that_was_not_offered() -> None:
    choices = [Choice("", "any"), Choice("a", "A")]
    require_choice({}, "x", choices)
    require_choice({"x": "a"}, "x", choices)
    with pytest.raises(RefusedError, match="not there to choose"):
        require_choice({"x": "b"}, "x", choices)


SNAPSHOT = SnapshotInfo(
    id="20260101T000000Z-abcdef",
    cluster="attic",
    cluster_id="1",
    taken_at=NOW,
    by="schedule",
    node="s1",
    servers=("s1", "s2", "s3"),
    removing=("s3",),
    k3s_version="v1.33.5+k3s1",
    etcd_version="3.5.1",
    revision=1,
    size_bytes=23 << 20,
    sha256="0" * 64,
    keys_sha256="0" * 64,
    ca_hash="0" * 64,
)


def test_a_snapshot_says_who_was_a_member_and_what_is_different_now() -> None:
    line = snapshot_line(SNAPSHOT, {"s1"})
    assert (line.size, line.by) == ("23.0 MiB", "by schedule")
    assert [(voter.node, voter.remark) for voter in line.voters] == [
        ("s1", ""),
        ("s2", "no member now"),
        ("s3", "marked for removal then"),
    ]


def test_a_damaged_snapshot_is_shown_with_its_reason() -> None:
    assert snapshot_line(Damaged("x", "its manifest is unsound"), set()).problem == "its manifest is unsound"


@pytest.mark.parametrize(
    ("order", "text"),
    [
        (None, ""),
        (Taking(number=1, state="done", by="ann"), ""),
        (Taking(number=1, state="waiting", by="ann"), "One is being taken."),
        (
            Taking(number=1, state="running", by="ann", done_bytes=1 << 20, total_bytes=4 << 20),
            "One is being taken: 1.0 MiB of 4.0 MiB.",
        ),
        (
            Taking(number=1, state="failed", by="ann", message="no leader", hint="Wait."),
            "The one that ann ordered failed: no leader. Wait.",
        ),
    ],
)
def test_what_becomes_of_a_snapshot_that_was_ordered_is_said(order: Taking | None, text: str) -> None:
    assert taking_text(order) == text


@pytest.mark.parametrize(
    ("phase", "standings", "is_open"),
    [
        ("founding", "here ahead ahead", True),
        ("joining", "done here ahead", True),
        ("done", "done done done", False),
        ("cancelled", "ahead ahead ahead", False),
    ],
)
def test_a_recovery_shows_where_it_is(phase: str, standings: str, is_open: bool) -> None:
    found = recovery_shown(
        RecoveryView(
            snapshot="s",
            taken_at=NOW,
            founder="s1",
            phase=phase,
            began_at=NOW,
            by="ann",
            waits_for=("switch s1 on",),
        )
    )
    assert found is not None
    assert " ".join(stop.standing for stop in found.stops) == standings
    assert found.is_open is is_open
    assert bool(found.ending) is not is_open


def test_no_recovery_is_none() -> None:
    assert recovery_shown(None) is None
