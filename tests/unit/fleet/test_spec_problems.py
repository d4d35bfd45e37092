"""One fault in a good cluster gives one problem, in its place, with a reason and a mend."""

# ruff: noqa: E501 - a row of the tables is one line: name, place, reason, mend, change

from __future__ import annotations

import pytest
from fakes_spec import DELETE, SSH_KEY, changed, check
from hypothesis import assume, given
from hypothesis import strategies as st

from fleet.spec import Severity
from fleet.spec.draft import PathKind

PRIVATE_KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n-----END OPENSSH PRIVATE KEY-----"
URL_BASE = {"url": "https://images.example.org/a.img.xz", "sha256": "ab" * 32}
Change = tuple[str, object]


def case(name: str, key: str, message: str, hint: str, *changes: Change) -> object:
    return pytest.param(changes, key, message, hint, id=name)


ERRORS = [
    # The document as a whole
    case("version-missing", "version", "'version' is missing in the file", "version: 1", ("version", DELETE)),
    case("version-newer", "version", "version 2 of the format is not known", "newer Bramble", ("version", 2)),
    case("unknown-section", "networks", "'networks' is not known", "Did you mean 'network'?", ("networks", {})),
    case("section-is-a-word", "policy", "found 'hold', expected a mapping", "", ("policy", "hold")),
    case("misplaced-key", "gateway", "not known here", "belongs in 'network.gateway'", ("gateway", "10.0.0.1")),
    # Cluster
    case("cluster-name", "cluster.name", "'My Attic' is not a host name", "'my-attic'", ("cluster.name", "My Attic")),
    case("cluster-name-long", "cluster.name", "has 64 characters", "Shorten", ("cluster.name", "a" * 64)),
    case("cluster-unnamed", "cluster.name", "'name' is missing in 'cluster'", "", ("cluster.name", DELETE)),
    case("domain", "cluster.domain", "'-x' is not a host name label", "", ("cluster.domain", "a.-x")),
    case("domain-mdns", "cluster.domain", "multicast DNS", "internal", ("cluster.domain", "attic.local")),
    case("k3s-channel", "cluster.k3s.version", "not an exact k3s version", "releases", ("cluster.k3s.version", "stable")),
    case("k3s-no-build", "cluster.k3s.version", "v1.33.5+k3s1", "releases", ("cluster.k3s.version", "v1.33.5")),
    case("k3s-unpinned", "cluster.k3s.version", "is missing", "Pin", ("cluster.k3s.version", DELETE)),
    case("source-typo", "cluster.k3s.source", "'upstreamm'", "'upstream'?", ("cluster.k3s.source", "upstreamm")),
    case("source-absent", "cluster.k3s.source", "does not exist (/clusters/k3s)", "", ("cluster.k3s.source", "./k3s")),
    case("source-ftp", "cluster.k3s.source", "not a place", "http(s)", ("cluster.k3s.source", "ftp://example.org/k3s")),
    case("airgap", "cluster.k3s.airgap_images", "true or false", "", ("cluster.k3s.airgap_images", "maybe")),
    case("k3s-owned", "cluster.k3s.config.cluster-init", "is Bramble's", "", ("cluster.k3s.config", {"cluster-init": True})),
    case("k3s-owned-append", "cluster.k3s.config.node-label+", "per node", "", ("cluster.k3s.config", {"node-label+": ["a=b"]})),
    case("k3s-datastore", "cluster.k3s.config.datastore-endpoint", "etcd", "", ("cluster.k3s.config", {"datastore-endpoint": "x"})),
    case("registries-key", "cluster.k3s.registries.mirror", "no key 'mirror'", "Remove", ("cluster.k3s.registries", {"mirror": {}})),
    case("registries-shape", "cluster.k3s.registries.mirrors", "must map registries", "", ("cluster.k3s.registries", {"mirrors": ["docker.io"]})),
    case("registries-auth", "cluster.k3s.registries.configs.r.example.auth", "credentials of 'r.example'", "overlay", ("cluster.k3s.registries", {"configs": {"r.example": {"auth": {"username": "me"}}}})),
    case("store", "cluster.control.store", "no database", "postgresql://", ("cluster.control", {"store": "postgresql://db"})),
    case("store-kind", "cluster.control.store", "has mysql", "postgresql://", ("cluster.control", {"store": "mysql://db/x"})),
    case("store-password", "cluster.control.store", "a password in a URL", "Remove it", ("cluster.control", {"store": "postgresql://a:b@db/x"})),
    case("store-password-setting", "cluster.control.store", "holds a password", "PGPASSWORD", ("cluster.control", {"store": "postgresql://a@db/x?password=b"})),
    # Image
    case("pages", "image.pages", "'16k'", "stock", ("image.pages", "16k")),
    case("base-unknown", "image.base", "'arch' is not a base", "debian-trixie", ("image.base", "arch")),
    case("base-family", "image.base", "'raspios'", "Did you mean", ("image.base", "raspios")),
    case("base-bare-path", "image.base", "'./my.img'", "{path: ./my.img}", ("image.base", "./my.img")),
    case("base-no-digest", "image.base", "no 'sha256'", "unchecked", ("image.base", {"url": URL_BASE["url"]})),
    case("base-digest", "image.base.sha256", "has 4 characters", "", ("image.base", {**URL_BASE, "sha256": "abcd"})),
    case("base-two", "image.base", "'url' and 'path'", "", ("image.base", {**URL_BASE, "path": "a.img"})),
    case("base-file-absent", "image.base.path", "does not exist", "relative", ("image.base", {"path": "a.img"})),
    case("package", "image.packages[0]", "not a Debian package name", "", ("image.packages", ["NFS Common"])),
    case("package-word", "image.packages", "expected a list", "", ("image.packages", "nfs-common")),
    case("overlay-absent", "image.overlays[0]", "does not exist", "", ("image.overlays", ["./overlay"])),
    case("user-root", "image.user.name", "'root'", "", ("image.user.name", "root")),
    case("timezone", "image.timezone", "not in the time zone", "'Europe/Madrid'?", ("image.timezone", "Europe/Madird")),
    # Network
    case("dns-mode", "network.dns_server", "'recursive'", "forward", ("network.dns_server", "recursive")),
    case("dns-nobody", "network.dns_server", "no other name server", "your router", ("network.dns_server", "forward")),
    case("dns-loop", "network.dns_server", "no other name server", "your router", ("network.dns_server", "forward"), ("network.dns", ["192.168.86.2"]), ("network.server_address", "192.168.86.2")),
    case("dns-service-name", "nodes[1].name", "'api' is a name", "otherwise", ("network.dns_server", "zone"), ("nodes.1.name", "api")),
    case("netconsole-port", "network.ports.netconsole", "65535", "", ("network.ports", {"netconsole": 70000})),
    case("metrics-network", "network.metrics_from[0]", "'10.0.0.9/24' is not a network", "Host bits", ("network.metrics_from", ["10.0.0.9/24"])),
    case("metrics-word", "network.metrics_from", "expected a list", "", ("network.metrics_from", "10.0.0.0/24")),
    case("interface-missing", "network.interface", "is missing", "ip -br link", ("network.interface", DELETE)),
    case("interface", "network.interface", "at most 15", "", ("network.interface", "a-very-long-interface")),
    case("dhcp", "network.dhcp", "'ful' is not one of", "Did you mean 'full'?", ("network.dhcp", "ful")),
    case("subnet-missing", "network.subnet", "is missing", "", ("network.subnet", DELETE)),
    case("subnet-host-bits", "network.subnet", "host bits", "'192.168.86.0/24'", ("network.subnet", "192.168.86.7/24")),
    case("subnet-no-prefix", "network.subnet", "no prefix length", "", ("network.subnet", "192.168.86.0")),
    case("subnet-tiny", "network.subnet", "no room", "", ("network.subnet", "192.168.86.0/31")),
    case("gateway-outside", "network.gateway", "lies outside", "192.168.86.254", ("network.gateway", "192.168.87.1")),
    case("gateway-text", "network.gateway", "not an IPv4 address", "without '/", ("network.gateway", "192.168.86.1/24")),
    case("dns", "network.dns[1]", "not an IPv4 address", "", ("network.dns", ["1.1.1.1", "dns.example.org"])),
    case("pool-reversed", "network.pool", "runs backwards", "Swap", ("network.pool", "192.168.86.230-192.168.86.200")),
    case("pool-outside", "network.pool", "lies outside", "between", ("network.pool", "10.0.0.1-10.0.0.9")),
    case("pool-broadcast", "network.pool", "broadcast", "", ("network.pool", "192.168.86.200-192.168.86.255")),
    case("pool-no-range", "network.pool", "not a range", "", ("network.pool", "192.168.86.200")),
    case("port", "network.ports.http", "at most 65535", "", ("network.ports", {"http": 70000})),
    case("port-text", "network.ports.control", "a whole number", "", ("network.ports", {"control": "tls"})),
    case("port-twice", "network.ports", "port 8000", "", ("network.ports", {"http": 8000, "control": 8000})),
    case("server-is-node", "nodes[0].address", "Bramble's server", "", ("network.server_address", "192.168.86.33")),
    case("vip-is-node", "cluster.k3s.api_vip", "node 'pi5-1'", "no machine", ("cluster.k3s.api_vip", "192.168.86.33")),
    case("vip-is-gateway", "cluster.k3s.api_vip", "the gateway", "", ("cluster.k3s.api_vip", "192.168.86.1")),
    case("vip-outside", "cluster.k3s.api_vip", "lies outside", "", ("cluster.k3s.api_vip", "192.168.85.20")),
    case("vip-in-pool", "cluster.k3s.api_vip", "lies in the pool", "", ("cluster.k3s.api_vip", "192.168.86.210")),
    # Nodes against each other
    case("no-nodes", "nodes", "no node is declared", "", ("nodes", [])),
    case("no-server", "nodes", "a cluster needs one", "1 or 3", ("nodes.0.role", "agent")),
    case("two-servers", "nodes", "2 servers survive no failure, as 1 would", "1 or 3", ("nodes.1.role", "server"), ("nodes.1.disk", "usb")),
    case("same-name", "nodes[1].name", "already that of nodes[0]", "", ("nodes.1.name", "pi5-1")),
    case("same-mac", "nodes[1].mac", "the mac '2c:cf:67:12:34:56' is already that of nodes[0] ('pi5-1')", "", ("nodes.1.mac", "2CCF67123456")),
    case("same-serial", "nodes[1].serial", "last 8 digits 'd03114aa'", "", ("nodes.0.serial", "c0ffee00d03114aa")),
    case("same-address", "nodes[1].address", "already that of", "", ("nodes.1.address", "192.168.86.33")),
    # A node by itself
    case("node-word", "nodes[2]", "found 'pi4-2', expected a mapping", "", ("nodes.2", "pi4-2")),
    case("node-name", "nodes[1].name", "'pi4_1' is not a host name", "'pi4-1'", ("nodes.1.name", "pi4_1")),
    case("node-unnamed", "nodes[1].name", "nodes[1] has no 'name'", "", ("nodes.1.name", DELETE)),
    case("node-no-board", "nodes[1].board", "has no 'board'", "cm5-lite", ("nodes.1.board", DELETE)),
    case("node-board", "nodes[1].board", "'pi6' is not a board", "pi4", ("nodes.1.board", "pi6")),
    case("node-no-role", "nodes[1].role", "has no 'role'", "", ("nodes.1.role", DELETE)),
    case("node-role", "nodes[1].role", "'worker' is not one of", "server", ("nodes.1.role", "worker")),
    case("node-no-disk", "nodes[1].disk", "has no 'disk'", "erased", ("nodes.1.disk", DELETE)),
    case("node-disk-kind", "nodes[1].disk", "'ssd' is not one of", "", ("nodes.1.disk", "ssd")),
    case("node-disk-serial-only", "nodes[1].disk", "has no 'disk'", "", ("nodes.1.disk", {"serial": "A1"})),
    case("nvme-on-pi4", "nodes[1].disk", "a Raspberry Pi 4 Model B has no NVMe", "'disk: sd' or 'disk: usb'", ("nodes.1.disk", "nvme")),
    case("node-nobody", "nodes[1]", "neither 'mac' nor 'serial'", "bootloader", ("nodes.1.serial", DELETE)),
    case("node-mac", "nodes[0].mac", "'dc:a6:32:1' has 4 octets, a MAC has 6", "ip link", ("nodes.0.mac", "dc:a6:32:1")),
    case("node-serial", "nodes[1].serial", "has 15 digits", "serial-number", ("nodes.1.serial", "10000000d03114a")),
    case("node-address", "nodes[0].address", "lies outside the subnet", "", ("nodes.0.address", "192.168.68.33")),
    case("node-address-network", "nodes[0].address", "network address", "", ("nodes.0.address", "192.168.86.0")),
    case("node-address-broadcast", "nodes[0].address", "broadcast address", "", ("nodes.0.address", "192.168.86.255")),
    case("node-address-gateway", "nodes[0].address", "already the address of the gateway", "", ("nodes.0.address", "192.168.86.1")),
    case("node-address-in-pool", "nodes[1].address", "lies in the pool", "", ("nodes.1.address", "192.168.86.205")),
    case("no-pool", "network.dhcp", "1 node has no 'address' ('pi4-1') and there is no pool", "", ("nodes.1.address", DELETE), ("network.pool", DELETE)),
    case("memory-of-server", "nodes[0].role", "has 1024 MiB of memory, a k3s server needs 2048", "agent", ("nodes.0.memory", "1G")),
    case("memory-never-made", "nodes[1].memory", "not a size", "1G, 2G, 4G, 8G", ("nodes.1.memory", "16G")),
    case("memory-text", "nodes[1].memory", "not a memory size", "", ("nodes.1.memory", "much")),
    case("label-role", "nodes[1].labels.node-role.kubernetes.io/x", "refuses role labels", "role:", ("nodes.1.labels", {"node-role.kubernetes.io/x": "y"})),
    case("label-reserved", "nodes[1].labels.k8s.io/x", "reserved", "example.org", ("nodes.1.labels", {"k8s.io/x": "y"})),
    case("label-key", "nodes[1].labels.bad key", "not a Kubernetes key", "", ("nodes.1.labels", {"bad key": "y"})),
    case("label-value", "nodes[1].labels.tier", "not a label value", "", ("nodes.1.labels", {"tier": "-x-"})),
    case("taint-effect", "nodes[1].taints[0]", "'NoSchedul' is not an effect", "'NoSchedule'", ("nodes.1.taints", ["a=b:NoSchedul"])),
    case("taint-bare", "nodes[1].taints[0]", "has no effect", "", ("nodes.1.taints", ["gpu"])),
    case("unknown-node-key", "nodes[1].addresz", "not known", "'address'?", ("nodes.1.addresz", "x")),
    case("defaults-name", "defaults.mac", "not known here", "", ("defaults.mac", "2c:cf:67:12:34:57")),
    # Power
    case("driver", "nodes[1].power.driver", "'tasmato' is not", "'tasmota'?", ("nodes.1.power", {"driver": "tasmato"})),
    case("driver-missing", "nodes[1].power", "'driver' is missing", "", ("nodes.1.power", {"url": "http://10.0.0.1"})),
    case("driver-key", "nodes[1].power.urll", "not known", "'url'?", ("nodes.1.power", {"driver": "tasmota", "url": "http://10.0.0.1", "urll": "x"})),
    case("driver-needs", "nodes[1].power.url", "needs 'url'", "", ("nodes.1.power", "shelly")),
    case("driver-url", "nodes[1].power.url", "http://", "", ("nodes.1.power", {"driver": "shelly", "url": "10.0.0.1"})),
    case("command-off", "nodes[1].power.off", "needs 'off'", "", ("nodes.1.power", {"driver": "command", "on": ["x"]})),
    case("snmp-file", "nodes[1].power.community_file", "does not exist", "", ("nodes.1.power", {"driver": "snmp-poe", "host": "10.0.0.2", "port": 1, "community_file": "c"})),
    # Policy
    case("unknown-boards", "policy.unknown_boards", "'holt'", "'hold'?", ("policy.unknown_boards", "holt")),
    case("first-boot", "policy.first_boot.agent", "'trust_lan'", "'trust-lan'?", ("policy.first_boot.agent", "trust_lan")),
    case("first-boot-server", "policy.first_boot.server", "administrator", "'approve'", ("policy.first_boot.server", "trust-lan")),
    case("after", "policy.reimage.after", "not a duration", "unit", ("policy.reimage.after", "15")),
    case("max-parallel", "policy.reimage.max_parallel", "at least 1", "", ("policy.reimage.max_parallel", 0)),
    case("after-short", "policy.reimage.after", "at least 60", "", ("policy.reimage.after", "30s")),
    case("window-word", "policy.reimage.windows[0]", "not a window", "may be left out", ("policy.reimage.windows", ["01:00-05:00"])),
    case("window-day", "policy.reimage.windows[0]", "'satt'", "'sat'?", ("policy.reimage.windows", ["satt 01:00-05:00"])),
    case("window-range", "policy.reimage.windows[1]", "''", "'daily'", ("policy.reimage.windows", ["daily 1:00-5:00", "mon- 1:00-5:00"])),
    case("window-time", "policy.reimage.windows[0]", "no clock shows", "24:00", ("policy.reimage.windows", ["daily 24:00-05:00"])),
    case("window-minute", "policy.reimage.windows[0]", "no clock shows", "24:00", ("policy.reimage.windows", ["daily 01:60-05:00"])),
    case("window-empty", "policy.reimage.windows[0]", "is empty", "00:00-24:00", ("policy.reimage.windows", ["daily 01:00-01:00"])),
    case("window-zone", "policy.reimage.windows[0]", "'Europe/Madrit'", "'Europe/Madrid'?", ("policy.reimage.windows", ["daily 01:00-05:00 Europe/Madrit"])),
    case("window-number", "policy.reimage.windows[0]", "is not a window", "", ("policy.reimage.windows", [60])),
    case("vip-without-address", "cluster.k3s.kube_vip", "there is none", "api_vip", ("cluster.k3s.kube_vip", {"enabled": True})),
    case("vip-image", "cluster.k3s.kube_vip.image", "not the full name", "ghcr.io/", ("cluster.k3s", {"version": "v1.33.5+k3s1", "api_vip": "192.168.86.20", "kube_vip": {"image": "kube-vip"}})),
    case("join-batch", "policy.join.batch", "at least 1", "", ("policy.join.batch", 0)),
    case("slow-disk", "policy.join.slow_disk", "'ignore'", "warn", ("policy.join.slow_disk", "ignore")),
    # SSH keys
    case("key-cut", "image.user.ssh_authorized_keys[0]", "cut off", "", ("image.user.ssh_authorized_keys", [SSH_KEY[:50]])),
    case("key-file-name", "image.user.ssh_authorized_keys[0]", "file name", "cat", ("image.user.ssh_authorized_keys", ["~/.ssh/id_ed25519.pub"])),
    case("key-crlf", "image.user.ssh_authorized_keys[0]", "line break", "", ("image.user.ssh_authorized_keys", [SSH_KEY.replace(" ", "\r\n", 1)])),
    case("key-putty", "image.user.ssh_authorized_keys[0]", "PuTTY", "ssh-keygen -i", ("image.user.ssh_authorized_keys", ["---- BEGIN SSH2 PUBLIC KEY ----"])),
    case("key-dsa", "image.user.ssh_authorized_keys[0]", "DSA", "", ("image.user.ssh_authorized_keys", ["ssh-dss AAAA x"])),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "key", "message", "hint"), ERRORS)
