"""The shape of cluster.yaml as pydantic models: which keys exist, and which parser reads each value.

Used only while a file is parsed. Every field may be absent here, even one that a cluster needs: a faulty
value is taken out and reported, and the rest is still checked. `fleet.spec.validate` asks for what is needed.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from fleet.boards import BoardModel, DiskKind, MacAddress, Serial
from fleet.spec import values
from fleet.spec.model import AddressPool, DhcpMode, FirstBoot, Role, Taint, UnknownBoards

T = TypeVar("T")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


def _name_as_mapping(key: str) -> BeforeValidator:
    """Let a single word stand for a mapping with one key: `disk: nvme` is `disk: {kind: nvme}`."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, str) else value)


def _text(value: Any) -> str:
    return values.expect_text(value, "a text")


Text = Annotated[str, BeforeValidator(_text)]
Name = Annotated[str, BeforeValidator(values.parse_label)]
Address = Annotated[IPv4Address, BeforeValidator(values.parse_ipv4)]
Url = Annotated[str, BeforeValidator(values.parse_http_url)]
Port = Annotated[int, Field(ge=1, le=65535)]
LabelKey = Annotated[str, BeforeValidator(values.parse_kubernetes_key)]
LabelValue = Annotated[str, BeforeValidator(values.parse_kubernetes_value)]
Sha256 = Annotated[str, BeforeValidator(values.parse_sha256)]


class K3sSection(_Section):
    version: Annotated[str, BeforeValidator(values.parse_k3s_version)] | None = None
    source: Text | None = None
    airgap_images: bool | None = None
    api_vip: Address | None = None
    config: dict[str, Any] | None = None


class ClusterSection(_Section):
    name: Name | None = None
    domain: Annotated[str, BeforeValidator(values.parse_domain)] | None = None
    k3s: K3sSection | None = None


class BaseSection(_Section):
    name: Text | None = None
    url: Url | None = None
    path: Text | None = None
    sha256: Sha256 | None = None


class UserSection(_Section):
    name: Annotated[str, BeforeValidator(values.parse_user)] | None = None
    ssh_authorized_keys: list[Annotated[str, BeforeValidator(values.parse_ssh_key)] | None] | None = None


class ImageSection(_Section):
    base: Annotated[BaseSection | None, _name_as_mapping("name")] = None
    packages: list[Annotated[str, BeforeValidator(values.parse_package)] | None] | None = None
    overlays: list[Text | None] | None = None
    user: UserSection | None = None
    timezone: Text | None = None


class PortsSection(_Section):
    http: Port | None = None
    control: Port | None = None


class NetworkSection(_Section):
    interface: Annotated[str, BeforeValidator(values.parse_interface)] | None = None
    dhcp: Annotated[DhcpMode, BeforeValidator(values.enum_parser(DhcpMode))] | None = None
    subnet: Annotated[IPv4Network, BeforeValidator(values.parse_subnet)] | None = None
    gateway: Address | None = None
    dns: list[Address | None] | None = None
    pool: Annotated[AddressPool, BeforeValidator(values.parse_pool)] | None = None
    server_address: Address | None = None
    ports: PortsSection | None = None


class DiskSection(_Section):
    kind: Annotated[DiskKind, BeforeValidator(values.enum_parser(DiskKind))] | None = None
    serial: Text | None = None


class ManualSection(_Section):
    driver: Literal["manual"]


class CommandSection(_Section):
    driver: Literal["command"]
    on: list[Text | None] | None = None
    off: list[Text | None] | None = None
    status: list[Text | None] | None = None


class TasmotaSection(_Section):
    driver: Literal["tasmota"]
    url: Url | None = None
    output: Annotated[int, Field(ge=1, le=32)] | None = None
    password_file: Text | None = None


class ShellySection(_Section):
    driver: Literal["shelly"]
    url: Url | None = None
    channel: Annotated[int, Field(ge=0, le=31)] | None = None
    password_file: Text | None = None


class SnmpPoeSection(_Section):
    driver: Literal["snmp-poe"]
    host: Annotated[str, BeforeValidator(values.parse_host)] | None = None
    group: Annotated[int, Field(ge=1)] | None = None
    port: Annotated[int, Field(ge=1)] | None = None
    community_file: Text | None = None


PowerSection = ManualSection | CommandSection | TasmotaSection | ShellySection | SnmpPoeSection


class DefaultsSection(_Section):
    """What a node takes where it says nothing itself."""

    board: Annotated[BoardModel, BeforeValidator(values.parse_board)] | None = None
    role: Annotated[Role, BeforeValidator(values.enum_parser(Role))] | None = None
    disk: Annotated[DiskSection | None, _name_as_mapping("kind")] = None
    labels: dict[LabelKey, LabelValue] | None = None
    taints: list[Annotated[Taint, BeforeValidator(values.parse_taint)] | None] | None = None
    power: Annotated[
        Annotated[PowerSection, Field(discriminator="driver")] | None, _name_as_mapping("driver")
    ] = None
    memory: Annotated[int, BeforeValidator(values.parse_memory)] | None = None


class NodeSection(DefaultsSection):
    name: Name | None = None
    mac: Annotated[MacAddress, BeforeValidator(values.parse_mac)] | None = None
    serial: Annotated[Serial, BeforeValidator(values.parse_serial)] | None = None
    address: Address | None = None


class FirstBootSection(_Section):
    agent: Annotated[FirstBoot, BeforeValidator(values.enum_parser(FirstBoot))] | None = None
    server: Annotated[FirstBoot, BeforeValidator(values.enum_parser(FirstBoot))] | None = None


class ReimageSection(_Section):
    when_failed: bool | None = None
    max_parallel: Annotated[int, Field(ge=1)] | None = None
    after: Annotated[int, BeforeValidator(values.parse_duration)] | None = None


class PolicySection(_Section):
    unknown_boards: Annotated[UnknownBoards, BeforeValidator(values.enum_parser(UnknownBoards))] | None = None
    first_boot: FirstBootSection | None = None
    reimage: ReimageSection | None = None


class ClusterDocument(_Section):
    """The whole file."""

    version: Annotated[int, Field(ge=1, le=1)] | None = None
    cluster: ClusterSection | None = None
    image: ImageSection | None = None
    network: NetworkSection | None = None
    defaults: DefaultsSection | None = None
    nodes: list[NodeSection | None] | None = None
    policy: PolicySection | None = None
