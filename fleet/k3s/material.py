"""The k3s cluster's own key material, made before any node exists: its CAs and its tokens.

With the CAs made beforehand every node, the first one included, is handed a token that pins them, and a
second cluster cannot come into being. Owns `<state>/k3s/` (0700, files 0600). Rendering of what a node gets
is in `fleet.k3s.config`.

Source: observed on k3s v1.21.3: CAs placed before the first start are used as they are, and the token's hash
    is the SHA-256 of the literal PEM of `server-ca.crt`; k3s documentation, "k3s certificate" (custom CA) and
    "k3s token", read 2026-11.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from fleet.errors import FleetError
from fleet.files import sync_directory, write_private
from fleet.secret import Secret
from fleet.trust.certificates import (
    certificate_pem,
    key_pem,
    load_authority,
    make_authority,
    new_key,
    sign_leaf,
    subject,
    utc,
)

CA_LIFETIME: Final = timedelta(days=3650)
CLIENT_LIFETIME: Final = timedelta(days=7)
CLIENT_RENEW_BEFORE: Final = timedelta(days=2)
ADMIN_LIFETIME: Final = timedelta(minutes=10)
CONTROL_USER: Final = "bramble-control"
CONTROL_GROUP: Final = "bramble"
"""The user of the Kubernetes API that this server is, and its group."""
SERVICE_KEY_BITS: Final = 2048
"""RSA, because the service account issuer of k3s signs with it; the size that k3s makes itself."""

CA_NAMES: Final = ("server-ca", "client-ca", "request-header-ca", "etcd/server-ca", "etcd/peer-ca")
"""Files below `server/tls`, without `.crt` and `.key`."""
ETCD_SERVER_CA: Final = "etcd/server-ca"
"""Signs etcd's servers, and whoever may be its client."""
SERVICE_KEY: Final = "service.key"
TLS_DIRECTORY: Final = "/var/lib/rancher/k3s/server/tls"


class K3sMaterialError(FleetError):
    """The cluster's key material is damaged or incomplete."""

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(
            message,
            f"Restore {path} from a backup: running nodes trust these CAs and no others.",
        )
        self.path = path


@dataclass(frozen=True, slots=True)
class ClientIdentity:
    """Files with which this server speaks to the Kubernetes API."""

    certificate_path: Path
    key_path: Path
    ca_pem: str


