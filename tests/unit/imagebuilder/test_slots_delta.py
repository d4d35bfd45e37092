"""Slots and node deltas: in place, padded, and refused when too long."""

from __future__ import annotations

import configparser
import json
import uuid

import pytest
import yaml
from fakes_image import make_node, make_spec
from hypothesis import given
from hypothesis import strategies as st

from fleet.spec.model import Role
from imagebuilder.delta import NodeValues, disk_signature, render_delta
from imagebuilder.dialects import MANNERS
from imagebuilder.errors import NotUnderstood
from imagebuilder.render import node_values
from imagebuilder.slots import Extent, Slot, SlotMap, SlotOverflow, _slice

SLOTS = SlotMap(
    disk_signature=Slot("disk signature", (Extent(440, 4),)),
    partuuids=(Slot("PARTUUID", (Extent(5000, 8),)), Slot("PARTUUID", (Extent(6000, 3), Extent(7000, 5)))),
    files=(
        Slot("meta-data", (Extent(10_000, 1024),)),
        Slot("network-config", (Extent(20_000, 4096),)),
        Slot("node-json", (Extent(30_000, 4096), Extent(90_000, 4096))),
    ),
)


def values(**files: str) -> NodeValues:
    contents = {"meta-data": "m\n", "network-config": "c\n", "node-json": "{}\n", "hostname": "unused\n"}
    return NodeValues(
        name="n",
        fqdn="n.x",
        disk_signature=0x1A2B3C4D,
        instance_id="i",
        files={**contents, **{name.replace("_", "-"): text for name, text in files.items()}},
    )


def test_a_delta_fills_every_slot_to_its_end() -> None:
    delta = dict(render_delta(SLOTS, values(node_json="j" * 5000)))
    assert delta[440] == bytes.fromhex("4d3c2b1a")
    assert delta[5000] == b"1a2b3c4d"
    assert delta[6000] + delta[7000] == b"1a2b3c4d"
    assert delta[10_000] == b"m\n".ljust(1024, b"\n")
    assert delta[30_000] == b"j" * 4096
    assert delta[90_000] == (b"j" * 904).ljust(4096, b"\n")


@pytest.mark.parametrize("field", ["meta-data", "network-config", "node-json"])
def test_a_value_that_does_not_fit_is_refused(field: str) -> None:
    with pytest.raises(SlotOverflow, match="bytes, its slot"):
        render_delta(SLOTS, values(**{field: "x" * 8193}))


def test_slots_survive_the_manifest() -> None:
    assert SlotMap.from_json(json.loads(json.dumps(SLOTS.to_json()))) == SLOTS
    with pytest.raises(NotUnderstood):
        SlotMap.from_json({"disk_signature": [[440, 4]]})


def test_placeholders_hold_no_zeros_because_debugfs_would_leave_a_hole() -> None:
    slots = {slot.name: slot for manner in MANNERS.values() for slot in manner.slots}
    assert len(slots) == 6
    for slot in slots.values():
        assert 0 not in slot.content
        assert len(slot.content) == slot.size_bytes


def test_a_node_has_a_value_for_every_slot_of_every_dialect() -> None:
    names = {slot.name for manner in MANNERS.values() for slot in manner.slots}
    assert names == set(render().files)


def test_bases_without_cloud_init_get_the_same_settings_as_files() -> None:
    files = render().files
    assert files["hostname"] == "pi5-master-1\n"
    assert "127.0.1.1 pi5-master-1.attic.internal pi5-master-1\n" in files["hosts"]
    connection = configparser.ConfigParser()
    connection.read_string(files["network-connection"])
    assert connection["ethernet"]["mac-address"] == "2C:CF:67:12:34:56"
    assert dict(connection["ipv4"]) == {
        "method": "manual",
        "address1": "10.77.0.33/24,10.77.0.1",
        "dns": "10.77.0.1;10.77.0.2;",
        "dns-search": "attic.internal;",
    }
    assert uuid.UUID(connection["connection"]["uuid"]).version == 5
    free = configparser.ConfigParser()
    free.read_string(render(mac=None, serial="10000000d03114aa", address=None).files["network-connection"])
    assert dict(free["ipv4"]) == {"method": "auto"}
    assert "ethernet" not in free


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.data())
def test_a_slice_of_extents_is_the_slice_of_their_bytes(lengths: list[int], data: st.DataObject) -> None:
    extents = [Extent(1000 * index, length) for index, length in enumerate(lengths)]
    positions = [extent.offset + at for extent in extents for at in range(extent.length)]
    start = data.draw(st.integers(0, len(positions)))
    length = data.draw(st.integers(0, len(positions) - start))
    found = [piece.offset + at for piece in _slice(extents, start, length) for at in range(piece.length)]
    assert found == positions[start : start + length]


def test_signatures_differ_by_cluster_node_and_installation() -> None:
    seen = {disk_signature(c, n, i) for c in ("a", "b") for n in ("x", "y") for i in range(50)}
    assert len(seen) == 200
    assert 0 not in seen
    assert disk_signature("a", "x", 1) == disk_signature("a", "x", 1)


def render(**changes: str | None) -> NodeValues:
    node = make_node(**changes)  # type: ignore[arg-type]  # only the text arguments are changed here
    return node_values(
        make_spec(nodes=(node,)),
        node,
        control_urls=["https://10.77.0.1:7443"],
        ca_pem="PEM",
        ticket="cd" * 32,
        disk_signature=1,
        instance_id="attic-pi5-1",
    )


def test_a_static_address_is_matched_by_mac() -> None:
    config = yaml.safe_load(render().files["network-config"])
    assert config == {
        "network": {
            "version": 2,
            "ethernets": {
                "eth0": {
                    "match": {"macaddress": "2c:cf:67:12:34:56"},
                    "dhcp4": False,
                    "addresses": ["10.77.0.33/24"],
                    "routes": [{"to": "0.0.0.0/0", "via": "10.77.0.1"}],
                    "nameservers": {"addresses": ["10.77.0.1", "10.77.0.2"], "search": ["attic.internal"]},
                }
            },
        }
    }


def test_without_mac_and_address_every_wired_port_uses_dhcp() -> None:
    config = yaml.safe_load(render(mac=None, serial="10000000d03114aa", address=None).files["network-config"])
    assert config == {"network": {"version": 2, "ethernets": {"e*": {"dhcp4": True}}}}


def test_identity_is_in_meta_data_and_node_json() -> None:
    rendered = render(serial="10000000d03114aa")
    assert yaml.safe_load(rendered.files["meta-data"]) == {
        "instance-id": "attic-pi5-1",
        "local-hostname": "pi5-master-1.attic.internal",
        "dsmode": "local",
    }
    assert json.loads(rendered.files["node-json"]) == {
        "version": 1,
        "cluster": "attic",
        "node": "pi5-master-1",
        "role": Role.SERVER.value,
        "serial": "10000000d03114aa",
        "control_urls": ["https://10.77.0.1:7443"],
        "ca_pem": "PEM",
        "ticket": "cd" * 32,
    }
    assert "cdcd" not in repr(rendered)
