"""A real agent process against the real control API over TLS: its log, a command, and its own replacement."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agent_archives import VERSION, make_release, without_service
from agent_nodes import SYSTEMD_RUN, make_node_root, write_tree
from fakes_fleet import cluster_spec
from fakes_fleet_server import Running, running
from fleet_story import SERVER, install, kube_ready, state_of, texts

import agent
from agent import commands
from agent.update import Releases, launch
from fleet.admin_client import FleetReader
from fleet.api.guard import Limits
from fleet.errors import FleetError
from fleet.lifecycle import State
from fleet.spec.model import RemoteRun
from fleet.updates.desk import Archive
from fleet.updates.waves import SOAK_S
from imagebuilder.steps.agent import pack_agent

pytestmark = pytest.mark.integration

TIMEOUT_S = 60.0
PROGRAMS = {
    "systemctl": "#!/bin/sh\nprintf 'LoadState=loaded\\nActiveState=inactive\\nSubState=dead\\n'",
    "journalctl": "#!/bin/sh\necho 'pi5-1 k3s[1]: K10"
    + "0f" * 32
    + "::server:hunter2 rejected'; echo '-- cursor: s=1;i=2'",
    "systemd-run": SYSTEMD_RUN,
}
AGENT = """
import sys
sys.path.insert(0, sys.argv[1])
import pathlib
from agent.notify import ServiceManager
from agent.host import Host
from agent.service import Service
from agent.state import load_node_config
host = Host(root=pathlib.Path(sys.argv[2]), release=sys.argv[3], min_interval_s=0.05)
Service(load_node_config(host.node_file), host, ServiceManager()).run()
"""
RELEASE = make_release()
SHA256 = hashlib.sha256(RELEASE).hexdigest()


class Node:
    """The agent's files and process."""

    def __init__(self, server: Running, directory: Path, *, remote_run: bool) -> None:
        server.in_loop(lambda: install(server.fleet, SERVER))
        self.server = server
        self.root = make_node_root(
            directory / "node",
            node=SERVER.name,
            role="server",
            control_urls=[f"https://127.0.0.1:{server.port}"],
            ca_pem=server.fleet.pki.ca_pem,
            ticket=server.fleet.images.tickets[SERVER.name][-1].reveal(),
            remote_run=remote_run,
        )
        assert SERVER.serial is not None
        write_tree(self.root, {"proc/device-tree/serial-number": SERVER.serial.text.encode() + b"\0"})
        self.image_release = directory / "agent.pyz"
        self.image_release.write_bytes(pack_agent(Path(agent.__file__).parent))
        self.programs = directory / "bin"
        self.programs.mkdir()
        for name, script in PROGRAMS.items():
            (self.programs / name).write_text(script)
            (self.programs / name).chmod(0o755)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """As the unit does: the agent of the image decides which release runs."""
        started = [(self.image_release, "image")]
        state = self.root / "var/lib/bramble"
        launch(state, commands.run, lambda path, sha256: started.append((path, sha256)), lambda _text: None)
        path, release = started[-1]
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", AGENT, path, self.root, release],
            env={**os.environ, "PATH": f"{self.programs}:/usr/bin:/bin"},
            stderr=subprocess.DEVNULL,
        )

    def end(self, number: int) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT_S)

    def status(self) -> dict[str, Any]:
        with self.server.fleet.store.read() as reader:
            return dict(reader.require_node(SERVER.name).status or {})


@contextlib.contextmanager
def make_node(directory: Path, *, remote_run: bool = True) -> Iterator[Node]:
    spec = cluster_spec(SERVER)
    spec = replace(spec, policy=replace(spec.policy, remote_run=RemoteRun.ON))
    limits = Limits(node_burst=10**6)  # here a node reports ten times a second
    with running(directory / "state", spec, limits) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{directory / 'bin'}:{os.environ['PATH']}")
        patch.setattr("fleet.join.desk.JOINING_INTERVAL_S", 0.1)
        node = Node(server, directory, remote_run=remote_run)
        try:
            node.start()
            wait_for(lambda: bool(node.status()))
            yield node
        finally:
            if node.process is not None and node.process.poll() is None:
                node.end(signal.SIGKILL)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def answer(reader: FleetReader, asked: Any) -> dict[str, Any]:
    path = f"/v1/admin/nodes/{SERVER.name}/errand/{asked['number']}"
    wait_for(lambda: bool(reader.ask("GET", path)["done"]))
    found: dict[str, Any] = reader.ask("GET", path)
    return found


def test_ready_node_that_lost_its_state_is_heard_and_settles(tmp_path: Path) -> None:
    with make_node(tmp_path) as node:
        fleet, controller = node.server.fleet, node.server.fleet.controller
        runs = PROGRAMS["systemctl"].replace("=inactive", "=active").replace("=dead", "=running")
        (node.programs / "systemctl.new").write_text(runs)
        (node.programs / "systemctl.new").chmod(0o755)
        (node.programs / "systemctl.new").replace(node.programs / "systemctl")
        wait_for(lambda: node.status()["k3s"] == "running" and node.status()["generation"] > 0)
        node.server.in_loop(lambda: controller.watch.apply_kubernetes(kube_ready(SERVER)))
        wait_for(lambda: state_of(fleet, SERVER) is State.READY)
        before = node.status()
        kubelet = "var/lib/rancher/k3s/agent/client-kubelet"
        write_tree(node.root, {f"{kubelet}.crt": "certificate", f"{kubelet}.key": "key"})
        node.end(signal.SIGKILL)
        for path in (node.root / "var/lib/bramble").glob("state.json*"):
            path.unlink()
        node.start()
        wait_for(lambda: node.status()["sequence"] > before["sequence"])
        wait_for(lambda: node.status()["generation"] == before["generation"])
        after = node.status()
        assert (after["material"], after["problems"]) == (before["material"], [])
        assert state_of(fleet, SERVER) is State.READY
        assert not any("not-joining" in text or "does not join" in text for text in texts(fleet, SERVER.name))


