"""The words that a node and the control server exchange.

Values only: frozen dataclasses; `agent.wire` has their JSON form. The server imports this module, the agent
never imports anything of the server. Standard library only, Python >= 3.10.

Transport: HTTPS with JSON bodies. Before enrolment a caller is anonymous; an installer whose board was
admitted carries `Authorization: Bearer <session token>`; an enrolled agent presents its client certificate.

    POST /v1/hello                    Hello          -> Welcome
    POST /v1/prove                    Proof          -> Verdict
    GET  /v1/install/plan             (bearer)       -> InstallPlan
    POST /v1/install/progress         (bearer) InstallProgress -> {}
    POST /v1/install/complete         (bearer) InstallComplete -> {}
    GET  /v1/node/desired             (certificate)  -> SignedOrder of a Desired
    POST /v1/node/status              (certificate) Status     -> StatusAccepted
    POST /v1/node/join-material       (certificate)  -> JoinMaterial
    GET  /v1/node/eeprom              (certificate)  -> SignedOrder of an EepromOrder
    GET  /v1/node/reboot              (certificate)  -> SignedOrder of a RebootOrder
    GET  /v1/node/update              (certificate)  -> SignedOrder of an AgentOrder
    GET  /v1/node/errand              (certificate)  -> SignedOrder of an Errand
    POST /v1/node/logs                (certificate) LogUpload  -> {}
    POST /v1/node/run                 (certificate) RunResult  -> {}
    GET  /v1/node/agent/<sha256>      (certificate)  -> the zipapp
    GET  /v1/node/restore/<id>?offset= (certificate) -> a piece of etcd's snapshot

An error answers with a 4xx/5xx status and `{"error": code, "message": text, "hint": text}`.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
from dataclasses import dataclass, field

from agent.recovery import Restore
from agent.vitals import Health as Health  # a message like those here
from agent.wire import LATER, encode

PROTOCOL_VERSION = 1
TICKET_CONTEXT = b"bramble enrolment ticket proof v1\0"
"""Domain separation: a ticket proof can not be taken for a signature made for another purpose."""

OCCUPIED = "occupied"
"""Error code: the disk holds an installation that the server has no record of."""

NOT_JOINING = "not-joining"
"""Error code of the join material's refusal to a node that does not join: it has joined, or waits."""

MEMBERSHIP_LOST = "membership_lost"
"""Problem code of a node that has joined by the server's record, and whose disk holds nothing of that."""
CONTROL_PORT = 7443


class Stage(str, enum.Enum):
    """Which of the two programs on a node is speaking."""

    INSTALLER = "installer"
    AGENT = "agent"


class ProofKind(str, enum.Enum):
    NONE = "none"
    TICKET = "ticket"
    PREVIOUS = "previous"


class Outcome(str, enum.Enum):
    ADMITTED = "admitted"
    """Installer: the intent is open, `token` gives access to the install plan."""
    ENROLLED = "enrolled"
    """Agent: `certificate_pem` is the node's identity from now on."""
    PENDING = "pending"
    """A person must approve; ask again with a new hello."""
    REJECTED = "rejected"


class InstallStep(str, enum.Enum):
    """Steps of the installer, in order. The first that changes the disk is INVALIDATE."""

    FIND_DISK = "find-disk"
    INVALIDATE = "invalidate"
    WRITE = "write"
    VERIFY = "verify"
    COMMIT = "commit"
    DONE = "done"


class K3sState(str, enum.Enum):
    """What the node's own service manager says of k3s."""

    ABSENT = "absent"
    INACTIVE = "inactive"
    STARTING = "starting"
    RUNNING = "running"
    FAILED = "failed"


@dataclass(frozen=True)
class Hardware:
    """What a board says of itself, read from its device tree and sysfs.

    `serial` is 16 lower-case hex digits, `revision` the 32-bit revision code (None where the device tree has
    none), `macs` are lower-case with colons, the on-board Ethernet first, `memory_bytes` is MemTotal.
    """

    serial: str
    model: str
    macs: tuple[str, ...]
    memory_bytes: int
    revision: int | None = None
    boot_mode: int | None = None
    """`chosen/bootloader/boot-mode` in BOOT_ORDER numbering (1 SD, 2 network, 6 NVMe), where the firmware
    tells."""


