"""A draft without errors → the `ClusterSpec`. All defaults of the format stand here."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final, TypeVar

from fleet.spec.draft import Draft, DraftNode, Surroundings
from fleet.spec.model import (
    DEFAULT_DASHBOARD_PORT,
    DEFAULT_JOIN_BATCH,
    DEFAULT_NETCONSOLE_PORT,
    DEFAULT_SNAPSHOT_EVERY_S,
    DEFAULT_SNAPSHOTS_KEPT,
    KUBE_VIP_IMAGE,
    UPSTREAM,
    BaseRef,
    CatalogueBase,
    ClusterSpec,
    ControlSpec,
    DashboardCertificate,
    DhcpMode,
    DiskSpec,
    DnsMode,
    FileBase,
    FirstBoot,
    FirstBootPolicy,
    ImageSpec,
    JoinPolicy,
    K3sSpec,
    KernelPages,
    KubeVipSpec,
    NetworkSpec,
    NodeSpec,
    PackagesAt,
    PolicySpec,
    PortsSpec,
    ReimagePolicy,
    RemoteRun,
    SlowDisk,
    SnapshotPolicy,
    TftpSpec,
    UnknownBoards,
    UrlBase,
    UserSpec,
)
from fleet.spec.notify_schema import build_channels
from fleet.spec.power import (
    DEFAULT_COMMAND_TIMEOUT_S,
    DEFAULT_OFF_S,
    CommandPower,
    ManualPower,
    PowerSpec,
    SecretPlace,
    ShellyPower,
    SnmpAuth,
    SnmpPoePower,
    SnmpUser,
    TasmotaPower,
)
from fleet.spec.schema import (
    BaseSection,
    ControlSection,
    DashboardSection,
    FirstBootSection,
    JoinSection,
    KubeVipSection,
    PolicySection,
    PortsSection,
    ReimageSection,
    SnapshotsSection,
    TftpSection,
)
from fleet.spec.schema_power import (
    CommandSection,
    ManualSection,
    PowerSection,
    ShellySection,
    SnmpPoeSection,
    TasmotaSection,
)

T = TypeVar("T")

DEFAULT_BASE: Final = "debian-trixie"
"""Needs nothing but a Debian mirror, so a file that names no base can be built anywhere. The starter file
names a stock image, which is what boards want; 'bramble check' warns where a board needs another kernel."""

DEFAULT_USER: Final = "pi"
DEFAULT_TIMEZONE: Final = "Etc/UTC"
DEFAULT_DEVICE_USER: Final = "admin"
DEFAULT_SNMP_PORT: Final = 161
DEFAULT_HTTP_PORT: Final = 7080
DEFAULT_CONTROL_PORT: Final = 7443
DEFAULT_REIMAGE_AFTER_S: Final = 15 * 60
DEFAULT_AGAIN_AFTER_S: Final = 24 * 3600
DEFAULT_CERTIFICATE_LIFE_S: Final = 7 * 86400


def build_cluster(draft: Draft, path: Path) -> ClusterSpec:
    """Convert a draft that passed every check.

    Raises:
        ValueError: A required value is absent, which `check_required` should have reported.
    """
    name = _required(draft.cluster.name)
    around = draft.around
    return ClusterSpec(
        name=name,
        domain=draft.cluster.domain or f"{name}.internal",
        k3s=_k3s(draft),
        image=ImageSpec(
            base=_base(draft.image.base, around),
            packages=_given(draft.image.packages),
            overlays=tuple(around.resolve(overlay) for overlay in _given(draft.image.overlays)),
            user=UserSpec(draft.user.name or DEFAULT_USER, _given(draft.user.ssh_authorized_keys)),
            timezone=draft.image.timezone or DEFAULT_TIMEZONE,
            packages_at=_or(draft.image.packages_at, PackagesAt.BUILD),
            pages=_or(draft.image.pages, KernelPages.FOUR_K),
        ),
        network=_network(draft),
        nodes=tuple(_node(node, around) for node in draft.nodes),
        policy=_policy(draft.document.policy or PolicySection()),
        path=path,
        control=_control(draft.cluster.control or ControlSection(), around),
        notify=build_channels(draft.document.notify or (), around.resolve),
    )


def _required(value: T | None) -> T:
    if value is None:
        raise ValueError("a required value is absent from a draft that passed the checks")
    return value


def _given(items: Iterable[T | None] | None) -> tuple[T, ...]:
    return tuple(item for item in items or () if item is not None)


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def _k3s(draft: Draft) -> K3sSpec:
    source = _or(draft.k3s.source, UPSTREAM)
    is_text = source == UPSTREAM or "://" in source
    return K3sSpec(
        version=_required(draft.k3s.version),
        source=source if is_text else draft.around.resolve(source),
        airgap_images=_or(draft.k3s.airgap_images, True),
        api_vip=draft.k3s.api_vip,
        config=draft.k3s.config or {},
        registries=draft.k3s.registries or {},
        kube_vip=_kube_vip(draft.k3s.kube_vip or KubeVipSection()),
    )


def _kube_vip(section: KubeVipSection) -> KubeVipSpec:
    return KubeVipSpec(
        enabled=_or(section.enabled, True),
        image=_or(section.image, KUBE_VIP_IMAGE),
        interface=section.interface,
    )


def _base(base: BaseSection | None, around: Surroundings) -> BaseRef:
    if base is None:
        return CatalogueBase(DEFAULT_BASE)
    if base.url is not None:
        return UrlBase(base.url, _required(base.sha256))
    if base.path is not None:
        return FileBase(around.resolve(base.path), base.sha256)
    return CatalogueBase(_required(base.name))


def _network(draft: Draft) -> NetworkSpec:
    network = draft.network
    ports = network.ports or PortsSection()
    tftp = network.tftp or TftpSection()
    return NetworkSpec(
        interface=_required(network.interface),
        dhcp=_or(network.dhcp, DhcpMode.PROXY),
        subnet=_required(network.subnet),
        gateway=network.gateway,
        dns=_given(network.dns),
        dns_server=_or(network.dns_server, DnsMode.OFF),
        pool=network.pool,
        server_address=network.server_address,
        ports=PortsSpec(
            _or(ports.http, DEFAULT_HTTP_PORT),
            _or(ports.control, DEFAULT_CONTROL_PORT),
            _or(ports.netconsole, DEFAULT_NETCONSOLE_PORT),
            _or(ports.dashboard, DEFAULT_DASHBOARD_PORT),
        ),
        metrics_from=_given(network.metrics_from),
        tftp=TftpSpec(_or(tftp.single_port, False), tftp.workers),
        bootloader_updates=_or(network.bootloader_updates, False),
    )


def _control(control: ControlSection, around: Surroundings) -> ControlSpec:
    own = control.dashboard or DashboardSection()
    if own.certificate is None or own.key is None:  # checked: both or none
        return ControlSpec(store=control.store)
    return ControlSpec(
        store=control.store,
        dashboard=DashboardCertificate(around.resolve(own.certificate), around.resolve(own.key)),
    )


def _node(node: DraftNode, around: Surroundings) -> NodeSpec:
    section = node.section
    disk = _required(section.disk)
    return NodeSpec(
        name=_required(section.name),
        board=_required(section.board),
        role=_required(section.role),
        mac=section.mac,
        serial=section.serial,
        address=section.address,
        disk=DiskSpec(_required(disk.kind), disk.serial, _given(disk.keep), disk.root),
        labels=section.labels or {},
        taints=_given(section.taints),
        power=None if section.power is None else _power(section.power, _required(section.name), around),
        memory_mib=section.memory,
    )


def _power(power: PowerSection, node: str, around: Surroundings) -> PowerSpec:
    def secret(file: str | None, variable: str | None) -> SecretPlace | None:
        if file is None and variable is None:
            return None
        return SecretPlace(None if file is None else around.resolve(file), variable)

    def argv(words: Iterable[str | None] | None) -> tuple[str, ...]:
        return tuple(word.replace("{node}", node) for word in _given(words))

    match power:
        case ManualSection():
            return ManualPower()
        case CommandSection():
            return CommandPower(
                on=argv(power.on),
                off=argv(power.off),
                status=None if power.status is None else argv(power.status),
                pass_env=_given(power.pass_env),
                timeout_s=_or(power.timeout, DEFAULT_COMMAND_TIMEOUT_S),
                off_s=_or(power.off_for, DEFAULT_OFF_S),
            )
        case TasmotaSection():
            return TasmotaPower(
                url=_required(power.url),
                output=_or(power.output, 1),
                password=secret(power.password_file, power.password_env),
                user=_or(power.user, DEFAULT_DEVICE_USER),
                off_s=_or(power.off_for, DEFAULT_OFF_S),
            )
        case ShellySection():
            return ShellyPower(
                url=_required(power.url),
                channel=_or(power.channel, 0),
                password=secret(power.password_file, power.password_env),
                user=_or(power.user, DEFAULT_DEVICE_USER),
                off_s=_or(power.off_for, DEFAULT_OFF_S),
            )
        case SnmpPoeSection():
            return SnmpPoePower(
                host=_required(power.host),
                group=_or(power.group, 1),
                port=_required(power.port),
                community=secret(power.community_file, power.community_env),
                user=None
                if power.user is None
                else SnmpUser(
                    name=power.user,
                    auth=_or(power.auth, SnmpAuth.SHA),
                    auth_password=_required(secret(power.auth_password_file, power.auth_password_env)),
                    privacy=power.privacy,
                    privacy_password=secret(power.privacy_password_file, power.privacy_password_env),
                ),
                udp_port=_or(power.udp_port, DEFAULT_SNMP_PORT),
                off_s=_or(power.off_for, DEFAULT_OFF_S),
            )


def _policy(policy: PolicySection) -> PolicySpec:
    first_boot = policy.first_boot or FirstBootSection()
    reimage = policy.reimage or ReimageSection()
    join = policy.join or JoinSection()
    snapshots = policy.snapshots or SnapshotsSection()
    return PolicySpec(
        unknown_boards=_or(policy.unknown_boards, UnknownBoards.HOLD),
        first_boot=FirstBootPolicy(
            agent=_or(first_boot.agent, FirstBoot.TRUST_LAN),
            # The server token is the cluster's administrator: a person looks at the board first.
            server=_or(first_boot.server, FirstBoot.APPROVE),
        ),
        reimage=ReimagePolicy(
            when_failed=_or(reimage.when_failed, False),
            max_parallel=_or(reimage.max_parallel, 1),
            after_s=_or(reimage.after, DEFAULT_REIMAGE_AFTER_S),
            dry_run=_or(reimage.dry_run, False),
            again_after_s=_or(reimage.again_after, DEFAULT_AGAIN_AFTER_S),
            windows=_given(reimage.windows),
        ),
        join=JoinPolicy(_or(join.batch, DEFAULT_JOIN_BATCH), _or(join.slow_disk, SlowDisk.WARN)),
        certificate_life_s=_or(policy.certificate_life, DEFAULT_CERTIFICATE_LIFE_S),
        remote_run=_or(policy.remote_run, RemoteRun.OFF),
        snapshots=SnapshotPolicy(
            is_on=_or(snapshots.enabled, True),
            every_s=_or(snapshots.every, DEFAULT_SNAPSHOT_EVERY_S),
            keep=_or(snapshots.keep, DEFAULT_SNAPSHOTS_KEPT),
        ),
    )
