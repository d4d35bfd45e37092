"""Policy over random outages: nodes that die and come back, a network that is cut, a server that restarts,
clocks that are set. Whatever happens, no living node is taken down, no budget is exceeded, and quorum is not
risked."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import example, given, settings
from hypothesis import strategies as st

from fleet.lifecycle import State
from fleet.lock import Hold
from fleet.policy.evidence import Course
from fleet.policy.judge import MEMBERS, Seen, Situation, Verdict, excused, judge
from fleet.quorum import Member, quorum_of
from fleet.spec.model import ReimagePolicy, Role

LOOK_S = 5.0
SILENT_S = 35.0
STALE_S = 60.0
AFTER_S = 300
AGAIN_S = 3600
REIMAGE_LOOKS = 30
SERVERS = ("s1", "s2", "s3")
NODES = (*SERVERS, "a1", "a2", "a3", "a4")
POLICY = ReimagePolicy(when_failed=True, max_parallel=2, after_s=AFTER_S, again_after_s=AGAIN_S)


@dataclass
class World:
    """What is true, and what the control server makes of it. `real` is time that no clock shows."""

    real: float = 1e6
    offset: float = 8e8
    cut: bool = False
    split: bool = False
    """The agents' switch is dead: nobody hears them, and they live."""
    unready: set[str] = field(default_factory=set)
    """Their kubelet is dead, their agent lives."""
    started: float = 1e6
    sets: int = 0
    dead_since: dict[str, float] = field(default_factory=dict)
    heard: dict[str, float] = field(default_factory=lambda: dict.fromkeys(NODES, 1e6 + 8e8))
    course: Course = field(default_factory=Course)
    listing: dict[str, bool] = field(default_factory=dict)
    listed_at: float = 0.0
    under_way: dict[str, int] = field(default_factory=dict)
    ordered: dict[str, float] = field(default_factory=dict)
    orders: list[str] = field(default_factory=list)

    @property
    def now(self) -> float:
        return self.real + self.offset

    def is_alive(self, name: str) -> bool:
        return name not in self.dead_since and name not in self.under_way

    def is_thought_alive(self, name: str) -> bool:
        """Nobody can know of what died a moment ago; the checks before the first step ask etcd itself."""
        return self.is_alive(name) or self.real - self.dead_since.get(name, 0.0) <= STALE_S + SILENT_S

    def is_heard(self, name: str) -> bool:
        return self.is_alive(name) and not self.cut and not (self.split and name not in SERVERS)

    def do(self, event: str, name: str, amount: int) -> None:
        if event == "kill" and self.is_alive(name):
            self.dead_since[name] = self.real
        elif event == "revive":
            self.dead_since.pop(name, None)
        elif event == "cut":
            self.cut = True
        elif event == "mend":
            self.cut = False
        elif event == "split":
            self.split = not self.split
        elif event == "kubelet":
            self.unready ^= {name}
        elif event == "restart":
            self.course, self.listing, self.listed_at = Course(), {}, 0.0
            self.started = self.real
        elif event == "clock":
            self.offset += (amount - 50) * 400.0
            self.sets += 1
        for _ in range(amount):
            self.look()

    def look(self) -> None:
        self.real += LOOK_S
        self._finish()
        up = [name for name in SERVERS if self.is_alive(name)]
        self.heard |= {name: self.now for name in NODES if self.is_heard(name)}
        if not self.cut and len(up) >= 2:
            self.listing = {name: self.is_heard(name) and name not in self.unready for name in NODES}
            self.listed_at = self.now
        answers = abs(self.now - self.listed_at) <= STALE_S
        states = {name: self._state(name) for name in NODES}
        silent = {name: state is State.LOST for name, state in states.items()}
        lost = {name: self.heard[name] for name in NODES if silent[name]}
        members = sum(state in MEMBERS for state in states.values())
        self.course.look(silent, self.listing if answers else None, self.now, excused(lost, members))
        self._act(states, answers=answers)

    def _state(self, name: str) -> State:
        if name in self.under_way:
            return State.IMAGING
        silence = self.now - max(self.heard[name], self.started + self.offset)
        return State.LOST if silence > SILENT_S else State.READY

    def _finish(self) -> None:
        for name in list(self.under_way):
            self.under_way[name] -= 1
            if not self.under_way[name]:
                del self.under_way[name]
                self.dead_since.pop(name, None)
                self.heard[name] = self.now

    def _act(self, states: dict[str, State], *, answers: bool) -> None:
        situation = Situation(
            nodes=tuple(self._seen(name, states[name], answers=answers) for name in NODES),
            holds=tuple(self._hold(name) for name in self.under_way),
            policy=POLICY,
            zone="Etc/UTC",
            now=self.now,
            kube_answers=answers,
            members=tuple(
                Member(name=name, votes=True, healthy=self.listing[name] and states[name] is State.READY)
                for name in SERVERS
            )
            if answers and self.listing
            else (),
        )
        for decision in judge(situation):
            if decision.verdict is Verdict.ACT:
                self._order(decision.node)

    def _order(self, name: str) -> None:
        # Each time the clock was set, a look may have counted for three.
        assert name in self.dead_since, "a living node was taken down"
        assert self.real - self.dead_since[name] >= AFTER_S - 10.0 * self.sets, (
            "it was not dead for long enough"
        )
        assert self.real - self.started >= AFTER_S - 10.0 * self.sets, "the silence of a restart was counted"
        last = self.ordered.get(name)
        if last is not None and not self.sets:
            assert self.now - last >= AGAIN_S, "a node was re-imaged over and over"
        self.under_way[name] = REIMAGE_LOOKS
        self.ordered[name] = self.now
        self.orders.append(name)
        servers = [other for other in self.under_way if other in SERVERS]
        assert len(servers) <= 1
        if servers:
            assert len(self.under_way) == 1
        assert len(self.under_way) <= POLICY.max_parallel
        if name in SERVERS:
            left = [server for server in SERVERS if server != name]
            assert sum(map(self.is_thought_alive, left)) >= quorum_of(len(left)), "quorum was gambled with"

    def _seen(self, name: str, state: State, *, answers: bool) -> Seen:
        return Seen(
            name=name,
            role=Role.SERVER if name in SERVERS else Role.AGENT,
            state=state,
            heard_at=self.heard[name],
            failing_s=self.course.failing_s(name),
            kube_ready=self.listing.get(name, False) if answers else None,
            policy_at=self.ordered.get(name),
        )

    def _hold(self, name: str) -> Hold:
        role = Role.SERVER if name in SERVERS else Role.AGENT
        return Hold(node=name, role=role, number=1, taken_at=0.0, by="policy", stuck=False, state="imaging")


