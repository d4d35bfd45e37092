"""`bramble check` and `bramble init` as a user meets them."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from fakes_spec import DELETE, changed, check

from fleet.cli import spec as commands
from fleet.errors import InputError
from fleet.host_network import HostNetwork, parse_routes
from fleet.spec import DhcpMode, load_cluster
from fleet.spec.starter import StarterValues, render_starter


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home on a machine with one network behind a router."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    network = HostNetwork("enp1s0", IPv4Network("192.168.7.0/24"), IPv4Address("192.168.7.1"))
    monkeypatch.setattr(commands, "read_host_networks", lambda: (network,))
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_good_file_ends_with_a_summary_and_0(home: Path) -> None:
    write(home / "cluster.yaml", changed(("nodes.0.disk", "sd")))
    result = CliRunner().invoke(commands.check, [])
    assert result.exit_code == 0
    assert result.output.splitlines()[-1] == "attic: 2 nodes (1 server, 1 agent), 0 errors, 1 warning"
    (warning,) = result.output.splitlines()[:-1]
    assert warning.startswith("cluster.yaml:25: nodes[0].disk: warning: server 'pi5-1' keeps etcd on SD card")


def test_bad_file_exits_with_2_and_prints_each_problem_on_one_line(home: Path) -> None:
    file = write(home / "bad.yaml", changed(("network.dhcp", "of"), ("nodes.0.mac", "dc:a6:32:1")))
    result = CliRunner().invoke(commands.check, [str(file)])
    assert result.exit_code == 2
    lines = result.output.splitlines()
    assert len(lines) == 3
    assert "nodes[0].mac: 'dc:a6:32:1' has 4 octets, a MAC has 6. Read it on the node" in lines[1]
    assert lines[-1] == f"{file}: 2 errors, 0 warnings"
    assert "\x1b" not in result.output, "no colour where there is no terminal"


def test_json_form_has_problems_and_plain_values(home: Path) -> None:
    file = write(home / "cluster.yaml", changed(("image.user", DELETE)))
    report = json.loads(CliRunner().invoke(commands.check, ["--json", "--show", str(file)]).output)
    assert report["ok"] is True
    assert report["problems"][0]["severity"] == "warning"
    assert report["cluster"]["nodes"][1]["serial"] == "10000000d03114aa"
    assert report["boards"] == {"pi4": 1, "pi5": 1}
    assert {"key": "network.ports.http", "value": 7080, "origin": "default"} in report["values"]


def test_json_form_of_a_bad_file_has_no_cluster(home: Path) -> None:
    file = write(home / "cluster.yaml", "version: [")
    result = CliRunner().invoke(commands.check, ["--json", str(file)])
    assert result.exit_code == 2
    report = json.loads(result.output)
    assert report["ok"] is False
    assert report["cluster"] is None
    assert report["problems"][0]["line"] == 1


def test_show_lists_every_value_with_its_origin(home: Path) -> None:
    write(home / "cluster.yaml", changed())
    result = CliRunner().invoke(commands.check, ["--show"])
    rows = {line.split()[0]: line.split() for line in result.output.splitlines() if line.strip()}
    assert rows["cluster.name"] == ["cluster.name", "line", "3", "attic"]
    assert rows["network.ports.http"] == ["network.ports.http", "default", "7080"]


def test_missing_file_is_an_input_error(home: Path) -> None:
    result = CliRunner().invoke(commands.check, [])
    assert isinstance(result.exception, InputError)
    assert "does not exist" in result.exception.message


def test_init_without_a_terminal_takes_what_it_finds_and_passes_the_check(home: Path) -> None:
    result = CliRunner().invoke(commands.init, [])
    assert result.exit_code == 0, result.output
    spec = load_cluster(home / "cluster.yaml")
    assert spec.network.interface == "enp1s0"
    assert spec.network.gateway == IPv4Address("192.168.7.1")
    assert spec.network.dhcp is DhcpMode.PROXY
    assert [path.name for path in home.iterdir()] == ["cluster.yaml"]


def test_init_on_a_terminal_asks_again_until_the_answer_is_good(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "is_terminal", lambda: True)
    result = CliRunner().invoke(
        commands.init, ["lab.yaml"], input="My Lab\nmy-lab\n\n10.9.0.1/24\n10.9.0.0/24\n"
    )
    assert result.exit_code == 0, result.output
    assert "Write 'my-lab'" in result.output
    spec = load_cluster(home / "lab.yaml")
    assert spec.name == "my-lab"
    assert spec.network.interface == "enp1s0"
    assert spec.network.subnet == IPv4Network("10.9.0.0/24")


def test_init_takes_options_and_the_users_public_key(home: Path) -> None:
    key = check(changed()).spec
    assert key is not None
    (home / ".ssh").mkdir()
    write(home / ".ssh" / "id_ed25519.pub", key.image.user.ssh_authorized_keys[0] + "\n")
    options = ["--name", "shelf", "--interface", "eth9", "--subnet", "10.0.8.0/29"]
    assert CliRunner().invoke(commands.init, options).exit_code == 0
    spec = load_cluster(home / "cluster.yaml")
    assert (spec.name, spec.network.interface) == ("shelf", "eth9")
    assert spec.image.user == key.image.user


def test_init_makes_the_folder_that_the_service_reads_from(home: Path) -> None:
    file = home / "etc" / "bramble" / "cluster.yaml"
    assert CliRunner().invoke(commands.init, [str(file)]).exit_code == 0
    assert load_cluster(file).name == "attic"


def test_init_never_overwrites_unless_told(home: Path) -> None:
    file = write(home / "cluster.yaml", "precious")
    result = CliRunner().invoke(commands.init, [])
    assert isinstance(result.exception, InputError)
    assert "--force" in result.exception.hint
    assert file.read_text(encoding="utf-8") == "precious"
    assert CliRunner().invoke(commands.init, ["--force"]).exit_code == 0
    assert load_cluster(file).name == "attic"


@pytest.mark.parametrize(
    "values",
    [
        StarterValues(),
        StarterValues(name="a" * 63),
        StarterValues(name="x" * 59 + "-ab"),
        StarterValues(gateway=None),
        StarterValues(subnet=IPv4Network("10.0.0.0/30"), gateway=IPv4Address("10.0.0.1")),
        StarterValues(subnet=IPv4Network("10.0.0.0/30"), gateway=IPv4Address("10.0.0.2")),
        StarterValues(subnet=IPv4Network("10.0.0.0/8"), gateway=IPv4Address("10.0.0.10")),
    ],
    ids=["defaults", "long-name", "cut-at-hyphen", "no-router", "tiny", "tiny-2", "router-on-10"],
)
def test_starter_file_passes_for_any_network(values: StarterValues) -> None:
    checked = check(render_starter(values))
    assert not checked.errors


ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
wlan0\t00000000\t0107A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
eth0\t0000FEA9\t00000000\t0001\t0\t0\t1000\t0000FFFF\t0\t0\t0
wlan0\t0007A8C0\t00000000\t0001\t0\t0\t600\t00FFFFFF\t0\t0\t0
"""


def test_routing_table_gives_the_network_of_the_default_route_first() -> None:
    assert parse_routes(ROUTES) == (
        HostNetwork("wlan0", IPv4Network("192.168.7.0/24"), IPv4Address("192.168.7.1")),
        HostNetwork("docker0", IPv4Network("172.17.0.0/16"), None),
    )
    assert parse_routes("") == ()


@pytest.mark.parametrize("command", [commands.check, commands.init], ids=["check", "init"])
def test_help_names_the_file_and_every_option_explains_itself(command: click.Command) -> None:
    output = CliRunner().invoke(command, ["--help"]).output
    assert "[FILE]" in output
    assert all(option.help for option in command.params if isinstance(option, click.Option))
