"""What a new cluster.yaml changes, and what a running cluster can not take."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from fakes_spec import DELETE, changed
from node_records import record

from fleet.apply.changes import Change, Kind, changes_image, compare
from fleet.lifecycle import State
from fleet.spec.draft import PathKind, Surroundings
from fleet.spec.load import check_text
from fleet.spec.model import ClusterSpec, Role
from fleet.store.records import NodeRecord
from fleet.store.trust import NodeBoard

AROUND = Surroundings(Path("/srv"), lambda _path: PathKind.DIRECTORY, frozenset({"Europe/Madrid", "Etc/UTC"}))
SERVER_2 = {"name": "s2", "board": "pi5", "role": "server", "mac": "2c:cf:67:00:00:02", "disk": "nvme"}
SERVER_3 = {**SERVER_2, "name": "s3", "mac": "2c:cf:67:00:00:03"}


def cluster(*changes: tuple[str, object]) -> ClusterSpec:
    checked = check_text(changed(*changes), Path("/srv/cluster.yaml"), AROUND)
    assert checked.spec is not None, checked.problems
    return checked.spec


SERVER = record("pi5-1", Role.SERVER, State.READY, allowed=True)
AGENT = record("pi4-1", Role.AGENT, State.READY, allowed=True)
BLANK = record("pi4-1", Role.AGENT, State.DECLARED)


def differences(
    *changes: tuple[str, object], records: tuple[NodeRecord, ...] = (SERVER, AGENT), founded: bool = True
) -> list[Change]:
    return list(compare(cluster(), cluster(*changes), records, founded=founded))


def test_equal_files_differ_in_nothing() -> None:
    assert differences() == []


def test_servers_are_added_from_one_to_three() -> None:
    added = differences(("nodes.2", SERVER_2), ("nodes.3", SERVER_3))
    assert [(change.kind, change.key) for change in added] == [
        (Kind.ADD, "nodes.s2"), (Kind.ADD, "nodes.s3")
    ]  # fmt: skip
    assert added[0].after == "pi5, server, 2c:cf:67:00:00:02"
    assert "installs and joins when it is switched on" in added[0].effect


@pytest.mark.parametrize(
    ("change", "key", "kind", "effect"),
    [
        (("nodes.1.labels", {"tier": "small"}), "nodes.pi4-1.labels", Kind.CHANGE, "within seconds"),
        (("nodes.1.taints", ["sd=yes:NoSchedule"]), "nodes.pi4-1.taints", Kind.CHANGE, "within seconds"),
        (("nodes.1.disk", "usb"), "nodes.pi4-1.disk", Kind.CHANGE, "next installation"),
        (("policy.join.batch", 3), "policy.join.batch", Kind.CHANGE, "at once"),
        (("cluster.k3s.config", {"kubelet-arg": ["v=4"]}), "cluster.k3s.config.kubelet-arg", Kind.CHANGE,
         "starts the next time"),
        (("cluster.k3s.config", {"disable": ["traefik"]}), "cluster.k3s.config.disable", Kind.REFUSED,
         "fixes"),
        (("cluster.k3s.config", {"cluster-cidr": "10.9.0.0/16"}), "cluster.k3s.config.cluster-cidr",
         Kind.REFUSED, "fixes"),
        (("cluster.k3s.version", "v1.34.1+k3s1"), "cluster.k3s.version", Kind.REFUSED, "not built yet"),
        (("cluster.name", "cellar"), "cluster.name", Kind.REFUSED, "another cluster"),
        (("image.packages", ["vim"]), "image.packages", Kind.REFUSED, "not built yet"),
        (("network.gateway", "192.168.86.2"), "network.gateway", Kind.REFUSED, "when the server starts"),
        (("nodes.1.address", "192.168.86.28"), "nodes.pi4-1.address", Kind.REFUSED, "written on its disk"),
        (("nodes.1.serial", "10000000d03114ab"), "nodes.pi4-1.serial", Kind.REFUSED, "another board"),
        (("nodes.1.board", "pi400"), "nodes.pi4-1.board", Kind.REFUSED, "another board"),
    ],
)  # fmt: skip
def test_one_change(change: tuple[str, object], key: str, kind: Kind, effect: str) -> None:
    found = {one.key: one for one in differences(change)}
    assert found[key].kind is kind
    assert effect in found[key].effect
    assert bool(found[key].hint) is (kind is Kind.REFUSED)


@pytest.mark.parametrize(
    "change",
    [("cluster.k3s.version", "v1.34.1+k3s1"), ("image.packages", ["vim"]), ("image.timezone", "Etc/UTC")],
)
def test_a_file_with_a_finished_image_is_taken_and_needs_a_rollout(change: tuple[str, object]) -> None:
    new = cluster(change)
    assert changes_image(cluster(), new)
    (found,) = compare(cluster(), new, (SERVER, AGENT), founded=True, image="1c" * 32)
    assert found.kind is Kind.CHANGE
    assert "image 1c1c1c1c1c1c" in found.effect
    assert "until 'bramble rollout'" in found.effect


def test_nodes_and_policy_are_no_part_of_the_image() -> None:
    assert not changes_image(cluster(), cluster(("policy.join.batch", 3), ("nodes.1.labels", {"a": "b"})))


def test_role_of_an_installed_node_stays_and_of_a_blank_one_may_change() -> None:
    roles: tuple[tuple[str, object], ...] = (
        ("nodes.1.role", "server"),
        ("nodes.1.disk", "usb"),
        ("nodes.2", SERVER_2),
    )
    installed = {one.key: one.kind for one in differences(*roles)}
    assert installed["nodes.pi4-1.role"] is Kind.REFUSED
    blank = {one.key: one.kind for one in differences(*roles, records=(SERVER, BLANK))}
    assert blank["nodes.pi4-1.role"] is Kind.CHANGE


def test_identity_of_a_node_that_was_never_installed_may_change() -> None:
    moved = differences(("nodes.1.serial", "10000000d03114ab"), records=(SERVER, BLANK))
    assert [one.kind for one in moved] == [Kind.CHANGE]


def test_settings_that_k3s_fixes_may_change_until_the_cluster_is_founded() -> None:
    found = differences(("cluster.k3s.config", {"disable": ["traefik"]}), founded=False)
    assert [one.kind for one in found] == [Kind.CHANGE]


def test_agent_may_leave_and_is_told_how_to_get_out_of_kubernetes() -> None:
    (gone,) = compare(cluster(), without(cluster(), "pi4-1"), (SERVER, AGENT), founded=True)
    assert gone.kind is Kind.REMOVE
    assert "kubectl delete node pi4-1" in gone.effect


def three(*states: State) -> tuple[ClusterSpec, list[NodeRecord]]:
    spec = cluster(("nodes.2", SERVER_2), ("nodes.3", SERVER_3))
    names = ("pi5-1", "s2", "s3")
    return spec, [
        record(name, Role.SERVER, state, allowed=True) for name, state in zip(names, states, strict=True)
    ]


def without(spec: ClusterSpec, *names: str) -> ClusterSpec:
    return dataclasses.replace(spec, nodes=tuple(node for node in spec.nodes if node.name not in names))


@pytest.mark.parametrize(
    ("states", "leaving", "refused"),
    [
        ((State.READY, State.READY, State.READY), ("s2", "s3"), False),
        ((State.READY, State.READY, State.LOST), ("s3",), False),
        ((State.READY, State.READY, State.LOST), ("s2",), True),
        ((State.READY, State.LOST, State.LOST), ("s3",), True),
        ((State.READY, State.READY, State.READY), ("pi5-1", "s2", "s3"), True),
        ((State.READY, State.JOINING, State.DECLARED), ("s2", "s3"), False),
    ],
)
def test_servers_leave_only_where_the_rest_can_decide(
    states: tuple[State, ...], leaving: tuple[str, ...], refused: bool
) -> None:
    spec, records = three(*states)
    found = [change for change in compare(spec, without(spec, *leaving), records, founded=True)]
    kinds = {change.kind for change in found if change.key.removeprefix("nodes.") in leaving}
    assert kinds == ({Kind.REFUSED} if refused else {Kind.REMOVE})
    assert all("would not survive" in change.effect and change.hint for change in found if refused)


def test_node_that_comes_back_goes_on_with_its_disk() -> None:
    gone = record("s2", Role.SERVER, State.DECOMMISSIONED)
    installed = dataclasses.replace(gone, image_id="f" * 64)
    found = differences(("nodes.2", SERVER_2), ("nodes.3", SERVER_3), records=(SERVER, AGENT, installed))
    assert "earlier installation" in found[0].effect
    assert "installs and joins" in found[1].effect


def test_change_is_plain_json() -> None:
    values: dict[str, Any] = differences(("policy.join.batch", 3))[0].to_json()
    assert values["before"] == "50"
    assert values["after"] == "3"


SHOWN = NodeBoard(
    node="pi4-1",
    serial="10000000d03114aa",
    macs=("dc:a6:32:00:00:05", "dc:a6:32:00:00:06"),
    intent=1,
    key=None,
    contested=False,
)


@pytest.mark.parametrize(
    ("board", "mac", "kind"),
    [
        (SHOWN, "dc:a6:32:00:00:05", Kind.CHANGE),
        (SHOWN, "dc:a6:32:00:00:07", Kind.REFUSED),
        (None, "dc:a6:32:00:00:05", Kind.REFUSED),
    ],
    ids=["its own", "another one", "never seen"],
)
def test_a_board_that_was_known_by_its_serial_is_known_by_its_mac_too(
    board: NodeBoard | None, mac: str, kind: Kind
) -> None:
    """As after its board was replaced, which leaves the node with a serial alone."""
    boards = {} if board is None else {"pi4-1": board}
    new = cluster(("nodes.1.mac", mac))
    (found,) = compare(cluster(), new, (SERVER, AGENT), founded=True, boards=boards)
    assert (found.key, found.before, found.after) == ("nodes.pi4-1.mac", "", mac)
    assert found.kind is kind
    assert bool(found.hint) is (kind is Kind.REFUSED)


def test_the_serial_of_a_board_that_was_known_by_its_mac_is_added_as_it_showed_it() -> None:
    by_mac = cluster(("nodes.1.serial", DELETE), ("nodes.1.mac", "dc:a6:32:00:00:05"))
    for serial, kind in (
        ("10000000d03114aa", Kind.CHANGE),
        ("d03114aa", Kind.CHANGE),
        ("d03114ab", Kind.REFUSED),
    ):
        both = cluster(("nodes.1.mac", "dc:a6:32:00:00:05"), ("nodes.1.serial", serial))
        (found,) = compare(by_mac, both, (SERVER, AGENT), founded=True, boards={"pi4-1": SHOWN})
        assert found.kind is kind, serial


def test_both_halves_at_once_are_another_board() -> None:
    new = cluster(("nodes.1.mac", "dc:a6:32:00:00:05"), ("nodes.1.serial", "10000000d03114ab"))
    found = compare(cluster(), new, (SERVER, AGENT), founded=True, boards={"pi4-1": SHOWN})
    assert {one.kind for one in found} == {Kind.REFUSED}