@dataclass(frozen=True)
class Hello:
    protocol: int
    stage: Stage
    hardware: Hardware
    boot_id: str
    """/proc/sys/kernel/random/boot_id: tells one power-on from the next."""
    key_sha256: str
    """SHA-256 of the caller's key, hex: of the bytes of the installer's random session key, or of the
    agent's public key (SubjectPublicKeyInfo DER). A person compares its beginning
    (`agent.proofs.fingerprint`)."""
    client_nonce: str
    """32 random bytes, hex."""
    intent: int | None = None
    """The intent number that the boot files carried."""
    image_id: str | None = None
    boot_arg1: int | None = field(default=None, metadata=LATER)
    """Installer: what the agent left in the firmware's register before it restarted the board: the intent."""


@dataclass(frozen=True)
class Welcome:
    session: str
    server_nonce: str
    """32 random bytes, hex."""
    server_time: float
    """UTC, seconds since 1970; a floor for a node without a clock, believed only after the pin held."""


@dataclass(frozen=True)
class DeviceProof:
    """Beside a proof of any kind: the board's firmware signed this conversation with its device key."""

    public_key: str
    """P-256, SubjectPublicKeyInfo in DER, hex."""
    signature: str
    """ECDSA with SHA-256 over `agent.proofs.device_message`, DER, hex."""


@dataclass(frozen=True)
class Proof:
    session: str
    kind: ProofKind
    value: str = ""
    """TICKET: hex HMAC of `ticket_proof`. PREVIOUS: empty, the client certificate of the connection is the
    proof."""
    csr_pem: str = ""
    """PKCS#10 request for the agent's key; empty in the installer."""
    installer_key: str = ""
    """Installer only: the random session key (hex) whose hash stood in the hello."""
    device: DeviceProof | None = None


@dataclass(frozen=True)
class Verdict:
    outcome: Outcome
    reason: str
    node: str | None = None
    token: str | None = field(default=None, repr=False)
    certificate_pem: str | None = None
    ca_pem: str | None = None
    retry_after_s: float = 5.0


@dataclass(frozen=True)
class DiskSelector:
    """Which disk to install to.

    `kind` is `nvme`, `sd` or `usb`; `serial` narrows when given; two matches are never guessed between.
    The disk that the node was installed on before (`own_serial`, `own_wwn`) is taken where several match.
    """

    kind: str
    serial: str | None = None
    own_serial: str | None = None
    own_wwn: str | None = None


@dataclass(frozen=True)
class Patch:
    """Bytes of a node delta: `data_hex` replaces what the image holds at `offset` (bytes from the start)."""

    offset: int
    data_hex: str = field(repr=False)


@dataclass(frozen=True)
class ImageSource:
    """Where the image is and what proves it.

    `index_url` answers the chunk index (JSON, see imagebuilder/seal), `image_url` the .img.zst that it
    describes. Both are plain HTTP; `index_sha256` came over TLS, and every chunk is verified against the
    index.
    """

    image_id: str
    image_url: str
    index_url: str
    index_sha256: str
    size_bytes: int


@dataclass(frozen=True)
class InstallPlan:
    intent: int
    node: str
    disk: DiskSelector
    image: ImageSource
    delta: tuple[Patch, ...]
    cluster: str
    installation: str
    """Random name of this intent's installation, for its marker: numbers repeat when a server starts anew."""
    keep: tuple[str, ...] = ()
    """Labels of file systems whose partitions stay as they are."""
    keep_may_be_absent: bool = False
    """A disk without any partition table has nothing to keep: the node was never installed on one."""
    root_bytes: int = 0
    """What the root partition grows to at most, the rest becoming a partition; 0: as far as there is room."""


@dataclass(frozen=True)
class Occupant:
    """An installation of ours that a disk holds, as its marker tells."""

    cluster: str
    node: str
    image_id: str
    installation: str


@dataclass(frozen=True)
class DiskIdentity:
    """A disk as it says of itself; empty where it does not. `wwn` is a world-wide name, or a card's CID."""

    kind: str
    model: str
    serial: str
    wwn: str
    size_bytes: int


@dataclass(frozen=True)
class InstallProgress:
    """Where the installer is.

    The report that a disk was found (FIND_DISK, not `failed`) is a question: the installer changes nothing
    before it is answered, and the answer 409 `OCCUPIED` sends it back to hello, to wait for a person.
    """

    intent: int
    step: InstallStep
    percent: float
    message: str = ""
    failed: bool = False
    hint: str = ""
    occupant: Occupant | None = None
    """FIND_DISK only: the installation that the disk holds; None where it holds none of ours."""
    disk: DiskIdentity | None = field(default=None, metadata=LATER)
    """FIND_DISK only: the disk that would be written."""


@dataclass(frozen=True)
class InstallComplete:
    intent: int
    image_id: str
    disk: str
    """What was written: path, model, serial and size, for the record."""
    bytes_written: int
    bytes_verified: int
    seconds: float