def test_fault_gives_one_error(changes: tuple[Change, ...], key: str, message: str, hint: str) -> None:
    checked = check(changed(*changes))
    (error,) = checked.errors
    assert error.key == key
    assert message in error.message
    assert hint in error.hint
    assert checked.spec is None
    assert str(error).startswith(f"cluster.yaml:{error.line}: {key}: ")


SECRETS = [
    ("cluster.k3s.config", {"token": "hunter2hunter2"}),
    ("cluster.k3s.config", {"agent-token": "hunter2hunter2"}),
    ("cluster.k3s.config", {"etcd-s3-secret-key": "hunter2hunter2"}),
    ("cluster.k3s.config", {"private-registry": "https://me:hunter2hunter2@registry.example.org"}),
    ("cluster.k3s.registries", {"configs": {"r.example": {"auth": {"password": "hunter2hunter2"}}}}),
    ("cluster.k3s.config", {"x": "K10" + "ab" * 32 + "::server:hunter2hunter2"}),
    ("cluster.k3s.source", "https://me:hunter2hunter2@mirror.example.org/k3s"),
    ("image.user.password", "hunter2hunter2"),
    ("image.user.ssh_authorized_keys", [PRIVATE_KEY.replace("b3BlbnNzaC1rZXk", "hunter2hunter2")]),
    ("image.base", "PuTTY-User-Key-File-3: hunter2hunter2"),
    ("nodes.1.power", {"driver": "tasmota", "url": "http://10.0.0.1", "password": "hunter2hunter2"}),
    ("nodes.1.power", {"driver": "snmp-poe", "host": "a", "port": 1, "community": "hunter2hunter2"}),
]


