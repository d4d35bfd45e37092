"""Flags: their sources, which one wins, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.k3s_sim.node.errors import K3sError
from lab.k3s_sim.node.options import CONFIG_FILE, config_path, resolve
from lab.k3s_sim.node.settings import agent_settings, load_options, server_settings
from lab.k3s_sim.node.yaml_subset import Value


def test_the_command_line_beats_the_files_and_the_files_beat_the_environment() -> None:
    files = [{"token": "file", "server": "https://file"}]
    chosen = resolve(
        "agent", ["--server", "https://argv"], {"K3S_TOKEN": "env", "K3S_NODE_NAME": "env"}, files
    )
    assert (chosen.text("token"), chosen.text("server"), chosen.text("node-name")) == (
        "file",
        "https://argv",
        "env",
    )


def test_the_last_file_wins_and_a_plus_appends() -> None:
    first: dict[str, Value] = {"tls-san": ["a"], "node-label": ["x=1"], "token": "one"}
    second: dict[str, Value] = {"tls-san+": ["b", "c"], "node-label": ["y=2"], "token": "two"}
    chosen = resolve("server", [], {}, [first, second])
    assert chosen.items("tls-san") == ("a", "b", "c")
    assert chosen.items("node-label") == ("y=2",)
    assert chosen.text("token") == "two"


def test_a_list_on_the_command_line_replaces_the_list_of_the_files() -> None:
    chosen = resolve("server", ["--tls-san=c", "--tls-san", "d"], {}, [{"tls-san": ["a", "b"]}])
    assert chosen.items("tls-san") == ("c", "d")


def test_an_unknown_key_in_a_file_is_skipped_with_the_warning_of_k3s() -> None:
    chosen = resolve("agent", [], {}, [{"cluster-init": "true"}])
    assert chosen.warnings == ("Unknown flag --cluster-init found in config.yaml, skipping",)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--bogus"], "flag provided but not defined: -bogus"),
        (["--token"], "flag needs an argument: -token"),
        (["--rootless=maybe"], 'invalid boolean value "maybe" for -rootless: parse error'),
        (["words"], "No help topic for 'words'"),
    ],
)
def test_an_unusable_command_line_is_refused(argv: list[str], says: str) -> None:
    with pytest.raises(K3sError) as caught:
        resolve("agent", argv, {})
    assert caught.value.message == says


def test_a_flag_without_effect_is_accepted_and_said_to_have_none() -> None:
    chosen = resolve("server", ["--disable", "traefik", "--secrets-encryption"], {})
    assert chosen.warnings == (
        "--disable has no effect in the simulator",
        "--secrets-encryption has no effect in the simulator",
    )


@pytest.mark.parametrize(
    ("argv", "environ", "expected"),
    [
        ([], {}, (CONFIG_FILE, False)),
        (["-c", "/x"], {}, ("/x", True)),
        (["--bogus", "--config=/y"], {}, ("/y", True)),
        ([], {"K3S_CONFIG_FILE": "/z"}, ("/z", True)),
    ],
)
def test_the_configuration_file_is_found(
    argv: list[str], environ: dict[str, str], expected: tuple[str, bool]
) -> None:
    assert config_path(argv, environ) == expected


def test_drop_ins_are_read_in_alphabetical_order(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("token: base\nnode-label: [a=1]\n")
    drop_ins = tmp_path / "config.yaml.d"
    drop_ins.mkdir()
    (drop_ins / "50-bramble.yaml").write_text("token: bramble\nnode-label+:\n  - b=2\n")
    (drop_ins / "90-user.yml").write_text("token: user\n")
    (drop_ins / "95-ignored.txt").write_text("token: no\n")
    chosen = load_options("agent", ["--config", str(config)], {})
    assert chosen.text("token") == "user"
    assert chosen.items("node-label") == ("a=1", "b=2")


def test_a_bad_drop_in_is_named_with_its_line(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("token: x\nbad\n")
    with pytest.raises(K3sError, match=r"config\.yaml: line 2: expected 'key: value'"):
        load_options("agent", ["--config", str(config)], {})


def test_settings_of_a_server(tmp_path: Path) -> None:
    argv = ["--cluster-init", "--node-name", "Pi-1", "--node-ip", "10.0.0.1,10.0.0.2", "--tls-san=a,b"]
    argv += ["--data-dir", str(tmp_path), "--node-label", "rack=1", "--https-listen-port", "7000"]
    settings = server_settings(resolve("server", argv, {}))
    assert settings.agent.node_name == "pi-1"
    assert settings.agent.node_ips == ("10.0.0.1", "10.0.0.2")
    assert settings.agent.labels == {"rack": "1"}
    assert settings.agent.password_file == Path("/etc/rancher/node/password")
    assert (settings.tls_sans, settings.https_port, settings.cluster_init) == (("a", "b"), 7000, True)
    assert settings.kubeconfig == Path("/etc/rancher/k3s/k3s.yaml")


def test_a_missing_token_file_is_fatal_even_for_a_joined_agent(tmp_path: Path) -> None:
    missing = tmp_path / "gone"
    argv = ["--node-ip", "10.0.0.1", "--token-file", str(missing), "--data-dir", str(tmp_path)]
    with pytest.raises(K3sError) as caught:
        agent_settings(resolve("agent", argv, {}))
    assert caught.value.message == f"open {missing}: no such file or directory"


def test_a_token_file_is_read_without_its_newline(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    argv = ["--node-ip", "10.0.0.1", "--token-file", str(tmp_path / "token"), "--data-dir", str(tmp_path)]
    settings = agent_settings(resolve("agent", argv, {}))
    assert settings.token == "secret"
    assert "secret" not in repr(settings)


def test_a_node_id_is_kept(tmp_path: Path) -> None:
    argv = ["--node-ip", "10.0.0.1", "--node-name", "pi", "--with-node-id", "--rootless", "-d", str(tmp_path)]
    first, second = (agent_settings(resolve("agent", argv, {})) for _ in range(2))
    assert first.node_name == second.node_name
    assert first.node_name.removeprefix("pi-") == (first.node_dir / "id").read_text().strip()
