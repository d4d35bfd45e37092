"""What comes next for a node that is taken down: the questions, and any story of crashes, outages and people.

The world here is a few values. A story is a list of what happens between two steps; a crash is a deed that
was done and never heard of, or a step that was decided and never taken.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from node_records import record, reimage_record

from fleet.kube.objects import KubeNode
from fleet.kube.pods import KubePod
from fleet.lifecycle import LEAVING, REIMAGE_FROM, WAY_BACK, Happening, State, advance, check
from fleet.reimage import progress
from fleet.reimage.kinds import Outcome, ReimageKind
from fleet.reimage.steps import (
    MAX_RETRIES,
    Abort,
    Close,
    Deed,
    Do,
    Move,
    Note,
    Observed,
    Wait,
    asks_for_obstacles,
    needs_observation,
    next_step,
)
from fleet.spec.model import Role
from fleet.store.records import NodeRecord, ReimageRecord

NOW = 1_000_000.0


def an_order(**changes: Any) -> ReimageRecord:
    return reimage_record("a1", 7, **changes)


def a_node(state: State, role: Role = Role.AGENT) -> NodeRecord:
    return record("a1", role, state, allowed=True)


def kube_node(**changes: Any) -> KubeNode:
    return dataclasses.replace(KubeNode("a1", True, "", "v1.33.5+k3s1", uid="u1"), **changes)


OURS = {progress.CORDON_ANNOTATION: "reimage-7"}
OTHERS = {progress.CORDON_ANNOTATION: "reimage-6"}
POD = KubePod(namespace="default", name="web", uid="p1", owner="ReplicaSet")
THERE = Observed(answers=True, node=kube_node())


@pytest.mark.parametrize(
    ("state", "observed", "expected"),
    [
        (State.REIMAGE_REQUESTED, Observed(), Happening.CHECKS_BEGAN),
        (State.PREFLIGHT, Observed(), Deed.CHECK),
        (State.CORDONED, Observed(), Wait),
        (State.CORDONED, THERE, Deed.CORDON),
        (State.CORDONED, Observed(answers=True), Happening.CORDON_SEEN),
        (
            State.CORDONED,
            Observed(answers=True, node=kube_node(unschedulable=True, annotations=OURS)),
            Happening.CORDON_SEEN,
        ),
        (
            State.CORDONED,
            Observed(answers=True, node=kube_node(unschedulable=True, annotations=OTHERS)),
            Happening.CORDON_SEEN,
        ),
        (State.DRAINING, Observed(), Wait),
        (State.DRAINING, dataclasses.replace(THERE, pods=(POD,)), Deed.EVICT),
        (State.DRAINING, dataclasses.replace(THERE, pods=(POD,), silent=True), Happening.AGENT_DRAINED),
        (State.DRAINING, THERE, Happening.AGENT_DRAINED),
        (State.LEADER_MOVED, Observed(), Deed.MOVE_LEADER),
        (State.SNAPSHOTTED, Observed(), Deed.TAKE_SNAPSHOT),
        (State.MEMBER_REMOVED, Observed(), Deed.REMOVE_MEMBER),
        (State.NODE_DELETED, Observed(), Wait),
        (State.NODE_DELETED, Observed(answers=True, password=True), Deed.DELETE_PASSWORD),
        (State.NODE_DELETED, Observed(answers=True), Happening.NODE_GONE),
        (State.REBOOT_TO_INSTALLER, Observed(), Deed.ENTER),
        (State.FAILED_MEMBER_REMOVED, Observed(), Happening.HELD_BACK),
        (State.FAILED_NODE_DELETED, Observed(), Note),
        (State.FAILED_NODE_DELETED, Observed(answers=True), Happening.RETRIED),
        (State.FAILED_REBOOT_TO_INSTALLER, Observed(), Happening.EXHAUSTED),
        (State.QUARANTINED, Observed(), Wait),
        (State.READY, THERE, Outcome.ABANDONED),
        (State.DECOMMISSIONED, Observed(), Outcome.ABANDONED),
    ],
)
def test_each_state_has_its_question(state: State, observed: Observed, expected: Any) -> None:
    step = next_step(an_order(), a_node(state), observed, NOW)
    match step:
        case Do(deed):
            assert deed is expected
        case Move(happening):
            assert happening is expected
        case Close(outcome):
            assert outcome is expected
        case _:
            assert type(step) is expected


@pytest.mark.parametrize("pod", [{"owner": "DaemonSet"}, {"is_mirror": True}, {"is_finished": True}])
def test_some_pods_stay(pod: dict[str, Any]) -> None:
    observed = dataclasses.replace(THERE, pods=(dataclasses.replace(POD, **pod),))
    step = next_step(an_order(), a_node(State.DRAINING), observed, NOW)
    assert isinstance(step, Move)


def test_a_server_takes_the_longer_road() -> None:
    step = next_step(an_order(), a_node(State.DRAINING, Role.SERVER), THERE, NOW)
    assert isinstance(step, Move)
    assert step.happening is Happening.SERVER_DRAINED


@pytest.mark.parametrize("state", sorted(LEAVING - {State.FAILED_CORDONED}))
def test_who_calls_off_what_another_cordoned_leaves_it_cordoned(state: State) -> None:
    order = an_order(
        progress={
            progress.CANCEL: "ana",
            progress.CORDON: progress.THEIRS,
            progress.STEPS: {State.CORDONED.value: NOW},
        }
    )
    seen = Observed(answers=True, node=kube_node(unschedulable=True, annotations=OTHERS))
    assert next_step(order, a_node(state), seen, NOW) == Abort(Outcome.CANCELLED, "called off by ana")


@pytest.mark.parametrize("state", [State.FAILED_MEMBER_REMOVED, State.FAILED_NODE_DELETED])
def test_an_outage_uses_no_try_up_and_its_end_takes_the_step_up_again(state: State) -> None:
    """Also when every try was used up before: a lock that waits for this node waits for no person."""
    step = state.value.removeprefix("failed-")
    order = an_order(
        progress={
            progress.ASKED: NOW,
            progress.RETRIES: {step: MAX_RETRIES},
            progress.FAILURE: "etcd has no leader",
        }
    )
    away, back = Observed(obstacle="etcd has no leader"), Observed(answers=True)
    assert isinstance(next_step(order, a_node(state, Role.SERVER), back, NOW), Wait)
    seen = next_step(order, a_node(state, Role.SERVER), away, NOW)
    assert isinstance(seen, Note)
    order = dataclasses.replace(order, progress={**order.progress, **seen.note})
    waits = next_step(order, a_node(state, Role.SERVER), away, NOW + 1e6)
    assert isinstance(waits, Wait)
    assert "taken up by itself" in waits.why
    move = next_step(order, a_node(state, Role.SERVER), back, NOW)
    assert isinstance(move, Move)
    assert move.happening is Happening.RETRIED
    order = dataclasses.replace(order, progress={**order.progress, **move.note})
    assert progress.retries(order, step) == MAX_RETRIES
    assert isinstance(next_step(order, a_node(state, Role.SERVER), back, NOW), Wait | Note)


def test_an_outage_that_comes_and_goes_is_told_and_the_step_goes_on() -> None:
    """etcd that finds and loses its leader lets a step alternate for ever: nobody was told."""
    state, away, back = State.FAILED_MEMBER_REMOVED, Observed(obstacle="no leader"), Observed()
    order, node = an_order(progress={progress.ASKED: NOW}), a_node(state, Role.SERVER)
    for count in range(1, progress.MANY_TAKE_UPS + 3):
        now = NOW + count * 200.0
        noted = next_step(order, node, away, now)
        assert isinstance(noted, Note)
        order = dataclasses.replace(order, progress={**order.progress, **noted.note})
        move = next_step(order, node, back, now + 10.0)
        assert isinstance(move, Move)
        assert move.happening is Happening.RETRIED
        order = dataclasses.replace(order, progress={**order.progress, **move.note})
        found = progress.unsteady(order)
        assert (found is not None) is (count >= progress.MANY_TAKE_UPS)
    assert found is not None
    assert (found.state, found.count, found.since, found.said) == (
        "member-removed",
        count,
        NOW + 210.0,
        "no leader",
    )


@pytest.mark.parametrize(("between_s", "is_told"), [(300.0, False), (progress.LONG_S, True)])
def test_two_long_outages_are_told_as_well(between_s: float, is_told: bool) -> None:
    order = an_order(progress={progress.OUTAGE: "no leader"})
    order = dataclasses.replace(order, progress=progress.taken_up(order, "member-removed", NOW))
    assert progress.unsteady(order) is None
    order = dataclasses.replace(order, progress=progress.taken_up(order, "member-removed", NOW + between_s))
    assert (progress.unsteady(order) is not None) is is_told
    other = progress.taken_up(order, "node-deleted", NOW + between_s)
    assert progress.unsteady(dataclasses.replace(order, progress=other)) is None


# --- stories

BOARDS_ROAD = {
    State.REBOOT_TO_INSTALLER: Happening.BOOT_STARTED,
    State.FAILED_REBOOT_TO_INSTALLER: Happening.BOOT_STARTED,
    State.NETBOOTING: Happening.ADMITTED,
    State.FAILED_NETBOOT: Happening.BOOT_STARTED,
    State.IMAGING: Happening.INSTALLED,
    State.FAILED_IMAGING: Happening.BOOT_STARTED,
    State.FIRST_BOOT: Happening.ENROLLED,
    State.FAILED_FIRST_BOOT: Happening.ENROLLED,
    State.JOINING: Happening.BECAME_READY,
    State.FAILED_JOINING: Happening.BECAME_READY,
}
"""What the board does next, once it is awaited."""


def test_only_a_new_board_is_awaited_without_an_end() -> None:
    """A board with an old disk may start at any time, and that disk is not written without a word then."""
    order = dataclasses.replace(an_order(), reason="a1 does not answer: pull its plug")
    step = next_step(order, a_node(State.FAILED_REBOOT_TO_INSTALLER), Observed(), NOW)
    assert isinstance(step, Move)
    assert step.happening is Happening.EXHAUSTED
    waiting = dataclasses.replace(order, progress={**order.progress, **step.note})
    said = next_step(waiting, a_node(State.QUARANTINED), Observed(), NOW)
    assert isinstance(said, Wait)
    assert "bramble approve a1" in said.why
    assert "pull its plug" in said.why, "what a hand has to do is not forgotten"
    another = dataclasses.replace(order, kind=ReimageKind.REPLACE)
    assert isinstance(next_step(another, a_node(State.FAILED_REBOOT_TO_INSTALLER), Observed(), NOW), Wait)


@dataclass
class World:
    """A node in its cluster, and the record of it."""

    role: Role
    order: ReimageRecord
    node: NodeRecord
    clock: float = NOW
    seen: KubeNode | None = None
    pods: tuple[KubePod, ...] = ()
    password: bool = True
    answers: bool = True
    stubborn: bool = False
    objection: bool = False
    """The last look before the removal finds something against it."""
    refuses: bool = False
    """What can not be called off any more is asked for, and is not done."""
    members: int = 3
    theirs: bool = False
    deeds: list[Deed] = field(default_factory=list)
    passed: list[State] = field(default_factory=list)
    registrations: int = 1
    tries: int = 0
    """Of one step, since a person last said to go on."""

    def observe(self) -> Observed:
        if asks_for_obstacles(self.order, self.node):
            return Observed(obstacle="" if self.answers else "etcd has no leader")
        if not self.answers or not needs_observation(self.order, self.node):
            return Observed()
        return Observed(answers=True, node=self.seen, pods=self.pods, password=self.password)

    def note(self, **values: Any) -> None:
        self.order = dataclasses.replace(self.order, progress={**self.order.progress, **values})

    def move(self, happening: Happening) -> None:
        standing = advance(self.node.standing, happening, self.clock)
        self.node = dataclasses.replace(self.node, standing=standing)
        self.passed.append(standing.state)
        if happening in (Happening.MEMBER_GONE, Happening.NODE_GONE):
            self.tries = 0
        self.note(**progress.step_entered(self.order, standing.state.value, self.clock))

    def close(self, outcome: Outcome, reason: str) -> None:
        self.order = dataclasses.replace(self.order, outcome=outcome, reason=reason, closed_at=self.clock)

    def step(self, *, crash: str = "") -> None:
        """What the driver does in one round; `crash`: where its process ends."""
        if self.order.closed_at is not None:
            return
        step = next_step(self.order, self.node, self.observe(), self.clock)
        if crash == "decided":
            return
        match step:
            case Move() as move:
                self.note(**move.note)
                self.move(move.happening)
                if move.happening is Happening.RETRIED:
                    # One that could not succeed is not counted: only the end of an outage brings it back.
                    assert self.answers
                    self.tries += progress.OUTAGE not in move.note
                    assert self.tries <= MAX_RETRIES, "it is tried for ever"
                if move.happening is Happening.NODE_GONE:
                    self.note(**{progress.ENTERED: self.clock})
            case Note(note):
                self.note(**note)
            case Abort() as abort:
                assert self.node.state in LEAVING
                self.move(WAY_BACK[self.order.was])
                self.close(abort.outcome, abort.reason)
            case Close(outcome, reason):
                self.close(outcome, reason)
            case Do(deed):
                self.do(deed, heard_of=crash != "done")
            case Wait():
                pass

    def do(self, deed: Deed, *, heard_of: bool) -> None:
        if deed is Deed.REMOVE_MEMBER and self.members == 3 and self.objection:
            return
        if self.refuses and deed in (Deed.REMOVE_MEMBER, Deed.DELETE_NODE, Deed.DELETE_PASSWORD):
            if deed is Deed.REMOVE_MEMBER:
                self.note(**{progress.ASKED: self.clock})
            return
        self.deeds.append(deed)
        match deed:
            case Deed.CHECK:
                if heard_of:
                    self.note(**{progress.NODE_UID: self.seen.uid if self.seen else ""})
                    self.move(Happening.CHECKS_PASSED)
            case Deed.CORDON:
                assert self.seen is not None
                self.seen = dataclasses.replace(self.seen, unschedulable=True, annotations=OURS)
            case Deed.UNCORDON:
                assert self.seen is not None
                assert not self.theirs, "a cordon of another is taken back by its owner only"
                self.seen = dataclasses.replace(self.seen, unschedulable=False, annotations={})
            case Deed.CORDON_AGAIN:
                assert self.theirs
                assert self.seen is not None
                self.seen = dataclasses.replace(self.seen, unschedulable=True)
            case Deed.EVICT | Deed.DELETE_PODS:
                if not self.stubborn or deed is Deed.DELETE_PODS:
                    self.pods = ()
            case Deed.MOVE_LEADER | Deed.TAKE_SNAPSHOT:
                happening = {
                    Deed.MOVE_LEADER: Happening.LEADER_ELSEWHERE,
                    Deed.TAKE_SNAPSHOT: Happening.SNAPSHOT_KEPT,
                }[deed]
                if heard_of:
                    self.note(**({progress.SNAPSHOT: "s1"} if deed is Deed.TAKE_SNAPSHOT else {}))
                    self.move(happening)
            case Deed.REMOVE_MEMBER:
                assert progress.text(self.order, progress.SNAPSHOT), "its snapshot is on record before"
                self.note(**{progress.ASKED: self.clock})
                self.members = 2
                if heard_of:
                    self.move(Happening.MEMBER_GONE)
            case Deed.DELETE_NODE:
                assert self.node.state is State.NODE_DELETED
                assert self.seen is not None
                assert progress.text(self.order, progress.NODE_UID) == self.seen.uid
                self.seen, self.pods = None, ()
            case Deed.DELETE_PASSWORD:
                self.password = False
            case Deed.ENTER:
                pass

    def time_passes(self, seconds: float) -> None:
        self.clock += seconds
        overdue = check(self.node.standing, self.node.role, self.clock)
        if overdue is not None:
            self.move(overdue)

    def approve(self) -> None:
        """A person lets it out of quarantine."""
        if self.node.state is State.QUARANTINED and self.order.closed_at is None:
            self.note(**{progress.FAILURE: None})
            self.move(Happening.AWAITED_AGAIN)

    def board(self, happening: Happening) -> None:
        """What the board does, where the lifecycle lets it."""
        is_awaited = progress.has_entered(self.order) and self.order.closed_at is None
        if is_awaited and BOARDS_ROAD.get(self.node.state) is happening:
            self.move(happening)
            if happening is Happening.BECAME_READY:
                self.registrations += 1
                self.seen = kube_node(uid=f"u{self.registrations}")
                self.password = True


EVENTS = st.one_of(
    st.sampled_from(["step", "step", "step", "crash-decided", "crash-done", "cancel", "outage", "answers"]),
    st.sampled_from(
        [
            "minute",
            "hour",
            "silence",
            "refusal",
            "registers",
            "registers",
            "vanishes",
            "evicts",
            "resumes",
            "objection",
        ]
    ),
    st.sampled_from(
        [
            Happening.BOOT_STARTED,
            Happening.ADMITTED,
            Happening.INSTALLED,
            Happening.ENROLLED,
            Happening.BECAME_READY,
        ]
    ),
)


def long_enough_for_every_retry(world: World) -> None:
    for _ in range(12):
        world.step()
        world.time_passes(200.0)
        world.step()


def happen(world: World, event: str | Happening) -> None:
    match event:
        case Happening():
            world.board(event)
        case "step":
            world.step()
        case "crash-decided":
            world.step(crash="decided")
        case "crash-done":
            world.step(crash="done")
        case "cancel":
            if world.order.closed_at is None and world.node.state in LEAVING:
                world.note(**{progress.CANCEL: "ana"})
            elif world.order.closed_at is None and progress.is_held(world.order, world.node.state):
                world.note(**{progress.CANCEL: "ana"})
                world.move(Happening.HELD_BACK)
        case "objection":
            world.objection = True
        case "outage":
            world.answers = False
        case "answers":
            world.answers = True
        case "silence":
            world.answers = False
            long_enough_for_every_retry(world)
            world.answers = True
        case "refusal":
            world.refuses = True
            long_enough_for_every_retry(world)
            world.refuses = False
        case "minute":
            world.time_passes(61.0)
        case "hour":
            world.time_passes(3601.0)
        case "evicts":
            world.stubborn = False
        case "registers":
            if world.node.state is State.NODE_DELETED and world.seen is None:
                world.registrations += 1
                world.seen = kube_node(uid=f"u{world.registrations}")
        case "vanishes":
            if world.node.state in LEAVING:
                world.seen = None
        case "resumes":
            if world.node.state.value.startswith("failed-") and world.node.state not in LEAVING:
                world.note(**{progress.RETRIES: {}, progress.FAILURE: None})
                world.tries = 0
            world.approve()


@settings(max_examples=600, deadline=None)
@given(
    head=st.integers(0, 14),
    story=st.lists(EVENTS, max_size=40),
    role=st.sampled_from(Role),
    was=st.sampled_from(REIMAGE_FROM),
    theirs=st.booleans(),
    stubborn=st.booleans(),
    force=st.booleans(),
    board_comes=st.booleans(),
)
def test_any_story_ends_and_keeps_its_promises(
    head: int,
    story: list[str | Happening],
    role: Role,
    was: State,
    theirs: bool,
    stubborn: bool,
    force: bool,
    board_comes: bool,
) -> None:
    node = a_node(was, role)
    node = dataclasses.replace(node, standing=advance(node.standing, Happening.REIMAGE_ORDERED, NOW))
    seen = kube_node(unschedulable=theirs)
    order = an_order(was=was, force_drain=force)
    world = World(role, order, node, seen=seen, pods=(POD,), stubborn=stubborn, theirs=theirs)
    for _ in range(head):  # so that the story begins at any point of the road
        world.step()
    for event in story:
        happen(world, event)

    # Peace: the API answers, pods may leave, nothing happens by itself any more but time.
    world.answers, world.stubborn, world.objection = True, False, False
    for _ in range(200):
        if world.order.closed_at is not None:
            break
        world.step()
        if board_comes:
            world.approve()
        if board_comes and world.node.state in BOARDS_ROAD:
            world.board(BOARDS_ROAD[world.node.state])
        elif world.node.state.is_active:
            world.time_passes(30.0)
    order, state = world.order, world.node.state
    assert order.closed_at is not None or not (state.is_active or state in LEAVING), f"{state} does not end"
    if order.outcome in (Outcome.CANCELLED, Outcome.FAILED):
        assert state is was or world.passed.index(was) >= 0
        assert Deed.DELETE_NODE not in world.deeds
        assert Deed.REMOVE_MEMBER not in world.deeds
    if order.outcome is not None and world.seen is not None and not theirs:
        assert not world.seen.unschedulable
        assert progress.CORDON_ANNOTATION not in world.seen.annotations
    was_theirs = progress.text(order, progress.CORDON) == progress.THEIRS
    if was_theirs and world.seen is not None and order.outcome is not None:
        assert world.seen.unschedulable
    if board_comes and progress.has_entered(order) and progress.NODE_UID in order.progress:
        assert (order.outcome, state) == (Outcome.DONE, State.READY)
    if Deed.REMOVE_MEMBER in world.deeds:
        after = world.passed[world.passed.index(State.MEMBER_REMOVED) :]
        assert State.READY not in after or State.JOINING in after
    if role is Role.AGENT:
        assert world.members == 3