@pytest.mark.parametrize("change", SECRETS, ids=lambda change: f"{change[0]}-{str(change[1])[:24]}")
def test_secret_in_clear_is_reported_and_never_shown(change: Change) -> None:
    checked = check(changed(change))
    assert checked.errors
    told = "\n".join(str(problem) for problem in checked.problems)
    assert "in clear" in told or "private key" in told
    assert "hunter2" not in told


WARNINGS = [
    case("vip-image-not-aboard", "cluster.k3s.api_vip", "not among k3s's own images", "overlay", ("cluster.k3s.api_vip", "192.168.86.20")),
    case("vip-without-route", "cluster.k3s.api_vip", "no default route", "interface: eth0", ("cluster.k3s", {"version": "v1.33.5+k3s1", "api_vip": "192.168.86.20", "kube_vip": {"image": "reg.lan/kube-vip:v1"}}), ("network.gateway", DELETE), ("network.dhcp", "proxy"), ("network.pool", DELETE)),
    case("server-on-sd", "nodes[0].disk", "etcd on SD card or eMMC", "NVMe or USB", ("nodes.0.disk", "sd")),
    case("no-ssh-key", "image.user.ssh_authorized_keys", "nobody can log in", "ssh-keygen", ("image.user", DELETE)),
    case("base-no-ethernet", "image.base", "no driver for the Ethernet port of 'pi5-1'", "raspios-lite-trixie", ("image.base", "debian-trixie")),
    case("base-default", "image.base", "no driver for the Ethernet port of 'pi5-1'", "raspios-lite-trixie", ("image.base", DELETE)),
    case("unused-pool", "network.pool", "not used with 'dhcp: proxy'", "dhcp: full", ("network.dhcp", "proxy")),
    case("no-gateway", "network.dhcp", "no gateway", "", ("network.gateway", DELETE)),
    case("dry-run-of-nothing", "policy.reimage.dry_run", "no effect", "bramble policy", ("policy.reimage", {"dry_run": True})),
    case("after-of-a-reboot", "policy.reimage.after", "a reboot may take as long", "5m", ("policy.reimage", {"after": "2m"})),
    case("no-windows", "policy.reimage.windows", "at any time", "when_failed: false", ("policy.reimage", {"windows": []})),
    case("one-server", "policy.reimage.when_failed", "with 1 server a failed one is never", "three servers", ("policy.reimage", {"when_failed": True})),
    case("server-floats", "nodes[0].address", "no fixed address", "lease", ("nodes.0.address", DELETE)),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "key", "message", "hint"), WARNINGS)
