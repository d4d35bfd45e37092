"""Replacing the control CA without losing a node: announce the next one, wait, exchange.

    prepare   control-ca.next.*  made; nodes get both CAs with their next certificate
    switch    next becomes the CA, the old certificate stays as control-ca.previous.crt: nodes may still
              present what it issued; from their next renewal on they trust the new one only
    retire    control-ca.previous.crt is removed: what the old CA issued is worth nothing

A power cut in the middle of the exchange is mended by the next start: `fleet.trust.pki.finish_switch`.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Final

from cryptography import x509

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


def switch(directory: Path, now: float, certificate_life_s: int, *, force: bool = False) -> str:
    """Put the next CA in force.

    Args:
        certificate_life_s: Of the policy now. An agent renews at a third of the life of the one that it
            holds, and that may be from before the policy was made shorter: the longest life counts that any
            policy had while a server ran here, and the usual one at least.

    Raises:
        RotationError: There is none, or nodes may not have heard of it yet.
    """
    finish_switch(directory)
    following, key = directory / NEXT_CERTIFICATE, directory / NEXT_KEY
    if not (following.exists() and key.exists()):
        raise RotationError("there is no next control CA", "'bramble ca prepare' makes it.")
    load_authority(following.read_bytes(), key.read_bytes())
    announced = x509.load_pem_x509_certificate(following.read_bytes()).not_valid_before_utc + CLOCK_SLACK
    longest_s = max(certificate_life_s, longest_life_s(directory))
    ready = announced + timedelta(seconds=longest_s * RENEWED_WITHIN) + SLACK
    if utc(now) < ready and not force:
        raise RotationError(
            f"not every node has heard of the next control CA before {ready:%F %H:%M} UTC",
            "Wait, or use '--force': nodes that did not renew since have to be installed again.",
        )
    write_private(directory / PREVIOUS_CERTIFICATE, (directory / CA_CERTIFICATE).read_bytes())
    key.replace(directory / CA_KEY)
    following.replace(directory / CA_CERTIFICATE)
    sync_directory(directory)
    return "the new control CA is in force; restart 'bramble serve', and run 'bramble ca retire' in some days"


def retire(directory: Path) -> str:
    """Accept nothing any more that the CA before the present one issued.

    Raises:
        RotationError: There is none.
    """
    finish_switch(directory)
    previous = directory / PREVIOUS_CERTIFICATE
    if not previous.exists():
        raise RotationError("no older control CA is accepted", "There is nothing to retire.")
    previous.unlink()
    sync_directory(directory)
    return "what the old control CA issued is worth nothing from the next start of 'bramble serve' on"
