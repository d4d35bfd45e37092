"""Nodes of a fleet over a cluster of simulated k3s servers on a real etcd: what their boards and agents do.

The controller, the store, TLS and etcd are real; the agent's part is played here, k3s is the simulator.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fakes_fleet import hardware_of, installer_hello, status_report
from fakes_fleet_server import Running
from fleet_story import (
    KEY,
    ask_to_install,
    complete,
    enrol,
    install,
    require_token,
    see,
    state_of,
)
from k3s_sim_etcd import PACE, EtcdCluster, etcd_directory
from k3s_sim_material import finish, put
from k3s_sim_processes import Simulated
from k3s_unit import unit_starts

from agent import restore as restore_etcd
from agent.commands import Completed
from agent.protocol import InstallProgress, InstallStep, JoinMaterial, K3sState, Outcome, Proof, ProofKind
from agent.recovery import Restore
from fleet.boots import BootStage
from fleet.errors import FleetError
from fleet.lifecycle import State
from fleet.refusal import RefusedError
from fleet.spec.model import NodeSpec, Role

STORY_S = 240.0

CLUSTER = """
version: 1
cluster: {{name: attic, domain: attic.internal, k3s: {{version: v1.33.5+k3s1}}}}
image: {{base: raspios-lite-trixie}}
network: {{interface: lo, dhcp: full, subnet: {net}.0/24, server_address: {net}.250}}
nodes:
  - {{name: s1, board: pi5, role: server, serial: 10000000abcd0001, address: {net}.1, disk: nvme}}
  - {{name: a1, board: pi5, role: agent, serial: 10000000abcd0009, address: {net}.9, disk: nvme,
     labels: {{tier: small}}}}
"""
MORE = """\
  - {{name: s2, board: pi5, role: server, serial: 10000000abcd0002, address: {net}.2, disk: nvme}}
  - {{name: s3, board: pi5, role: server, serial: 10000000abcd0003, address: {net}.3, disk: nvme}}
