"""Whose board is it?"""

from __future__ import annotations

import pytest
from fakes_fleet import node_spec

from fleet.boards import MacAddress, Serial
from fleet.enrolment import Recognition
from fleet.roster import recognise

MAC_A, MAC_B = "2c:cf:67:00:00:0a", "2c:cf:67:00:00:0b"
BY_SERIAL = node_spec("by-serial", 1, serial="10000000abcd0001")
BY_MAC = node_spec("by-mac", 2, mac=MAC_A)
BY_BOTH = node_spec("by-both", 3, serial="10000000abcd0003", mac=MAC_B)
NODES = (BY_SERIAL, BY_MAC, BY_BOTH)


@pytest.mark.parametrize(
    ("serial", "macs", "expected"),
    [
        ("10000000abcd0001", [], "by-serial"),
        ("abcd0001", [], "by-serial"),
        ("20000000abcd0001", [], None),
        ("ffffffffffff0000", [MAC_A], "by-mac"),
        (None, [MAC_A], "by-mac"),
        ("abcd0003", [MAC_B], "by-both"),
        ("abcd0003", [], "by-both"),
        (None, [MAC_B], "by-both"),
        ("abcd9999", ["2c:cf:67:00:00:ff"], None),
        (None, [], None),
    ],
)
def test_board_is_recognised_by_what_is_declared(
    serial: str | None, macs: list[str], expected: str | None
) -> None:
    parsed = Serial.parse(serial) if serial else None
    match = recognise(NODES, parsed, tuple(map(MacAddress.parse, macs)))
    assert (match.node.name if match.node else None) == expected
    wanted = Recognition.DECLARED if expected else Recognition.UNKNOWN
    assert match.recognition is wanted


@pytest.mark.parametrize(
    ("serial", "mac"),
    [("abcd0001", MAC_A), ("abcd0003", "2c:cf:67:00:00:ff"), ("abcd9999", MAC_B)],
    ids=["two nodes", "serial of one, foreign MAC", "foreign serial, MAC of one"],
)
def test_contradicting_identity_is_no_node(serial: str, mac: str) -> None:
    match = recognise(NODES, Serial.parse(serial), (MacAddress.parse(mac),))
    assert match.recognition is Recognition.CONFLICTING
    assert match.node is None
