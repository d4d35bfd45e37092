"""`bramble power` from the keyboard to the outlet, over the server's socket; a real program is the outlet."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from fakes_fleet_server import Running, running

from fleet.cli.power import cycle, off, on, state
from fleet.power.cycle import Pace
from fleet.spec import load_cluster
from fleet.trust.tokens import TokenRole

pytestmark = pytest.mark.integration

OUTLET = """
import pathlib, sys
place, action = pathlib.Path(sys.argv[1]), sys.argv[2]
with place.open("a") as log: log.write(action + "\\n")
if action == "status":
    last = [word for word in place.read_text().split() if word != "status"]
    print(last[-1] if last else "on")
if (place.parent / "broken").exists() and action != "status":
    print("the relay is stuck"); sys.exit(4)
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "outlet"


@pytest.fixture
def file(tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BRAMBLE_STATE_DIR", str(tmp_path / "state"))
    program = tmp_path / "outlet.py"
    program.write_text(OUTLET)
    words = [sys.executable, str(program), str(place)]
    power = {name: [*words, word] for name, word in {"on": "on", "off": "off", "status": "status"}.items()}
    document = {
        "version": 1,
        "cluster": {"name": "attic", "domain": "attic.internal", "k3s": {"version": "v1.33.5+k3s1"}},
        "image": {"base": "debian-trixie", "user": {"name": "pi", "ssh_authorized_keys": []}},
        "network": {
            **{"interface": "eth0", "dhcp": "full", "subnet": "10.77.0.0/24"},
            "server_address": "10.77.0.1",
        },
        "nodes": [
            _node("s1", 1, role="server"),
            {**_node("a1", 2), "power": {"driver": "command", "off_for": "1s", **power}},
        ],
    }
    path = tmp_path / "cluster.yaml"
    path.write_text(json.dumps(document))
    return path


def _node(name: str, number: int, role: str = "agent") -> dict[str, str]:
    return {
        **{"name": name, "board": "pi5", "role": role, "disk": "nvme"},
        **{"serial": f"10000000abcd000{number}", "address": f"10.77.0.1{number}"},
    }


@pytest.fixture
def server(file: Path, tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path / "state" / "attic", load_cluster(file)) as one:
        one.fleet.controller.power.pace = Pace(poll_s=0.05)
        work = asyncio.run_coroutine_threadsafe(one.fleet.controller.power.run(), one.loop)
        yield one
        work.cancel()
        with contextlib.suppress(BaseException):
            work.result(10)


def typed(file: Path, command: click.Command, *arguments: str) -> Result:
    return CliRunner().invoke(command, [*arguments, "-c", str(file)])


def test_board_is_cycled_asked_and_seen_off_before_it_is_on(server: Running, file: Path, place: Path) -> None:
    assert typed(file, state, "a1").output == "on\n"
    shown = typed(file, cycle, "a1", "--dry-run")
    assert shown.output.splitlines()[0].startswith("would switch a1 off: the commands '")
    assert place.read_text().split() == ["status"]
    assert typed(file, cycle, "a1").exit_code == 2, "there is no terminal to ask on"
    done = typed(file, cycle, "a1", "--yes")
    assert done.exit_code == 0, done.output
    assert "the device says that it is off" in done.output
    assert place.read_text().split()[1:] == ["off", "status", "on", "status"]
    again = typed(file, off, "a1", "--yes")
    assert "its power was cut" in str(again.exception)
    answer = json.loads(typed(file, on, "a1", "--json").output)
    assert answer["job"]["error"] == ""
    said = [event["text"] for event in _timeline(server)]
    assert any(text.startswith("power-cycled") for text in said)


def test_failure_is_told_with_the_programs_last_words(server: Running, file: Path, place: Path) -> None:
    (place.parent / "broken").touch()
    failed = typed(file, on, "a1")
    assert failed.exit_code == 1
    assert "the relay is stuck" in str(failed.exception)
    assert str(place) in str(failed.exception)


def test_node_without_an_outlet_says_what_a_hand_does(server: Running, file: Path) -> None:
    for words in ([], ["--yes"]):  # also before anybody would be asked
        refused = typed(file, cycle, "s1", *words)
        assert "nothing switches s1 but a person: pull its plug" in str(refused.exception)
    assert typed(file, state, "s1").output == "unknown\n"
    assert "there is no node 'a11'. Did you mean 'a1'?" in str(typed(file, state, "a11").exception)


def test_viewer_sees_the_last_order_and_gives_none(server: Running, place: Path) -> None:
    viewer = server.person("eve", TokenRole.VIEWER)
    path = "/v1/admin/nodes/a1/power"
    assert json.loads(viewer.ask("GET", path).body)["job"] is None
    assert viewer.ask("POST", path, b'{"action": "off"}').status == 403
    admin = server.person("ann", TokenRole.ADMIN)
    assert admin.ask("POST", path, json.dumps({"action": "explode"}).encode()).status == 400
    assert admin.ask("POST", path, json.dumps({"action": "off", "force": "yes"}).encode()).status == 400
    assert admin.ask("POST", path, json.dumps({"action": "off", "dry_run": True}).encode()).status == 200
    assert not place.exists()


def _timeline(server: Running) -> list[dict[str, str]]:
    with server.fleet.store.read() as reader:
        return [{"text": event.text} for event in reader.timeline(node="a1")]
