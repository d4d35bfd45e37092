"""A machine that shows a server's serial and MAC and has no proof is told so; its disk stays blank."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bramble.rehearsal import Rehearsal
from fleet.spec.model import ClusterSpec

pytestmark = pytest.mark.e2e

ASKED_S = 300.0
SHOWN_S = 60.0


def test_rogue_with_serial_and_mac_but_no_proof_stays_out_and_raises_an_alarm(
    rehearse: Callable[[ClusterSpec], Rehearsal], cluster_of: Callable[..., ClusterSpec]
) -> None:
    lab = rehearse(cluster_of(pi5_server={}))
    node = lab.spec.find_node("pi5-server")
    assert node is not None
    assert node.serial is not None
    # The real board's device key is on record; the one that is switched on now does not have it.
    lab.admin.import_devices({node.serial.prefix: "ab" * 32})
    rogue = lab.add_board(node)
    rogue.power_on()
    lab.wait_for_text("pi5-server", "has a device key on record and did not prove it", timeout_s=ASKED_S)
    alarms = [event for event in lab.admin.timeline("pi5-server")["events"] if event["kind"] == "alarm"]
    assert alarms
    assert rogue.console.wait_for("does not admit this board", timeout_s=SHOWN_S)
    assert lab.disk_is_blank("pi5-server")

    # Without a device key on record it is like any server: it waits for a person, and this one says no.
    lab.admin.decide("pi5-server", "forget-device")
    waiting = lab.wait_for_state("pi5-server", "pending", timeout_s=ASKED_S)
    lab.admin.decide("pi5-server", "reject", waiting["fingerprint"])
    lab.wait_for_text("pi5-server", "a person rejected this key", timeout_s=ASKED_S)
    assert lab.disk_is_blank("pi5-server")
    assert lab.stop_server() == 0
