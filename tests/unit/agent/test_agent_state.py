"""node.json, state.json, files of the join material, clock, certificate dates, waiting times."""

from __future__ import annotations

import dataclasses
import itertools
import json
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agent import clock
from agent.actions import (
    adopt,
    finish_join,
    place_material,
    require_own,
    resolve,
    start_unit,
    write_files,
)
from agent.backoff import Backoff
from agent.commands import Completed
from agent.enrol import parse_renewal_time
from agent.errors import AgentError
from agent.files import write_atomically
from agent.notify import parse_environment
from agent.protocol import Desired, JoinMaterial, NodeFile
from agent.state import AgentState, JoinRecord, StateStore, forget_ticket, load_node_config, parse_node_config

SETTINGS = "/etc/rancher/k3s/config.yaml.d/50-bramble.yaml"
NODE: dict[str, Any] = {
    "version": 1,
    "cluster": "attic",
    "node": "pi-1",
    "role": "server",
    "serial": None,
    "control_urls": ["https://10.77.0.1:7443"],
    "ca_pem": "-----BEGIN CERTIFICATE-----\n",
    "ticket": "5a" * 32,
}


def test_padded_node_file_is_understood() -> None:
    config = parse_node_config(json.dumps(NODE).encode() + b" \n" * 2000)
    assert (config.node, config.role, config.serial) == ("pi-1", "server", None)
    assert config.control_urls == ("https://10.77.0.1:7443",)
    assert "5a5a" not in repr(config)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"version": 2}, "version 1"),
        ({"role": "boss"}, "role is 'boss'"),
        ({"control_urls": []}, "control_urls"),
        ({"node": ""}, "node is missing"),
        ({"ca_pem": None}, "ca_pem is missing"),
    ],
)
def test_wrong_node_file_names_the_key(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(AgentError, match=complaint) as caught:
        parse_node_config(json.dumps({**NODE, **change}).encode())
    assert caught.value.hint


def test_absent_or_torn_node_file_is_an_error_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "node.json"
    with pytest.raises(AgentError, match=r"node\.json can not be read"):
        load_node_config(path)
    path.write_bytes(json.dumps(NODE).encode()[:40])
    with pytest.raises(AgentError, match="is not JSON"):
        load_node_config(path)


def test_ticket_is_forgotten_and_the_rest_stays(tmp_path: Path) -> None:
    path = tmp_path / "node.json"
    path.write_text(json.dumps(NODE))
    forget_ticket(path)
    once = path.read_bytes()
    assert json.loads(once) == {key: value for key, value in NODE.items() if key != "ticket"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    forget_ticket(path)
    assert path.read_bytes() == once


def test_state_survives_a_restart_and_numbers_never_repeat(tmp_path: Path) -> None:
    used = []
    for generation in (1, 2, 3):
        store = StateStore(tmp_path)
        store.load()
        used += [store.next_sequence() for _ in range(5)]
        record = JoinRecord(generation, "k3s.service", (NodeFile("/etc/rancher/x", "0600", "c"),), ("/y",))
        store.save(AgentState(store.state.sequence_reserved, generation, Desired(generation, True), record))
    assert used == sorted(set(used))
    store = StateStore(tmp_path)
    store.load()
    assert store.state.generation == 3
    assert store.state.join is not None
    assert store.state.join.files_after_ready[0].content == "c"


def test_reports_do_not_wear_the_card(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    store.load()
    store.next_sequence()
    written = (tmp_path / "state.json").stat().st_mtime_ns
    for _ in range(500):
        store.next_sequence()
    assert (tmp_path / "state.json").stat().st_mtime_ns == written


@pytest.mark.parametrize("torn", [b"", b"{", b"\0" * 300, b'{"generation": "x"}', b'{"unknown": 1}'])
def test_torn_state_falls_back_to_its_predecessor(tmp_path: Path, torn: bytes) -> None:
    store = StateStore(tmp_path)
    store.load()
    last = store.next_sequence()
    store.save(AgentState(store.state.sequence_reserved, 4))
    store.save(AgentState(store.state.sequence_reserved, 5))
    (tmp_path / "state.json").write_bytes(torn)
    again = StateStore(tmp_path)
    again.load()
    assert again.damaged
    assert again.state.generation == 4
    assert again.next_sequence() > last
    third = StateStore(tmp_path)
    third.load()
    assert not third.damaged
    assert third.state.generation == 4


def test_both_copies_lost_is_a_fresh_start(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_bytes(b"x")
    (tmp_path / "state.json.previous").write_bytes(b"y")
    store = StateStore(tmp_path)
    store.load()
    assert store.state == AgentState()
    assert store.damaged


def test_generation_never_goes_back_even_when_the_disk_refuses(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    store.load()
    store.save(AgentState(generation=7))
    store.save(AgentState(generation=2))
    assert store.state.generation == 7
    (tmp_path / "state.json.bramble-new").mkdir()
    with pytest.raises(AgentError, match="can not be written"):
        store.save(AgentState(generation=8))
    assert store.state.generation == 8


def test_failed_write_leaves_the_old_content_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "target"
    path.mkdir()
    with pytest.raises(AgentError):
        write_atomically(path, b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["target"]


class Recorder:
    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []

    def __call__(
        self, argv: Sequence[str], *, input_bytes: bytes = b"", timeout_s: float = 1.0, check: bool = True
    ) -> Completed:
        self.calls.append(tuple(argv))
        return Completed(tuple(argv), 0, b"", "")


CONFIG = "/etc/rancher/k3s/config.yaml.d/50-bramble.yaml"
TOKEN = "/etc/rancher/k3s/bramble-token"


def test_material_is_placed_before_the_unit_starts(tmp_path: Path) -> None:
    material = JoinMaterial(3, "k3s.service", (NodeFile(TOKEN, "0600", "t"), NodeFile(CONFIG, "0644", "c")))
    recorder = Recorder()
    record = place_material(tmp_path, recorder, material, restart=False)
    assert (tmp_path / TOKEN[1:]).read_text() == "t"
    assert stat.S_IMODE((tmp_path / CONFIG[1:]).stat().st_mode) == 0o644
    assert record == JoinRecord(3, "k3s.service", pending="start")
    assert recorder.calls == []
    start_unit(recorder, record)
    assert [call[1] for call in recorder.calls] == ["enable", "start"]


def test_directories_of_k3s_server_are_for_root_only(tmp_path: Path) -> None:
    manifest = "/var/lib/rancher/k3s/server/manifests/extra/vip.yaml"
    beside = "/var/lib/rancher/k3s/server-notes/x"
    write_files(tmp_path, [NodeFile(path, "0644", "c") for path in (manifest, beside, CONFIG)])
    modes = {
        str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode)
        for path in tmp_path.rglob("*")
        if path.is_dir()
    }
    assert {name for name, mode in modes.items() if mode == 0o700} == {
        "var/lib/rancher/k3s/server",
        "var/lib/rancher/k3s/server/manifests",
        "var/lib/rancher/k3s/server/manifests/extra",
    }
    assert {mode for mode in modes.values() if mode != 0o700} == {0o755}


def test_token_reference_is_dropped_before_the_token(tmp_path: Path) -> None:
    """k3s does not start with a token-file that is not there: the order matters at every power cut."""
    write_files(tmp_path, (NodeFile(TOKEN, "0600", "t"), NodeFile(CONFIG, "0600", f"token-file: {TOKEN}")))
    record = JoinRecord(1, "k3s.service", (NodeFile(CONFIG, "0600", "clean"),), (TOKEN,))
    blocker = tmp_path / (CONFIG[1:] + ".bramble-new")
    blocker.mkdir()
    with pytest.raises(AgentError):
        finish_join(tmp_path, record)
    assert (tmp_path / TOKEN[1:]).exists()
    blocker.rmdir()
    finish_join(tmp_path, record)
    assert not (tmp_path / TOKEN[1:]).exists()
    assert (tmp_path / CONFIG[1:]).read_text() == "clean"
    finish_join(tmp_path, record)


KEPT = NodeFile(CONFIG, "0600", "server: https://10.0.0.1:6443\n")


@pytest.mark.parametrize(
    ("there", "kept", "removes"),
    [
        (f"token-file: {TOKEN}\nnode-name: pi-1\n", KEPT.content, (TOKEN,)),
        (f"token-file: {TOKEN}\n", f"token-file: {TOKEN}\n", ()),
        ("agent-token-file: /etc/rancher/k3s/bramble-agent-token\n", KEPT.content, ()),
        ("token-file: /etc/shadow\n", KEPT.content, ()),
        (KEPT.content, KEPT.content, ()),
        (None, KEPT.content, ()),
    ],
    ids=["not-cleaned", "keeps-its-token", "another-key", "a-persons-own", "cleaned", "no-settings"],
)
def test_join_whose_record_was_lost_is_cleaned_up_as_far_as_it_was_not(
    tmp_path: Path, there: str | None, kept: str, removes: tuple[str, ...]
) -> None:
    if there is not None:
        write_files(tmp_path, (NodeFile(TOKEN, "0600", "t"), NodeFile(CONFIG, "0600", there)))
    files = (dataclasses.replace(KEPT, content=kept),)
    record = adopt(tmp_path, "k3s.service", 7, files)
    assert (record.generation, record.unit, record.pending) == (7, "k3s.service", "")
    assert (record.cleaned, record.remove_after_ready) == (not removes, removes)
    finish_join(tmp_path, record)
    if there is not None:
        assert (tmp_path / TOKEN[1:]).exists() is not bool(removes)
        assert (tmp_path / CONFIG[1:]).read_text() == (kept if removes else there)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/shadow",
        "/etc/rancher/../shadow",
        "etc/rancher/x",
        "/etc/rancher/",
        "/etc/rancher//x",
        "/etc/rancherx/y",
    ],
)
def test_paths_outside_of_k3s_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(AgentError, match="join material names"):
        resolve(tmp_path, path)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({}, None),
        ({"unit": "k3s.service"}, "this node runs k3s-agent.service"),
        ({"files": (NodeFile(SETTINGS, "0600", "node-name: pi-2\n"),)}, "is for pi-2, this node is pi-1"),
        ({"files_after_ready": (NodeFile(SETTINGS, "0600", "x: 1\nnode-name: '2'\n"),)}, "is for 2, this"),
        ({"files_after_ready": (NodeFile("/etc/passwd", "0600", ""),)}, "names '/etc/passwd'"),
        ({"files_after_ready": (NodeFile(SETTINGS, "rw", ""),)}, "has mode 'rw'"),
    ],
    ids=["own", "other-role", "other-node", "other-node-later", "path-later", "mode-later"],
)
def test_material_of_another_node_or_role_is_refused(changes: dict[str, Any], complaint: str | None) -> None:
    own = JoinMaterial(4, "k3s-agent.service", (NodeFile(SETTINGS, "0600", "node-name: pi-1\n"),))
    material = dataclasses.replace(own, **changes)
    if complaint is None:
        require_own(material, "pi-1", "k3s-agent.service")
        return
    with pytest.raises(AgentError, match=complaint):
        require_own(material, "pi-1", "k3s-agent.service")


def test_material_with_a_bad_part_writes_and_starts_nothing(tmp_path: Path) -> None:
    recorder = Recorder()
    good = NodeFile(TOKEN, "0600", "t")
    for material in (
        JoinMaterial(1, "ssh.service", (good,)),
        JoinMaterial(1, "k3s.service", (good, NodeFile(CONFIG, "4755", "c"))),
        JoinMaterial(1, "k3s.service", (good,), remove_after_ready=("/etc/passwd",)),
    ):
        with pytest.raises(AgentError):
            place_material(tmp_path, recorder, material, restart=False)
    assert recorder.calls == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("synchronised", "behind_s", "trusted", "set_it"),
    [
        (True, None, True, False),
        (True, 1e9, True, False),
        (False, None, False, False),
        (False, 59.0, True, False),
        (False, -59.0, True, False),
        (False, 61.0, False, True),
        (False, -3e8, False, False),
    ],
)
def test_clock(synchronised: bool, behind_s: float | None, trusted: bool, set_it: bool) -> None:
    assert clock.is_trusted(synchronised=synchronised, behind_s=behind_s) is trusted
    assert clock.needs_setting(synchronised=synchronised, behind_s=behind_s) is set_it
    assert (clock.find_problem(synchronised=synchronised, behind_s=behind_s) is None) is trusted


def test_clock_problem_says_how_far_and_which_way() -> None:
    ahead = clock.find_problem(synchronised=False, behind_s=-3600.0)
    assert ahead is not None
    assert "3600 s ahead of" in ahead.message


def test_renewal_is_due_after_a_third() -> None:
    text = "notBefore=Nov 21 00:00:00 2026 GMT\nnotAfter=Nov 27 00:00:00 2026 GMT\n"
    assert parse_renewal_time(text) == 1795219200.0 + 2 * 86400
    with pytest.raises(AgentError):
        parse_renewal_time("notBefore=yesterday\n")


def test_waiting_times_double_to_the_cap_with_jitter() -> None:
    full = Backoff(first_s=2, cap_s=10, jitter=lambda: 1.0)
    assert list(itertools.islice(full.delays(), 5)) == [2, 4, 8, 10, 10]
    assert next(Backoff(first_s=2, jitter=lambda: 0.0).delays()) == 1


def test_service_manager_from_the_environment() -> None:
    manager = parse_environment({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "120000000"})
    assert manager.ping_interval_s == 40
    silent = parse_environment({"WATCHDOG_USEC": "junk"})
    assert silent.address is None
    assert silent.ping_interval_s is None