class K3sMaterial:
    """CAs and tokens of one cluster, read from its directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def directory(self) -> Path:
        """`k3s/` in the state directory."""
        return self._directory

    @property
    def server_ca_pem(self) -> str:
        return self._read("server-ca.crt")

    @property
    def ca_hash(self) -> str:
        """What a `K10` token pins: SHA-256 over the literal PEM of the server CA."""
        return hashlib.sha256(self.server_ca_pem.encode()).hexdigest()

    @property
    def server_token(self) -> Secret:
        """The full token of servers; whoever has it is admin of the cluster."""
        return Secret(f"K10{self.ca_hash}::server:{self._read('token')}")

    @property
    def agent_token(self) -> Secret:
        """The full token of agents."""
        return Secret(f"K10{self.ca_hash}::node:{self._read('agent-token')}")

    def pinned(self, credentials: Secret) -> Secret:
        """Credentials as a full token, which pins the cluster's CA."""
        return Secret(f"K10{self.ca_hash}::{credentials.reveal()}")

    @property
    def agent_password(self) -> Secret:
        """What servers are told as `agent-token`: the part after `node:`."""
        return Secret(self._read("agent-token"))

    def tls_files(self) -> dict[str, Secret]:
        """The CA set of the first server: path on the node → content."""
        names = [f"{name}.{kind}" for name in CA_NAMES for kind in ("crt", "key")] + [SERVICE_KEY]
        return {f"{TLS_DIRECTORY}/{name}": Secret(self._read(name)) for name in names}

    def client_identity(self, now: float) -> ClientIdentity:
        """A client certificate for the Kubernetes API, made anew when it ends soon.

        It is a user of its own, who may do what `fleet.k3s.manifests` says, and no more.
        """
        certificate_path, key_path = self._directory / "control.crt", self._directory / "control.key"
        if not _client_serves(certificate_path, key_path, now):
            self._make_client(certificate_path, key_path, CONTROL_USER, CONTROL_GROUP, now, CLIENT_LIFETIME)
        return ClientIdentity(certificate_path, key_path, self.server_ca_pem)

    def etcd_identity(self, now: float) -> ClientIdentity:
        """A client certificate for the servers' etcd, which takes whatever its CA signed as an
        administrator; made anew when it ends soon.
        """
        certificate_path, key_path = (
            self._directory / "etcd-control.crt",
            self._directory / "etcd-control.key",
        )
        if not _client_serves(certificate_path, key_path, now):
            self._make_client(
                certificate_path, key_path, CONTROL_USER, CONTROL_GROUP, now, CLIENT_LIFETIME, ETCD_SERVER_CA
            )
        return ClientIdentity(certificate_path, key_path, self._read(f"{ETCD_SERVER_CA}.crt"))

    def admin_identity(self, now: float) -> ClientIdentity:
        """An administrator's certificate, for minutes and for one act: to give the control server's user its
        role, in a cluster that does not have it.
        """
        certificate_path, key_path = self._directory / "admin.crt", self._directory / "admin.key"
        self._make_client(certificate_path, key_path, "bramble-admin", "system:masters", now, ADMIN_LIFETIME)
        return ClientIdentity(certificate_path, key_path, self.server_ca_pem)

    def forget_admin(self) -> None:
        """Take the administrator's certificate off the disk: it has done its one act."""
        for name in ("admin.key", "admin.crt"):
            (self._directory / name).unlink(missing_ok=True)

    def _make_client(
        self,
        certificate_path: Path,
        key_path: Path,
        user: str,
        group: str,
        now: float,
        lifetime: timedelta,
        ca: str = "client-ca",
    ) -> None:
        authority = load_authority(self._read(f"{ca}.crt").encode(), self._read(f"{ca}.key").encode())
        key = new_key()
        certificate = sign_leaf(
            authority, key.public_key(), subject(user, group), now=utc(now), lifetime=lifetime
        )
        write_private(key_path, key_pem(key))
        write_private(certificate_path, certificate_pem(certificate))

    def _read(self, name: str) -> str:
        path = self._directory / name
        try:
            return path.read_text("ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise K3sMaterialError(f"{path} cannot be read: {error}", self._directory) from error


def _client_serves(certificate_path: Path, key_path: Path, now: float) -> bool:
    """Whether the certificate is of our user, fits its key, and is good for a while."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
        key = serialization.load_pem_private_key(key_path.read_bytes(), None)
    except (FileNotFoundError, ValueError, TypeError):
        return False
    fresh = certificate.not_valid_after_utc - CLIENT_RENEW_BEFORE > utc(now)
    is_ours = certificate.subject == subject(CONTROL_USER, CONTROL_GROUP)
    return fresh and is_ours and key.public_key() == certificate.public_key()


def open_k3s(directory: Path, cluster: str, now: float) -> K3sMaterial:
    """Read the cluster's key material, or make all of it when there is none.

    It is made under another name and renamed: either all of it is there or nothing.

    Raises:
        K3sMaterialError: A part is missing or damaged.
    """
    if not directory.exists():
        _make_material(directory, cluster, now)
    material = K3sMaterial(directory)
    material.tls_files()
    try:
        for name in CA_NAMES:
            load_authority((directory / f"{name}.crt").read_bytes(), (directory / f"{name}.key").read_bytes())
    except (ValueError, TypeError) as error:
        raise K3sMaterialError(f"{directory / name} cannot be used: {error}", directory) from error
    return material


def _make_material(directory: Path, cluster: str, now: float) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = directory.with_name(f".{directory.name}.new")
    if made.exists():
        shutil.rmtree(made)  # left behind by a start that was cut short; nobody has seen it
    made.mkdir(mode=0o700)
    (made / "etcd").mkdir(mode=0o700)
    for name in CA_NAMES:
        authority = make_authority(f"k3s-{name.replace('/', '-')}@{cluster}", utc(now), CA_LIFETIME)
        write_private(made / f"{name}.crt", certificate_pem(authority.certificate))
        write_private(made / f"{name}.key", key_pem(authority.key))
    service_key = rsa.generate_private_key(public_exponent=65537, key_size=SERVICE_KEY_BITS)
    write_private(made / SERVICE_KEY, key_pem(service_key))
    write_private(made / "token", secrets.token_hex(32).encode())
    write_private(made / "agent-token", secrets.token_hex(32).encode())
    made.rename(directory)
    sync_directory(directory.parent)
