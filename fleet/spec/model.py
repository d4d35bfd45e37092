"""The declared cluster as the rest of Bramble sees it: frozen values, already checked against each other.

Only `fleet.spec.build` makes them from a document. No I/O here, and nothing of pydantic or YAML.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from fleet.boards import BoardModel, DiskKind, MacAddress, Serial
from fleet.spec.notify_model import NotifyChannel
from fleet.spec.power import PowerSpec
from fleet.spec.windows import Window


class Role(StrEnum):
    """What k3s runs on a node: `server` holds etcd and the API, `agent` only workloads."""

    SERVER = "server"
    AGENT = "agent"


class DhcpMode(StrEnum):
    """How Bramble takes part in DHCP: beside another server, as the only one, or not at all."""

    PROXY = "proxy"
    FULL = "full"
    OFF = "off"


class DnsMode(StrEnum):
    """Whether Bramble answers DNS: not at all, for the cluster's names only, or passing on the rest."""

    OFF = "off"
    ZONE = "zone"
    FORWARD = "forward"


CONTROL_NAME = "control"
API_NAME = "api"
NAME_SERVER_NAME = "ns"
SERVICE_NAMES = (API_NAME, CONTROL_NAME, NAME_SERVER_NAME)
"""Names in the cluster's zone that Bramble itself gives; a node can not have one of them."""


class UnknownBoards(StrEnum):
    """What happens to a board that netboots and is not in the file."""

    HOLD = "hold"
    REFUSE = "refuse"
    ADOPT = "adopt"


class FirstBoot(StrEnum):
    """Whether a declared board may install by itself, or waits for `bramble approve`."""

    TRUST_LAN = "trust-lan"
    APPROVE = "approve"


class PackagesAt(StrEnum):
    """When the packages of `image.packages` are installed: into the image, or by each node for itself."""

    BUILD = "build"
    FIRST_BOOT = "first-boot"


@dataclass(frozen=True, slots=True)
class CatalogueBase:
    """A stock image that Bramble knows by name."""

    name: str


@dataclass(frozen=True, slots=True)
class UrlBase:
    """A stock image to download; `sha256` is that of the file behind the URL, 64 lower-case digits."""

    url: str
    sha256: str


@dataclass(frozen=True, slots=True)
class FileBase:
    """A stock image on this machine."""

    path: Path
    sha256: str | None


BaseRef = CatalogueBase | UrlBase | FileBase

UPSTREAM = "upstream"


KUBE_VIP_IMAGE = "ghcr.io/kube-vip/kube-vip:v1.0.4"
"""Pinned: its settings are read by name, and names change between releases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeVipSpec:
    """How the API's own address is answered for.

    Attributes:
        enabled: Servers bring kube-vip along; else somebody else answers for the address.
        image: Container image, with a tag.
        interface: The servers' interface on the boards' network; None: that of their default route.
    """

    enabled: bool = True
    image: str = KUBE_VIP_IMAGE
    interface: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class K3sSpec:
    """The k3s release and its settings.

    Attributes:
        version: Exact tag, `v1.33.5+k3s1`.
        source: `upstream`, a directory (Path) or the base URL (str) that holds the release's files.
        config: Passed through to the servers' config.yaml; never a secret, never a key that Bramble writes.
        registries: Content of every node's registries.yaml; empty: none is written.
    """

    version: str
    source: str | Path
    airgap_images: bool
    api_vip: IPv4Address | None
    config: Mapping[str, Any]
    registries: Mapping[str, Any] = field(default_factory=dict)
    kube_vip: KubeVipSpec = KubeVipSpec()


@dataclass(frozen=True, slots=True)
class UserSpec:
    """The login made on every node."""

    name: str
    ssh_authorized_keys: tuple[str, ...]


class KernelPages(StrEnum):
    """The kernel's page size on a Pi 5: 4 KiB, which container images expect, or what the base brings."""

    FOUR_K = "4k"
    STOCK = "stock"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSpec:
    """What every node's disk has in common."""

    base: BaseRef
    packages: tuple[str, ...]
    overlays: tuple[Path, ...]
    user: UserSpec
    timezone: str
    packages_at: PackagesAt = PackagesAt.BUILD
    pages: KernelPages = KernelPages.FOUR_K


@dataclass(frozen=True, slots=True)
class AddressPool:
    """Addresses that DHCP hands to boards without a reservation; both ends belong to it."""

    first: IPv4Address
    last: IPv4Address

    def __contains__(self, address: IPv4Address) -> bool:
        return self.first <= address <= self.last

    def __len__(self) -> int:
        return int(self.last) - int(self.first) + 1

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


DEFAULT_NETCONSOLE_PORT = 6666
"""Where a bootloader's NETCONSOLE sends to unless it is told otherwise."""


DEFAULT_DASHBOARD_PORT = 7444
"""Beside the control API's; 8443, which comes to mind first, is taken where a UniFi controller runs."""


@dataclass(frozen=True, slots=True)
class PortsSpec:
    """TCP ports of the content server (plain HTTP) and of the control API (TLS), the UDP port where network
    consoles are heard (0: nowhere), and the TCP port of the dashboard (TLS; 0: there is none)."""

    http: int
    control: int
    netconsole: int = DEFAULT_NETCONSOLE_PORT
    dashboard: int = DEFAULT_DASHBOARD_PORT