@dataclass(frozen=True)
class Desired:
    """What the server wants of a node. `generation` never decreases; an older or equal one does nothing."""

    generation: int
    join: bool
    """True when the node may ask for its join material and start k3s."""
    reason: str = ""
    material: int = 0
    """The generation with which its join material was minted: a larger one than the node has is to be
    fetched. 0: this order's own."""
    files: tuple[NodeFile, ...] = ()
    """What a node that has joined keeps of its configuration, to be put in place without touching a running
    k3s; never a secret."""


@dataclass(frozen=True)
class Status:
    sequence: int
    """Increases by one with each report; a repeat changes nothing."""
    boot_id: str
    hardware: Hardware
    health: Health
    addresses: tuple[str, ...]
    k3s: K3sState
    k3s_version: str | None = None
    """First line of `k3s --version`; the simulator says in it that it is one."""
    generation: int = 0
    """The last desired generation that was carried out."""
    problems: tuple[Problem, ...] = ()
    disk_boot: bool = True
    image_id: str | None = None
    agent_version: str = ""
    material: int = 0
    """Number of the join material that is in place; 0: none."""
    disk_sync_ms: float | None = None
    """What 99 of 100 synced writes to the disk of k3s's data take at most, milliseconds; measured on servers
    before they join."""
    agent_release: str = ""
    """SHA-256 of the zipapp that runs."""


@dataclass(frozen=True)
class Problem:
    """Something that stands in the way, in words that say what to do.

    `code` is one of the join failure classes or gates.
    """

    code: str
    message: str
    hint: str
    lines: tuple[str, ...] = ()
    """The newest lines of the journal, where no class fits."""


@dataclass(frozen=True)
class StatusAccepted:
    generation: int
    """The newest desired generation; the agent fetches it when it has an older one."""
    interval_s: float
    eeprom: int = 0
    """Number of the newest `EepromOrder`; 0: there is none."""
    update: int = 0
    """Number of the newest `AgentOrder` for this node; 0: there is none."""
    errand: int = 0
    """Number of the `Errand` that waits for this node; 0: there is none."""
    reboot: int = 0
    """Number of the newest `RebootOrder`; 0: there is none."""
    sequence: int = 0
    """Number of the newest report of this boot that was taken: a report with a smaller one was not."""


@dataclass(frozen=True)
class EepromOrder:
    """Bootloader settings that a person wants in the board's EEPROM. Numbers grow; each is carried out
    once.
    """

    number: int
    board_type: int
    """Type field of the revision code that the settings are for; on another board nothing is written."""
    settings: dict[str, str]


@dataclass(frozen=True)
class RebootOrder:
    """Restart into the installer, once. Numbers grow; each is carried out once, or refused in the report."""

    number: int
    intent: int
    """For boot_arg1, where the firmware has it."""
    boot_order: str
    """For the next start, where the firmware can be told: `0xf62`, read from the right."""


@dataclass(frozen=True)
class NodeFile:
    """A file to put on the node. `mode` is octal text such as `0600`; owner is root."""

    path: str
    mode: str
    content: str = field(repr=False)


@dataclass(frozen=True)
class JoinMaterial:
    """Everything a node needs to join, minted for it alone.

    `files` are written first (atomically, in order), then `unit` is enabled and started. `remove_after_ready`
    are paths deleted once k3s runs; `files_after_ready` replace their older versions just before that (the
    drop-in without its token reference).
    """

    generation: int
    unit: str
    files: tuple[NodeFile, ...]
    files_after_ready: tuple[NodeFile, ...] = ()
    remove_after_ready: tuple[str, ...] = ()
    set_aside: tuple[str, ...] = ()
    """Directories of an earlier membership that k3s must not find: renamed before the unit starts, not
    deleted."""
    restore: Restore | None = None
    """Of a recovery: etcd's data are brought back first."""


def ticket_proof(ticket: str, hello: Hello, welcome: Welcome) -> str:
    """HMAC-SHA256(ticket, context ‖ SHA-256 of the transcript), hex.

    Both sides compute it; a replay has other nonces.
    """
    transcript = transcript_hash(hello, welcome)
    return hmac.new(bytes.fromhex(ticket), TICKET_CONTEXT + transcript, hashlib.sha256).hexdigest()


def transcript_hash(hello: Hello, welcome: Welcome) -> bytes:
    """SHA-256 over both messages in their canonical form: keys, identity, both nonces."""
    return hashlib.sha256(encode(hello) + b"\0" + encode(welcome)).digest()