def test_log_lines_come_without_secrets(tmp_path: Path) -> None:
    with make_node(tmp_path) as node:
        reader = FleetReader(node.server.state)
        found = answer(reader, reader.ask("GET", f"/v1/admin/nodes/{SERVER.name}/logs?lines=5"))
        assert found["lines"] == ["pi5-1 k3s[1]: K10" + "0f" * 32 + "::[hidden] rejected"]
        assert found["cursor"] == "s=1;i=2"
        with pytest.raises(FleetError, match="no node 'nobody'"):
            reader.ask("GET", "/v1/admin/nodes/nobody/logs")


def test_command_runs_once_and_stands_in_the_timeline_with_who_asked(tmp_path: Path) -> None:
    with make_node(tmp_path) as node:
        reader = FleetReader(node.server.state)
        path = f"/v1/admin/nodes/{SERVER.name}/run"
        found = answer(reader, reader.ask("POST", path, {"argv": ["echo", "a b", "$HOME"]}))
        assert (found["returncode"], found["stdout"]) == (0, "a b $HOME\n")
        (entry,) = (text for text in texts(node.server.fleet, SERVER.name) if text.startswith("command by"))
        assert entry.endswith(": echo 'a b' '$HOME'")
        assert f"(uid {os.getuid()})" in entry
        wrong: dict[str, Any]
        for wrong in ({"argv": []}, {"argv": ["x"], "timeout_s": 1e9}, {"argv": "reboot"}, {}):
            with pytest.raises(FleetError):
                reader.ask("POST", path, wrong)


def test_node_that_was_installed_without_it_refuses(tmp_path: Path) -> None:
    with make_node(tmp_path, remote_run=False) as node:
        reader = FleetReader(node.server.state)
        found = answer(reader, reader.ask("POST", f"/v1/admin/nodes/{SERVER.name}/run", {"argv": ["id"]}))
        assert (found["refused"], found["returncode"]) == (
            "the image of this node says remote_run: off",
            None,
        )


def test_server_whose_policy_is_off_does_not_ask_the_node(tmp_path: Path) -> None:
    with running(tmp_path / "state", cluster_spec(SERVER)) as server:
        with pytest.raises(FleetError, match="running commands on nodes is off"):
            FleetReader(server.state).ask("POST", f"/v1/admin/nodes/{SERVER.name}/run", {"argv": ["id"]})
        assert not any(text.startswith("command by") for text in texts(server.fleet, SERVER.name))


def test_agent_is_replaced_over_the_network_and_stays_over_kill_9(tmp_path: Path) -> None:
    with make_node(tmp_path) as node:
        fleet, reader = node.server.fleet, FleetReader(node.server.state)
        node.server.in_loop(lambda: fleet.controller.updates.set_source(lambda: Archive(VERSION, RELEASE)))
        assert "order 1" in reader.ask("POST", "/v1/admin/agents/update", {"nodes": []})["message"]
        node.server.in_loop(fleet.controller.updates.tick)
        assert node.process is not None
        assert node.process.wait(TIMEOUT_S) == 0
        assert Releases(node.root / "var/lib/bramble").current() == SHA256
        node.start()
        wait_for(lambda: node.status().get("agent_release") == SHA256)
        assert node.status()["agent_version"] == VERSION
        wait_for(lambda: f"agent_updated: order 1: agent {VERSION} runs" in texts(fleet, SERVER.name))
        assert node.end(signal.SIGKILL) == -signal.SIGKILL
        seen = node.status()["sequence"]
        node.start()
        wait_for(lambda: node.status()["sequence"] > seen)
        assert node.status()["agent_release"] == SHA256

        def look() -> None:
            for _ in range(2):
                fleet.clock.advance(SOAK_S)
                fleet.controller.updates.tick()

        node.server.in_loop(look)
        view = reader.ask("GET", "/v1/admin/agents")
        assert (view["rollout"]["done"], view["rollout"]["halted"]) == (True, "")
        assert view["nodes"][0]["current"]


def test_release_that_can_not_report_is_given_up_and_halts_the_rollout(tmp_path: Path) -> None:
    broken = without_service(RELEASE)
    with make_node(tmp_path) as node:
        fleet, reader = node.server.fleet, FleetReader(node.server.state)
        node.server.in_loop(lambda: fleet.controller.updates.set_source(lambda: Archive(VERSION, broken)))
        reader.ask("POST", "/v1/admin/agents/update", {"nodes": [SERVER.name]})
        node.server.in_loop(fleet.controller.updates.tick)
        assert node.process is not None
        assert node.process.wait(TIMEOUT_S) == 0
        for _ in range(3):
            node.start()
            assert node.process.wait(TIMEOUT_S) != 0
        node.start()  # the agent of the image again
        wait_for(lambda: any("was given up" in text for text in texts(fleet, SERVER.name)))

        def look() -> None:
            fleet.clock.advance(SOAK_S)
            fleet.controller.updates.tick()

        node.server.in_loop(look)
        rollout = reader.ask("GET", "/v1/admin/agents")["rollout"]
        assert rollout["halted"] == f"{SERVER.name} did not keep it (agent_rolled_back)"
        assert json.loads((node.root / "var/lib/bramble/state.json").read_bytes())["update"] == 1