@dataclass(frozen=True, slots=True)
class TftpSpec:
    """How boot files are served. `workers`: processes; None: as many as this machine can use."""

    single_port: bool = False
    workers: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpec:
    """The network that the boards boot on.

    Attributes:
        interface: Where the server listens.
        dns: Name servers that nodes are told.
        dns_server: What Bramble itself answers; in `forward` it asks the servers of `dns` about other names.
        server_address: The server's own address on the subnet; None: read from the interface when serving.
        metrics_from: Networks whose machines may read the metrics; this machine always may.
        bootloader_updates: Whether boards may take pieeprom.* from the image's boot partition.
    """

    interface: str
    dhcp: DhcpMode
    subnet: IPv4Network
    gateway: IPv4Address | None
    dns: tuple[IPv4Address, ...]
    dns_server: DnsMode
    pool: AddressPool | None
    server_address: IPv4Address | None
    ports: PortsSpec
    metrics_from: tuple[IPv4Network, ...] = ()
    bootloader_updates: bool = False
    tftp: TftpSpec = TftpSpec()


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """The disk to install on; `serial` picks one where a node has several of a kind.

    Attributes:
        keep: Labels of file systems whose partitions an installation leaves as they are.
        root_mib: What the root partition grows to at most; None: as far as there is room.
    """

    kind: DiskKind
    serial: str | None = None
    keep: tuple[str, ...] = ()
    root_mib: int | None = None


@dataclass(frozen=True, slots=True)
class Taint:
    """A Kubernetes taint; `str()` is the form that k3s takes, `key=value:NoSchedule`."""

    key: str
    value: str
    effect: str

    def __str__(self) -> str:
        return f"{self.key}={self.value}:{self.effect}" if self.value else f"{self.key}:{self.effect}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """One declared node, with `defaults` already merged in; it has a mac, a serial, or both."""

    name: str
    board: BoardModel
    role: Role
    mac: MacAddress | None
    serial: Serial | None
    address: IPv4Address | None
    disk: DiskSpec
    labels: Mapping[str, str]
    taints: tuple[Taint, ...]
    power: PowerSpec | None
    memory_mib: int | None


@dataclass(frozen=True, slots=True)
class FirstBootPolicy:
    """The first-boot rule of each role."""

    agent: FirstBoot
    server: FirstBoot

    def for_role(self, role: Role) -> FirstBoot:
        return self.server if role is Role.SERVER else self.agent


@dataclass(frozen=True, slots=True)
class ReimagePolicy:
    """When Bramble re-installs by itself.

    Attributes:
        max_parallel: Agents at a time, whoever asks; servers always go one by one.
        after_s: How long a node has failed by then.
        dry_run: Only say what would be done.
        again_after_s: A node that policy re-imaged and that fails again sooner is left to a person.
        windows: When re-images that nobody asked for may begin; none: at any time.
    """

    when_failed: bool
    max_parallel: int
    after_s: int
    dry_run: bool = False
    again_after_s: int = 24 * 3600
    windows: tuple[Window, ...] = ()


class SlowDisk(StrEnum):
    """What becomes of a server whose disk is too slow for etcd: it joins with a warning, or it does not
    join."""

    WARN = "warn"
    REFUSE = "refuse"


DEFAULT_JOIN_BATCH = 50
"""Source: k3s documentation, "Requirements": nodes join in batches of 50 or less."""


@dataclass(frozen=True, slots=True)
class JoinPolicy:
    """How nodes join: at most `batch` agents at a time, servers one by one."""

    batch: int = DEFAULT_JOIN_BATCH
    slow_disk: SlowDisk = SlowDisk.WARN


DEFAULT_SNAPSHOT_EVERY_S = 12 * 3600
DEFAULT_SNAPSHOTS_KEPT = 14


@dataclass(frozen=True, slots=True)
class SnapshotPolicy:
    """How often etcd's data is kept off the nodes, and how many of those snapshots."""

    is_on: bool = True
    every_s: int = DEFAULT_SNAPSHOT_EVERY_S
    keep: int = DEFAULT_SNAPSHOTS_KEPT


class RemoteRun(StrEnum):
    """Whether people may run commands on nodes through the agents."""

    OFF = "off"
    ON = "on"


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """What Bramble may decide without asking."""

    unknown_boards: UnknownBoards
    first_boot: FirstBootPolicy
    reimage: ReimagePolicy
    join: JoinPolicy = JoinPolicy()
    certificate_life_s: int = 7 * 86400
    """Of a node's certificate. Renewed at a third, so a node survives two thirds without this server."""
    remote_run: RemoteRun = RemoteRun.OFF
    snapshots: SnapshotPolicy = SnapshotPolicy()


@dataclass(frozen=True, slots=True)
class DashboardCertificate:
    """PEM files of the user's own: the dashboard's certificate with its chain, and its key."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class ControlSpec:
    """The control server. `store` is a PostgreSQL URL without a password, or None for the state directory.
    Without `dashboard` the dashboard shows the control server's own certificate."""

    store: str | None = None
    dashboard: DashboardCertificate | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSpec:
    """A whole cluster.yaml; `path` is the file it came from, for messages and relative paths."""

    name: str
    domain: str
    k3s: K3sSpec
    image: ImageSpec
    network: NetworkSpec
    nodes: tuple[NodeSpec, ...]
    policy: PolicySpec
    path: Path
    control: ControlSpec = ControlSpec()
    notify: tuple[NotifyChannel, ...] = ()

    @property
    def servers(self) -> tuple[NodeSpec, ...]:
        return tuple(node for node in self.nodes if node.role is Role.SERVER)

    @property
    def agents(self) -> tuple[NodeSpec, ...]:
        return tuple(node for node in self.nodes if node.role is Role.AGENT)

    def find_node(self, name: str) -> NodeSpec | None:
        return next((node for node in self.nodes if node.name == name), None)

    def fqdn(self, node: NodeSpec) -> str:
        """The node's name in the zone that Bramble's DNS answers."""
        return f"{node.name}.{self.domain}"
