"""Replacing the control CA without losing a node: announce the next one, wait, exchange.

    prepare   control-ca.next.*  made; nodes get both CAs with their next certificate
    switch    next becomes the CA, the old certificate stays as control-ca.previous.crt: nodes may still
              present what it issued; from their next renewal on they trust the new one only
    retire    control-ca.previous.crt is removed: what the old CA issued is worth nothing

A power cut in the middle of the exchange is mended by the next start: `fleet.trust.pki.finish_switch`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from agent.proofs import fingerprint
from fleet.errors import FleetError
from fleet.files import sync_directory, write_private
from fleet.trust.certificates import (
    CLOCK_SLACK,
    certificate_pem,
    key_pem,
    load_authority,
    make_authority,
    utc,
)
from fleet.trust.pki import (
    CA_CERTIFICATE,
    CA_KEY,
    CA_LIFETIME,
    NEXT_CERTIFICATE,
    NEXT_KEY,
    PREVIOUS_CERTIFICATE,
    SERVER_CERTIFICATE,
    finish_switch,
    key_sha256,
    longest_life_s,
)

RENEWED_WITHIN: Final = 1 / 3
"""Part of a certificate's life after which every node that is on has a newer one."""
SLACK: Final = timedelta(hours=1)


class RotationError(FleetError):
    """A step that does not follow on the one before it, or comes too early."""


def prepare(directory: Path, cluster: str, now: float) -> str:
    """Make the next CA and begin to hand it out; what was done, for people.

    Raises:
        RotationError: There is one already, or no CA at all.
    """
    finish_switch(directory)
    if not (directory / CA_CERTIFICATE).exists():
        raise RotationError(f"{directory} holds no control CA", "It is made by the first 'bramble serve'.")
    if (directory / NEXT_CERTIFICATE).exists():
        raise RotationError("the next control CA is made already", "'bramble ca switch' puts it in force.")
    if (directory / PREVIOUS_CERTIFICATE).exists():
        raise RotationError("the CA before this one is still accepted", "First run 'bramble ca retire'.")
    made = make_authority(f"bramble control CA of {cluster}", utc(now), CA_LIFETIME)
    write_private(directory / NEXT_KEY, key_pem(made.key))
    write_private(directory / NEXT_CERTIFICATE, certificate_pem(made.certificate))
    shown = fingerprint(key_sha256(made.key.public_key()))
    return f"the next control CA ({shown}) is made; restart 'bramble serve', which then hands out both"


def require_switch(directory: Path, now: float, certificate_life_s: int, *, force: bool = False) -> float:
    """Whether the next CA may be put in force now; when it was announced, UTC seconds.

    Args:
        certificate_life_s: Of the policy now. An agent renews at a third of the life of the one that it
            holds, and that may be from before the policy was made shorter: the longest life counts that any
            policy had while a server ran here, and the usual one at least.
        force: Also when nodes may not have heard of it yet.

    Raises:
        RotationError: There is none, or nodes may not have heard of it yet.
    """
    finish_switch(directory)
    following, key = directory / NEXT_CERTIFICATE, directory / NEXT_KEY
    if not (following.exists() and key.exists()):
        raise RotationError("there is no next control CA", "'bramble ca prepare' makes it.")
    load_authority(following.read_bytes(), key.read_bytes())
    announced = _made_at(following)
    longest_s = max(certificate_life_s, longest_life_s(directory))
    ready = announced + timedelta(seconds=longest_s * RENEWED_WITHIN) + SLACK
    if utc(now) < ready and not force:
        raise RotationError(
            f"not every node has heard of the next control CA before {ready:%F %H:%M} UTC",
            "Wait, or use '--force': nodes that did not renew since have to be installed again.",
        )
    return announced.timestamp()


def switch(directory: Path, now: float, certificate_life_s: int, *, force: bool = False) -> str:
    """Put the next CA in force; what was done, for people.

    Raises:
        RotationError: As `require_switch`.
    """
    require_switch(directory, now, certificate_life_s, force=force)
    write_private(directory / PREVIOUS_CERTIFICATE, (directory / CA_CERTIFICATE).read_bytes())
    (directory / NEXT_KEY).replace(directory / CA_KEY)
    (directory / NEXT_CERTIFICATE).replace(directory / CA_CERTIFICATE)
    sync_directory(directory)
    return "the new control CA is in force; restart 'bramble serve', and run 'bramble ca retire' in some days"


def require_retire(directory: Path) -> float | None:
    """Since when the server issues certificates of the present CA, UTC seconds; None: it was not started yet.

    A server's own certificate is made anew when it starts with another CA. It is also made anew before it
    ends and for other names, so this may be later than it was, and never earlier.

    Raises:
        RotationError: No older CA is accepted.
    """
    finish_switch(directory)
    if not (directory / PREVIOUS_CERTIFICATE).exists():
        raise RotationError("no older control CA is accepted", "There is nothing to retire.")
    path = directory / SERVER_CERTIFICATE
    try:
        own = x509.load_pem_x509_certificate(path.read_bytes())
        own.verify_directly_issued_by(
            x509.load_pem_x509_certificate((directory / CA_CERTIFICATE).read_bytes())
        )
    except (FileNotFoundError, ValueError, TypeError, InvalidSignature):
        return None
    return _made_at(path).timestamp()


def retire(directory: Path) -> str:
    """Accept nothing any more that the CA before the present one issued; what was done, for people.

    Raises:
        RotationError: There is none.
    """
    require_retire(directory)
    (directory / PREVIOUS_CERTIFICATE).unlink()
    sync_directory(directory)
    return "what the old control CA issued is worth nothing from the next start of 'bramble serve' on"


def _load(certificate: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(certificate.read_bytes())


def _made_at(certificate: Path) -> datetime:
    return _load(certificate).not_valid_before_utc + CLOCK_SLACK
