"""Key material on disk, judged by OpenSSL's own command where it matters."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from fakes_fleet import NOW, AgentKey

from fleet.k3s.material import CA_NAMES, TLS_DIRECTORY, K3sMaterialError, open_k3s
from fleet.trust.pki import CsrError, PkiError, open_pki

pytestmark = pytest.mark.integration

DAY = 86_400.0
PEM_OF_NOTHING = "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"
ADDRESS = [IPv4Address("127.0.0.1")]


def openssl(*arguments: str | Path) -> str:
    argv = ["openssl", *map(str, arguments)]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30).stdout


def test_openssl_accepts_the_chain_strictly(tmp_path: Path) -> None:
    pki = open_pki(tmp_path, "attic", NOW)
    pki.ensure_server_certificate(ADDRESS, ["control.attic.internal"], NOW)
    issued = pki.issue_node_certificate(AgentKey().csr_pem, uuid="u", node="pi5-1", now=NOW)
    node = tmp_path / "node.crt"
    node.write_text(issued.pem)
    for purpose, certificate in (("sslserver", pki.server_certificate_path), ("sslclient", node)):
        strict = ("-x509_strict", "-purpose", purpose, "-attime", str(int(NOW)))
        assert "OK" in openssl("verify", "-CAfile", tmp_path / "control-ca.crt", *strict, certificate)
    text = openssl("x509", "-in", node, "-noout", "-subject", "-ext", "subjectAltName")
    assert "CN = u" in text
    assert "URI:bramble:node/pi5-1" in text


def test_pin_is_the_digest_that_openssl_computes(tmp_path: Path) -> None:
    pki = open_pki(tmp_path, "attic", NOW)
    pki.ensure_server_certificate(ADDRESS, [], NOW)
    shown = openssl("x509", "-in", pki.server_certificate_path, "-noout", "-fingerprint", "-sha256")
    assert shown.strip().split("=")[1].replace(":", "").lower() == pki.server_pin()


def test_server_certificate_is_kept_until_something_changes(tmp_path: Path) -> None:
    pki = open_pki(tmp_path, "attic", NOW)
    pins = []
    for addresses, now in (
        (ADDRESS, NOW),
        (ADDRESS, NOW + DAY),
        ([IPv4Address("10.77.0.1")], NOW + DAY),
        ([IPv4Address("10.77.0.1")], NOW + 340 * DAY),
    ):
        pki.ensure_server_certificate(addresses, [], now)
        pins.append(pki.server_pin())
    assert pins[0] == pins[1]
    assert len(set(pins)) == 3


def test_server_certificate_whose_key_was_lost_is_made_again(tmp_path: Path) -> None:
    pki = open_pki(tmp_path, "attic", NOW)
    pki.ensure_server_certificate(ADDRESS, [], NOW)
    pki.server_key_path.write_text("torn")
    pki.ensure_server_certificate(ADDRESS, [], NOW)
    pki.server_context()


def test_authority_is_never_replaced(tmp_path: Path) -> None:
    first = open_pki(tmp_path, "attic", NOW).ca_pem
    assert open_pki(tmp_path, "attic", NOW + DAY).ca_pem == first
    (tmp_path / "control-ca.key").unlink()
    with pytest.raises(PkiError, match=r"control-ca\.crt"):
        open_pki(tmp_path, "attic", NOW)
    assert (tmp_path / "control-ca.crt").read_text() == first


def test_first_start_that_was_cut_short_is_done_again(tmp_path: Path) -> None:
    (tmp_path / "control-ca.key").write_text("half")
    assert open_pki(tmp_path, "attic", NOW).ca_pem.startswith("-----BEGIN CERTIFICATE")


def test_all_key_files_are_their_owners_alone(tmp_path: Path) -> None:
    open_pki(tmp_path / "s", "attic", NOW).ensure_server_certificate(ADDRESS, [], NOW)
    open_k3s(tmp_path / "s" / "k3s", "attic", NOW).client_identity(NOW)
    files = [path for path in (tmp_path / "s").rglob("*") if path.is_file()]
    assert len(files) == 5 + 13 + 2
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


def test_tickets_differ_by_node_intent_and_attempt_and_survive_a_restart(tmp_path: Path) -> None:
    pki = open_pki(tmp_path, "attic", NOW)
    wanted = [("a", 1, 1), ("a", 1, 2), ("a", 2, 1), ("b", 1, 1), ("a\x001", 1, 1)]
    tickets = [pki.ticket(*each).reveal() for each in wanted]
    assert len(set(tickets)) == len(tickets)
    assert {len(ticket) for ticket in tickets} == {64}
    assert [open_pki(tmp_path, "attic", NOW).ticket(*each).reveal() for each in wanted] == tickets


def rsa_request() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: "", "not PKCS#10"),
        (lambda: PEM_OF_NOTHING, "not PKCS#10"),
        (lambda: "x" * 9000, "9000 bytes"),
        (rsa_request, "not for an EC P-256 key"),
        (lambda: _with_foreign_signature(), "not signed by its own key"),
    ],
    ids=["empty", "garbage", "too long", "rsa", "foreign signature"],
)
def test_request_that_cannot_be_signed(tmp_path: Path, make: Callable[[], str], message: str) -> None:
    pki = open_pki(tmp_path, "attic", NOW)
    with pytest.raises(CsrError, match=message):
        pki.issue_node_certificate(make(), uuid="u", node="n", now=NOW)


def _with_foreign_signature() -> str:
    """A request whose last signature byte was changed."""
    request = x509.load_pem_x509_csr(AgentKey().csr_pem.encode())
    der = bytearray(request.public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    return x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM).decode()


def test_k3s_material_is_what_k3s_expects(tmp_path: Path) -> None:
    material = open_k3s(tmp_path / "k3s", "attic", NOW)
    pem = (tmp_path / "k3s" / "server-ca.crt").read_bytes()
    token, agent = material.server_token.reveal(), material.agent_token.reveal()
    assert token.startswith(f"K10{hashlib.sha256(pem).hexdigest()}::server:")
    assert agent.startswith(f"K10{hashlib.sha256(pem).hexdigest()}::node:")
    assert agent.endswith(material.agent_password.reveal())
    assert token.rpartition(":")[2] != agent.rpartition(":")[2]
    names = {path.removeprefix(f"{TLS_DIRECTORY}/") for path in material.tls_files()}
    assert names == {f"{name}.{kind}" for name in CA_NAMES for kind in ("crt", "key")} | {"service.key"}
    for name in CA_NAMES:
        text = openssl("x509", "-in", tmp_path / "k3s" / f"{name}.crt", "-noout", "-text")
        assert "CA:TRUE" in text
        assert "prime256v1" in text
    assert openssl("rsa", "-in", tmp_path / "k3s" / "service.key", "-noout", "-modulus").startswith(
        "Modulus="
    )


def test_k3s_material_is_made_once(tmp_path: Path) -> None:
    first = open_k3s(tmp_path / "k3s", "attic", NOW).server_token
    assert open_k3s(tmp_path / "k3s", "attic", NOW + DAY).server_token == first


def test_k3s_material_cut_short_is_made_whole(tmp_path: Path) -> None:
    (tmp_path / ".k3s.new" / "etcd").mkdir(parents=True)
    (tmp_path / ".k3s.new" / "server-ca.crt").write_text("half")
    assert len(open_k3s(tmp_path / "k3s", "attic", NOW).tls_files()) == 11
    assert not (tmp_path / ".k3s.new").exists()


@pytest.mark.parametrize("name", ["etcd/peer-ca.key", "service.key", "client-ca.crt"])
def test_incomplete_k3s_material_is_an_error_not_a_new_cluster(tmp_path: Path, name: str) -> None:
    open_k3s(tmp_path / "k3s", "attic", NOW)
    (tmp_path / "k3s" / name).unlink()
    with pytest.raises(K3sMaterialError, match=name) as damaged:
        open_k3s(tmp_path / "k3s", "attic", NOW)
    assert "backup" in damaged.value.hint


def test_certificate_of_an_administrator_of_before_is_replaced_by_the_users_own(tmp_path: Path) -> None:
    material = open_k3s(tmp_path / "k3s", "attic", NOW)
    admin = material.admin_identity(NOW)
    for kind in ("crt", "key"):
        (tmp_path / "k3s" / f"control.{kind}").write_bytes((tmp_path / "k3s" / f"admin.{kind}").read_bytes())
    own = material.client_identity(NOW).certificate_path
    assert own.read_bytes() != admin.certificate_path.read_bytes()
    dates = openssl("x509", "-in", admin.certificate_path, "-noout", "-startdate", "-enddate", "-subject")
    assert "O = system:masters" in dates
    certificate = x509.load_pem_x509_certificate(admin.certificate_path.read_bytes())
    assert certificate.not_valid_after_utc.timestamp() <= NOW + 600


def test_client_certificate_for_kubernetes_is_renewed_in_time(tmp_path: Path) -> None:
    material = open_k3s(tmp_path / "k3s", "attic", NOW)
    first = material.client_identity(NOW).certificate_path.read_bytes()
    assert material.client_identity(NOW + DAY).certificate_path.read_bytes() == first
    assert material.client_identity(NOW + 6 * DAY).certificate_path.read_bytes() != first
    subject = openssl("x509", "-in", tmp_path / "k3s" / "control.crt", "-noout", "-subject")
    assert "O = bramble, CN = bramble-control" in subject
