"""Keys and certificates, made by the `openssl` command.

Elliptic curve P-256 throughout, as k3s. Each call costs about 0.2 s on an emulated board, so callers make as
few as they can. A leaf is valid from the moment it is made (k3s dates it back to its CA's first day).
"""

from __future__ import annotations

import ipaddress
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.k3s_sim.node.errors import K3sError

CA_DAYS = 3650
LEAF_DAYS = 365
_TIMEOUT_S = 60
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
_DNS_NAME = re.compile(r"[A-Za-z0-9*]([A-Za-z0-9.:_-]*[A-Za-z0-9])?")


@dataclass(frozen=True)
class Authority:
    """A certificate authority, as two files."""

    certificate: Path
    key: Path

    @classmethod
    def in_directory(cls, directory: Path, name: str) -> Authority:
        """`<directory>/<name>.crt` and `.key`, the way k3s names them."""
        return cls(directory / f"{name}.crt", directory / f"{name}.key")


@dataclass(frozen=True)
class Profile:
    """What a leaf certificate says."""

    common_name: str
    organizations: tuple[str, ...] = ()
    server: bool = False
    client: bool = False
    alternative_names: tuple[str, ...] = ()

    def subject(self) -> str:
        """In openssl's notation; a slash in a name is escaped."""
        parts = [f"O={item}" for item in self.organizations] + [f"CN={self.common_name}"]
        return "".join("/" + part.replace("\\", "\\\\").replace("/", "\\/") for part in parts)

    def extensions(self) -> list[str]:
        """In openssl's notation.

        Raises:
            K3sError: for an alternative name that is neither an address nor a host name.
        """
        usages = ["serverAuth"] * self.server + ["clientAuth"] * self.client
        lines = ["keyUsage=critical,digitalSignature,keyEncipherment", f"extendedKeyUsage={','.join(usages)}"]
        if self.alternative_names:
            lines.append(
                "subjectAltName=" + ",".join(_alternative_name(name) for name in self.alternative_names)
            )
        return lines


def _alternative_name(name: str) -> str:
    try:
        return f"IP:{ipaddress.ip_address(name)}"
    except ValueError:
        if not _DNS_NAME.fullmatch(name):
            raise K3sError(f"{name!r} is neither an address nor a host name") from None
        return f"DNS:{name}"


def create_authority(authority: Authority, common_name: str) -> None:
    """Write a new self-signed authority."""
    authority.key.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    key, certificate = _temporary(authority.key), _temporary(authority.certificate)
    _openssl(
        "req", "-x509", "-config", "/dev/null", *_NEW_KEY, "-days", str(CA_DAYS),
        "-subj", f"/CN={common_name}",
        "-addext", "basicConstraints=critical,CA:TRUE",
        "-addext", "keyUsage=critical,digitalSignature,keyEncipherment,keyCertSign",
        "-keyout", str(key), "-out", str(certificate),
    )  # fmt: skip
    _install(key, authority.key)
    _install(certificate, authority.certificate)


def issue(authority: Authority, profile: Profile, certificate: Path, key: Path) -> None:
    """Write a new key and its certificate, chain included, with file mode 0600."""
    certificate.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new_key = _temporary(key)
    pem = _openssl(*_signing(authority, profile), *_NEW_KEY, "-keyout", str(new_key))
    new_certificate = _temporary(certificate)
    new_certificate.write_bytes(pem + authority.certificate.read_bytes())
    _install(new_key, key)
    _install(new_certificate, certificate)


def issue_for_key(authority: Authority, profile: Profile, key: Path) -> bytes:
    """A certificate (PEM) for a key that this machine keeps; the key is made if it is not there."""
    if not _holds_key(key):
        new_key = _temporary(key)
        _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(new_key))
        _install(new_key, key)
    return _openssl(*_signing(authority, profile), "-key", str(key))


def create_request(key: Path) -> bytes:
    """A certificate request (DER) for a key of this machine; the key (0600) is made if it is not there.

    An existing key is kept: a crash between request and answer never leaves a key without its certificate.
    """
    key.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    request = ("req", "-new", "-config", "/dev/null", "-subj", "/CN=k3s", "-outform", "DER")
    if _holds_key(key):
        return _openssl(*request, "-key", str(key))
    new_key = _temporary(key)
    der = _openssl(*request, *_NEW_KEY, "-keyout", str(new_key))
    _install(new_key, key)
    return der


def sign_request(authority: Authority, profile: Profile, request: bytes) -> bytes:
    """Sign the public key of a certificate request (DER); the rest of the request is not believed.

    Raises:
        K3sError: the request is unreadable or its signature is wrong.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".ext") as extensions:
        extensions.write("\n".join(profile.extensions()) + "\n")
        extensions.flush()
        return _openssl(
            "x509", "-req", "-inform", "DER", "-CA", str(authority.certificate), "-CAkey", str(authority.key),
            "-subj", profile.subject(), "-days", str(LEAF_DAYS), "-extfile", extensions.name,
            stdin=request,
        )  # fmt: skip


def _signing(authority: Authority, profile: Profile) -> list[str]:
    arguments = [
        "req", "-x509", "-config", "/dev/null",
        "-CA", str(authority.certificate), "-CAkey", str(authority.key),
        "-days", str(LEAF_DAYS), "-subj", profile.subject(), "-addext", "basicConstraints=critical,CA:FALSE",
    ]  # fmt: skip
    for extension in profile.extensions():
        arguments += ["-addext", extension]
    return arguments


def _temporary(path: Path) -> Path:
    """A sibling to write first, so that no half-written key is ever found under its real name."""
    return path.with_name(f".{path.name}.{os.getpid()}")


def _holds_key(path: Path) -> bool:
    """Whether there is a private key in the file. k3s makes another one, too, where a crash left it empty."""
    try:
        return b"PRIVATE KEY-----" in path.read_bytes()
    except FileNotFoundError:
        return False


def _install(written: Path, path: Path) -> None:
    written.chmod(0o600)
    written.replace(path)


def _openssl(*arguments: str, stdin: bytes = b"") -> bytes:
    argv: Sequence[str] = ("openssl", *arguments)
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, timeout=_TIMEOUT_S, check=False)
    except FileNotFoundError as error:
        raise K3sError("the simulator needs the 'openssl' command (Debian package openssl)") from error
    except subprocess.TimeoutExpired as error:
        raise K3sError(f"openssl {arguments[0]} did not end within {_TIMEOUT_S} s") from error
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip().splitlines()
        raise K3sError(f"openssl {arguments[0]} failed: {reason[-1] if reason else done.returncode}")
    return done.stdout