def test_unwise_choice_is_a_warning(changes: tuple[Change, ...], key: str, message: str, hint: str) -> None:
    checked = check(changed(*changes))
    (warning,) = checked.problems
    assert warning.severity is Severity.WARNING
    assert warning.key == key
    assert message in warning.message
    assert hint in warning.hint
    assert checked.spec is not None


K3S = {"version": "v1.33.5+k3s1", "api_vip": "192.168.86.20"}
GOOD = [
    ("vip-that-others-answer-for", ("cluster.k3s", {**K3S, "kube_vip": {"enabled": False}})),
    ("vip-with-named-image", ("cluster.k3s", {**K3S, "kube_vip": {"image": "reg.lan:5000/kube-vip:v1"}})),
    ("server-is-the-router", ("network.server_address", "192.168.86.1")),
    ("registries", ("cluster.k3s.registries", {"mirrors": {"*": {"endpoint": ["https://r.example"]}}})),
    ("tls-san", ("cluster.k3s.config", {"tls-san": ["api.example.org"], "secrets-encryption": True})),
    ("s3-by-reference", ("cluster.k3s.config", {"etcd-s3-config-secret": "s3"})),
    (
        "kubelet-label",
        ("nodes.1.labels", {"topology.kubernetes.io/zone": "a", "node.kubernetes.io/pool": "b"}),
    ),
    ("label-called-token", ("nodes.1.labels", {"token": "yes"})),
    ("control-plane-taint", ("nodes.0.taints", ["node-role.kubernetes.io/control-plane:NoSchedule"])),
    ("ssh-key-options", ("image.user.ssh_authorized_keys", [f'from="10.0.0.0/8" {SSH_KEY}'])),
    ("both-identities", ("nodes.1.mac", "dc:a6:32:00:00:01")),
    ("short-serial", ("nodes.1.serial", "d03114aa")),
    ("empty-optional", ("network.server_address", None)),
    ("power-word", ("nodes.1.power", "manual")),
    ("dhcp-off-bare-word", ("policy.reimage", {"when_failed": "off"})),
]


