"""Which nodes a new control CA has reached, and how many of them are named."""

from __future__ import annotations

from dataclasses import replace

from node_records import record

from fleet.lifecycle import State
from fleet.spec.model import Role
from fleet.store.records import NodeRecord
from fleet.trust.rotation_reach import NAMED, Reach, reach, retire_question, switch_question


def node(name: str, certificate: str | None, previous: str | None = None) -> NodeRecord:
    made = record(name, Role.AGENT, State.READY)
    return replace(made, certificate=certificate, previous_certificate=previous)


def test_a_node_is_reached_when_it_has_used_a_newer_certificate() -> None:
    nodes = [
        node("used", "a1"),
        node("lost-answer", "a2", previous="a0"),
        node("off", "a3"),
        node("revoked", None),
    ]
    assert reach(nodes, {"used", "lost-answer", "revoked"}) == Reach(("used",), ("lost-answer", "off"))


def test_of_many_nodes_some_are_named_and_the_others_counted() -> None:
    names = tuple(f"pi-{number}" for number in range(NAMED + 3))
    asked = switch_question(Reach((), names), 0.0)
    assert asked.startswith(f"0 of {NAMED + 3} nodes have the next control CA, which was announced at 1970")
    assert f"pi-{NAMED - 1} and 3 more will trust nobody here" in asked
    assert f"pi-{NAMED}" not in asked


def test_without_a_node_nothing_is_said_of_any() -> None:
    assert switch_question(Reach((), ()), 0.0).startswith("No node has a certificate yet. Put it in force?")
    assert retire_question(Reach(("pi-1",), ()), is_in_use=True).startswith("1 of 1 node has the present")