KINDS = ("kill", "kill", "revive", "cut", "mend", "split", "kubelet", "restart", "clock", "wait")
EVENTS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.sampled_from(NODES), st.sampled_from([1, 9, 20, 61, 100])),
    max_size=25,
)


@settings(max_examples=60)
@given(EVENTS)
@example([("kill", "a1", 20), ("clock", "", 61)])
@example([("kill", "a1", 61), ("restart", "", 9)])
@example([("kubelet", "a1", 100)])
@example([("split", "", 100)])
@example([("split", "", 100), ("kill", "a1", 1), ("split", "", 9)])
@example([("kill", "a1", 1), ("kill", "a2", 1), ("kill", "a3", 100), ("revive", "a2", 9)])
@example([("kill", "s1", 20), ("kill", "s2", 100)])
def test_whatever_happens_policy_makes_nothing_worse(events: list[tuple[str, str, int]]) -> None:
    world = World()
    for event, name, amount in events:
        world.do(event, name, amount)


def test_each_of_several_dead_nodes_comes_back_in_its_turn() -> None:
    """The same world, without malice: the property above would hold of a policy that never acts, too."""
    world = World()
    for name, looks in (("a1", 60), ("s2", 60), ("a3", 60), ("a4", 300)):
        world.do("kill", name, looks)
    assert sorted(world.orders) == ["a1", "a3", "a4", "s2"]
    assert not world.dead_since


def test_a_cut_cable_of_the_control_server_changes_nothing_for_ever() -> None:
    world = World()
    world.do("cut", "", 2000)
    assert world.orders == []
    world.do("restart", "", 2000)
    assert world.orders == []
    world.do("mend", "", 200)
    assert world.orders == []
