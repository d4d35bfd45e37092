"""Random lives of a cluster that comes into being: nodes that report, fail and come back, a Kubernetes API
that is away, and a controller whose process ends at any await. What must never be so is looked at after
every step.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from fakes_fleet import Clock, Fleet, cluster_spec, hardware_of, node_spec, open_fleet, status_report
from fakes_kube_memory import CutOffError, KubeMemory
from fleet_story import enrol, install
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from agent.protocol import JoinMaterial, K3sState, Problem
from fleet.controller import Controller
from fleet.installs import ControlInfo
from fleet.join import secrets as join_secrets
from fleet.join.failures import FAILURES
from fleet.join.preparation import needs_token
from fleet.join.secrets import NODE_LABEL, TOKEN_TTL_S, accepts_password, expires_at
from fleet.join.state import JoinState
from fleet.join.turn import WANTS_TO_JOIN
from fleet.k3s.material import K3sMaterial, open_k3s
from fleet.kube.objects import KubeNode
from fleet.lifecycle import State, limit_s
from fleet.refusal import RefusedError
from fleet.spec.model import Role
from fleet.store.records import NodeRecord

pytestmark = pytest.mark.integration

SERVERS = [node_spec(f"s{number}", number, role=Role.SERVER) for number in (1, 2, 3)]
AGENTS = [node_spec(f"a{number}", number + 3) for number in (1, 2)]
NODES = {node.name: node for node in (*SERVERS, *AGENTS)}
SPEC = cluster_spec(*NODES.values())
names = st.sampled_from(sorted(NODES))
cuts = st.none() | st.integers(0, 6)
CHEAP_LOG_N = 2
MAY_SERVE = (State.READY, State.DEGRADED, State.JOINING, State.FAILED_JOINING)


class Lives(RuleBasedStateMachine):
    """All nodes are installed and enrolled at the start; the rest is chance."""

    template: Path
    """State directory with keys, made once."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        shutil.copytree(self.template, self.directory, dirs_exist_ok=True)
        self.kube = KubeMemory()
        self.fleet: Fleet = open_fleet(self.directory, SPEC, Clock())
        self.keys: K3sMaterial = open_k3s(self.directory / "k3s", "attic", self.fleet.clock())
        self.certificates: dict[str, str] = {}
        for node in NODES.values():
            install(self.fleet, node)
            self.certificates[node.name] = enrol(self.fleet, node)
        self.held: dict[str, JoinMaterial] = {}
        self.founders: set[str] = set()
        self.generations: dict[str, int] = {}
        self.sequence = 0
        self.controller = self.new_controller()

    def teardown(self) -> None:
        self.fleet.store.close()
        shutil.rmtree(self.directory)

    def new_controller(self) -> Controller:
        return Controller(
            self.fleet.store,
            SPEC,
            self.fleet.pki,
            self.keys,
            self.fleet.images,
            ControlInfo((), ""),
            clock=self.fleet.clock,
            connect=self.kube.connect,
        )

    def run_until(self, what: Coroutine[Any, Any, None], cut: int | None) -> None:
        """Carry it out; after so many answers of the API the process ends and another one starts."""
        self.kube.calls_left = cut
        try:
            asyncio.run(what)
        except CutOffError:
            self.controller = self.new_controller()
        finally:
            self.kube.calls_left = None

    def records(self) -> list[NodeRecord]:
        with self.fleet.store.read() as reader:
            return reader.nodes()

    @initialize(servers=st.integers(0, 2), agents=st.integers(0, 2))
    def begin(self, servers: int, agents: int) -> None:
        """Most lives begin with a cluster of one or two servers, in which agents have just come up."""
        for node in SERVERS[:servers]:
            self.comes_up(node.name, None)
            self.poll(None)
        for node in AGENTS[:agents]:
            self.comes_up(node.name, None)

    @rule(name=names, cut=cuts)
    def comes_up(self, name: str, cut: int | None) -> None:
        """What chance alone would put together too seldom: the way of a node that nothing disturbs."""
        self.ask(name)
        self.fetch(name, cut)
        self.kubelet(name, ready=True, votes=True)

    @rule(name=names)
    def ask(self, name: str) -> None:
        desired = self.controller.joins.desired(self.certificates[name])
        assert desired.material <= desired.generation
        assert desired.generation >= self.generations.get(name, 0)
        self.generations[name] = desired.generation

    @rule(
        name=names,
        k3s=st.sampled_from([K3sState.INACTIVE, K3sState.STARTING, K3sState.RUNNING, K3sState.FAILED]),
        code=st.none() | st.sampled_from(sorted(FAILURES)),
    )
    def report(self, name: str, k3s: K3sState, code: str | None) -> None:
        self.sequence += 1
        status = status_report(hardware_of(NODES[name]), self.sequence, k3s=k3s)
        problems = () if code is None else (Problem(code, "m", "h"),)
        held = self.held.get(name)
        material = held.generation if held is not None else 0
        done = material if k3s is K3sState.RUNNING else 0
        status = dataclasses.replace(status, problems=problems, material=material, generation=done)
        self.controller.joins.status(self.certificates[name], status)

    @rule(name=names, cut=cuts)
    def fetch(self, name: str, cut: int | None) -> None:
        async def story() -> None:
            with contextlib.suppress(RefusedError):
                await self.controller.preparation.prepare(self.certificates[name])
                self.take(name, self.controller.joins.join_material(self.certificates[name]))

        self.run_until(story(), cut)

    def take(self, name: str, material: JoinMaterial) -> None:
        self.held[name] = material
        handed = "".join(file.content for file in material.files)
        if "cluster-init: true" in handed:
            self.founders.add(name)
        if NODES[name].role is Role.AGENT:
            for credential in (self.keys.server_token, self.keys.agent_token):
                assert credential.reveal().rpartition(":")[2] not in handed
            assert "PRIVATE KEY" not in handed
        secret = self.kube.secrets.get(f"{name}.node-password.k3s")
        if name not in self.founders:
            with self.fleet.store.read() as reader:
                assert secret is not None
                assert accepts_password(secret, reader.require_node(name).node_password)

    @rule(name=names, ready=st.booleans(), votes=st.booleans())
    def kubelet(self, name: str, *, ready: bool, votes: bool) -> None:
        """A node that was handed its material runs k3s."""
        if name in self.held:
            is_server = NODES[name].role is Role.SERVER
            self.kube.nodes_seen[name] = KubeNode(
                name, ready, "" if ready else "stopped", "v1.33.5+k3s1", votes if is_server else None, "uid"
            )

    @rule(name=names)
    def node_object_is_deleted(self, name: str) -> None:
        self.kube.nodes_seen.pop(name, None)

    @rule(answers=st.booleans())
    def api(self, answers: bool) -> None:
        self.kube.answers = answers

    @rule(cut=cuts)
    def poll(self, cut: int | None) -> None:
        self.run_until(self.controller.watch.poll(), cut)

    @rule(seconds=st.sampled_from([1.0, 5.0, 5.0, 20.0, 20.0, 700.0, 1300.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.fleet.clock.advance(seconds)
        self.controller.tick()

    @rule()
    def controller_restarts(self) -> None:
        self.controller = self.new_controller()

    @precondition(lambda self: self.kube.answers)
    @rule()
    def tokens_are_gone_after_a_look_unless_their_nodes_need_them(self) -> None:
        asyncio.run(self.controller.watch.poll())
        records = self.records()
        may_serve = any(
            node.role is Role.SERVER and node.join_allowed and node.state in MAY_SERVE for node in records
        )
        with self.fleet.store.read() as reader:
            states = JoinState.load_all(reader)
        joining = {node.name for node in records if needs_token(node, states.get(node.name, JoinState()))}
        tokens = asyncio.run(self.kube.bootstrap_tokens())
        assert not may_serve or {one["metadata"]["labels"][NODE_LABEL] for one in tokens} <= joining

    @invariant()
    def one_cluster(self) -> None:
        assert len(self.founders) <= 1

    @invariant()
    def servers_join_one_at_a_time(self) -> None:
        busy = [
            node.name
            for node in self.records()
            if node.role is Role.SERVER and node.state in WANTS_TO_JOIN and node.join_allowed
        ]
        assert len(busy) <= 1

    @invariant()
    def every_token_ends(self) -> None:
        now = self.fleet.clock()
        for secret in self.kube.secrets.values():
            if secret["type"] == "bootstrap.kubernetes.io/token":
                assert 0 < expires_at(secret) <= now + TOKEN_TTL_S

    @invariant()
    def every_active_state_ends(self) -> None:
        for node in self.records():
            if node.state.is_active:
                assert limit_s(node.state, node.role) is not None


def test_no_life_of_a_cluster_breaks_its_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join_secrets, "_SCRYPT_LOG_N", CHEAP_LOG_N)
    open_fleet(tmp_path, SPEC, Clock()).store.close()
    for file in tmp_path.glob("control.db*"):
        file.unlink()
    Lives.template = tmp_path
    run_state_machine_as_test(
        Lives,
        settings=settings(
            max_examples=25,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=True,
            phases=[Phase.generate],  # a life that was cut shorter takes minutes to find
        ),
    )