@pytest.mark.parametrize("change", [change for _, change in GOOD], ids=[name for name, _ in GOOD])
def test_good_choice_is_accepted_in_silence(change: Change) -> None:
    assert not check(changed(change)).problems


def test_paths_of_the_wrong_kind_are_told() -> None:
    text = changed(("image.overlays", ["a"]), ("image.base", {"path": "b"}), ("cluster.k3s.source", "c"))
    paths = {"a": PathKind.FILE, "b": PathKind.DIRECTORY, "c": PathKind.FILE}
    assert [problem.key for problem in check(text, paths).errors] == [
        "cluster.k3s.source",
        "image.base.path",
        "image.overlays[0]",
    ]
    right = {"a": PathKind.DIRECTORY, "b": PathKind.FILE, "c": PathKind.DIRECTORY}
    assert not check(text, right).problems


def test_everything_is_reported_in_one_run_sorted_by_line() -> None:
    checked = check(
        changed(
            ("cluster.k3s.version", "stable"),
            ("cluster.k3s.config", {"token": "x"}),
            ("network.dhcp", "of"),
            ("nodes.0.mac", "dc:a6:32:1"),
            ("nodes.1.disk", "nvme"),
            ("nodes.1.power", {"driver": "tasmota", "urll": "x"}),
            ("policies", {}),
        )
        + "version: 1\n"
    )
    assert [problem.key for problem in checked.errors] == [
        "cluster.k3s.version",
        "cluster.k3s.config.token",
        "network.dhcp",
        "nodes[0].mac",
        "nodes[1].disk",
        "nodes[1].power.url",
        "nodes[1].power.urll",
        "policies",
        "version",
    ]
    lines = [problem.line for problem in checked.problems]
    assert lines == sorted(lines)


