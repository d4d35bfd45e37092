"""From a file to a `ClusterSpec`, and back to plain values."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
import yaml
from fakes_spec import DELETE, changed, check
from hypothesis import given
from hypothesis import strategies as st

from fleet.boards import BoardModel, DiskKind, MacAddress, Serial
from fleet.errors import InputError
from fleet.spec import (
    AddressPool,
    CatalogueBase,
    ClusterSpec,
    CommandPower,
    DhcpMode,
    DiskSpec,
    FirstBoot,
    FirstBootPolicy,
    PortsSpec,
    ReimagePolicy,
    Role,
    SecretPlace,
    ShellyPower,
    SnmpAuth,
    SnmpPoePower,
    SnmpPrivacy,
    SnmpUser,
    SpecErrors,
    Taint,
    TasmotaPower,
    UnknownBoards,
    UrlBase,
    check_cluster,
    digest,
    effective_values,
    image_inputs,
    load_cluster,
    to_document,
)
from fleet.spec.draft import PathKind
from fleet.spec.values import parse_duration, parse_memory, render_duration, render_memory

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.yaml"))


def good(*changes: tuple[str, object], paths: dict[str, PathKind] | None = None) -> ClusterSpec:
    checked = check(changed(*changes), paths)
    assert not checked.errors
    assert checked.spec is not None
    return checked.spec


def test_values_become_inner_types() -> None:
    spec = good()
    assert spec.network.subnet == IPv4Network("192.168.86.0/24")
    assert spec.network.dhcp is DhcpMode.FULL
    assert spec.network.pool == AddressPool(IPv4Address("192.168.86.200"), IPv4Address("192.168.86.230"))
    server, agent = spec.nodes
    assert server.board is BoardModel.PI5
    assert server.mac == MacAddress.parse("2c:cf:67:12:34:56")
    assert server.serial is None
    assert agent.serial == Serial("10000000d03114aa")
    assert agent.role is Role.AGENT
    assert agent.disk == DiskSpec(DiskKind.SD)
    assert (spec.servers, spec.agents) == ((server,), (agent,))
    assert spec.find_node("pi4-1") is agent
    assert spec.find_node("nobody") is None
    assert spec.fqdn(agent) == "pi4-1.attic.internal"


def test_absent_values_take_the_documented_defaults() -> None:
    absent = ("network.dhcp", "network.pool", "image.timezone", "image.base")
    spec = good(*((place, DELETE) for place in absent))
    assert spec.domain == "attic.internal"
    assert spec.k3s.source == "upstream"
    assert spec.k3s.airgap_images
    assert spec.image.base == CatalogueBase("debian-trixie")
    assert spec.image.user.name == "pi"
    assert spec.image.timezone == "Etc/UTC"
    assert spec.network.dhcp is DhcpMode.PROXY
    assert spec.network.ports == PortsSpec(7080, 7443)
    assert spec.policy.unknown_boards is UnknownBoards.HOLD
    assert spec.policy.first_boot == FirstBootPolicy(agent=FirstBoot.TRUST_LAN, server=FirstBoot.APPROVE)
    assert spec.policy.first_boot.for_role(Role.SERVER) is FirstBoot.APPROVE
    assert spec.policy.reimage == ReimagePolicy(when_failed=False, max_parallel=1, after_s=900)


def test_node_takes_defaults_and_keeps_its_own() -> None:
    spec = good(
        (
            "defaults",
            {"disk": "usb", "memory": "4G", "labels": {"a": "1", "b": "1"}, "taints": ["x:NoExecute"]},
        ),
        ("nodes.0.disk", DELETE),
        ("nodes.1.labels", {"b": "2"}),
        ("nodes.1.taints", []),
    )
    server, agent = spec.nodes
    assert server.disk.kind is DiskKind.USB
    assert server.memory_mib == 4096
    assert server.labels == {"a": "1", "b": "1"}
    assert server.taints == (Taint("x", "", "NoExecute"),)
    assert agent.disk.kind is DiskKind.SD
    assert agent.labels == {"a": "1", "b": "2"}
    assert agent.taints == ()


def test_power_is_a_tagged_union() -> None:
    files = {"secret": PathKind.FILE}
    http = "http://10.0.0.1"
    forms = {
        "tasmota": {
            "driver": "tasmota",
            "url": http,
            "output": 2,
            "password_file": "secret",
            "off_for": "9s",
        },
        "shelly": {"driver": "shelly", "url": http, "password_env": "PLUG_PASSWORD"},
        "snmp": {"driver": "snmp-poe", "host": "10.0.0.2", "port": 7, "community_file": "secret"},
        "snmp3": {
            **{"driver": "snmp-poe", "host": "10.0.0.2", "group": 2, "port": 7, "user": "bramble"},
            **{"auth": "sha256", "auth_password_file": "secret"},
            **{"privacy": "aes", "privacy_password_env": "SWITCH_PRIVACY"},
        },
        "command": {
            **{"driver": "command", "on": ["pdu", "on", "{node}"], "off": ["pdu", "off", "{node}"]},
            **{"status": ["pdu", "ask"], "pass_env": ["PDU_TOKEN"], "timeout": "7s"},
        },
    }
    found = {name: good(("nodes.1.power", form), paths=files).nodes[1].power for name, form in forms.items()}
    assert found == {
        "tasmota": TasmotaPower(url=http, output=2, password=SecretPlace(Path("/clusters/secret")), off_s=9),
        "shelly": ShellyPower(url=http, channel=0, password=SecretPlace(variable="PLUG_PASSWORD")),
        "snmp": SnmpPoePower(
            host="10.0.0.2", group=1, port=7, community=SecretPlace(Path("/clusters/secret"))
        ),
        "snmp3": SnmpPoePower(
            host="10.0.0.2",
            group=2,
            port=7,
            user=SnmpUser(
                name="bramble",
                auth=SnmpAuth.SHA256,
                auth_password=SecretPlace(Path("/clusters/secret")),
                privacy=SnmpPrivacy.AES,
                privacy_password=SecretPlace(variable="SWITCH_PRIVACY"),
            ),
        ),
        "command": CommandPower(
            on=("pdu", "on", "pi4-1"),
            off=("pdu", "off", "pi4-1"),
            status=("pdu", "ask"),
            pass_env=("PDU_TOKEN",),
            timeout_s=7,
        ),
    }


def test_paths_are_relative_to_the_file() -> None:
    paths = {"k3s": PathKind.DIRECTORY, "mine": PathKind.DIRECTORY}
    spec = good(("cluster.k3s.source", "k3s"), ("image.overlays", ["./mine"]), paths=paths)
    assert spec.k3s.source == Path("/clusters/k3s")
    assert spec.image.overlays == (Path("/clusters/mine"),)


def test_mirror_stays_a_url() -> None:
    url = "https://mirror.example.org/k3s"
    assert good(("cluster.k3s.source", url)).k3s.source == url


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_passes_without_a_word(path: Path) -> None:
    checked = check_cluster(path)
    # The demo's boards are virtual: their Ethernet port is one that Debian's kernel drives.
    expected = ["image.base"] if path.stem == "demo" else []
    assert [problem.key for problem in checked.problems] == expected
    assert checked.spec == load_cluster(path)


def test_there_is_an_example_for_each_kind_of_cluster() -> None:
    assert {path.stem for path in EXAMPLES} >= {
        "first-node",
        "three-pi4-poe",
        "eight-mixed-ha",
        "six-cm5-carrier",
        "rack",
        "demo",
    }


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_plain_values_parse_back_to_an_equal_spec(path: Path, tmp_path: Path) -> None:
    spec = load_cluster(path)
    copy = tmp_path / path.name
    copy.write_text(yaml.safe_dump(to_document(spec)), encoding="utf-8")
    assert to_document(load_cluster(copy)) == to_document(spec)


@pytest.mark.parametrize(
    ("written", "shown"),
    [("90d", "90d"), ("168h", "7d"), ("129600s", "36h"), ("90m", "90m"), ("601s", "601s")],
    ids=str,
)
def test_a_duration_is_shown_as_people_write_it_and_read_again(written: str, shown: str) -> None:
    """Of 90 days in seconds too many digits were shown to be read again."""
    spec = good(("policy.certificate_life", written))
    document = to_document(spec)
    assert document["policy"]["certificate_life"] == shown
    again = check(yaml.safe_dump(document)).spec
    assert again is not None
    assert again.policy == spec.policy


@given(count=st.integers(0, 999_999), unit=st.sampled_from("smhd"))
def test_whatever_duration_was_read_is_read_again(count: int, unit: str) -> None:
    seconds = parse_duration(f"{count}{unit}")
    assert parse_duration(render_duration(seconds)) == seconds


@given(count=st.integers(1, 999_999), unit=st.sampled_from("MG"))
def test_whatever_size_was_read_is_read_again(count: int, unit: str) -> None:
    mib = parse_memory(f"{count}{unit}")
    assert parse_memory(render_memory(mib)) == mib


def test_image_inputs_leave_out_nodes_network_and_policy() -> None:
    spec = good()
    other = good(
        ("nodes.1.address", "192.168.86.99"), ("network.dhcp", "full"), ("policy.reimage", {"after": "1h"})
    )
    assert digest(image_inputs(other)) == digest(image_inputs(spec))
    assert digest(image_inputs(good(("image.packages", ["nfs-common"])))) != digest(image_inputs(spec))
    assert digest(image_inputs(good(("cluster.k3s.airgap_images", False)))) != digest(image_inputs(spec))


def test_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": [2, 1]}) != digest({"a": [1, 2]})


def test_every_value_says_where_it_comes_from() -> None:
    checked = check(
        "version: 1\n"
        "cluster: {name: attic, k3s: {version: v1.33.5+k3s1}}\n"
        "network: {interface: eth0, subnet: 10.0.0.0/24, gateway: 10.0.0.1}\n"
        "defaults:\n"
        "  disk: nvme\n"
        "  role: server\n"
        "nodes:\n"
        "  - name: a\n"
        "    board: pi5\n"
        "    mac: 2c:cf:67:00:00:01\n"
        "    address: 10.0.0.9\n"
    )
    assert checked.spec is not None
    origins = {value.key: value.origin for value in effective_values(checked.spec, checked.document)}
    assert origins["cluster.k3s.version"] == "line 2"
    assert origins["cluster.domain"] == "default"
    assert origins["network.ports.http"] == "default"
    assert origins["network.pool"] == "default"
    assert origins["nodes[0].mac"] == "line 10"
    assert origins["nodes[0].disk.kind"] == "line 5, defaults"
    assert origins["nodes[0].disk.serial"] == "default"
    assert origins["nodes[0].role"] == "line 6, defaults"


def test_example_file_of_the_design_keeps_its_base_by_url() -> None:
    base = {"url": "https://images.example.org/a.img.xz", "sha256": "AB" * 32}
    assert good(("image.base", base)).image.base == UrlBase(base["url"], "ab" * 32)


def test_errors_carry_every_problem(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(
        changed(("network.dhcp", "of"), ("nodes.0.mac", "1:2"), ("image.user", DELETE)), encoding="utf-8"
    )
    with pytest.raises(SpecErrors) as caught:
        load_cluster(file)
    assert [problem.severity.value for problem in caught.value.problems] == ["warning", "error", "error"]
    assert "has 2 errors" in caught.value.message
    assert "bramble check" in caught.value.hint
    assert caught.value.exit_code == 2


def test_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist") as caught:
        load_cluster(tmp_path / "cluster.yaml")
    assert "bramble init" in caught.value.hint
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        load_cluster(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"version: 1\n# \xe9t\xe9\n")
    with pytest.raises(InputError, match=r"latin.yaml:2: byte 0xe9 is not UTF-8"):
        load_cluster(latin)


def test_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(changed(), encoding="utf-8-sig")
    assert load_cluster(file).name == "attic"


def test_file_without_a_mapping_is_told() -> None:
    (error,) = check("- a\n- b\n").errors
    assert "holds no mapping" in error.message


def test_pool_knows_its_size_and_members() -> None:
    pool = AddressPool(IPv4Address("10.0.0.5"), IPv4Address("10.0.0.7"))
    assert len(pool) == 3
    assert IPv4Address("10.0.0.7") in pool
    assert IPv4Address("10.0.0.8") not in pool
    assert str(pool) == "10.0.0.5-10.0.0.7"


def test_thousand_nodes_are_checked_in_seconds_not_minutes() -> None:
    nodes = [
        {
            "name": f"n{index}",
            "board": "pi5",
            "role": "server" if index == 0 else "agent",
            "mac": f"2c:cf:67:00:{index >> 8:02x}:{index & 255:02x}",
            "address": str(IPv4Address("10.1.0.0") + index + 10),
            "disk": "nvme",
        }
        for index in range(1000)
    ]
    network = {"interface": "eth0", "subnet": "10.1.0.0/16", "gateway": "10.1.0.1"}
    assert len(good(("network", network), ("nodes", nodes)).nodes) == 1000


def test_windows_of_the_policy_survive_export() -> None:
    windows = ["sat,sun 01:00-05:00", "mon-fri 02:00-04:00 Europe/Madrid"]
    spec = good(("policy.reimage", {"windows": windows, "again_after": "2d"}))
    assert [str(window) for window in spec.policy.reimage.windows] == windows
    assert spec.policy.reimage.again_after_s == 2 * 86400
    assert to_document(spec)["policy"]["reimage"]["windows"] == windows
