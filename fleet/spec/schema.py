"""The shape of cluster.yaml as pydantic models: which keys exist, and which parser reads each value.

Used only while a file is parsed; the descriptions go into docs/reference.md. Every field may be absent here,
even one that a cluster needs: a faulty value is taken out and reported, and the rest is still checked.
`fleet.spec.validate` asks for what is needed.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from fleet.boards import BoardModel, DiskKind, MacAddress, Serial
from fleet.spec import values
from fleet.spec.model import (
    AddressPool,
    DhcpMode,
    DnsMode,
    FirstBoot,
    KernelPages,
    PackagesAt,
    RemoteRun,
    Role,
    SlowDisk,
    Taint,
    UnknownBoards,
)
from fleet.spec.notify_schema import NotifySection
from fleet.spec.schema_power import PowerSection
from fleet.spec.section import Port, Section, Text, Url, name_as_mapping
from fleet.spec.window_text import parse_window
from fleet.spec.windows import Window

Name = Annotated[str, BeforeValidator(values.parse_label)]
Address = Annotated[IPv4Address, BeforeValidator(values.parse_ipv4)]
LabelKey = Annotated[str, BeforeValidator(values.parse_kubernetes_key)]
LabelValue = Annotated[str, BeforeValidator(values.parse_kubernetes_value)]
Sha256 = Annotated[str, BeforeValidator(values.parse_sha256)]


class KubeVipSection(Section):
    enabled: bool | None = Field(
        default=None, description="Whether servers run kube-vip; `false` where you answer for the address."
    )
    image: Annotated[str, BeforeValidator(values.parse_image_reference)] | None = Field(
        default=None, description="Its container image, with a tag or digest."
    )
    interface: Annotated[str, BeforeValidator(values.parse_interface)] | None = Field(
        default=None, description="The servers' interface; left out: the one of their default route."
    )


class K3sSection(Section):
    version: Annotated[str, BeforeValidator(values.parse_k3s_version)] | None = Field(
        default=None, description="The exact release, like `v1.33.5+k3s1`; its checksum file is checked."
    )
    source: Text | None = Field(
        default=None,
        description="Where the release's files are: `upstream`, a directory, or the base URL of a mirror.",
    )
    airgap_images: bool | None = Field(
        default=None,
        description="Put k3s's own container images into the disk image: no registry is needed to start.",
    )
    api_vip: Address | None = Field(
        default=None,
        description="A free address for the API. kube-vip on the servers answers for it; nodes are told it "
        "once it answers.",
    )
    kube_vip: KubeVipSection | None = Field(
        default=None, description="How `api_vip` is answered for: kube-vip, in ARP mode."
    )
    config: dict[str, Any] | None = Field(
        default=None, description="Passed through to config.yaml of the servers, as k3s documents it."
    )
    registries: dict[str, Any] | None = Field(
        default=None,
        description="Passed through to every node's registries.yaml: mirrors and their TLS, no passwords.",
    )


class DashboardSection(Section):
    certificate: Text | None = Field(
        default=None, description="PEM file with the dashboard's certificate and its chain."
    )
    key: Text | None = Field(default=None, description="PEM file with the key of that certificate.")


class ControlSection(Section):
    store: Annotated[str, BeforeValidator(values.parse_store_url)] | None = Field(
        default=None,
        description="A PostgreSQL database for the server's record, `postgresql://user@host/database`, "
        "without a password; left out, it is a file of the state directory.",
    )
    dashboard: DashboardSection | None = Field(
        default=None,
        description="A certificate of your own for the dashboard, for example of the zone that your browsers "
        "trust. Left out: the control server's, of the control CA.",
    )


class ClusterSection(Section):
    name: Name | None = Field(default=None, description="The cluster's name, one host name label.")
    domain: Annotated[str, BeforeValidator(values.parse_domain)] | None = Field(
        default=None, description="The zone of the nodes' names, `<node>.<domain>`."
    )
    k3s: K3sSection | None = Field(
        default=None, description="The Kubernetes distribution that every node runs."
    )
    control: ControlSection | None = Field(
        default=None, description="The control server, where it is more than one small machine."
    )


class BaseSection(Section):
    name: Text | None = Field(
        default=None,
        description="A base that Bramble knows, see 'bramble base list'. Only one of `name`, `url`, `path`. "
        "The default is the one that is made here from Debian's own packages and needs no other site; "
        "a cluster with boards of the Pi 5 family names a stock image, like `raspios-lite-trixie`.",
    )
    url: Url | None = Field(
        default=None,
        description="An image to download, of which `sha256` is the digest; see 'bramble base fetch'.",
    )
    path: Text | None = Field(
        default=None,
        description="An image on this machine, plain or packed (xz, zst, gz, zip).",
    )
    sha256: Sha256 | None = Field(
        default=None, description="Digest of the image file, 64 hexadecimal digits."
    )


class UserSection(Section):
    name: Annotated[str, BeforeValidator(values.parse_user)] | None = Field(
        default=None, description="The login that is made on every node."
    )
    ssh_authorized_keys: list[Annotated[str, BeforeValidator(values.parse_ssh_key)] | None] | None = Field(
        default=None,
        description="Its public keys, one line of OpenSSH's each. Without one nobody can log in.",
    )


class ImageSection(Section):
    base: Annotated[BaseSection | None, name_as_mapping("name")] = Field(
        default=None, description="The stock image to start from; a single word is its `name`."
    )
    pages: Annotated[KernelPages | None, BeforeValidator(values.enum_parser(KernelPages))] = Field(
        default=None,
        description="Page size of a Pi 5's kernel: `4k`, as many container images need, or `stock` (16 KiB).",
    )
    packages: list[Annotated[str, BeforeValidator(values.parse_package)] | None] | None = Field(
        default=None, description="Packages of the base's own distribution that every node has."
    )
    packages_at: Annotated[PackagesAt, BeforeValidator(values.enum_parser(PackagesAt))] | None = Field(
        default=None,
        description="`build`: into the image, with emulation where this machine is no arm64; `first-boot`: "
        "each node installs them itself, over the network, when it boots for the first time.",
    )
    overlays: list[Text | None] | None = Field(
        default=None,
        description="Directories that are laid over the root filesystem, in this order, after Bramble's own.",
    )
    user: UserSection | None = Field(default=None, description="The login on every node.")
    timezone: Text | None = Field(
        default=None, description="A name of the time zone database, like `Europe/Madrid`."
    )


class PortsSection(Section):
    http: Port | None = Field(default=None, description="TCP port of the content server, plain HTTP.")
    control: Port | None = Field(default=None, description="TCP port of the control API, TLS.")
    netconsole: Annotated[int, Field(ge=0, le=65535)] | None = Field(
        default=None, description="UDP port where bootloaders' network consoles are heard; 0: they are not."
    )
    dashboard: Annotated[int, Field(ge=0, le=65535)] | None = Field(
        default=None, description="TCP port of the dashboard, TLS; 0: there is none."
    )


class TftpSection(Section):
    single_port: bool | None = Field(
        default=None,
        description="Answer from port 69 itself instead of from a port for each transfer. For boards behind "
        "NAT, or a server behind a load balancer, where other ports do not get through.",
    )
    workers: Annotated[int, Field(ge=1, le=16)] | None = Field(
        default=None,
        description="Processes that share the port; two from 17 boards on where there are four processors.",
    )


class NetworkSection(Section):
    interface: Annotated[str, BeforeValidator(values.parse_interface)] | None = Field(
        default=None, description="The interface of this machine that faces the boards."
    )
    dhcp: Annotated[DhcpMode, BeforeValidator(values.enum_parser(DhcpMode))] | None = Field(
        default=None,
        description="`proxy`: beside another DHCP server; `full`: Bramble is the only one; `off`: neither.",
    )
    subnet: Annotated[IPv4Network, BeforeValidator(values.parse_subnet)] | None = Field(
        default=None, description="The network of the boards."
    )
    gateway: Address | None = Field(default=None, description="The router that nodes use.")
    dns: list[Address | None] | None = Field(default=None, description="Name servers that nodes use.")
    dns_server: Annotated[DnsMode, BeforeValidator(values.enum_parser(DnsMode))] | None = Field(
        default=None,
        description="`zone`: Bramble answers for the cluster's names; `forward`: and asks the servers of "
        "`dns` about others; `off`: neither. Nodes use it when its own address stands in `dns`.",
    )
    pool: Annotated[AddressPool, BeforeValidator(values.parse_pool)] | None = Field(
        default=None,
        description="Addresses for boards without a declared one, with `dhcp: full`.",
    )
    server_address: Address | None = Field(
        default=None, description="This machine's address on the subnet. Left out: read from the interface."
    )
    tftp: TftpSection | None = Field(default=None, description="How boot files are served.")
    ports: PortsSection | None = Field(default=None, description="Ports of Bramble's own services.")
    metrics_from: list[Annotated[IPv4Network, BeforeValidator(values.parse_network)] | None] | None = Field(
        default=None,
        description="Networks whose machines may read `/metrics` on the content port, beside this one.",
    )
    bootloader_updates: bool | None = Field(
        default=None,
        description="Let boards that boot from the network re-flash their EEPROM with the pieeprom.* files "
        "of the image's boot partition. Left out: refused, and the timeline says so.",
    )


class DiskSection(Section):
    kind: Annotated[DiskKind, BeforeValidator(values.enum_parser(DiskKind))] | None = Field(
        default=None, description="The kind of disk that Bramble erases and installs on."
    )
    serial: Text | None = Field(
        default=None, description="Picks one disk where a node has several of the kind."
    )
    keep: list[Annotated[str, BeforeValidator(values.parse_file_system_label)] | None] | None = Field(
        default=None,
        description="Labels of file systems (`mkfs.ext4 -L`) behind the root partition that every "
        "installation leaves as they are, two at most; the image has to fit before them.",
    )
    root: Annotated[int, BeforeValidator(values.parse_memory)] | None = Field(
        default=None,
        description="What the root partition grows to at most, and the rest is a partition for you to "
        "format; left out: it grows to the disk's end, or to what is kept.",
    )


class DefaultsSection(Section):
    """What a node takes where it says nothing itself."""

    board: Annotated[BoardModel, BeforeValidator(values.parse_board)] | None = Field(
        default=None, description="The board's model."
    )
    role: Annotated[Role, BeforeValidator(values.enum_parser(Role))] | None = Field(
        default=None, description="`server` holds etcd and the API, `agent` only workloads."
    )
    disk: Annotated[DiskSection | None, name_as_mapping("kind")] = Field(
        default=None, description="The disk to install on; a single word is its `kind`."
    )
    labels: dict[LabelKey, LabelValue] | None = Field(
        default=None, description="Kubernetes labels of the node."
    )
    taints: list[Annotated[Taint, BeforeValidator(values.parse_taint)] | None] | None = Field(
        default=None, description="Kubernetes taints of the node, like `gpu=yes:NoSchedule`."
    )
    power: Annotated[
        Annotated[PowerSection, Field(discriminator="driver")] | None, name_as_mapping("driver")
    ] = Field(
        default=None,
        description="How it is switched, by `bramble power` and for a re-installation: `manual` or a driver "
        "below.",
    )
    memory: Annotated[int, BeforeValidator(values.parse_memory)] | None = Field(
        default=None, description="The board's memory, for checks before it was ever seen."
    )


class NodeSection(DefaultsSection):
    name: Name | None = Field(default=None, description="The node's name, one host name label.")
    mac: Annotated[MacAddress, BeforeValidator(values.parse_mac)] | None = Field(
        default=None, description="The board's Ethernet address. One of `mac` and `serial` is required."
    )
    serial: Annotated[Serial, BeforeValidator(values.parse_serial)] | None = Field(
        default=None, description="The board's serial number, 8 or 16 hexadecimal digits."
    )
    address: Address | None = Field(default=None, description="The node's fixed address on the subnet.")


class FirstBootSection(Section):
    agent: Annotated[FirstBoot, BeforeValidator(values.enum_parser(FirstBoot))] | None = Field(
        default=None,
        description="May a declared agent install by itself, or does it wait for 'bramble approve'?",
    )
    server: Annotated[FirstBoot, BeforeValidator(values.enum_parser(FirstBoot))] | None = Field(
        default=None,
        description="The same for a server, which holds the keys of the whole cluster: always 'approve'.",
    )


class ReimageSection(Section):
    when_failed: bool | None = Field(
        default=None,
        description="Whether Bramble may re-install a failed node by itself: one whose agent is silent and "
        "that Kubernetes says is not ready. `bramble policy` shows what it would do, and why not.",
    )
    dry_run: bool | None = Field(
        default=None, description="Say in the node's timeline what would be done, and do nothing."
    )
    after: Annotated[int, Field(ge=60), BeforeValidator(values.parse_duration)] | None = Field(
        default=None, description="How long a node has to be failed before that, at least 60s."
    )
    max_parallel: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="How many agents may be re-installed at a time, whoever asks for it; servers always go "
        "one by one, and alone.",
    )
    again_after: Annotated[int, BeforeValidator(values.parse_duration)] | None = Field(
        default=None,
        description="A node that Bramble re-installed by itself, and that fails again sooner than this, is "
        "left to a person.",
    )
    windows: list[Annotated[Window, BeforeValidator(parse_window)] | None] | None = Field(
        default=None,
        description="When Bramble may begin by itself, and a rollout may take its next node: weekdays, times "
        "of the wall clock, a time zone (left out: `image.timezone`), like "
        "`sat,sun 01:00-05:00 Europe/Madrid`. None: at any time. What has begun goes on to its end.",
    )


class JoinSection(Section):
    batch: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None, description="How many agents join at a time; servers always join one by one."
    )
    slow_disk: Annotated[SlowDisk, BeforeValidator(values.enum_parser(SlowDisk))] | None = Field(
        default=None,
        description="A server whose disk needs over 100 ms for a synced write joins with a warning (`warn`) "
        "or not at all (`refuse`).",
    )


class SnapshotsSection(Section):
    enabled: bool | None = Field(
        default=None,
        description="Whether snapshots of etcd are taken on a schedule; on unless told otherwise.",
    )
    every: Annotated[int, Field(ge=600), BeforeValidator(values.parse_duration)] | None = Field(
        default=None, description="How often, at least 10m: what the cluster would lose at most."
    )
    keep: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None, description="How many are kept; a newer one takes the oldest one's place."
    )


class PolicySection(Section):
    unknown_boards: Annotated[UnknownBoards, BeforeValidator(values.enum_parser(UnknownBoards))] | None = (
        Field(
            default=None,
            description="What becomes of a board that is not in the file. So far every one is held.",
        )
    )
    first_boot: FirstBootSection | None = Field(
        default=None, description="Who may install at the first boot."
    )
    join: JoinSection | None = Field(default=None, description="How nodes join the cluster.")
    certificate_life: Annotated[int, Field(ge=600), BeforeValidator(values.parse_duration)] | None = Field(
        default=None,
        description="How long a node's certificate is good, at least 10m; renewed after a third of that.",
    )
    remote_run: Annotated[RemoteRun, BeforeValidator(values.enum_parser(RemoteRun))] | None = Field(
        default=None,
        description="Whether `bramble run NODE -- COMMAND` works: `off`, or `on`. The node wants the same "
        "word in what it was installed with, so `on` counts for nodes that are installed from then on.",
    )
    snapshots: SnapshotsSection | None = Field(
        default=None,
        description="Snapshots of the cluster's etcd, kept in the control server's state directory with the "
        "token and the CAs that they need.",
    )
    reimage: ReimageSection | None = Field(
        default=None, description="When Bramble re-installs by itself, and how much at a time."
    )


class ClusterDocument(Section):
    """The whole file."""

    version: Annotated[int, Field(ge=1, le=1)] | None = Field(
        default=None, description="The version of this format: 1."
    )
    cluster: ClusterSection | None = Field(default=None, description="The cluster itself.")
    image: ImageSection | None = Field(default=None, description="What every node's disk has in common.")
    network: NetworkSection | None = Field(default=None, description="The network that the boards boot on.")
    defaults: DefaultsSection | None = Field(
        default=None,
        description="What a node takes where it says nothing itself.",
    )
    nodes: list[NodeSection | None] | None = Field(default=None, description="The nodes.")
    policy: PolicySection | None = Field(default=None, description="What Bramble may decide without asking.")
    notify: list[NotifySection | None] | None = Field(
        default=None, description="Where people are told of what needs them: webhooks, ntfy, e-mail."
    )
