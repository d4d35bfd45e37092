"""`bramble apply` as a person types it: against a running server, and what the server does from then on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes_fleet import hardware_of, status_report
from fakes_fleet_server import Running
from fleet_story import ask_to_install, enrol, install, kube_ready, see
from typed_cluster import HEAD, node_line, serving, typed, write_cluster

from agent.protocol import K3sState
from fleet.boards import MacAddress, Serial
from fleet.boots import BootReport, BootStage
from fleet.cli.apply import apply
from fleet.errors import FleetError, InputError
from fleet.spec import load_cluster
from fleet.spec.problems import SpecErrors

pytestmark = pytest.mark.integration

CLUSTER = HEAD + node_line("s1", 1, role="server")
AGENT = node_line("a1", 4)
SERVERS = "".join(node_line(f"s{number}", number, role="server") for number in (2, 3))


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return write_cluster(tmp_path, CLUSTER, monkeypatch)


@pytest.fixture
def server(file: Path) -> Iterator[Running]:
    with serving(file) as started:
        yield started


def names(server: Running) -> list[str]:
    return [state.name for state in server.in_loop(server.fleet.controller.boot_states)]


def found_cluster(server: Running) -> str:
    """The first server is installed and Ready; its certificate."""
    fleet = server.fleet
    (node,) = fleet.controller.spec.nodes

    def story() -> str:
        see(fleet, node, BootStage.KERNEL)
        ask_to_install(fleet, node)
        fleet.controller.people.approve("s1", None)
        install(fleet, node)
        certificate = enrol(fleet, node)
        fleet.controller.joins.desired(certificate)
        fleet.controller.watch.apply_kubernetes(kube_ready(node))
        return certificate

    certificate: str = server.in_loop(story)
    return certificate


def test_nodes_that_are_added_may_install_at_once(file: Path, server: Running) -> None:
    found_cluster(server)
    file.write_text(CLUSTER + SERVERS + AGENT)
    done = typed(apply, file)
    assert done.exit_code == 0, done.output
    assert "+ nodes.s2: pi5, server, 10.77.0.12, 10000000abcd0002" in done.output
    assert "it installs and joins when it is switched on" in done.output
    assert done.output.endswith("applied\n")
    assert names(server) == ["s1", "s2", "s3", "a1"]
    intents = {
        state.name: state.install_intent for state in server.in_loop(server.fleet.controller.boot_states)
    }
    assert intents == {"s1": None, "s2": 1, "s3": 1, "a1": 1}


def test_dry_run_changes_nothing(file: Path, server: Running) -> None:
    file.write_text(CLUSTER + AGENT)
    done = typed(apply, file, "--dry-run")
    assert done.exit_code == 0
    assert "+ nodes.a1" in done.output
    assert "dry run" in done.output
    assert names(server) == ["s1"]


def test_file_that_can_not_be_taken_is_explained_and_nothing_of_it_is(file: Path, server: Running) -> None:
    found_cluster(server)
    changed = CLUSTER.replace("v1.33.5+k3s1", "v1.34.1+k3s1").replace("10.77.0.11", "10.77.0.19")
    file.write_text(changed + AGENT)
    done = typed(apply, file)
    assert done.exit_code == 2
    assert "! cluster.k3s.version: v1.33.5+k3s1 → v1.34.1+k3s1" in done.output
    assert "! nodes.s1.address: 10.77.0.11 → 10.77.0.19" in done.output
    assert "bramble build" in done.output
    assert "nothing was changed" in done.output
    assert names(server) == ["s1"]
    assert server.fleet.controller.spec.k3s.version == "v1.33.5+k3s1"


def test_last_server_can_not_leave(file: Path, server: Running) -> None:
    found_cluster(server)
    file.write_text(CLUSTER.replace("name: s1", "name: other").replace("abcd0001", "abcd0009"))
    done = typed(apply, file, "--yes")
    assert done.exit_code == 2
    assert "no server would be left" in done.output
    assert names(server) == ["s1"]


def test_node_leaves_only_with_a_persons_word(file: Path, server: Running) -> None:
    file.write_text(CLUSTER + AGENT)
    assert typed(apply, file).exit_code == 0
    file.write_text(CLUSTER)
    asked = typed(apply, file)
    assert asked.exit_code == 2
    assert "Say --yes if a1 may be removed" in asked.output
    assert names(server) == ["s1", "a1"]
    assert typed(apply, file, "--yes").output.endswith("applied\n")
    assert names(server) == ["s1"]
    file.write_text(CLUSTER + AGENT)
    assert typed(apply, file).exit_code == 0
    assert names(server) == ["s1", "a1"]


def test_same_file_differs_in_nothing(file: Path, server: Running) -> None:
    done = typed(apply, file)
    assert done.exit_code == 0
    assert done.output.endswith("nothing differs from what runs\n")
    answer = json.loads(typed(apply, file, "--json").output)
    assert answer == {"applied": True, "usual_path": str(file), "problems": answer["problems"], "changes": []}


def test_other_file_than_the_servers_own_is_taken_with_a_warning(
    file: Path, server: Running, tmp_path: Path
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(CLUSTER + AGENT)
    assert f"was started with {file}" in typed(apply, other).output


def test_file_with_errors_is_refused_with_all_of_them(file: Path, server: Running) -> None:
    file.write_text(CLUSTER + AGENT.replace("a1", "s1").replace("nvme", "tape"))
    done = typed(apply, file)
    assert isinstance(done.exception, SpecErrors)
    assert len(done.exception.problems) >= 2
    assert names(server) == ["s1"]


def test_two_servers_are_refused_by_the_check_and_three_are_not(file: Path, server: Running) -> None:
    first = SERVERS.splitlines(keepends=True)[0]
    file.write_text(CLUSTER + first)
    assert isinstance(typed(apply, file).exception, InputError | SpecErrors)
    file.write_text(CLUSTER + SERVERS)
    assert typed(apply, file).exit_code == 0


def test_without_a_server_there_is_nothing_to_apply_to(file: Path) -> None:
    done = typed(apply, file)
    assert isinstance(done.exception, FleetError)
    assert "no server of this cluster is running" in done.exception.message


def test_board_that_was_held_is_the_new_nodes(file: Path, server: Running) -> None:
    report = BootReport(
        stage=BootStage.SEEN,
        at=server.fleet.clock(),
        serial=Serial.parse("abcd0004"),
        mac=MacAddress.parse("2c:cf:67:00:00:04"),
    )
    server.in_loop(lambda: server.fleet.controller.record_boot_event(report))
    server.in_loop(server.fleet.controller.tick)
    with server.fleet.store.read() as reader:
        assert len(reader.held_boards()) == 1
    file.write_text(CLUSTER + AGENT)
    assert typed(apply, file).exit_code == 0
    with server.fleet.store.read() as reader:
        assert reader.held_boards() == []
    node = load_cluster(file).nodes[1]
    server.in_loop(lambda: see(server.fleet, node))
    with server.fleet.store.read() as reader:
        assert reader.require_node("a1").state.value == "netbooting"


def test_running_nodes_are_told_of_new_servers_names(file: Path, server: Running) -> None:
    certificate = found_cluster(server)
    fleet = server.fleet
    before = server.in_loop(lambda: fleet.controller.joins.desired(certificate))
    file.write_text(CLUSTER + SERVERS)
    assert typed(apply, file).exit_code == 0
    report = status_report(hardware_of(fleet.controller.spec.nodes[0]), 1, k3s=K3sState.RUNNING)
    accepted = server.in_loop(lambda: fleet.controller.joins.status(certificate, report))
    assert accepted.generation == before.generation + 1
    settings, *_manifests = server.in_loop(lambda: fleet.controller.joins.desired(certificate)).files
    assert "- s3.attic.internal" in settings.content
    assert "cluster-init" not in settings.content


def test_large_file_is_taken(file: Path, server: Running) -> None:
    many = "".join(
        AGENT.replace("a1", f"a{number}")
        .replace("abcd0004", f"abce{number:04x}")
        .replace("10.77.0.14", f"10.77.{number // 250}.{number % 250 + 2}")
        for number in range(300, 1300)
    )
    file.write_text(CLUSTER.replace("10.77.0.0/24", "10.77.0.0/16") + AGENT)
    text = CLUSTER + many.replace(", address", ", labels: {rack: one}, address")
    file.write_text(text.replace("10.77.0.0/24", "10.77.0.0/16"))
    assert file.stat().st_size > 100_000
    done = typed(apply, file, "--dry-run")
    assert "! network.subnet" in done.output
    assert done.output.count("+ nodes.") == 1000


def test_a_new_image_is_taken_once_it_is_built_and_installed_nodes_keep_theirs(
    server: Running, file: Path
) -> None:
    file.write_text(
        CLUSTER.replace("  base: debian-trixie", "  base: debian-trixie\n  timezone: Europe/Madrid")
    )
    refused = typed(apply, file)
    assert refused.exit_code == 2
    assert "that one is not built yet" in refused.output
    assert "bramble build" in refused.output
    assert server.fleet.controller.spec.image.timezone == "Etc/UTC"
    server.fleet.images.known["1c" * 32] = "v1.33.5+k3s1"
    server.fleet.images.built = "1c" * 32
    taken = typed(apply, file)
    assert taken.exit_code == 0
    assert "gets image 1c1c1c1c1c1c" in taken.output
    assert "until 'bramble rollout'" in taken.output
    assert server.fleet.controller.spec.image.timezone == "Europe/Madrid"
