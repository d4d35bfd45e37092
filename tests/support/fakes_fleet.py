"""A small cluster, a clock that tests turn, an image room without images, and callers of the protocol."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.protocol import (
    DiskSelector,
    Hardware,
    Health,
    Hello,
    ImageSource,
    K3sState,
    Patch,
    Stage,
    Status,
)
from fleet.boards import BoardModel, DiskKind, MacAddress, Serial
from fleet.controller import Controller
from fleet.etcd.client import EtcdClient
from fleet.etcd.door import MakeEtcd
from fleet.images import ImageFacts, unknown_image
from fleet.installs import ControlInfo, PlannedImage, PlanRequest
from fleet.k3s.material import open_k3s
from fleet.kube.door import Connect
from fleet.secret import Secret
from fleet.spec.model import (
    CatalogueBase,
    ClusterSpec,
    DhcpMode,
    DiskSpec,
    DnsMode,
    FirstBoot,
    FirstBootPolicy,
    ImageSpec,
    K3sSpec,
    NetworkSpec,
    NodeSpec,
    PolicySpec,
    PortsSpec,
    ReimagePolicy,
    Role,
    UnknownBoards,
    UserSpec,
)
from fleet.store.database import Store
from fleet.store_place import Place
from fleet.trust.pki import ControlPki, key_sha256, open_pki

NOW = 1_800_000_000.0


def node_spec(
    name: str,
    number: int,
    *,
    role: Role = Role.AGENT,
    board: BoardModel = BoardModel.PI5,
    serial: str | None = None,
    mac: str | None = None,
) -> NodeSpec:
    """A node; without identity it is given a serial that ends in its number."""
    if serial is None and mac is None:
        serial = f"10000000abcd{number:04x}"
    return NodeSpec(
        name=name,
        board=board,
        role=role,
        mac=MacAddress.parse(mac) if mac else None,
        serial=Serial.parse(serial) if serial else None,
        address=IPv4Address(f"10.77.0.{10 + number}"),
        disk=DiskSpec(DiskKind.NVME),
        labels={"tier": "small"} if role is Role.AGENT else {},
        taints=(),
        power=None,
        memory_mib=None,
    )


def cluster_spec(
    *nodes: NodeSpec,
    server_policy: FirstBoot = FirstBoot.TRUST_LAN,
    agent_policy: FirstBoot = FirstBoot.TRUST_LAN,
) -> ClusterSpec:
    """A cluster named attic with the given nodes."""
    return ClusterSpec(
        name="attic",
        domain="attic.internal",
        k3s=K3sSpec(
            version="v1.33.5+k3s1",
            source="upstream",
            airgap_images=False,
            api_vip=None,
            config={"disable": ["traefik"]},
        ),
        image=ImageSpec(
            base=CatalogueBase("debian-trixie"),
            packages=(),
            overlays=(),
            user=UserSpec("pi", ()),
            timezone="Etc/UTC",
        ),
        network=NetworkSpec(
            interface="eth0",
            dhcp=DhcpMode.FULL,
            subnet=IPv4Network("10.77.0.0/24"),
            gateway=None,
            dns=(),
            dns_server=DnsMode.OFF,
            pool=None,
            server_address=IPv4Address("10.77.0.1"),
            ports=PortsSpec(http=7080, control=7443),
        ),
        nodes=nodes,
        policy=PolicySpec(
            UnknownBoards.HOLD, FirstBootPolicy(agent_policy, server_policy), ReimagePolicy(False, 1, 900)
        ),
        path=Path("cluster.yaml"),
    )


@dataclass
class Clock:
    """Time that stands until a test moves it."""

    now: float = NOW

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> float:
        self.now += seconds
        return self.now


@dataclass
class FakeImages:
    """Gives every node the cluster's image or the one that is wanted; remembers the tickets that it was
    given.

    `known` is every image of the store, with its k3s release."""

    current: str = "f" * 64
    known: dict[str, str] = field(default_factory=lambda: {"f" * 64: "v1.33.5+k3s1"})
    built: str | None = None
    """What is found for another cluster.yaml."""
    tickets: dict[str, list[Secret]] = field(default_factory=dict)
    instances: list[str] = field(default_factory=list)

    def plan_for(self, request: PlanRequest) -> PlannedImage:
        node = request.node
        self.tickets.setdefault(node.name, []).append(request.ticket)
        self.instances.append(request.instance_id)
        image = self.describe(request.image_id).id
        source = ImageSource(image, "http://10.77.0.1/i.zst", "http://10.77.0.1/i.json", "0" * 64, 1 << 30)
        patch = Patch(440, request.disk_signature.to_bytes(4, "little").hex())
        return PlannedImage(source, DiskSelector(node.disk.kind.value), (patch,))

    def prepare(self, spec: ClusterSpec) -> ImageFacts | None:
        return None if self.built is None else self.describe(self.built)

    def describe(self, image: str | None) -> ImageFacts:
        found = [known for known in self.known if known.startswith(image or self.current)]
        if len(found) != 1:
            raise unknown_image(image or self.current)
        return ImageFacts(id=found[0], cluster="attic", k3s_version=self.known[found[0]])


@dataclass
class Fleet:
    """A controller with everything around it."""

    controller: Controller
    store: Store
    clock: Clock
    images: FakeImages
    pki: ControlPki
    boot_changes: list[float]


_CALLS = itertools.count(1)


def random_hex(size: int) -> str:
    """Different on every call, also across controllers; the same in every run."""
    return hashlib.shake_256(str(next(_CALLS)).encode()).hexdigest(size)


def store_place(state: Path) -> Place:
    """The store of a state directory; a fixture puts a PostgreSQL database in the file's place."""
    return state / "control.db"


