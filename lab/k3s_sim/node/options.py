"""Flags of `k3s server` and `k3s agent`: where a value may come from, and which source wins.

Order, last wins: environment, configuration file, its drop-ins in alphabetical order, command line. A list on
the command line replaces the list of the files. `key+:` in a drop-in appends. An unknown key in a file is
skipped with a warning, an unknown flag on the command line is an error; k3s does the same. Source: k3s
documentation, "Configuration Options".
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lab.k3s_sim.node.errors import K3sError
from lab.k3s_sim.node.yaml_subset import Value

CONFIG_FILE = "/etc/rancher/k3s/config.yaml"
CONFIG_VARIABLE = "K3S_CONFIG_FILE"
DATA_DIR = "/var/lib/rancher/k3s"
KUBECONFIG = "/etc/rancher/k3s/k3s.yaml"
HTTPS_PORT = 6443


class Kind(enum.Enum):
    """How a flag takes its values."""

    VALUE = "one value, the last wins"
    LIST = "may be given many times"
    SWITCH = "true or false"


@dataclass(frozen=True)
class Flag:
    """One flag of the command line. `works` is false for a flag that is accepted but changes nothing in a
    simulator.
    """

    kind: Kind
    works: bool = True
    variable: str = ""


def _without_effect(kind: Kind, names: str) -> dict[str, Flag]:
    return {name: Flag(kind, works=False) for name in names.split()}


_AGENT_FLAGS: Mapping[str, Flag] = {
    "config": Flag(Kind.VALUE),
    "data-dir": Flag(Kind.VALUE, variable="K3S_DATA_DIR"),
    "debug": Flag(Kind.SWITCH, works=False),
    "node-ip": Flag(Kind.LIST),
    "node-label": Flag(Kind.LIST),
    "node-name": Flag(Kind.VALUE, variable="K3S_NODE_NAME"),
    "node-taint": Flag(Kind.LIST),
    "rootless": Flag(Kind.SWITCH),
    "server": Flag(Kind.VALUE, variable="K3S_URL"),
    "token": Flag(Kind.VALUE, variable="K3S_TOKEN"),
    "token-file": Flag(Kind.VALUE, variable="K3S_TOKEN_FILE"),
    "with-node-id": Flag(Kind.SWITCH),
    **_without_effect(
        Kind.VALUE,
        """
        airgap-extra-registry alsologtostderr bind-address container-runtime-endpoint default-runtime
        flannel-conf flannel-cni-conf flannel-iface image-credential-provider-bin-dir
        image-credential-provider-config image-service-endpoint lb-server-port log node-external-ip
        pause-image private-registry resolv-conf snapshotter system-default-registry v vmodule vpn-auth
        vpn-auth-file
        """,
    ),
    **_without_effect(
        Kind.LIST,
        """
        kube-proxy-arg kubelet-arg node-external-dns node-internal-dns
        """,
    ),
    **_without_effect(
        Kind.SWITCH,
        """
        disable-apiserver-lb disable-default-registry-endpoint docker enable-pprof nonroot-devices
        prefer-bundled-bin protect-kernel-defaults selinux
        """,
    ),
}

_SERVER_FLAGS: Mapping[str, Flag] = {
    **_AGENT_FLAGS,
    "agent-token": Flag(Kind.VALUE, variable="K3S_AGENT_TOKEN"),
    "agent-token-file": Flag(Kind.VALUE, variable="K3S_AGENT_TOKEN_FILE"),
    "bind-address": Flag(Kind.VALUE),
    "cluster-init": Flag(Kind.SWITCH, variable="K3S_CLUSTER_INIT"),
    "cluster-reset": Flag(Kind.SWITCH, variable="K3S_CLUSTER_RESET"),
    "cluster-reset-restore-path": Flag(Kind.VALUE),
    "disable-agent": Flag(Kind.SWITCH),
    "https-listen-port": Flag(Kind.VALUE),
    "tls-san": Flag(Kind.LIST),
    "write-kubeconfig": Flag(Kind.VALUE, variable="K3S_KUBECONFIG_OUTPUT"),
    "write-kubeconfig-mode": Flag(Kind.VALUE, variable="K3S_KUBECONFIG_MODE"),
    **_without_effect(
        Kind.VALUE,
        """
        advertise-address advertise-port cluster-cidr cluster-dns cluster-domain datastore-endpoint
        egress-selector-mode etcd-arg etcd-s3-bucket etcd-s3-config-secret etcd-s3-endpoint etcd-s3-folder
        etcd-s3-region etcd-snapshot-dir etcd-snapshot-name etcd-snapshot-retention
        etcd-snapshot-schedule-cron flannel-backend helm-job-image service-cidr service-node-port-range
        write-kubeconfig-group
        """,
    ),
    **_without_effect(
        Kind.LIST,
        """
        disable kube-apiserver-arg kube-cloud-controller-manager-arg kube-controller-manager-arg
        kube-scheduler-arg
        """,
    ),
    **_without_effect(
        Kind.SWITCH,
        """
        disable-apiserver disable-cloud-controller disable-controller-manager disable-etcd
        disable-helm-controller disable-kube-proxy disable-network-policy disable-scheduler
        embedded-registry etcd-disable-snapshots etcd-expose-metrics etcd-s3 etcd-snapshot-compress
        flannel-external-ip flannel-ipv6-masq kine-tls multus secrets-encryption supervisor-metrics
        tls-san-security
        """,
    ),
}

_SNAPSHOT_FLAGS: Mapping[str, Flag] = {
    **_SERVER_FLAGS,
    "dir": Flag(Kind.VALUE),
    "name": Flag(Kind.VALUE),
    "snapshot-retention": Flag(Kind.VALUE),
}

FLAGS: Mapping[str, Mapping[str, Flag]] = {
    "server": _SERVER_FLAGS,
    "agent": _AGENT_FLAGS,
    "etcd-snapshot": _SNAPSHOT_FLAGS,
}
_SHORT = {
    "c": "config",
    "d": "data-dir",
    "i": "node-ip",
    "o": "write-kubeconfig",
    "s": "server",
    "t": "token",
}


@dataclass(frozen=True)
class Options:
    """The effective values of one start, by flag name without dashes."""

    values: Mapping[str, tuple[str, ...]]
    warnings: tuple[str, ...] = ()

    def text(self, name: str, default: str = "") -> str:
        """The last value of a flag."""
        return self.values.get(name, (default,))[-1]

    def items(self, name: str) -> tuple[str, ...]:
        """All values of a list flag."""
        return self.values.get(name, ())

    def comma_items(self, name: str) -> tuple[str, ...]:
        """All values of a list flag that also splits at commas."""
        return tuple(part.strip() for item in self.items(name) for part in item.split(",") if part.strip())

    def switch(self, name: str) -> bool:
        """Whether a switch is on."""
        return self.text(name) == "true"


def config_path(argv: Sequence[str], environ: Mapping[str, str]) -> tuple[str, bool]:
    """Path of the configuration file, and whether somebody asked for it (then it must exist)."""
    if environ.get(CONFIG_VARIABLE):
        return environ[CONFIG_VARIABLE], True
    given = [value for name, value in _split_arguments("server", argv, strict=False) if name == "config"]
    return (given[-1], True) if given else (CONFIG_FILE, False)


def resolve(
    command: str,
    argv: Sequence[str],
    environ: Mapping[str, str],
    documents: Iterable[Mapping[str, Value]] = (),
) -> Options:
    """Merge all sources for `command` ("server" or "agent").

    Args:
        argv: what follows the command on the command line.
        documents: the configuration file and its drop-ins, in the order they are read.

    Raises:
        K3sError: for an unknown flag or an unusable value.
    """
    flags = FLAGS[command]
    values: dict[str, tuple[str, ...]] = {}
    warnings: list[str] = []
    for name, flag in flags.items():
        if flag.variable and environ.get(flag.variable):
            values[name] = (environ[flag.variable],)
    for name, given in _merge(documents).items():
        if name not in flags:
            warnings.append(f"Unknown flag --{name} found in config.yaml, skipping")
            continue
        values[name] = tuple(
            _checked(name, flags[name], item) for item in given if item or flags[name].kind is Kind.SWITCH
        )
    from_command_line: dict[str, tuple[str, ...]] = {}
    for name, value in _split_arguments(command, argv, strict=True):
        from_command_line[name] = (*from_command_line.get(name, ()), _checked(name, flags[name], value))
    values.update(from_command_line)
    values = {name: given for name, given in values.items() if given}
    warnings += [
        f"--{name} has no effect in the simulator" for name in sorted(values) if not flags[name].works
    ]
    return Options(values, tuple(warnings))


def _merge(documents: Iterable[Mapping[str, Value]]) -> dict[str, tuple[str, ...]]:
    merged: dict[str, tuple[str, ...]] = {}
    for document in documents:
        for key, value in document.items():
            if key.endswith("+"):
                merged[key[:-1]] = (*merged.get(key[:-1], ()), *_as_arguments(key, value))
            else:
                merged[key] = _as_arguments(key, value)
    return merged


def _as_arguments(key: str, value: Value) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list):
        if not all(isinstance(item, str) for item in value):
            raise K3sError(f"the configuration key {key!r} holds a list of something else than plain values")
        return tuple(item for item in value if isinstance(item, str))
    raise K3sError(f"the configuration key {key!r} holds a mapping; a flag takes a value or a list")


def _split_arguments(command: str, argv: Sequence[str], *, strict: bool) -> list[tuple[str, str]]:
    """The command line as (flag, value) pairs; without `strict`, whatever is not understood is left out."""
    flags = FLAGS[command]
    pairs: list[tuple[str, str]] = []
    rest = list(argv)
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.lstrip("-").partition("=")
        name = _SHORT.get(name, name)
        if not argument.startswith("-") or name not in flags:
            if strict:
                raise K3sError(f"flag provided but not defined: -{name}" if argument.startswith("-")
                               else f"No help topic for '{argument}'")  # fmt: skip
            continue
        if flags[name].kind is Kind.SWITCH:
            pairs.append((name, value if equals else "true"))
        elif equals:
            pairs.append((name, value))
        elif rest:
            pairs.append((name, rest.pop(0)))
        elif strict:
            raise K3sError(f"flag needs an argument: -{name}")
    return pairs


def _checked(name: str, flag: Flag, value: str) -> str:
    if flag.kind is not Kind.SWITCH:
        return value
    lowered = value.lower() or "true"
    if lowered in ("true", "1", "t"):
        return "true"
    if lowered in ("false", "0", "f"):
        return "false"
    raise K3sError(f'invalid boolean value "{value}" for -{name}: parse error')
