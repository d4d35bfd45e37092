"""In which order a fleet gets another image, and what comes next: pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.images import ImageFacts
from fleet.k3s.versions import K3sVersion
from fleet.lifecycle import State
from fleet.policy.evidence import MAX_STEP_S
from fleet.reimage.kinds import Outcome
from fleet.rollout.order import AGENTS_BEFORE, AGENTS_FIRST, SERVERS_FIRST, Candidate, Plan, plan
from fleet.rollout.progress import (
    UNWELL_S,
    Sight,
    next_nodes,
    observe,
    resume,
    soak_left_s,
    time_left_s,
)
from fleet.rollout.record import Phase, Rollout, Step, StepState, from_record, to_record
from fleet.rollout.soak import Soak, watch
from fleet.spec.model import Role

NEW, OLD = "1c" * 32, "f" * 64
V33 = K3sVersion(1, 33, 5, 1)
SERVERS, AGENTS = ("s1", "s2", "s3"), ("a1", "a2", "a3", "a4")
NOW = 1_800_000_000.0


def role_of(name: str) -> Role:
    return Role.SERVER if name.startswith("s") else Role.AGENT


def candidate(name: str, **facts: object) -> Candidate:
    known: dict[str, object] = {"state": State.READY, "image_id": OLD, "k3s": V33, **facts}
    return Candidate(node=name, role=role_of(name), **known)  # type: ignore[arg-type]


def planned(
    *changed: Candidate, k3s: str = "v1.33.5+k3s1", canary: str | None = None, parallel: int = 2
) -> Plan:
    given_ = {one.node: one for one in changed}
    fleet = [given_.get(name, candidate(name)) for name in (*SERVERS, *AGENTS)]
    image = ImageFacts(id=NEW, cluster="attic", k3s_version=k3s)
    return plan(fleet, image, canary=canary, max_parallel=parallel, allowed_parallel=2)


def names(found: Plan) -> list[str]:
    return [one.node for one in found.nodes]


@pytest.mark.parametrize(
    ("k3s", "order", "first"),
    [
        ("v1.33.5+k3s1", AGENTS_BEFORE, "a1"),
        ("v1.33.6+k3s1", SERVERS_FIRST, "s1"),
        ("v1.33.5+k3s2", SERVERS_FIRST, "s1"),
        ("v1.34.1+k3s1", SERVERS_FIRST, "s1"),
        ("v1.33.4+k3s1", AGENTS_FIRST, "a1"),
        ("unknown", AGENTS_BEFORE, "a1"),
    ],
)
def test_the_order_follows_from_the_releases(k3s: str, order: str, first: str) -> None:
    found = planned(k3s=k3s)
    assert (found.order, found.canary, found.problems) == (order, first, ())
    roles = [one.role for one in found.nodes]
    assert roles == sorted(roles, key=lambda role: role is not found.nodes[0].role)


@pytest.mark.parametrize(
    ("k3s", "words"),
    [
        ("v1.35.0+k3s1", "leaves out a minor release"),
        ("v1.32.9+k3s1", "a server never goes back"),
        ("v2.33.5+k3s1", "different major releases"),
    ],
)
def test_releases_that_no_order_brings_together_are_refused(k3s: str, words: str) -> None:
    (problem,) = planned(k3s=k3s).problems
    assert problem.code == "version"
    assert words in problem.text


def test_a_fleet_half_way_up_goes_on_with_servers_first() -> None:
    """After an abort: one server has the newer k3s already."""
    found = planned(candidate("s1", image_id=NEW, k3s=K3sVersion(1, 34, 1, 1)), k3s="v1.34.1+k3s1")
    assert found.order == SERVERS_FIRST
    assert names(found) == ["s2", "s3", *AGENTS]


def test_every_problem_is_told_at_once() -> None:
    found = planned(
        candidate("s2", state=State.LOST), candidate("a1", unobserved=True), canary="s1", parallel=3
    )
    assert [problem.code for problem in found.problems] == ["unobserved", "server", "canary", "budget"]


@pytest.mark.parametrize(
    ("canary", "words"),
    [("a9", "no node 'a9'"), ("s1", "of role server: agents first"), ("a2", "has the image already")],
)
def test_a_canary_that_cannot_go_first(canary: str, words: str) -> None:
    (problem,) = planned(candidate("a2", image_id=NEW), canary=canary).problems
    assert words in problem.text


def test_the_wanted_canary_goes_first() -> None:
    assert names(planned(canary="a3")) == ["a3", "a1", "a2", "a4", *SERVERS]


def test_nodes_that_were_never_installed_are_no_part_of_it_and_ones_under_way_are() -> None:
    found = planned(
        candidate("a1", state=State.DECLARED, image_id=None),
        candidate("a2", state=State.DRAINING),
        candidate("a3", state=State.DECOMMISSIONED),
    )
    assert names(found) == ["a2", "a4", *SERVERS]
    assert [warning.code for warning in found.warnings] == ["state", "outside"]


def test_nothing_to_do_is_said() -> None:
    everybody = [candidate(name, image_id=NEW) for name in (*SERVERS, *AGENTS)]
    (problem,) = planned(*everybody).problems
    assert problem.code == "nothing"


def rollout(*, soak_s: float = 60.0, parallel: int = 2, k3s: str = "v1.33.5+k3s1") -> Rollout:
    order = names(planned(k3s=k3s))
    return Rollout(
        number=4,
        image_id=NEW,
        k3s_version="v1.33.5+k3s1",
        requested_at=NOW,
        by="ann",
        canary=order[0],
        max_parallel=parallel,
        soak_s=soak_s,
        epoch=0,
        order=AGENTS_BEFORE,
        steps=tuple(Step(node=name, role=role_of(name)) for name in order),
    )


def ready(image: str = OLD, since: float = NOW) -> Sight:
    return Sight(state=State.READY, since=since, image_id=image)


def test_a_row_reads_back_as_it_was_written() -> None:
    step = Step(
        node="a1", role=Role.AGENT, state=StepState.FAILED, number=3, began=1.0, ended=2.0, reason="x"
    )
    for one in (rollout(), replace(rollout().with_step(step), phase=Phase.STOPPED, reason="a1 failed")):
        assert from_record(to_record(one)) == one


def test_an_order_from_before_a_crash_is_adopted() -> None:
    """The re-image was ordered, and the server ended before the step was written."""
    sight = replace(ready(), state=State.DRAINING, order=7, ordered_by="rollout 4", is_open=True)
    seen = observe(rollout(), {name: ready() for name in (*SERVERS, *AGENTS)} | {"a1": sight}, NOW)
    step = seen.step("a1")
    assert step is not None
    assert (step.state, step.number, step.began) == (StepState.RUNNING, 7, NOW)
    other = replace(sight, ordered_by="rollout 3")
    seen = observe(rollout(), {name: ready() for name in (*SERVERS, *AGENTS)} | {"a1": other}, NOW)
    assert seen.steps == rollout().steps


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (Sight(state=State.LOST, since=NOW, image_id=NEW), "is 'lost'"),
        (Sight(state=State.FAILED_JOINING, since=NOW, image_id=NEW), "is 'failed-joining'"),
        (Sight(state=State.DEGRADED, since=NOW - UNWELL_S - 1, image_id=NEW), "is 'degraded'"),
    ],
)
def test_a_node_that_fails_on_the_new_image_stops_it(after: Sight, words: str) -> None:
    done = rollout().with_step(Step(node="a1", role=Role.AGENT, state=StepState.DONE, number=1, ended=NOW))
    sights = {name: ready() for name in (*SERVERS, *AGENTS)} | {"a1": after}
    stopped = observe(done, sights, NOW)
    assert stopped.phase is Phase.STOPPED
    assert words in stopped.reason
    assert next_nodes(stopped, sights, 0.0).nodes == ()


def test_a_hiccup_after_the_restart_does_not() -> None:
    done = rollout().with_step(Step(node="a1", role=Role.AGENT, state=StepState.DONE, number=1, ended=NOW))
    hiccup = Sight(state=State.DEGRADED, since=NOW - UNWELL_S + 1, image_id=NEW)
    sights = {name: ready() for name in (*SERVERS, *AGENTS)} | {"a1": hiccup}
    assert observe(done, sights, NOW).phase is Phase.RUNNING
    assert soak_left_s(done, sights, 1e9) == float("inf")


def test_a_canary_that_failed_and_came_up_after_all_is_watched_too() -> None:
    failed = rollout().with_step(
        Step(node="a1", role=Role.AGENT, state=StepState.FAILED, number=7, began=NOW)
    )
    sights = {name: ready() for name in (*SERVERS, *AGENTS)} | {"a1": ready(NEW)}
    again = observe(resume(replace(failed, phase=Phase.STOPPED), NOW), sights, NOW)
    assert again.step("a1") == Step(node="a1", role=Role.AGENT, state=StepState.DONE, ended=NOW)
    assert next_nodes(again, sights, 0.0).nodes == ()
    assert next_nodes(again, sights, again.soak_s).nodes == ("a2", "a3")


def test_the_soak_is_what_was_watched_and_no_time_of_a_clock() -> None:
    done = rollout().with_step(Step(node="a1", role=Role.AGENT, state=StepState.DONE, number=1, ended=NOW))
    sights = {name: ready() for name in (*SERVERS, *AGENTS)}
    # The server was away for a day, and then its clock was set: neither was seen by anybody.
    soak = watch(Soak(), done, sights, NOW + 86400)
    soak = watch(soak, done, sights, NOW + 9 * 86400)
    assert soak.watched_s == MAX_STEP_S
    assert next_nodes(done, sights, soak.watched_s).nodes == ()
    soak = watch(soak, done, sights, NOW)  # and set back
    for second in range(0, 50, 5):
        assert next_nodes(done, sights, soak.watched_s).nodes == ()
        soak = watch(soak, done, sights, NOW + second)
    assert next_nodes(done, sights, soak.watched_s).nodes == ("a2", "a3")
    again = sights | {"a1": replace(sights["a1"], since=NOW + 60)}  # it was degraded in between
    assert watch(soak, done, again, NOW + 60).watched_s == 0.0
    assert watch(soak, replace(done, number=9), sights, NOW + 60).watched_s == 0.0
    assert watch(soak, done, sights | {"a1": replace(sights["a1"], state=State.LOST)}, NOW) == Soak()


@pytest.mark.parametrize("outcome", [Outcome.CANCELLED, Outcome.FAILED, Outcome.ABANDONED, Outcome.DONE])
def test_an_order_that_ends_without_the_image_is_a_failure(outcome: Outcome) -> None:
    step = Step(node="a1", role=Role.AGENT, state=StepState.RUNNING, number=7, began=NOW)
    sight = replace(ready(), order=7, ordered_by="rollout 4", outcome=outcome, reason="its drain did not end")
    sights = {name: ready() for name in (*SERVERS, *AGENTS)} | {"a1": sight}
    stopped = observe(rollout().with_step(step), sights, NOW)
    assert stopped.phase is Phase.STOPPED
    assert stopped.reason.startswith("a1 failed: ")
    again = resume(stopped, NOW)
    assert again.phase is Phase.RUNNING
    assert next_nodes(again, sights, 0.0).nodes == ("a1",)


@dataclass
class World:
    """Nodes that carry out orders as chance wants it; the rollout is all that is remembered."""

    rollout: Rollout
    now: float = NOW
    soak: Soak = field(default_factory=Soak)
    images: dict[str, str] = field(default_factory=lambda: dict.fromkeys((*SERVERS, *AGENTS), OLD))
    under_way: dict[str, int] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    orders: dict[str, int] = field(default_factory=dict)
    away: set[str] = field(default_factory=set)

    def sights(self) -> dict[str, Sight]:
        return {name: self._sight(name) for name in self.images}

    def _sight(self, name: str) -> Sight:
        state = State.READY
        if name in self.under_way:
            state = State.QUARANTINED if name in self.broken else State.IMAGING
        elif name in self.away:
            state = State.LOST
        ordered = self.orders.get(name)
        return Sight(
            state=state,
            since=NOW,
            image_id=self.images[name],
            order=ordered,
            ordered_by="rollout 4" if ordered else "",
            is_open=name in self.under_way,
            outcome=Outcome.DONE if ordered and name not in self.under_way else None,
        )

    def look(self) -> None:
        self.now += 10.0
        for name in list(self.under_way):
            if name not in self.broken:
                self.under_way[name] -= 1
                if self.under_way[name] <= 0:
                    del self.under_way[name]
                    self.images[name] = NEW
        self.rollout = observe(from_record(to_record(self.rollout)), self.sights(), self.now)
        self.soak = watch(self.soak, self.rollout, self.sights(), self.now)
        for name in next_nodes(self.rollout, self.sights(), self.soak.watched_s).nodes:
            self.order(name)

    def order(self, name: str) -> None:
        assert self.rollout.phase is Phase.RUNNING
        assert name not in self.under_way
        assert self.images[name] == OLD, "a node is done twice"
        done = [one for one, image in self.images.items() if image == NEW]
        if name != self.rollout.canary:
            assert self.rollout.canary in done, "somebody went before the canary"
        self.under_way[name] = 3
        self.orders[name] = self.orders.get(name, 0) + 1
        down = set(self.under_way)
        assert len(down) <= (1 if any(one in SERVERS for one in down) else self.rollout.max_parallel)
        later, first = (SERVERS, AGENTS) if self.rollout.canary in AGENTS else (AGENTS, SERVERS)
        if name in later:
            assert all(self.images[one] == NEW for one in first)


@settings(max_examples=80)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["look", "look", "break", "mend", "leave", "come", "resume"]),
            st.sampled_from((*SERVERS, *AGENTS)),
            st.integers(1, 12),
        ),
        max_size=30,
    ),
    st.integers(1, 3),
    st.sampled_from(["v1.33.5+k3s1", "v1.34.1+k3s1"]),
)
def test_whatever_fails_and_comes_back_the_rules_hold(
    events: list[tuple[str, str, int]], parallel: int, k3s: str
) -> None:
    world = World(rollout(soak_s=30.0, parallel=parallel, k3s=k3s))
    for event, name, amount in events:
        if event == "break":
            world.broken.add(name)
        elif event == "mend":
            world.broken.discard(name)
        elif event == "leave":
            world.away.add(name)
        elif event == "come":
            world.away.discard(name)
        elif event == "resume" and world.rollout.phase is Phase.STOPPED:
            world.rollout = resume(world.rollout, world.now)
        for _ in range(amount):
            before = len(world.orders)
            was_stopped = world.rollout.phase is Phase.STOPPED
            world.look()
            assert not was_stopped or len(world.orders) == before, "a stopped rollout took a node"
            left = time_left_s(world.rollout, world.sights(), world.now, world.soak.watched_s)
            assert left is None or left >= 0.0
    world.broken.clear()
    world.away.clear()
    for _ in range(200):
        if world.rollout.phase is Phase.STOPPED:
            world.rollout = resume(world.rollout, world.now)
        world.look()
    assert world.rollout.phase is Phase.DONE, "once all is mended, it ends"
    assert set(world.images.values()) == {NEW}