"""


@dataclass
class Board:
    """An installed node: what its agent would do, with the simulator in place of k3s."""

    server: Running
    cluster: EtcdCluster
    spec: NodeSpec
    certificate: str
    k3s: Simulated | None = None
    material: JoinMaterial | None = None
    is_up: bool = False
    is_clean: bool = False
    done: int = 0
    sequence: int = 0
    settings: str = ""
    boots: int = 1
    restoring: bool = False
    restorer: Simulated | None = None

    @property
    def k3s_state(self) -> K3sState:
        if self.k3s is None:
            return K3sState.INACTIVE
        return K3sState.RUNNING if self.is_up else K3sState.STARTING

    async def advance(self) -> None:
        """One round: report, fetch the order, carry it out."""
        self._look()
        joins = self.server.fleet.controller.joins
        self.sequence += 1
        report = status_report(
            hardware_of(self.spec), self.sequence, k3s=self.k3s_state, boot_id=f"boot-{self.boots}"
        )
        report = dataclasses.replace(report, generation=self.done)
        try:
            accepted = joins.status(self.certificate, report)
        except RefusedError:  # its certificate is void: it would enrol again, and wait
            return
        if accepted.generation == self.done:
            return
        desired = joins.desired(self.certificate)
        if self.material is None or self.restoring:
            if desired.join:
                await self._join()
            return
        if self.is_up and not self.is_clean:
            finish(self.cluster.lab, self.spec.name, self.material)
            self.is_clean = True
        if self.is_clean:
            put(self.cluster.lab, self.spec.name, desired.files)
            self.settings = "".join(file.content for file in desired.files) or self.settings
            self.done = desired.generation

    async def _join(self) -> None:
        controller = self.server.fleet.controller
        with contextlib.suppress(RefusedError):  # a server that is elected anew does not answer for seconds
            await controller.preparation.prepare(self.certificate)
            self.material = controller.joins.join_material(self.certificate)
            put(self.cluster.lab, self.spec.name, self.material.files)
            self.restoring = self.material.restore is not None
            if self.material.restore is None or await self._restore(self.material.restore):
                self.restoring = False
                self.k3s = self._start()

    async def _restore(self, restore: Restore) -> bool:
        """What the agent does with a snapshot, by its own code; systemd is played here."""
        lab, name = self.cluster.lab, self.spec.name
        recovery = self.server.fleet.controller.recovery
        with self.server.fleet.store.read() as reader:
            record = reader.require_node(name)

        def fetch(number: str, offset: int) -> bytes:
            return recovery.read_piece(record, number, offset)

        if restore_etcd.advance(lab.directory / f"{name}-root", self._systemd, fetch, restore):
            return False
        (Path(f"{lab.config(name)}.d") / Path(restore.reset_drop_in).name).unlink()
        return True

    def _systemd(
        self, argv: Sequence[str], *, input_bytes: bytes = b"", timeout_s: float = 1.0, check: bool = True
    ) -> Completed:
        text = ""
        if argv[0] == "systemd-run":
            assert argv[-2:] == [restore_etcd.K3S, "server"]
            self.restorer = self._start()
        elif argv[:2] == ["systemctl", "show"]:
            ended = None if self.restorer is None else self.restorer.process.poll()
            states = {None: "activating", 0: "active"}
            text = "inactive" if self.restorer is None else states.get(ended, "failed")
            text = f"ActiveState={text}\n"
        elif argv[0] == "journalctl":
            assert self.restorer is not None
            text = self.restorer.log
        elif argv[1] in ("reset-failed", "stop"):
            self.restorer = None
        return Completed(tuple(argv), 0, text.encode(), "")

    def switch_off(self) -> None:
        """The power goes."""
        if self.k3s is not None:
            self.k3s.process.kill()
            self.k3s.wait_exit()

    def start_old_system(self) -> bool:
        """Somebody switches it on: its unit starts k3s, where it does; whether it did."""
        lab, name = self.cluster.lab, self.spec.name
        root, settings = lab.directory / f"{name}-root", Path(f"{lab.config(name)}.d")
        place = root / "etc/rancher/k3s" / "config.yaml.d"
        if not place.exists():
            place.symlink_to(settings)
        if not unit_starts(root, lab.data(name)):
            return False
        self.k3s = self._start()
        return True

    def see_first_sign(self) -> None:
        """A board that was never installed, as far as the record knows, is switched on."""
        self.server.in_loop(lambda: see(self.server.fleet, self.spec))

    def netboot(self) -> None:
        """The board starts its installer, which writes the disk; its new system enrols."""
        self.switch_off()
        for place in (
            self.cluster.lab.data(self.spec.name),
            self.cluster.lab.directory / f"{self.spec.name}-root",
        ):
            shutil.rmtree(place, ignore_errors=True)
        self.server.in_loop(self._install_again)
        self.k3s, self.restorer, self.material, self.settings = None, None, None, ""
        self.is_up = self.is_clean = False
        self.done = self.sequence = 0

    def _install_again(self) -> None:
        fleet = self.server.fleet
        with fleet.store.read() as reader:
            intent = reader.open_intent(self.spec.name)
        assert intent is not None, f"{self.spec.name} may not be installed now"
        see(fleet, self.spec)
        see(fleet, self.spec, BootStage.KERNEL)
        boot = f"boot-{intent.number}"
        hello = installer_hello(hardware_of(self.spec), KEY, intent=intent.number, boot=boot)
        for _ in range(2):
            welcome = fleet.controller.admission.hello(hello)
            proof = Proof(welcome.session, ProofKind.NONE, installer_key=KEY.hex())
            verdict = fleet.controller.admission.prove(proof, None)
            if verdict.outcome is Outcome.PENDING:
                fleet.controller.people.approve(self.spec.name, None)
        token = require_token(verdict)
        plan = fleet.controller.installs.plan(token)
        fleet.controller.installs.progress(token, InstallProgress(plan.intent, InstallStep.WRITE, 50.0))
        fleet.controller.installs.complete(token, complete(plan))
        self.certificate = enrol(fleet, self.spec)
        self.boots += 1

    def _start(self) -> Simulated:
        name, address = self.spec.name, str(self.spec.address)
        if self.spec.role is Role.AGENT:
            return self.cluster.lab.start(name, "agent", "--node-ip", address)
        environ = {"K3S_SIM_ETCD": str(etcd_directory()), **PACE}
        kubeconfig = str(self.cluster.lab.kubeconfig(name))
        return self.cluster.lab.start(
            name, "server", "--bind-address", address, "--node-ip", address,
            "--write-kubeconfig", kubeconfig, environ=environ,
        )  # fmt: skip

    def _look(self) -> None:
        if self.k3s is not None and not self.is_up:
            self.k3s.notify.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                self.is_up = self.k3s.notify.recv(100) == b"READY=1\n"


def begin(server: Running, cluster: EtcdCluster, name: str) -> Board:
    """Install and enrol a declared node; a person approves servers."""
    fleet = server.fleet
    spec = fleet.controller.spec.find_node(name)
    assert spec is not None

    def story() -> str:
        if spec.role is Role.SERVER:
            see(fleet, spec, BootStage.KERNEL)
            ask_to_install(fleet, spec)
            fleet.controller.people.approve(name, None)
        install(fleet, spec)
        return enrol(fleet, spec)

    return Board(server, cluster, spec, server.in_loop(story))


def until(server: Running, boards: list[Board], done: Any, what: str) -> None:
    """Let every board and the controller go on until `done()`."""

    async def story() -> None:
        async with asyncio.timeout(STORY_S):
            while not done():
                for board in boards:
                    await board.advance()
                controller = server.fleet.controller
                await controller.watch.poll()
                await controller.reimages.drive()
                await controller.rollouts.drive()
                with contextlib.suppress(FleetError):  # it says so in its log, and looks again
                    await controller.recovery.round()
                await asyncio.sleep(0.1)

    try:
        asyncio.run_coroutine_threadsafe(story(), server.loop).result(STORY_S + 10)
    except TimeoutError:
        states = {board.spec.name: (board.k3s_state, board.k3s and board.k3s.log[-1500:]) for board in boards}
        raise AssertionError(f"not within {STORY_S:.0f} s: {what}; {states}") from None


def are_ready(server: Running, boards: list[Board]) -> bool:
    return all(state_of(server.fleet, board.spec) is State.READY and board.is_clean for board in boards)