def test_defaults_are_merged_and_the_fault_is_told_at_the_node() -> None:
    text = changed(
        ("defaults", {"disk": "nvme", "labels": {"a": "1", "b": "1"}}),
        ("nodes.1.disk", DELETE),
        ("nodes.0.disk", DELETE),
    )
    (error,) = check(text).errors
    assert error.key == "nodes[1].disk"


def test_four_servers_survive_as_much_as_three() -> None:
    more: list[Change] = [
        (f"nodes.{index}", {"name": f"n{index}", "board": "pi5", "role": "server", "disk": "nvme",
                            "mac": f"2c:cf:67:00:00:{index:02x}", "address": f"192.168.86.{40 + index}"})
        for index in (2, 3, 4)
    ]  # fmt: skip
    (error,) = check(changed(*more)).errors
    assert "4 servers survive 1 failure, as 3 would" in error.message
    assert error.hint == "Make it 3 or 5 servers."


PLACES = [
    *("version", "cluster", "cluster.name", "cluster.domain", "cluster.k3s", "cluster.k3s.version"),
    *(
        "cluster.k3s.source",
        "cluster.k3s.api_vip",
        "cluster.k3s.config",
        "image",
        "image.base",
        "image.packages",
    ),
    *("image.overlays", "image.user", "image.user.ssh_authorized_keys", "image.timezone", "network"),
    *("network.dhcp", "network.subnet", "network.gateway", "network.dns", "network.pool", "network.ports"),
    *(
        "defaults",
        "defaults.disk",
        "defaults.labels",
        "defaults.taints",
        "defaults.power",
        "nodes",
        "nodes.0",
    ),
    *("nodes.0.name", "nodes.0.board", "nodes.0.mac", "nodes.0.disk", "nodes.0.labels", "nodes.0.power"),
    *("nodes.1.serial", "nodes.1.address", "nodes.1.memory", "policy", "policy.first_boot", "policy.reimage"),
]
WORDS = st.one_of(
    st.sampled_from(
        [
            "driver",
            "tasmota",
            "command",
            "kind",
            "nvme",
            "url",
            "path",
            "on",
            "key",
            "labels",
            "a=b:NoExecute",
        ]
    ),
    st.text(max_size=8),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)


# Each place once: 'nodes.0' puts another node before the first, and twice would leave no node at 'nodes.1'.
@given(
    st.lists(
        st.tuples(st.sampled_from(PLACES), VALUES),
        min_size=1,
        max_size=4,
        unique_by=lambda change: change[0],
    )
)
def test_whatever_stands_in_the_file_is_reported_and_never_raises(changes: list[Change]) -> None:
    parents = {place.rsplit(".", 1)[0] for place, _ in changes}
    assume(
        not any(
            place in parents or parent.startswith(place + ".") for parent in parents for place, _ in changes
        )
    )
    checked = check(changed(*changes))
    assert (checked.spec is None) == bool(checked.errors)
    for problem in checked.problems:
        assert problem.line >= 1
        assert problem.message