def lose_store(state: Path) -> None:
    """The disk of the store is gone; the next `open_fleet` finds an empty one."""
    for file in state.glob("control.db*"):
        file.unlink()


def open_fleet(
    state: Path,
    spec: ClusterSpec,
    clock: Clock | None = None,
    connect: Connect | None = None,
    connect_etcd: MakeEtcd = EtcdClient,
) -> Fleet:
    """A controller over a state directory; close its store when done."""
    clock = clock or Clock()
    store = Store.open(store_place(state))
    pki = open_pki(state, spec.name, clock())
    images, changes = FakeImages(), list[float]()
    controller = Controller(
        store,
        spec,
        pki,
        open_k3s(state / "k3s", spec.name, clock()),
        images,
        ControlInfo(("https://10.77.0.1:7443",), pki.ca_pem),
        clock=clock,
        random_hex=random_hex,
        on_boot_change=lambda: changes.append(clock()),
        connect=connect,
        connect_etcd=connect_etcd,
    )
    return Fleet(controller, store, clock, images, pki, changes)


def hardware_of(node: NodeSpec) -> Hardware:
    """What the node's own board says of itself."""
    serial = node.serial.text if node.serial else "10000000000000aa"
    mac = (
        str(node.mac)
        if node.mac
        else f"2c:cf:67:00:{int(serial[-4:], 16) >> 8:02x}:{int(serial[-2:], 16):02x}"
    )
    return Hardware(serial, "Raspberry Pi 5 Model B Rev 1.0", (mac,), 8 << 30, 0xD04170)


def installer_hello(hardware: Hardware, key: bytes, *, intent: int | None = 1, boot: str = "boot-1") -> Hello:
    digest = hashlib.sha256(key).hexdigest()
    return Hello(1, Stage.INSTALLER, hardware, boot, digest, "ab" * 32, intent=intent)


class AgentKey:
    """The key of an agent and its certificate request."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bramble agent")])
        request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(self.key, hashes.SHA256())
        self.csr_pem = request.public_bytes(serialization.Encoding.PEM).decode()
        self.sha256 = key_sha256(self.key.public_key())

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def agent_hello(hardware: Hardware, key: AgentKey) -> Hello:
    return Hello(1, Stage.AGENT, hardware, "boot-2", key.sha256, "cd" * 32)


def status_report(
    hardware: Hardware,
    sequence: int,
    *,
    boot_id: str = "boot-2",
    k3s: K3sState = K3sState.ABSENT,
    version: str | None = None,
) -> Status:
    health = Health(10.0, 0.1, 1 << 30, 1 << 30, True)
    return Status(sequence, boot_id, hardware, health, ("10.77.0.99",), k3s, version)


def certificate_serial(pem: str) -> str:
    """The serial number as TLS shows it, in the form that the store keeps."""
    return f"{x509.load_pem_x509_certificate(pem.encode()).serial_number:x}"
